"""The results of a run as tables: the numbers beside the paper's, the paired tests, and what each model saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewcore.metrics import MetricRow, lower_is_better
from fewcore.tables import Cell, Table, is_percent, number, p_text, short, with_interval, words

if TYPE_CHECKING:
    from fewcore.report import RunReport

NORMS = {
    "transductive": "statistics from all queries of a task together: queries help each other",
    "support": "statistics from the support images alone: each query is judged by itself",
    "running": "running statistics of training: each query is judged by itself",
}


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
        """What a reader calls the model."""
        return self.method if self.varied else self.stage

    @property
    def note(self) -> str:
        """What the name does not say."""
        parts = [] if self.varied or self.method == self.stage else [self.method]
        parts += [] if self.split == "test" else [f"{self.split} rows"]
        told = {k: v for k, v in self.conditions.items() if not (self.varied and k == f"stages.{self.stage}")}
        return ", ".join([*parts, *(f"{key} {short(value)}" for key, value in {**told, **self.repeats}.items())])


def lines_of(report: RunReport) -> tuple[list[Column], list[Line]]:
    """Return the columns and lines of the results, in the order in which evaluators gave them."""
    rows = [(name, row) for name, made in report.reports.items() for row in made.rows]
    judges: dict[str, set[str]] = {}
    for name, row in rows:
        judges.setdefault(row.metric, set()).add(name)
    methods: dict[str, set[str]] = {}
    for _, row in rows:
        methods.setdefault(row.stage, set()).add(row.method)
    columns: dict[Column, None] = {}
    lines: dict[str, Line] = {}
    for name, row in rows:
        conditions = dict(row.conditions)
        way, shot = conditions.pop("way", None), conditions.pop("shot", None)
        column = Column(row.metric, name if len(judges[row.metric]) > 1 else "", way, shot)
        columns[column] = None
        identity = (row.stage, row.method, row.split, conditions, dict(row.repeats), len(methods[row.stage]) > 1)
        for again in range(len(rows)):
            line = lines.setdefault(repr((*identity, again)), Line(*identity))
            if column not in line.values:
                line.values[column] = row
                break
    metrics = list(dict.fromkeys(row.metric for _, row in rows))
    return sorted(columns, key=lambda c: (metrics.index(c.metric), c.evaluator, _rank(c.way), _rank(c.shot))), [
        *lines.values()
    ]


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


def results_table(report: RunReport) -> Table:
    """Return the results: a row for each model, a column for each metric, way and shot, the paper's number beside."""
    columns, lines = lines_of(report)
    best = best_rows(columns, lines)
    percent = {c: is_percent(c.metric, [line.values[c].value for line in lines if c in line.values]) for c in columns}
    heads = (Cell("model"), *(_head(column, percent[column]) for column in columns))
    rows = []
    for line in lines:
        cells = [Cell(line.name, note=line.note)]
        for column in columns:
            row = line.values.get(column)
            cells.append(Cell("") if row is None else _result(report, row, percent[column], id(row) in best))
        rows.append(tuple(cells))
    source = report.published.get("source", "")
    paper = f" Paper: {source}." if source else ""
    note = f"± and ranges are 95% intervals. Bold: best at equal conditions, of models with and without labels each.{paper}"
    return Table("Results", heads, tuple(rows), note if rows else "")


def _head(column: Column, percent: bool) -> Cell:
    metric = words(column.metric) + (" (%)" if percent else "")
    task = Column("", column.evaluator, column.way, column.shot).label
    if column.way is None and column.shot is None:
        return Cell(metric, note=column.evaluator)
    chance = f"\nchance {100 / column.way:.1f}" if column.metric == "accuracy" and _is_count(column.way) else ""
    return Cell(task, note=metric + chance)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 1


def _result(report: RunReport, row: MetricRow, percent: bool, best: bool) -> Cell:
    paper = paper_number(report, row)
    note = ""
    if paper is not None:
        value = float(paper["value"])
        note = f"paper {number(value, percent)} ({number(row.value - value, percent, sign=True)})"
    sort = row.value if math.isfinite(row.value) else None
    return Cell(with_interval(row.value, row.ci95, percent), sort, best, note)


def paper_table(report: RunReport) -> Table:
    """Return each published number beside ours and their difference; where we have none, that is said."""
    rows = []
    found: dict[int, MetricRow] = {}
    for made in report.reports.values():
        for row in made.rows:
            paper = paper_number(report, row)
            if paper is not None:
                found.setdefault(id(paper), row)
    for paper in report.published.get("rows", ()):
        percent = is_percent(paper["metric"], [float(paper["value"])])
        value, half = float(paper["value"]), paper.get("ci95")
        interval = (value - half, value + half) if half is not None else (math.nan, math.nan)
        ours = found.get(id(paper))
        label = Column(paper["metric"], "", paper.get("way"), paper.get("shot")).label
        head = (
            Cell(str(paper.get("stage", "")), note=_else(paper.get("label", ""), paper.get("stage", ""))),
            Cell(label + (" (%)" if percent else "")),
        )
        numbers = (
            Cell("–") if ours is None else Cell(with_interval(ours.value, ours.ci95, percent), ours.value),
            Cell(with_interval(value, interval, percent), value),
            Cell("not run") if ours is None else _signed(ours.value - value, percent),
        )
        rows.append((*head, *numbers))
    heads = ("model", "metric", "here", "paper", "difference")
    source = str(report.published.get("source", ""))
    return Table("Every number beside the paper's", tuple(map(Cell, heads)), tuple(rows), source, folded=True)


