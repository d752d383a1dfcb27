"""A comparison of runs for a terminal, as JSON, and as a page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewcore.comparing.compare import Pair, RunComparison
from fewcore.comparing.lines import Line
from fewcore.disk import write_text, written
from fewcore.metrics import MetricRow
from fewcore.reports.tables import Cell, Table, is_percent, number, p_text, short, with_interval, words

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "No model could be tested in pairs."


def to_json(made: RunComparison) -> dict[str, Any]:
    """Return the comparison as JSON; equal runs in equally named folders give equal text."""
    from fewcore import __version__
    from fewcore.reports.report import plain

    runs = [
        {"label": run.label, "folder": str(run.folder), "name": run.name, "baseline": run is made.baseline}
        for run in made.runs
    ]
    lines = [
        {
            "model": line.stage,
            "metric": line.metric,
            "evaluator": line.evaluator,
            "split": line.split,
            "conditions": line.conditions,
            "values": {label: _value(row) for label, row in line.values.items()},
        }
        for line in made.lines
    ]
    found: dict[str, Any] = plain(
        {
            "fewcore": __version__,
            "runs": runs,
            "rows": lines,
            "comparisons": [_pair(pair) for pair in made.pairs],
            "not_compared": [vars(refusal) for refusal in made.refusals],
            "not_in_all": [{"model": stage, "runs": labels} for stage, labels in made.alone],
            "differences": [vars(one) for one in made.differences],
        }
    )
    return found


def _value(row: MetricRow) -> dict[str, Any]:
    names = ("value", "ci95", "n", "method", "norm", "seen", "note", "repeats")
    return {name: getattr(row, name) for name in names}


def _pair(pair: Pair) -> dict[str, Any]:
    one = pair.comparison
    names = ("metric", "difference", "ci95", "p", "p_holm", "n", "test", "conditions")
    first, second = {"run": pair.run, "model": one.first}, {"run": pair.baseline, "model": one.second}
    return {"evaluator": pair.evaluator, "first": first, "second": second, **{n: getattr(one, n) for n in names}}


# ---- tables


def runs_table(made: RunComparison) -> Table:
    """Return which letter stands for which run."""
    rows = [
        (
            Cell(run.label, note="baseline" if run is made.baseline else ""),
            Cell(str(run.folder)),
            Cell(run.name),
            Cell(run.device),
        )
        for run in made.runs
    ]
    return Table("Runs", tuple(map(Cell, ("run", "folder", "pipeline", "device"))), tuple(rows))


def numbers_table(made: RunComparison) -> Table:
    """Return a row for each model and metric, a column for each run."""
    judges: dict[str, set[str]] = {}
    for line in made.lines:
        judges.setdefault(line.metric, set()).add(line.evaluator)
    rows = []
    for line in made.lines:
        percent = is_percent(line.metric, [row.value for row in line.values.values()])
        metric = words(line.metric) + (" (%)" if percent else "")
        where = [line.evaluator] if len(judges[line.metric]) > 1 else []
        task, others = _conditions(line.conditions)
        rows.append(
            (
                Cell(line.stage, note=", ".join([*others, *([] if line.split == "test" else [line.split])])),
                Cell(metric, note=", ".join([*task, *where])),
                *(_number(line, run.label, percent) for run in made.runs),
            )
        )
    heads = ("model", "metric", *(run.label for run in made.runs))
    note = "± and ranges are 95% intervals of one run, which do not tell whether two runs differ: the paired tests do."
    return Table("Side by side", tuple(map(Cell, heads)), tuple(rows), note)


def _conditions(facts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return ways and shots as one text, and the other conditions."""
    task = " ".join(f"{facts[key]}-{key}" for key in ("way", "shot") if key in facts)
    return [task] if task else [], [f"{k} {short(v)}" for k, v in facts.items() if k not in ("way", "shot")]


def _number(line: Line, label: str, percent: bool) -> Cell:
    row = line.values.get(label)
    if row is None:
        return Cell("–")
    methods = {one.method for one in line.values.values()}
    repeats = [f"{key} {short(value)}" for key, value in row.repeats.items()]
    note = ", ".join([*([row.method] if len(methods) > 1 else []), *repeats])
    return Cell(with_interval(row.value, row.ci95, percent), row.value if math.isfinite(row.value) else None, note=note)


