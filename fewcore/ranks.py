"""Several processes that train one model together: `torchrun --nproc-per-node N -m fewcore run FILE`.

Every process is a rank. All of them go through the same stages; rank 0 computes what cannot be shared and keeps every
result, the others read it from the store. A component that says `shares_tasks = True` is called on all ranks at once: each
draws the same meta-batch, computes its share of the tasks, and `Ranks.sum` adds up gradients and scores, so that all of
them hold the same model after every step. The engine is torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from fewcore.errors import Interrupted, PipelineError, RanksApart, ResourceError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for each process."""
LOOK = timedelta(seconds=1)
PATIENCE = timedelta(days=30)
"""How long ranks wait for what rank 0 makes alone: it may train an embedder for days."""
STEP = timedelta(hours=1)
"""How long a rank waits for the others within a step; then one of them hangs."""


class Ranks:
    """The processes of one run: `size` of them, of which this is number `rank`. `Ranks()` stands for one alone.

    `stopping` says whether this process was asked to end; `stopped` whether any rank was, as of the last `sum`, so that all
    of them stop after the same step.
    """

    def __init__(
        self, size: int = 1, rank: int = 0, board: Any = None, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.size, self.rank = size, rank
        self.stopped = False
        self._board = board
        self._stopping = stopping

    @property
    def leads(self) -> bool:
        """Whether this is the rank that keeps results, shows progress and writes the report."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return which of n tasks are this rank's: a stretch of them, none where there are more ranks than tasks."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def sum(self, *tensors: torch.Tensor) -> None:
        """Add up each tensor over all ranks, in place, with one all-reduce for all of them. Alone, it does nothing.

        Every rank must call it equally often, with tensors of the same shapes.
        """
        if self.size == 1:
            return
        first = tensors[0]
        asked = torch.tensor([float(self._stopping())], device=first.device)
        total = torch.cat([*(t.detach().to(first).flatten() for t in tensors), asked.to(first)])
        torch.distributed.all_reduce(total)
        self.stopped = self.stopped or bool(total[-1] > 0)
        with torch.no_grad():
            for tensor, values in zip(tensors, torch.split(total[:-1], [t.numel() for t in tensors]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def sum_gradients(self, network: torch.nn.Module, *more: torch.Tensor) -> None:
        """Add up the gradients of a network, and `more` tensors, over all ranks."""
        if self.size == 1:
            return
        for parameter in network.parameters():
            if parameter.requires_grad and parameter.grad is None:  # a rank without a task has none
                parameter.grad = torch.zeros_like(parameter)
        self.sum(*(p.grad for p in network.parameters() if p.grad is not None), *more)

    def say(self, name: str, text: str) -> None:
        """Let all ranks read `text` under `name`."""
        if self.size > 1:
            self._board.set(name, text)

    def hear(self, name: str) -> str:
        """Wait for what is said under `name`.

        Raises:
            Interrupted: this process was asked to end meanwhile.

        """
        while True:
            try:
                self._board.wait([name], LOOK)
            except torch.distributed.DistStoreError:  # not said yet
                if self._stopping():
                    raise Interrupted("stopped while waiting for rank 0; run again to go on") from None
            else:
                text: str = self._board.get(name).decode()
                return text

    def agree(self, name: str, text: str) -> None:
        """See that this rank has the same `text` for `name` as rank 0.

        Raises:
            Interrupted: this process was asked to end while it waited.
            RanksApart: it has another.

        """
        if self.leads:
            self.say(name, text)
        elif self.hear(name) != text:
            raise RanksApart(
                f"rank {self.rank}: would not make the results that rank 0 makes; expected the same versions of fewcore and "
                "its plugins, and the same files, on all machines"
            )


def local_device(name: str) -> str:
    """Return the device of this rank where one GPU is meant for each: `cuda` and `auto` become `cuda:LOCAL_RANK`.

    A process that torchrun did not start beside others keeps the device that was named.

    Raises:
        PipelineError: one GPU is named for all ranks of a machine.

    """
    if not launched():
        return name
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name.startswith("cuda:") and ranks_here > 1:
        raise PipelineError(
            f"--device: found '{name}' for {ranks_here} ranks; expected cuda, which gives each rank its own"
        )
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


@contextmanager
def joined(device: torch.device, stopping: Callable[[], bool]) -> Iterator[Ranks]:
    """Give the ranks that torchrun started, joined into one group; this process alone where it did not.

    Raises:
        ResourceError: the ranks do not find one another.

    """
    if not launched():
        yield Ranks()
        return
    distributed: Any = torch.distributed  # its stubs leave out what it exports
    try:
        board, rank, size = next(distributed.rendezvous("env://", timeout=PATIENCE))
        backend = "nccl" if device.type == "cuda" else "gloo"
        group = distributed.PrefixStore("group", board)
        distributed.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=STEP)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"rank {os.environ['RANK']}: cannot join the others at {os.environ['MASTER_ADDR']}: {error}; expected "
            "ranks that torchrun started, and machines that reach one another"
        ) from error
    try:
        yield Ranks(size, rank, distributed.PrefixStore("board", board), stopping)
    finally:
        distributed.destroy_process_group()


def launched() -> bool:
    """Return whether torchrun started this process beside others."""
    return all(name in os.environ for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1
