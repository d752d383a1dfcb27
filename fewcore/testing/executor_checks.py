"""Checks of executors: a worker is started where they say, and is heard of when it ends."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewcore.components import Offer
from fewcore.testing.trial import Setup, Trial, complain
from fewcore.workers.mailbox import Mailbox

SECONDS = 120.0


def worker_ends_when_it_is_told(offer: Offer, setup: Setup) -> None:
    """`start` starts a worker: it reads its folder, and `ended` says so once it has ended."""

    def told(job: Any, folder: Path) -> None:
        if job.ended():
            complain(
                offer,
                "a worker that ends before it is told",
                "one that waits for work",
                "a worker that ends at the word of its folder's inbox alone",
            )
        Mailbox(folder / "inbox.jsonl").write({"end": True})

    _tried(offer, setup, told)


def worker_can_be_ended(offer: Offer, setup: Setup) -> None:
    """`end` ends a worker, and may be called once more."""

    def end(job: Any, folder: Path) -> None:  # noqa: ARG001
        job.end()

    _tried(offer, setup, end)


def _tried(offer: Offer, setup: Setup, act: Callable[[Any, Path], None]) -> None:
    executor = Trial(offer, setup).component
    n_threads = getattr(executor, "n_threads", None)
    if not isinstance(n_threads, int) or n_threads < 1:
        complain(offer, f"n_threads = {n_threads}", "the number of CPU threads of a worker", "n_threads = 1")
    with tempfile.TemporaryDirectory(prefix="fewcore-") as name:
        job = executor.start(Path(name))
        try:
            act(job, Path(name))
            until = time.monotonic() + SECONDS
            while not (how := job.ended()):
                if time.monotonic() > until:
                    complain(
                        offer,
                        f"a worker that has not ended after {SECONDS:.0f} seconds",
                        "one that ends",
                        "ended() that asks whether the process lives",
                    )
                time.sleep(0.05)
            if not isinstance(how, str):
                complain(offer, f"ended() -> {how!r}", "how the worker ended, as text", "return 'ended with code 0'")
        finally:
            job.end()
