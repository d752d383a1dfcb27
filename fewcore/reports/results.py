"""The results of a run: columns, lines, which of them is best, and the paper's number for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewcore.metrics import MetricRow, lower_is_better, replaces_stage
from fewcore.reports.tables import short, words

if TYPE_CHECKING:
    from fewcore.reports.report import RunReport


@dataclass(frozen=True)
class Column:
    """A column of the results: what was measured, by which evaluator where several measure it, at which way and shot."""

    metric: str
    evaluator: str = ""
    way: Any = None
    shot: Any = None

    @property
    def label(self) -> str:
        """The column's name: `accuracy, 5-way 1-shot`."""
        task = " ".join(f"{n}-{what}" for n, what in ((self.way, "way"), (self.shot, "shot")) if n is not None)
        return ", ".join(part for part in (words(self.metric), task, self.evaluator) if part)


@dataclass(frozen=True, eq=False)
class Line:
    """A line of the results: one model at one set of conditions, and its number in each column.

    `varied` where the pipeline puts several methods in the place of this stage: then the method is the model's name.
    """

    stage: str
    method: str
    split: str
    conditions: Mapping[str, Any]
    repeats: Mapping[str, Any]
    varied: bool = False
    values: dict[Column, MetricRow] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a reader calls the model: what was put into its stage's place, else its stage."""
        own = self.conditions.get(f"stages.{self.stage}")
        return str(own) if own is not None else self.method if self.varied else self.stage

    @property
    def about(self) -> str:
        """What the name does not say: its method, its conditions."""
        told = {k: v for k, v in self.conditions.items() if k != f"stages.{self.stage}"}
        parts = [] if self.method == self.name else [self.method]
        parts += [] if self.split == "test" else [f"{self.split} rows"]
        return ", ".join([*parts, *(f"{key} {short(value)}" for key, value in told.items())])

    @property
    def repeated(self) -> str:
        """Which of the repeats it is, in words: `mean of 3 seeds, all 4 folds`, `seed 0`."""
        axes = [axis for axis, value in self.repeats.items() if _is_mean(value)]
        over = f"{axes[0]}s" if len(axes) == 1 else f"over {', '.join(axes)}"
        told = [f"{self.repeats[axes[0]]} {over}"] if axes else []
        for axis, value in self.repeats.items():
            if axis not in axes:
                told.append(f"{value} {axis}s" if str(value).startswith("all ") else f"{axis} {short(value)}")
        return ", ".join(told)

    @property
    def note(self) -> str:
        """All that the name does not say."""
        return ", ".join(part for part in (self.about, self.repeated) if part)

    @property
    def others(self) -> dict[str, Any]:
        """The conditions that do not say which model this is."""
        return {key: value for key, value in self.conditions.items() if not replaces_stage(key)}

    @property
    def subject(self) -> str:
        """What comparisons call the model: its stage, with what was put into the place of stages."""
        chosen = ", ".join(str(value) for key, value in self.conditions.items() if replaces_stage(key))
        return f"{self.stage} [{chosen}]" if chosen else self.stage

    @property
    def averaged(self) -> bool:
        """Whether its numbers are means over seeds or other repeats."""
        return any(_is_mean(value) for value in self.repeats.values())

    @property
    def model(self) -> str:
        """What is judged under which conditions, whichever the repeat."""
        return repr((self.stage, self.method, self.split, self.conditions))


def _is_mean(value: Any) -> bool:
    return str(value).startswith("mean of ")


@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluator gave: columns, and lines in the order in which they came."""

    evaluator: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def main(self) -> tuple[Line, ...]:
        """The lines without the single repeats of which another line is the mean."""
        means = {line.model for line in self.lines if line.averaged}
        return tuple(line for line in self.lines if line.averaged or line.model not in means)

    @property
    def single(self) -> tuple[Line, ...]:
        """The single repeats that `main` leaves out."""
        main = {id(line) for line in self.main}
        return tuple(line for line in self.lines if id(line) not in main)


def results_of(report: RunReport) -> list[Results]:
    """Return the results of each evaluator that gave a number."""
    rows = [(name, row) for name, made in report.reports.items() for row in made.rows]
    judges: dict[str, set[str]] = {}
    methods: dict[str, set[str]] = {}
    for name, row in rows:
        judges.setdefault(row.metric, set()).add(name)
        methods.setdefault(row.stage, set()).add(row.method)
    shared = {metric for metric, names in judges.items() if len(names) > 1}
    varied = {stage for stage, names in methods.items() if len(names) > 1}
    return [_results_of(name, made.rows, shared, varied) for name, made in report.reports.items() if made.rows]


def _results_of(evaluator: str, rows: Sequence[MetricRow], shared: set[str], varied: set[str]) -> Results:
    columns: dict[Column, None] = {}
    lines: dict[str, Line] = {}
    for row in rows:
        conditions = dict(row.conditions)
        way, shot = conditions.pop("way", None), conditions.pop("shot", None)
        column = Column(row.metric, evaluator if row.metric in shared else "", way, shot)
        columns[column] = None
        identity = (row.stage, row.method, row.split, conditions, dict(row.repeats), row.stage in varied)
        for again in range(len(rows)):
            line = lines.setdefault(repr((*identity, again)), Line(*identity))
            if column not in line.values:
                line.values[column] = row
                break
    metrics = list(dict.fromkeys(row.metric for row in rows))
    ordered = sorted(columns, key=lambda c: (metrics.index(c.metric), _rank(c.way), _rank(c.shot)))
    return Results(evaluator, tuple(ordered), tuple(lines.values()))


def _rank(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if is_number else 0.0, str(value))


def unlabelled(row: MetricRow) -> bool:
    """Return whether the model behind a row saw no label on its way (one that was only watched is no harm)."""
    return row.seen.startswith("labels: none")


def best_rows(columns: Sequence[Column], lines: Sequence[Line]) -> set[int]:
    """Return the `id`s of the best rows of each column: among models that saw no label, and among those that did."""
    best = set()
    for column in columns:
        rivals: dict[str, list[MetricRow]] = {}
        for line in lines:
            row = line.values.get(column)
            if row is not None and math.isfinite(row.value):
                same = {k: v for k, v in line.conditions.items() if not k.startswith("stages.")}
                rivals.setdefault(repr((line.split, same, sorted(line.repeats), unlabelled(row))), []).append(row)
        pick = min if lower_is_better(column.metric) else max
        best |= {id(pick(rows, key=lambda row: row.value)) for rows in rivals.values() if len(rows) > 1}
    return best


def paper_number(report: RunReport, row: MetricRow) -> Mapping[str, Any] | None:
    """Return the paper's row for one of ours: everything that it names must be equal in ours."""
    ours = {"stage": row.stage, "metric": row.metric, "method": row.method, "split": row.split, **row.conditions}
    for paper in report.published.get("rows", ()):
        named = {key: value for key, value in paper.items() if key not in {"value", "ci95", "label", "source", "note"}}
        if all(key in ours and ours[key] == value for key, value in named.items()):
            found: Mapping[str, Any] = paper
            return found
    return None
