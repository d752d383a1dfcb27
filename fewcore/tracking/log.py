"""What `log.jsonl` says of a run: where its record begins, and the numbers of each line.

The log of a folder grows with every run. A run's own record begins at its heading, or, where it goes on with one that
was stopped, at the first heading of the same pipeline before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from fewcore.metrics import MetricReport
from fewcore.run import loop_label
from fewcore.tracking.contract import LogEntry

if TYPE_CHECKING:
    from fewcore.pipeline import Pipeline
    from fewcore.runner import Result
    from fewcore.session import Session

Line = dict[str, Any]
RESULT_FACTS = ("evaluator", "method", "split", "n", "norm", "seen")
NOT_NUMBERS = ("time", "stage")


def heading(pipeline: Pipeline) -> Line:
    """Return the line with which a run begins; equal pipelines, resolved, have equal ones."""
    text = json.dumps(pipeline.spec, sort_keys=True, default=str)
    return {"run": pipeline.name, "pipeline": hashlib.sha256(text.encode()).hexdigest()[:16]}


def result_lines(reports: Mapping[str, MetricReport]) -> Iterator[Line]:
    """Yield a line for each row of the evaluators' reports."""
    for evaluator, report in reports.items():
        for row in report.rows:
            said = {name: getattr(row, name) for name in ("stage", "metric", "value", "n", "method", "split", "norm")}
            conditions = {**row.conditions, **row.repeats}
            yield {"evaluator": evaluator, **said, "ci95": list(row.ci95), "seen": row.seen, "conditions": conditions}


def closing_lines(path: Path, pipeline: Pipeline, session: Session, result: Result) -> Iterator[Line]:
    """Yield what a run adds to its log when all is done: curves that another run or a worker computed, and the results."""
    known = known_points(path, record_start(path, heading(pipeline)))
    for node in {node.key: node for nodes in reversed(result.nodes) for node in nodes.values()}.values():
        entry = session.store.get(node.key)
        for point in entry.facts.get("records", ()) if entry is not None else ():
            stage, step = loop_label(node.title, point["loop"]), point["step"]
            if (stage, step) not in known:
                values = {name: value for name, value in point.items() if name not in ("loop", "step")}
                yield {"stage": stage, "step": step, "values": values}
    yield from result_lines(result.reports)


def record_start(path: Path, wanted: Line) -> int:
    """Return the place in the file, in bytes, at which the record of the run with this heading begins."""
    start, place, same = 0, 0, False
    for line in _lines(path):
        said = read_line(line) if b'"pipeline"' in line else {}
        if "run" in said and "pipeline" in said:
            fits = all(said.get(name) == value for name, value in wanted.items())
            if fits and not same:
                start = place
            same = fits
        place += len(line)
    return start if same else place


def known_points(path: Path, start: int) -> set[tuple[str, int]]:
    """Return (stage, step) of each point of a curve that the log holds from a place on."""
    said = (read_line(line) for line in _lines(path, start))
    return {(line.get("stage", ""), line.get("step", 0)) for line in said if "values" in line}


def _lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield the lines of a log from a place on; none where it was taken away, since a run does not need it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(start)
        yield from file


def read_line(line: bytes) -> Line:
    """Return what a line says; nothing where it is no line of a log, as the last of a machine that lost its power."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def next_line(file: BinaryIO) -> Line | None:
    """Return the next whole line, or None where there is none yet."""
    place = file.tell()
    line = file.readline()
    if not line.endswith(b"\n"):
        file.seek(place)
        return None
    return read_line(line)


def entry_of(said: Line) -> LogEntry | None:
    """Return the numbers of a line; None where it is a message, a traceback or a heading."""
    stage, step = said.get("stage"), 0
    if not isinstance(stage, str) or "traceback" in said:
        return None
    kind: Literal["curve", "progress", "result"] = "curve"
    conditions: dict[str, Any] = {}
    if "metric" in said:
        kind, metric = "result", str(said["metric"])
        low, high = [*(said.get("ci95") or ()), None, None][:2]
        values = {metric: said.get("value"), f"{metric}.low": low, f"{metric}.high": high}
        conditions = {**{name: said[name] for name in RESULT_FACTS if name in said}, **(said.get("conditions") or {})}
    elif "values" in said:
        step, values = said.get("step", 0), said["values"]
    else:
        kind, step = "progress", said.get("done", 0)
        values = {name: value for name, value in said.items() if name not in NOT_NUMBERS}
    numbers = {name: float(value) for name, value in values.items() if _is_finite(value)}
    return LogEntry(kind, stage, int(step), numbers, _seconds(said.get("time")), conditions) if numbers else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(time: Any) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return 0.0