def _else(text: Any, known: Any) -> str:
    return "" if text == known else str(text)


def _signed(value: float, percent: bool) -> Cell:
    return Cell(number(value, percent, sign=True), value)


MOST_TESTS = 60
"""More paired tests than these are folded away."""


def comparison_table(report: RunReport) -> Table:
    """Return the paired tests; the Holm-corrected p is stressed where it is below 0.05."""
    rows = []
    for made in report.reports.values():
        for pair in made.comparisons:
            percent = is_percent(pair.metric, [pair.difference])
            conditions = dict(pair.conditions)
            label = Column(pair.metric, "", conditions.pop("way", None), conditions.pop("shot", None)).label
            low, high = (number(float(end), percent, sign=True) for end in pair.ci95)
            rows.append(
                (
                    Cell(f"{pair.first} − {pair.second}", note=short(conditions) if conditions else ""),
                    Cell(label + (" (points)" if percent else "")),
                    _signed(pair.difference, percent),
                    Cell(f"{low} to {high}"),
                    Cell(p_text(pair.p), pair.p),
                    Cell(p_text(pair.p_holm), pair.p_holm, best=pair.p_holm < 0.05),
                    Cell(short(pair.n), float(pair.n)),
                    Cell(pair.test),
                )
            )
    heads = ("pair", "metric", "difference", "95% interval", "p", "p (Holm)", "n", "test")
    note = "Each pair was judged on the same tasks or images. Bold: below 0.05 after Holm's correction for the whole table."
    many = len(rows) > MOST_TESTS
    title = f"All {len(rows)} paired tests" if many else "Paired tests"
    return Table(title, tuple(map(Cell, heads)), tuple(rows), note, folded=many)


def other_tests_table(report: RunReport) -> Table:
    """Return the tests that pair no models; the Holm-corrected p is stressed where it is below 0.05."""
    rows = []
    for made in report.reports.values():
        for test in made.tests:
            low, high = (number(float(end), sign=True) for end in test.ci95)
            interval = f" ({low} to {high})" if math.isfinite(test.ci95[0]) else ""
            rows.append(
                (
                    Cell(test.about, note=short(dict(test.conditions)) if test.conditions else ""),
                    Cell(words(test.metric)),
                    Cell(test.test, note=test.note),
                    Cell(number(test.statistic), test.statistic if math.isfinite(test.statistic) else None),
                    Cell(number(test.effect, sign=True) + interval),
                    Cell(p_text(test.p), test.p if math.isfinite(test.p) else None),
                    Cell(p_text(test.p_holm), test.p_holm if math.isfinite(test.p_holm) else None, test.p_holm < 0.05),
                    Cell(short(test.n), float(test.n)),
                )
            )
    heads = ("of what", "metric", "test", "statistic", "difference or correlation", "p", "p (Holm)", "n")
    note = (
        "Bold: below 0.05 after Holm's correction for all of these tests of an evaluator. A p above 0.05 does not show that"
        " there is no difference: the interval says how large it may be."
    )
    many = len(rows) > MOST_TESTS
    title = f"All {len(rows)} tests" if many else "Tests over models and between classes"
    return Table(title, tuple(map(Cell, heads)), tuple(rows), note if rows else "", folded=many)


def seen_table(report: RunReport) -> Table:
    """Return what each judged model saw on its way, and where its batch norm took statistics."""
    seen: dict[tuple[str, ...], None] = {}
    for made in report.reports.values():
        for row in made.rows:
            seen[(row.stage, row.method, row.seen, row.norm)] = None
    rows = []
    for stage, method, text, norm in seen:
        labels, _, transductive = text.partition("; transductive: ")
        rows.append(
            (
                Cell(stage),
                Cell(method),
                Cell(labels.removeprefix("labels: ") or "not recorded"),
                Cell(transductive or "no"),
                Cell(norm),
            )
        )
    norms = "; ".join(f"Batch norm, {norm}: {NORMS[norm]}" for norm in NORMS if any(key[3] == norm for key in seen))
    note = "Transductive: stages fitted on the very rows on which the model is judged. " + (
        f"{norms}." if norms else ""
    )
    heads = ("model", "method", "labels seen", "transductive", "batch norm")
    return Table("What each model saw", tuple(map(Cell, heads)), tuple(rows), note.strip())
