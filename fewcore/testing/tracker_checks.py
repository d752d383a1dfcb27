"""Checks of trackers: they show whatever a run may say, and end when it ends."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewcore.components import Offer
from fewcore.testing.trial import Setup, Trial, complain
from fewcore.tracking.contract import LogEntry

TIME = 1_700_000_000.0
FACTS = {
    "fewcore": "0.1.0",
    "seed": 0,
    "net": "fewcore-x:conv4",
    "net.filters": 32,
    "tasks.n_way": [5, 20],
    "net.bias": True,
}
RESULT = {"evaluator": "score", "method": "maml", "split": "test", "n": 200, "norm": "support", "seen": "labels: none"}


def toy_entries() -> Iterator[LogEntry]:
    """Yield what a run may say: each kind of entry, odd names and numbers, a step that comes again."""
    for stage in ("maml", "maml (labels.share 0.1, seed 1)", "white: embed", "a/b\\c", "naïve <b>*|", "s" * 300):
        for step in (50, 100, 100, 20, 2**40):
            yield LogEntry("curve", stage, step, {"loss": 1e30, "accuracy": -0.5, "learning rate (é)": 1e-300}, TIME)
        yield LogEntry("progress", stage, 3, {"done": 3.0, "total": 7.0, "loss": 0.5}, TIME)
        yield LogEntry("progress", stage, 3, {"done": 3.0, "total": 0.0}, TIME)
        for way in (5, 20):
            values = {"accuracy": 0.8, "accuracy.low": 0.7, "accuracy.high": 0.9}
            yield LogEntry("result", stage, 0, values, TIME, {**RESULT, "way": way, "model of": "a, b = [c]"})
        yield LogEntry("result", stage, 0, {"κ at 5%": 0.8}, 0.0, {})


def tracking_takes_what_a_run_says(offer: Offer, setup: Setup) -> None:
    """A run is opened, takes entries of every kind, and is closed, with files and without; nothing is raised."""
    trial = Trial(offer, setup)
    for status, with_files in (("finished", True), ("failed", False), ("interrupted", False)):
        with tempfile.TemporaryDirectory(prefix="fewcore-conformance-") as name:
            folder = Path(name)
            files = tuple(folder / file for file in ("pipeline.yaml", "report.html")) if with_files else ()
            for file in files:
                file.write_text("fewcore: 1\n", encoding="utf-8")
            tracking = _opened(trial, folder)
            for entry in toy_entries():
                trial.attempt(f"record({entry})", functools.partial(tracking.record, entry))
            trial.attempt("close", functools.partial(tracking.close, status, files))


def tracking_may_be_empty(offer: Offer, setup: Setup) -> None:
    """A run that says nothing, and is told nothing of its pipeline, opens and closes."""
    trial = Trial(offer, setup)
    with tempfile.TemporaryDirectory(prefix="fewcore-conformance-") as name:
        tracking = _opened(trial, Path(name), {})
        trial.attempt("close", lambda: tracking.close("interrupted", ()))


def _opened(trial: Trial, folder: Path, facts: dict[str, Any] = FACTS) -> Any:
    tracking = trial.attempt("open", lambda: trial.verb("toy", folder, facts))
    for method in ("record", "close"):
        if not callable(getattr(tracking, method, None)):
            found = f"{type(tracking).__name__} without {method}"
            complain(trial.offer, found, "record(entry) and close(status, files)", f"def {method}(self, ...)")
    return tracking
