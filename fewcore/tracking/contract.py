"""What a tracker gets of a run, and what it makes: the contract behind `fewcore run --track`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class LogEntry:
    """Numbers of a stage, as a line of `log.jsonl` says them. No text of a file or of an error is in it.

    `kind` is `curve` (means of what a method logged since its last point), `progress` (how far a stage is: `done` and
    `total` steps, beside its latest numbers) or `result` (a row of an evaluator: the metric, with `.low` and `.high` the
    ends of its 95% interval). `stage` names the stage, and its cell where there are several. `step` counts the steps
    that are done; 0 in a result. `values` are finite. `time` is in seconds since 1970. `conditions` say of a result by
    which evaluator, of which method, on how many tasks or images, at which way and shot.
    """

    kind: Literal["curve", "progress", "result"]
    stage: str
    step: int
    values: Mapping[str, float]
    time: float = field(compare=False)
    conditions: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Tracking(Protocol):
    """A run that a tracker shows. All methods are called from one thread, which is not that of the run."""

    def record(self, entry: LogEntry) -> None:
        """Show some numbers. A step may come again: the last time counts."""
        ...

    def close(self, status: str, files: tuple[Path, ...]) -> None:
        """End it: `status` is `finished`, `failed` or `interrupted`; `files` are the run's pipeline and page."""
        ...
