"""Every result is made once: by one process under the result's lock, or by all ranks of a run together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from fewcore.blame import blame
from fewcore.components import Offer
from fewcore.contracts import Arrays, Meta
from fewcore.errors import FewcoreError, Interrupted, NumericalError, RanksApart, ResourceError
from fewcore.memory import PeakMemory
from fewcore.ranks import Ranks
from fewcore.run import ProgressSink, Run
from fewcore.store import Entry, Store

Make = Callable[[Run], tuple[Arrays, Meta]]


class Maker:
    """Makes results that are not in the store yet, and keeps them.

    `computed` lists the title and key of each result that was made, `tracebacks` what went wrong inside components.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        ranks: Ranks,
        *,
        progress: ProgressSink | None,
        stop: Callable[[], bool],
        checkpoint_every: float,
    ) -> None:
        self.store, self.device, self.ranks = store, device, ranks
        self.computed: list[tuple[str, str]] = []
        self.tracebacks: dict[str, str] = {}
        self._progress = progress
        self._stop = stop
        self._checkpoint_every = checkpoint_every

    def run(self, seed: int, title: str, key: str | None = None, *, together: bool = False) -> Run:
        """Return the `Run` of a piece of work: with checkpoints where it has a key, and `together` with all ranks."""
        return Run(
            seed,
            self.device,
            name=title,
            checkpoints=self.store.checkpoints(key) if key else None,
            checkpoint_every=self._checkpoint_every,
            progress=self._progress,
            stop=(lambda: self.ranks.stopped) if together and self.ranks.size > 1 else self._stop,
            ranks=self.ranks if together else None,
        )

    def stored(
        self,
        key: str,
        title: str,
        make: Make,
        recipe: Mapping[str, Any],
        *,
        seed: int,
        name: str = "",
        offer: Offer | None = None,
        together: bool = False,
    ) -> Entry:
        """Return a stored result; where there is none, make it and store it. `together` calls `make` on every rank.

        Raises:
            FewcoreError: what `make` raises, or its failure on rank 0.
            Interrupted: this process, or rank 0, was asked to end.
            RanksApart: this rank does not find what rank 0 has stored.

        """

        def work() -> tuple[Arrays, Meta, Meta]:
            run, peak = self.run(seed, title, key, together=together), PeakMemory(self.device)
            with blame(title, offer, self.tracebacks):
                arrays, meta = make(run)
            if offer is None or offer.kind != "dataset":
                _check_finite(arrays, title)
            facts = {"seconds": run.seconds, "peak_memory_mb": peak.megabytes(), "device": str(self.device)}
            if together and self.ranks.size > 1:
                facts["ranks"] = self.ranks.size
            return arrays, meta, {**facts, "records": run.records}

        def keep() -> Entry | None:
            arrays, meta, facts = work()
            self.store.put(key, arrays, meta, recipe=dict(recipe), facts=facts)
            self.store.drop_checkpoints(key)
            self.computed.append((name or title, key))
            return self.store.get(key)

        entry = self.store.get(key)
        if self.ranks.leads:
            entry = entry or self._led(key, keep, together)
            self._say(key, "there", "there")
        elif entry is None:
            entry = self._followed(key, title, work, together)
        if entry is None:
            # A rank that went on without it would wait for the others, or they for it, for ever.
            error = RanksApart if self.ranks.size > 1 else ResourceError
            raise error(
                f"{title}: its result could not be read back; expected a disk that keeps what is written, and under "
                "torchrun one that all machines share"
            )
        return entry

    def _led(self, key: str, keep: Callable[[], Entry | None], together: bool) -> Entry | None:
        """Make a result under its lock, and tell the other ranks how it goes, whatever happens: they wait for it."""
        try:
            with self.store.lock(key):
                entry = self.store.get(key)
                if entry is None:
                    self._say(key, "together" if together else "alone")
                    entry = keep()
                return entry
        except Interrupted:
            self._say(key, "stopped", "stopped")
            raise
        except Exception:
            self._say(key, "failed", "failed")
            raise

    def _followed(self, key: str, title: str, work: Callable[[], object], together: bool) -> Entry | None:
        """Help rank 0 with a result, or wait for it."""
        if self.ranks.hear(f"{key} how") == "together":
            try:
                work()
            except Interrupted:  # rank 0 has to save first
                self.ranks.hear(f"{key} end")
                raise
        end = self.ranks.hear(f"{key} end")
        if end == "stopped":
            raise Interrupted(f"{title}: rank 0 was stopped; run again to go on")
        if end == "failed":
            raise FewcoreError(f"{title}: failed on rank 0, which says why")
        return self.store.get(key)

    def _say(self, key: str, how: str, end: str = "") -> None:
        for name, text in (("how", how), ("end", end)):
            if text:
                self.ranks.say(f"{key} {name}", text)


def _check_finite(arrays: Arrays, title: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NumericalError(
                f"{title}: '{name}' holds NaN or infinity; expected finite numbers (nothing was stored)"
            )
