"""A component that shares tasks out is tried as two ranks, which are two threads here."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from fewcore.components import Offer
from fewcore.ranks import Ranks
from fewcore.run import Run
from fewcore.testing.trial import ConformanceError, Setup, Trial, complain

SIZE = 2
SECONDS = 60.0
"""How long a rank waits for the other: one that sums up less often never comes."""
ROUNDING = 1e-3


class _Meeting:
    """Where threads add up what each of them brings."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(SIZE, timeout=SECONDS)
        self.brought: list[tuple[torch.Tensor, ...]] = [()] * SIZE


class _ThreadRanks(Ranks):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        super().__init__(SIZE, rank)
        self._meeting = meeting

    def sum(self, *tensors: torch.Tensor) -> None:
        """Add up each tensor over all threads, in place."""
        self._meeting.brought[self.rank] = tuple(tensor.detach().clone() for tensor in tensors)
        self._meeting.barrier.wait()
        totals = [torch.stack(values).sum(0) for values in zip(*self._meeting.brought, strict=True)]
        self._meeting.barrier.wait()
        with torch.no_grad():
            for tensor, total in zip(tensors, totals, strict=True):
                tensor.copy_(total)


def ranks_make_one_model(offer: Offer, setup: Setup) -> None:
    """With `shares_tasks`, two ranks end with equal results, which are those of one process but for rounding."""
    if not getattr(offer.load(), "shares_tasks", False):
        return
    trial = Trial(offer, setup)
    alone = trial.behaviour(trial.make())
    first, second = _made_by_ranks(trial)
    write = "run.ranks.share(len(batch)) for the tasks of this rank, run.ranks.sum_gradients(network) before each step"
    for name, values in first.items():
        if not np.array_equal(values, second[name], equal_nan=values.dtype.kind == "f"):
            complain(offer, f"'{name}' that differs between two ranks", "the same on all ranks", write)
        if not np.allclose(values, alone[name], rtol=ROUNDING, atol=ROUNDING, equal_nan=True):
            complain(offer, f"'{name}' of two ranks that is not that of one process", "the same numbers", write)


def _made_by_ranks(trial: Trial) -> list[Any]:
    """Return what can be observed of the results of each rank."""
    meeting = _Meeting()
    made: list[Any] = [None] * SIZE
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            made[rank] = trial.make(Run(0, ranks=_ThreadRanks(rank, meeting)))
        except BaseException as error:
            failures.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(SIZE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [error for error in failures if not isinstance(error.__cause__, threading.BrokenBarrierError)]
    if failures:
        expected = "run.ranks.sum called equally often on all ranks"
        raise (
            told[0]
            if told
            else ConformanceError(f"'{trial.offer.full_name}': ranks waited in vain; expected {expected}")
        )
    return [trial.behaviour(value) for value in made]
