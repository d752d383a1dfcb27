"""The results of a run as tables: the numbers beside the paper's, and what each model saw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fewcore.metrics import MetricRow
from fewcore.reports.results import Column, Results, best_rows, paper_number, results_of
from fewcore.reports.tables import Cell, Table, is_percent, number, signed, with_interval, words

if TYPE_CHECKING:
    from fewcore.reports.report import RunReport

NORMS = {
    "transductive": "statistics from all queries of a task together: queries help each other",
    "support": "statistics from the support images alone: each query is judged by itself",
    "running": "running statistics of training: each query is judged by itself",
}


def results_tables(report: RunReport) -> list[Table]:
    """Return the results of each evaluator: a row for each model, a column for each metric, way and shot.

    The paper's number stands below ours. Single repeats of which a mean is shown have a table of their own, folded.
    """
    made = results_of(report)
    tables = []
    for results in made:
        of = "" if len(made) == 1 else f" of {results.evaluator}"
        tables.append(_table(report, results, f"Results{of}"))
        if results.single:
            tables.append(
                _table(
                    report, results, f"The {len(results.single)} single runs behind{of or ' the means'}", single=True
                )
            )
    return tables


def _table(report: RunReport, results: Results, title: str, *, single: bool = False) -> Table:
    columns, lines = results.columns, results.single if single else results.main
    best = set() if single else best_rows(columns, lines)
    percent = {
        c: is_percent(c.metric, [line.values[c].value for line in results.lines if c in line.values]) for c in columns
    }
    heads = (Cell("model"), *(_head(column, percent[column]) for column in columns))
    repeated = {line.repeated for line in lines if line.repeats}
    common = repeated.pop() if len(repeated) == 1 else ""
    rows = []
    for line in lines:
        cells = [Cell(line.name, note=line.about if common else line.note)]
        for column in columns:
            row = line.values.get(column)
            cells.append(Cell("") if row is None else _result(report, row, percent[column], id(row) in best))
        rows.append(tuple(cells))
    source = report.published.get("source", "")
    paper = f" Paper: {source}." if source else ""
    each = f"Each number: {common}. " if common else ""
    note = f"{each}± and ranges are 95% intervals. Bold: best at equal conditions, of models with and without labels each.{paper}"
    return Table(title, heads, tuple(rows), each.strip() if single else note, folded=single)


def _head(column: Column, percent: bool) -> Cell:
    metric = words(column.metric) + (" (%)" if percent else "")
    if column.way is None and column.shot is None:
        return Cell(metric)
    task = Column("", way=column.way, shot=column.shot).label
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
    for row in (row for results in results_of(report) for line in results.main for row in line.values.values()):
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
            Cell("not run") if ours is None else signed(ours.value - value, percent),
        )
        rows.append((*head, *numbers))
    heads = ("model", "metric", "here", "paper", "difference")
    source = str(report.published.get("source", ""))
    return Table("Every number beside the paper's", tuple(map(Cell, heads)), tuple(rows), source, folded=True)


def _else(text: Any, known: Any) -> str:
    return "" if text == known else str(text)


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
