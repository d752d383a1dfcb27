"""The report of a run: numbers for machines (JSON, CSV), for a terminal, and for people (Markdown, one HTML page).

The runner fills a `RunReport`; everything here is a pure function of it. `metrics.json` holds no time, so that equal
runs write equal bytes; what differs from run to run (wall time, memory) stands in `environment.json`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewcore.contracts import Array
from fewcore.disk import write_text
from fewcore.metrics import MetricReport

if TYPE_CHECKING:
    from fewcore.reports.summary import Summary

RECIPE = ("name", "kind", "component", "distribution", "version", "options", "seed", "split", "inputs", "key", "seen")
COST = ("name", "conditions", "key", "status", "seconds", "peak_memory_mb", "error")


@dataclass(frozen=True)
class StageRecord:
    """What became of one stage in one cell.

    `status` is `computed`, `reused`, `failed` or `missing`. `seconds` and `peak_memory_mb` are what it cost. `seen` says
    which labels were seen on the way. `conditions` are the matrix and repeat values of its cell. `records` are the
    points of its learning curves: `{"loop": "train", "step": 50, "loss": 1.2, "accuracy": 0.6}`.
    """

    name: str
    kind: str
    component: str
    distribution: str
    version: str
    options: Mapping[str, Any]
    seed: int | None
    split: str
    inputs: Mapping[str, str]
    key: str
    status: str
    seconds: float
    peak_memory_mb: float
    seen: str
    conditions: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...] = ()
    error: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A small sample of data for the page.

    `kind` is `partition`, `tasks`, `map`, `data`, `histogram` or `model`. `images` (m, c, h, w) or (m, c, d, h, w), of which the middle slice
    is shown; `groups` (m,) the part, class or split of each, -1 for none, counted into `labels`; `roles` (m,) 0 for
    support and 1 for query; `points` (m, 2) the place of each in the map of an embedding;
    `svg` a drawing, such as what a model drew of itself.
    """

    kind: str
    title: str
    stage: str
    caption: str
    images: Array | None = None
    groups: Array | None = None
    labels: tuple[str, ...] = ()
    roles: Array | None = None
    points: Array | None = None
    svg: str = ""


@dataclass(frozen=True)
class TaskCount:
    """How many tasks there were to train a model on: `stage` is the model's, `conditions` its cell's matrix values."""

    stage: str
    conditions: Mapping[str, Any]
    n: int


@dataclass(frozen=True, eq=False)
class RunReport:
    """Everything that a report tells.

    `pipeline` is the resolved YAML text and `command` what was typed. `reports` maps each evaluator stage to what it
    made. `published` holds the paper's numbers: `{"source": ..., "rows": [{"stage", "metric", "way", "shot", "value",
    "ci95", "label"}]}`, where `ci95` is the half width. `data` describes the images: `images`, `size`, `splits`,
    `preparation`, `groups`, `classes`, `split_check`. `candidates` are what `select` chose from; `failures` what is missing, and why. `task_counts`
    are those of models that were trained on a fixed list of tasks, one a cell.
    """

    name: str
    pipeline: str
    command: str
    title: str
    stages: tuple[StageRecord, ...]
    reports: Mapping[str, MetricReport]
    pictures: tuple[Picture, ...]
    published: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...] = field(default=())
    failures: tuple[str, ...] = ()
    task_counts: tuple[TaskCount, ...] = ()


def plain(value: Any) -> Any:
    """Return `value` as JSON: numpy numbers and arrays as Python's, NaN and infinity as None, all else as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def metrics_json(report: RunReport) -> dict[str, Any]:
    """Return the numbers of a run and the recipes behind them as JSON, without anything that differs between equal runs."""
    from fewcore import __version__

    rows = [{**row.to_json(), "evaluator": name} for name, made in report.reports.items() for row in made.rows]
    pairs = [
        {**pair.to_json(), "evaluator": name} for name, made in report.reports.items() for pair in made.comparisons
    ]
    tests = [{**test.to_json(), "evaluator": name} for name, made in report.reports.items() for test in made.tests]
    stages = [
        {**{name: getattr(stage, name) for name in RECIPE}, "conditions": stage.conditions} for stage in report.stages
    ]
    result: dict[str, Any] = plain(
        {
            "fewcore": __version__,
            "name": report.name,
            "rows": rows,
            "comparisons": pairs,
            "tests": tests,
            "left_out": {name: made.left_out for name, made in report.reports.items() if made.left_out},
            "versions": report.environment.get("versions", {}),
            "device": report.environment.get("device"),
            "candidates": report.candidates,
            "failures": report.failures,
            "stages": stages,
        }
    )
    return result


def write_report(report: RunReport, folder: Path) -> None:
    """Write metrics.json, metrics.csv, environment.json, report.md and report.html; each is whole or not there."""
    from fewcore.reports.page import page_html, page_markdown, page_of

    folder.mkdir(parents=True, exist_ok=True)
    costs = [{name: getattr(stage, name) for name in COST} for stage in report.stages]
    environment = {**report.environment, "command": report.command, "stages": costs}
    write_text(folder / "metrics.json", _json(metrics_json(report)))
    write_text(folder / "metrics.csv", metrics_csv(report))
    write_text(folder / "environment.json", _json(plain(environment)))
    page = page_of(report)
    write_text(folder / "report.md", page_markdown(page))
    write_text(folder / "report.html", page_html(page))


def metrics_csv(report: RunReport) -> str:
    """Return the rows of `metrics_json` as CSV, one column a field, the interval as `ci95_low` and `ci95_high`."""
    rows = []
    for row in metrics_json(report)["rows"]:
        low, high = row.pop("ci95")
        rows.append({**row, "ci95_low": low, "ci95_high": high})
    first = ["evaluator", "stage", "method", "metric", "value", "ci95_low", "ci95_high", "n"]
    last = ["split", "norm", "seen", "note"]
    between = sorted({key for row in rows for key in row} - {*first, *last})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *between, *last], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: csv_field(value) for key, value in row.items()} for row in rows])
    return text.getvalue()


def csv_field(value: Any) -> Any:
    """Return a field of a CSV table, made harmless for spreadsheets."""
    # Spreadsheets run text that begins with one of these as a formula, and names come from strangers.
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def summary_table(report: RunReport) -> Summary:
    """Return what a terminal shows at the end: a row for each model, as many columns as it is wide for."""
    from fewcore.reports.summary import Summary

    return Summary(report)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