def tests_table(made: RunComparison) -> Table:
    """Return the paired tests; the Holm-corrected p is stressed where it is below 0.05."""
    rows = []
    for pair in made.pairs:
        one = pair.comparison
        percent = is_percent(one.metric, [one.difference])
        low, high = (number(float(end), percent, sign=True) for end in one.ci95)
        task, others = _conditions(one.conditions)
        models = one.first if one.first == one.second else f"{one.first} − {one.second}"
        rows.append(
            (
                Cell(models, note=", ".join([f"{pair.run} − {pair.baseline}", *others])),
                Cell(words(one.metric) + (" (points)" if percent else ""), note=", ".join(task)),
                Cell(number(one.difference, percent, sign=True), _finite(one.difference), note=f"{low} to {high}"),
                Cell(p_text(one.p), _finite(one.p)),
                Cell(p_text(one.p_holm), _finite(one.p_holm), best=one.p_holm < 0.05),
                Cell(one.test, note=f"n = {one.n:,}"),
            )
        )
    heads = ("model", "metric", "difference", "p", "p (Holm)", "test")
    note = (
        "Differences with their 95% interval, on the same tasks or images. Bold: below 0.05 after Holm's correction for the"
        " whole table. Each model was trained on its own seeds: the tests are over tasks or images, not over trainings."
    )
    return Table("Paired tests", tuple(map(Cell, heads)), tuple(rows), note)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def differences_table(made: RunComparison) -> Table:
    """Return what differs between the runs, a column for each."""
    rows = [
        (
            Cell(one.what, note="" if one.kind in ("option", one.what) else one.kind),
            *(_told(one.values[r.label]) for r in made.runs),
        )
        for one in made.differences
    ]
    heads = ("what differs", *(run.label for run in made.runs))
    return Table("What differs between the runs", tuple(map(Cell, heads)), tuple(rows))


def _told(value: Any) -> Cell:
    return Cell(short(value, 200))


def notes(made: RunComparison) -> tuple[str, ...]:
    """Return in words what was not tested in pairs, and why."""
    said = [] if made.pairs else [NOTHING]
    said += [f"{one.run} and {one.baseline}, {short(one.models, 300)}: {one.reason}." for one in made.refusals]
    said += [f"{stage} stands in {' and '.join(labels)} alone." for stage, labels in made.alone]
    if not made.pairs and not made.refusals:
        said.append(
            "No model stands in the baseline and in another run under the same name and conditions with scores of each task"
            " or image; type --pair A=B to name two."
        )
    return tuple(said)


# ---- where it goes


def show(made: RunComparison, console: Console) -> None:
    """Print the comparison for a terminal of 80 characters or more."""
    from rich.text import Text

    from fewcore.progress import printable

    for table in (runs_table(made), numbers_table(made), tests_table(made), differences_table(made)):
        if table.rows:
            console.print(_rich(table))
            if table.note:
                console.print(Text(table.note, style="dim"))
    if said := notes(made):
        console.print(Text("Not tested in pairs", style="bold"))
        for text in said:
            console.print(Text(printable(f"- {text}")))


def _rich(table: Table) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    from fewcore.progress import printable

    def text(cell: Cell) -> Text:
        made = Text(printable(cell.text), style="bold" if cell.best else "")
        return made.append(Text(printable(f"\n{cell.note}", keep="\n"), style="dim")) if cell.note else made

    made = RichTable(title=Text(table.title, style="bold"), title_justify="left")
    for head, numeric in zip(table.columns, table.numeric, strict=True):
        made.add_column(text(head), justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*map(text, row))
    return made


def write_comparison(made: RunComparison, folder: Path) -> None:
    """Write comparison.html, comparison.md and comparison.json; each is whole or not there.

    Raises:
        ResourceError: the folder cannot be written.

    """
    from fewcore.reports.page import Page, Section, page_html, page_markdown

    said = notes(made)
    sections = (
        Section("not-compared", "Not tested in pairs", said, warning=True),
        Section("runs", "Runs", tables=(runs_table(made),)),
        Section("results", "Side by side", tables=(numbers_table(made),)),
        Section("tests", "Paired tests", tables=(tests_table(made),)),
        Section("differences", "What differs between the runs", tables=(differences_table(made),)),
    )
    title = " and ".join(dict.fromkeys(run.name for run in made.runs))
    tiles = (("runs", str(len(made.runs))), ("paired tests", str(len(made.pairs))), ("baseline", made.baseline.label))
    filled = tuple(section for section in sections if section.filled)
    page = Page("fewcore comparison", title, headline(made), tiles, filled, "comparison.json and comparison.md")
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "comparison.json", json_text(made))
        write_text(folder / "comparison.md", page_markdown(page))
        write_text(folder / "comparison.html", page_html(page))


def json_text(made: RunComparison) -> str:
    """Return the comparison as the text of a JSON file."""
    return json.dumps(to_json(made), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def headline(made: RunComparison) -> tuple[str, ...]:
    """Return what was found in a sentence or two: how many tests show a difference, and the surest of them."""
    if not made.pairs:
        return (NOTHING,)
    sure = [pair for pair in made.pairs if pair.comparison.p_holm < 0.05]
    n = len(made.pairs)
    told = (
        f"{len(sure)} of {n} paired tests {'shows' if len(sure) == 1 else 'show'} a difference after Holm's correction."
    )
    return (told, *map(_sentence, _first(sure)))


def _first(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return the surest test."""
    return sorted(pairs, key=lambda pair: pair.comparison.p_holm)[:1]


def _sentence(pair: Pair) -> str:
    one = pair.comparison
    percent = is_percent(one.metric, [one.difference])
    low, high = (number(float(end), percent, sign=True) for end in one.ci95)
    task, others = _conditions(one.conditions)
    at = "".join(f", {text}" for text in (*task, *others))
    size = number(one.difference, percent, sign=True) + (" points" if percent else "")
    return f"{one.first} of {pair.run} against {one.second} of {pair.baseline}, {words(one.metric)}{at}: {size} ({low} to {high})."
