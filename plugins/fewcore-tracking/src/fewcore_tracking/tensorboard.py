"""Curves and results as TensorBoard shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewcore import LogEntry, option
from fewcore_tracking.names import result_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "events.out.tfevents.*"


class TensorBoardTracking:
    """The event file of one run."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer
        self._results: list[LogEntry] = []

    def record(self, entry: LogEntry) -> None:
        """Write each number as a scalar: a chart for each stage and name."""
        if entry.kind == "result":
            self._results.append(entry)
            self._scalar(result_name(entry), next(iter(entry.values.values())), entry)
        elif entry.kind == "curve":
            for name, value in entry.values.items():
                self._scalar(f"{entry.stage}/{name}", value, entry)
        elif entry.values.get("total"):
            share = entry.values["done"] / entry.values["total"]
            self._scalar(f"progress/{entry.stage}", share, entry)
        self._writer.flush()

    def close(self, status: str, files: tuple[Path, ...]) -> None:
        """Write the table of results and close the file."""
        if self._results:
            self._writer.add_text("results", _table(self._results))
        self._writer.add_text("status", status)
        self._writer.close()

    def _scalar(self, name: str, value: float, entry: LogEntry) -> None:
        self._writer.add_scalar(name, value, entry.step, walltime=entry.time)


@dataclass(frozen=True)
class TensorBoard:
    """Write curves, progress and results for TensorBoard, into the folder of the run; `tensorboard --logdir runs` shows them.

    Each time the event files are written anew, from all that the run's log holds; those of the run before are removed.
    The files stay on this machine.
    """

    folder: str = option("tensorboard", "folder of the event files, within the folder of the run")
    text: bool = option(True, "write the components and their options as a text")

    def __post_init__(self) -> None:
        path = Path(self.folder)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"found the folder {self.folder!r}; expected one within that of the run, as tensorboard")

    def open(self, name: str, folder: Path, facts: Mapping[str, Any]) -> TensorBoardTracking:
        """Open the event file of a run."""
        from torch.utils.tensorboard import SummaryWriter

        place = folder / self.folder
        for before in place.glob(EVENTS):
            before.unlink()
        writer = SummaryWriter(str(place))
        if self.text:
            lines = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
            writer.add_text("pipeline", f"**{name}**\n\n| what | value |\n|---|---|\n{lines}")
        return TensorBoardTracking(writer)


def _table(results: list[LogEntry]) -> str:
    lines = ["| result | value | 95% interval | n |", "|---|---|---|---|"]
    for entry in results:
        value, *ends = entry.values.values()
        interval = f"{ends[0]:.4g} to {ends[1]:.4g}" if len(ends) == 2 else ""
        lines.append(f"| {result_name(entry)} | {value:.4g} | {interval} | {entry.conditions.get('n', '')} |")
    return "\n".join(lines)
