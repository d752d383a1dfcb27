"""The folders of runs that are compared, read and checked: whatever a stranger's folder holds, it is refused in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, TypeAdapter

from fewcore import yaml12
from fewcore.cells import SHORT
from fewcore.comparing.scores import FILE, Scores, read_scores
from fewcore.errors import DataError, FewcoreError, Problem
from fewcore.grouping import FOLD
from fewcore.metrics import MetricRow

METRICS, PIPELINE = "metrics.json", "pipeline.yaml"
MOST_BYTES = 1 << 28
OWN = ("metric", "value", "ci95", "n", "stage", "method", "split", "norm", "seen", "note", "evaluator")
"""Keys of a row of metrics.json that are no conditions."""


@dataclass(frozen=True)
class _Row:
    metric: str
    value: float | None
    ci95: tuple[float | None, float | None]
    n: int
    stage: str
    method: str
    split: str
    norm: str
    seen: str
    note: str
    evaluator: str


@dataclass(frozen=True)
class _Metrics:
    name: str
    device: str | None
    versions: dict[str, str]
    rows: list[dict[str, JsonValue]]


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is compared: `label` is A for the first, B for the second; `rows` are its numbers by evaluator stage.

    `spec` is its pipeline as it was run.
    """

    label: str
    folder: Path
    name: str
    device: str
    versions: Mapping[str, str]
    spec: Mapping[str, Any]
    rows: tuple[tuple[str, MetricRow], ...]
    scores: Scores


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Return the runs of folders that `fewcore run` wrote.

    Raises:
        DataError: a folder is named twice, is no such folder, or cannot be read; all problems at once.

    """
    problems: list[Problem] = []
    runs: list[Run] = []
    seen: dict[Path, Path] = {}
    for number, folder in enumerate(folders):
        real = folder.resolve()
        if real in seen:
            problems.append(Problem(str(folder), f"the same folder as {seen[real]}", "each run once"))
            continue
        seen[real] = folder
        try:
            runs.append(_read(folder, label_of(number)))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return tuple(runs)


def label_of(number: int) -> str:
    """Return A, B, ... Z, AA, AB, ...

    >>> [label_of(n) for n in (0, 25, 26)]
    ['A', 'Z', 'AA']
    """
    last = chr(ord("A") + number % 26)
    return label_of(number // 26 - 1) + last if number >= 26 else last


def _read(folder: Path, label: str) -> Run:
    if not folder.is_dir():
        raise DataError(Problem(str(folder), "no such folder", "a folder that fewcore run wrote"))
    if not (folder / METRICS).exists():
        raise DataError(Problem(str(folder), f"no {METRICS}", "a folder that fewcore run wrote, such as runs/NAME"))
    again = f"type fewcore run {folder / PIPELINE} --out {folder}: what is finished is reused"
    if not (folder / FILE).exists():
        found = f"no {FILE}, the scores of each task or image"
        raise DataError(Problem(str(folder), found, "a run of this version of fewcore", again))
    path = folder / METRICS
    try:
        metrics = TypeAdapter(_Metrics).validate_python(_json(path))
        spec = _spec(folder, metrics.name)
        rows = tuple(_row(said, _repeats(spec)) for said in metrics.rows)
        path = folder / FILE
        _check(path)
        scores = read_scores(path)
        from fewcore.store import digest

        if scores.index.metrics != digest(metrics.rows):
            raise DataError(Problem(str(path), f"scores of another run than {METRICS}", "both of one run", again))
    except DataError:
        raise
    except FewcoreError as error:
        found = f"no readable pipeline ({str(error).splitlines()[0]})"
        raise DataError(Problem(str(folder / PIPELINE), found, "the file as it was written", again)) from error
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        found = f"cannot be read ({type(error).__name__})"
        raise DataError(Problem(str(path), found, "the file as it was written", again)) from error
    return Run(label, folder, metrics.name, metrics.device or "", metrics.versions, spec, rows, scores)


def _check(path: Path) -> None:
    """Refuse what is no file, such as a pipe, that would keep a reader waiting, and what is too large."""
    if not path.is_file():
        raise OSError("no regular file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError("too large")


def _json(path: Path) -> Any:
    _check(path)
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _spec(folder: Path, name: str) -> dict[str, Any]:
    path = folder / PIPELINE
    if not path.exists():
        found = f"no {PIPELINE}"
        raise DataError(Problem(str(folder), found, "a folder as fewcore run wrote it", f"run {name} again"))
    _check(path)
    data = yaml12.read(path.read_text(encoding="utf-8")).data
    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
        raise ValueError("a file without stages")
    return data


def _repeats(spec: Mapping[str, Any]) -> set[str]:
    """Return the names of what a pipeline averages over."""
    said = spec.get("repeat")
    axes = [str(axis) for axis in said] if isinstance(said, dict) else []
    return {FOLD, *(SHORT.get(axis, axis) for axis in axes)}


def _row(said: Mapping[str, Any], repeated: set[str]) -> tuple[str, MetricRow]:
    """Return an evaluator's stage and its number, as `MetricRow.to_json` wrote it."""
    row = TypeAdapter(_Row).validate_python({name: said.get(name) for name in OWN})
    more = {name: value for name, value in said.items() if name not in OWN}
    value, low, high = (math.nan if x is None else float(x) for x in (row.value, *row.ci95))
    return row.evaluator, MetricRow(
        row.metric,
        value,
        (low, high),
        row.n,
        row.stage,
        row.method,
        row.split,
        {name: found for name, found in more.items() if name not in repeated},
        {name: found for name, found in more.items() if name in repeated},
        row.norm,
        row.seen,
        row.note,
    )
