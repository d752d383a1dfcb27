"""Networks for `fewcore export`: what an encoder does beside its network, before or after it, in plain operations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fewcore import Array

Step = Callable[[Tensor], Tensor]


class Steps(nn.Module):
    """From pixels (n, c, ...) to vectors (n, e): `before`, a network, `after`."""

    def __init__(self, network: nn.Module, before: Step | None = None, after: Step | None = None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the vectors."""
        made: Tensor = self.network(pixels if self.before is None else self.before(pixels))
        return made if self.after is None else self.after(made)


def tensor(array: Array) -> Tensor:
    """Return a copy of an array on the CPU."""
    return torch.from_numpy(np.array(array))
