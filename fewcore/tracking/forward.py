"""Forward a run to trackers, behind the run: `log.jsonl` is written first, and a thread for each tracker reads it.

The file is the queue: it never fills, loses nothing, and holds what came before a restart. The run never waits for a
tracker and meets none of its errors; a tracker that fails, or does not answer, is switched off, which is said once.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fewcore.errors import Interrupted
from fewcore.tracking.log import entry_of, next_line

if TYPE_CHECKING:
    from fewcore.progress import Progress
    from fewcore.tracking.contract import LogEntry, Tracking

HANG_SECONDS = 60.0
"""A tracker that does not return from a call for so long is switched off: starting MLflow takes a few seconds."""
EXIT_SECONDS = 10.0
"""How long the end of a run waits for its trackers, all together."""
QUIET_SECONDS = 0.5
"""How long it waits without saying so."""
FILES = ("pipeline.yaml", "report.html")


@dataclass(frozen=True)
class Tracked:
    """A run that is tracked: its name, folder and facts, and where in the folder's log its record begins.

    `hidden` maps the labels of cells that hold a file's or a folder's name to what a tracker gets in their place.
    """

    name: str
    folder: Path
    log: Path
    start: int
    facts: Mapping[str, Any]
    hidden: Mapping[str, str]

    def shown(self, entry: LogEntry) -> LogEntry:
        """Return an entry without the names of files."""
        stage = entry.stage
        for label, instead in self.hidden.items():
            stage = stage.replace(f"({label})", f"({instead})")
        conditions = {name: self.hidden.get(str(value), value) for name, value in entry.conditions.items()}
        return replace(entry, stage=stage, conditions=conditions)


@dataclass
class End:
    """How a run ended, as a tracker is told: `finished` or `failed`; `interrupted` where Ctrl-C stopped it."""

    status: str = "failed"


class Forwarder:
    """One tracker and the thread in which it works. `say` is told, once, why it was switched off."""

    def __init__(self, name: str, tracker: Any, run: Tracked, say: Callable[[str], object]) -> None:
        self.name = name
        self.forwarded = 0
        self._tracker, self._run, self._say = tracker, run, say
        self._lines = threading.Event()
        self._ending = threading.Event()
        self._off = threading.Lock()
        self._is_off = False
        self._status, self._files = "finished", tuple[Path, ...]()
        self._called: float | None = None
        # A daemon: one that never returns does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"fewcore-{name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def look(self) -> None:
        """Say that there are new lines; switch the tracker off where it does not answer. Returns at once."""
        called = self._called
        if called is not None and time.monotonic() - called > HANG_SECONDS:
            self._switch_off(f"no answer for {HANG_SECONDS:.0f} seconds")
        self._lines.set()

    def end(self, status: str, files: tuple[Path, ...]) -> None:
        """Say that no more lines come. Returns at once."""
        self._status, self._files = status, files
        self._ending.set()
        self._lines.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the tracker has ended; return whether it has, or was switched off."""
        if not self._is_off:
            self._thread.join(seconds)
        return self._is_off or not self._thread.is_alive()

    def give_up(self, waited: float) -> None:
        """Leave a tracker that has not ended."""
        self._switch_off(f"still behind after {waited:.0f} seconds")

    def _switch_off(self, why: str) -> None:
        with self._off:
            if self._is_off:
                return
            self._is_off = True
        self._lines.set()
        kept = f"forwarded {self.forwarded} records; all are in {self._run.log.name}: run again to forward them"
        self._say(f"tracker {self.name} is switched off: {why} ({kept})")

    def _work(self) -> None:
        try:
            with self._run.log.open("rb") as file:
                file.seek(self._run.start)
                run = self._run
                tracking: Tracking = self._call(lambda: self._tracker.open(run.name, run.folder, run.facts))
                self._forward(tracking, file)
                if not self._is_off:
                    self._call(lambda: tracking.close(self._status, self._files))
        # Whatever a library raises, sys.exit included, is this tracker's alone.
        except BaseException as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._switch_off(text if len(text) <= 300 else f"{text[:300]} ...")

    def _forward(self, tracking: Tracking, file: BinaryIO) -> None:
        seen: set[int] = set()
        while True:
            ending = self._ending.is_set()
            self._lines.clear()
            while (said := next_line(file)) is not None:
                if self._is_off:
                    return
                entry = entry_of(said)
                # A run that went on from a checkpoint says again what came after it.
                if entry is not None and (mark := _mark(entry)) not in seen:
                    seen.add(mark)
                    shown = self._run.shown(entry)
                    self._call(functools.partial(tracking.record, shown))
                    self.forwarded += 1
            if ending or self._is_off:
                return
            self._lines.wait()

    def _call(self, action: Callable[[], Any]) -> Any:
        self._called = time.monotonic()
        try:
            return action()
        finally:
            self._called = None


def _mark(entry: LogEntry) -> int:
    values, conditions = sorted(entry.values.items()), sorted(entry.conditions.items(), key=str)
    return hash((entry.kind, entry.stage, entry.step, str(values), str(conditions)))


@contextmanager
def forwarding(trackers: Mapping[str, Any], run: Tracked, progress: Progress) -> Iterator[End]:
    """Forward what `progress` logs to trackers, by name, while the block runs; then wait a little for them to end."""
    forwarders = [Forwarder(name, tracker, run, progress.say) for name, tracker in trackers.items()]
    for forwarder in forwarders:
        forwarder.start()
        progress.sinks.append(forwarder.look)
    end, files = End(), tuple[Path, ...]()
    try:
        yield end
        files = tuple(run.folder / name for name in FILES)
    except (Interrupted, KeyboardInterrupt):
        end.status = "interrupted"
        raise
    finally:
        for forwarder in forwarders:
            progress.sinks.remove(forwarder.look)
            forwarder.end(end.status, files)
        _wait(forwarders, progress)


def _wait(forwarders: list[Forwarder], progress: Progress) -> None:
    began = time.monotonic()
    busy = [forwarder for forwarder in forwarders if not forwarder.wait(QUIET_SECONDS)]
    if busy:
        names = " and ".join(forwarder.name for forwarder in busy)
        progress.say(f"waiting up to {EXIT_SECONDS:.0f} seconds for {names}")
    for forwarder in busy:
        if not forwarder.wait(max(0.0, began + EXIT_SECONDS - time.monotonic())):
            forwarder.give_up(time.monotonic() - began)
