"""Progress on a terminal as a live bar, elsewhere as a plain line now and then, and in a log file as JSON lines."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

FIRST_SECONDS = 5.0
LINE_SECONDS = 30.0
BAR_SECONDS = 0.1
SAMPLE_SECONDS = 1.0
SAMPLES = 30
IDLE_SECONDS = 60.0
SHOWN_FIRST = ("loss", "accuracy", "validation_accuracy")


@dataclass(frozen=True)
class _Step:
    """One look at a piece of work."""

    name: str
    done: int
    total: int
    values: Mapping[str, float]
    now: float

    @property
    def ends(self) -> bool:
        return 0 < self.total <= self.done


@dataclass
class _Work:
    """A named piece of work. `due` is when it is looked at again, `line_due` when it may write its next line.

    `samples` are (clock, done), from which the present rate is taken.
    """

    began: float
    first_done: int
    line_due: float
    due: float = 0.0
    last_done: int = 0
    ended: bool = False
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    bar: TaskID | None = None


class Progress:
    """Shows how far each stage is, at what rate, what is left, and its latest numbers; fits `ProgressSink`.

    On a terminal (`stream` is one, TERM is not `dumb` and NO_COLOR is unset) a live bar; elsewhere a line for each
    piece of work after `first` seconds, then every `interval` seconds, and one when it ends. `log` is a file to which
    JSON lines are appended at the same moments; each of `sinks` is called after each line. Use it as a context manager.

    >>> with Progress(stream=sys.stdout) as progress:
    ...     progress.update("maml", 3, 3, {"loss": 0.25})
    maml  3/3  100.0%  loss 0.25
    """

    def __init__(
        self,
        log: Path | None = None,
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
        first: float = FIRST_SECONDS,
        interval: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = _is_live(self._stream) if live is None else live
        self._first, self._interval = first, interval
        self._every = min(BAR_SECONDS, interval) if self._live else min(SAMPLE_SECONDS, interval)
        self._clock, self._now = clock, now
        self._work: dict[str, _Work] = {}
        self._ended_once: set[str] = set()
        self._log_path = log
        self._log: TextIO | None = None
        self._writing = threading.Lock()
        self.sinks: list[Callable[[], object]] = []
        self._bars: RichProgress | None = None

    def __enter__(self) -> Self:
        if self._log_path is not None:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._log_path.open("a", encoding="utf-8", newline="\n")
        if self._live:
            self._bars = _bars(self._stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def update(self, name: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """Show that `done` of `total` steps of `name` are done; `total` is 0 where it is not known."""
        # Called at every step of every loop: all but a few calls a second must end here.
        now = self._clock()
        work = self._work.get(name)
        if work is not None and now < work.due and done != total and done >= work.last_done:
            work.last_done = done
            return
        self._show(_Step(name, done, total, values, now))

    def record(self, entry: Mapping[str, Any]) -> None:
        """Append an entry to the log. Any thread may call it."""
        self._record(entry)

    def say(self, text: str) -> None:
        """Show one message without breaking the bar."""
        self._record({"message": text})
        self._print(printable(text, keep="\n"))

    def _show(self, step: _Step) -> None:
        before = self._work.get(step.name)
        if before is None or before.ended or step.done < before.last_done:
            first_line = max(step.now + self._first, before.line_due if before is not None else 0.0)
            self._work[step.name] = _Work(step.now, step.done, first_line)
        work = self._work[step.name]
        work.last_done, work.ended = step.done, step.ends
        if step.ends or not work.samples or step.now - work.samples[-1][0] >= SAMPLE_SECONDS:
            work.samples.append((step.now, step.done))
        if self._bars is not None:
            self._show_bar(self._bars, work, step)
        # Short work that comes again and again (a look at validation) ends in a line once, then only when one is due.
        long = step.name not in self._ended_once or step.now - work.began >= self._first
        if step.now >= work.line_due or (step.ends and long):
            self._write_line(work, step)
        work.due = min(step.now + self._every, max(step.now, work.line_due))
        if step.ends:
            self._ended_once.add(step.name)

    def _write_line(self, work: _Work, step: _Step) -> None:
        work.line_due = step.now + self._interval
        numbers = {key: value for key, value in step.values.items() if key not in {"stage", "done", "total"}}
        self._record({"stage": step.name, "done": step.done, "total": step.total, **numbers})
        if self._bars is None or step.ends:
            self._print(_line(work, step))

    def _show_bar(self, bars: RichProgress, work: _Work, step: _Step) -> None:
        if step.ends:
            if work.bar is not None:
                bars.remove_task(work.bar)
                work.bar = None
            return
        if work.bar is None and step.name in self._ended_once and step.now - work.began < 1:
            return
        stats = "  ".join([*_pace(work, step), _numbers(step.values)])
        if work.bar is None:
            self._remove_idle(bars, step.now)
            work.bar = bars.add_task(printable(step.name), total=step.total or None, completed=step.done, stats=stats)
        else:
            bars.update(work.bar, completed=step.done, stats=stats)

    def _remove_idle(self, bars: RichProgress, now: float) -> None:
        # A stage that failed, or whose length was not known, never says that it ended.
        for work in self._work.values():
            if work.bar is not None and now - work.due > IDLE_SECONDS:
                bars.remove_task(work.bar)
                work.bar = None

    def _print(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, emoji=False)
        else:
            print(text, file=self._stream, flush=True)

    def _record(self, entry: Mapping[str, Any]) -> None:
        if self._log is None:
            return
        stamp = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": stamp, **_finite(entry)}, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self._writing:
                self._log.write(line)
                self._log.flush()
        except OSError as error:
            # A full disk must not end hours of training for the sake of its log.
            self._log = None
            self._print(f"{self._log_path}: cannot be written any more ({error.strerror}); the run goes on without it")
        for sink in tuple(self.sinks):
            sink()


def _is_live(stream: TextIO) -> bool:
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "") in {"", "dumb"}
    return stream.isatty() and not plain


def _bars(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TaskProgressColumn("{task.percentage:>5.1f}%"),
        TextColumn("{task.fields[stats]}", markup=False),
        console=Console(file=stream, force_terminal=True),
        refresh_per_second=1 / BAR_SECONDS,
        transient=True,
    )


def _line(work: _Work, step: _Step) -> str:
    count = [f"{step.done}/{step.total}", f"{100 * step.done / step.total:.1f}%"] if step.total else [str(step.done)]
    return "  ".join(part for part in (printable(step.name), *count, *_pace(work, step), _numbers(step.values)) if part)


def _pace(work: _Work, step: _Step) -> list[str]:
    """Return the rate of the last half minute and the time left; at the end, those of the whole work."""
    start, first = (work.began, work.first_done) if step.ends else work.samples[0]
    seconds, steps = step.now - start, step.done - first
    if seconds <= 0 or steps <= 0:
        return []
    rate = steps / seconds
    shown = [f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"]
    if step.ends:
        return [*shown, f"took {clock_text(seconds)}"]
    return [*shown, f"{clock_text((step.total - step.done) / rate)} left"] if step.total else shown


def _numbers(values: Mapping[str, float]) -> str:
    known = [key for key in SHOWN_FIRST if key in values]
    known += [key for key in values if key not in SHOWN_FIRST]
    return "  ".join(f"{printable(key).replace('_', ' ')} {values[key]:.3g}" for key in known[:4])


def clock_text(seconds: float) -> str:
    """Return a time as people read it.

    >>> clock_text(923), clock_text(3723), clock_text(200000)
    ('15:23', '1:02:03', '2 d 07:33')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minutes}:{second:02}"


def printable(text: str, keep: str = "") -> str:
    """Return text without what would command a terminal: names come from strangers' files."""
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
