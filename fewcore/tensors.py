"""Between numpy and torch: images gathered by index on the device, networks as named arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from fewcore.contracts import Array, Arrays, ImageSet

MEMORY_SHARE = 0.5


def _fits(n_bytes: int, device: torch.device) -> bool:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has taken and does not use is free too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return n_bytes < MEMORY_SHARE * free


class Gather:
    """Images of a set, gathered by index as float32 on a device.

    `gather(index)` with an integer index of any shape (...) returns (..., c, h, w) float32; uint8 images are divided by
    255, others keep their range. Negative indices, which stand for padding, give the first image: what is made of them
    must be masked. The set lies on the device once, in its own dtype; where it would take more than half of a GPU's free
    memory, or of the machine's, it stays where it is, in a file perhaps, and only what is asked for travels. Then a thread
    reads what `then` names, the index that will be asked for next, while the device computes.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.device = device
        self.shape = images.shape
        self._array = images.images
        self._resident: torch.Tensor | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[torch.Tensor, Future[torch.Tensor] | None] = (torch.empty(0), None)
        if _fits(self._array.nbytes, device):
            array = self._array if self._array.flags.writeable else self._array.copy()
            self._resident = torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def __call__(self, index: Array | torch.Tensor, then: Array | torch.Tensor | None = None) -> torch.Tensor:
        """Return the images at `index`, (..., c, h, w) float32 on the device."""
        if self._resident is not None:
            where = self._sent(torch.as_tensor(index)).long().clamp(min=0)
            flat = self._resident.index_select(0, where.reshape(-1))
        else:
            where = torch.as_tensor(index).long().clamp(min=0).cpu()
            flat = self._read_ahead(where, then).to(self.device, non_blocking=True)
        pixels = flat.float() / 255 if flat.dtype == torch.uint8 else flat.float()
        return pixels.reshape(*where.shape, *self.shape)

    def each(self, batches: Sequence[Array]) -> Iterator[torch.Tensor]:
        """Yield the images of each of several indices, in turn."""
        for index, then in zip(batches, [*batches[1:], None], strict=True):
            yield self(index, then)

    def _sent(self, index: torch.Tensor) -> torch.Tensor:
        """Return an index on the device; towards a GPU it travels without the host waiting for what is computed there."""
        if self.device.type == "cuda" and index.device.type == "cpu":
            return index.pin_memory().to(self.device, non_blocking=True)
        return index.to(self.device)

    def _read_ahead(self, where: torch.Tensor, then: Array | torch.Tensor | None) -> torch.Tensor:
        """Return the images at `where`, which may have been read already, and let those at `then` be read."""
        asked, reading = self._ahead
        found = reading.result() if reading is not None and torch.equal(asked, where) else self._read(where)
        self._ahead = (where, None)
        if then is not None:
            following = torch.as_tensor(then).long().clamp(min=0).cpu()
            self._thread = self._thread or ThreadPoolExecutor(1, "fewcore-gather")
            self._ahead = (following, self._thread.submit(self._read, following))
        return found

    def _read(self, where: torch.Tensor) -> torch.Tensor:
        """Return the images at `where`, one after the other; for a GPU in memory from which it copies by itself."""
        flat = torch.from_numpy(self._array[where.reshape(-1).numpy()])
        return flat.pin_memory() if self.device.type == "cuda" else flat


def module_arrays(module: nn.Module) -> Arrays:
    """Return the parameters and buffers of a network as named arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, arrays: Mapping[str, Array]) -> nn.Module:
    """Fill a network with arrays that `module_arrays` returned; returns the network."""
    module.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
    return module
