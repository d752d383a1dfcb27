"""The report as sections, and the sections as one self-contained HTML page or as Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from fewcore.progress import printable
from fewcore.reports.drawing import Drawing
from fewcore.reports.figures import curve_drawings, evaluator_drawings, learning_drawings, map_drawing, result_drawings
from fewcore.reports.headline import headline, tiles
from fewcore.reports.result_tables import paper_table, results_tables, seen_table
from fewcore.reports.results import results_of
from fewcore.reports.sheets import Sheet, sheet_of
from fewcore.reports.tables import (
    Cell,
    Table,
    candidate_table,
    facts_table,
    short,
    stage_notes,
    stage_table,
)
from fewcore.reports.tests_tables import comparison_table, other_tests_table

if TYPE_CHECKING:
    from fewcore.reports.report import Picture, RunReport

MOST_FIGURES = 12
"""More figures of a section than these are folded away."""


@dataclass(frozen=True)
class Section:
    """A part of the report; `name` is its anchor. `code` are (summary, text) to be folded away where `folded`."""

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    code: tuple[tuple[str, str], ...] = ()
    warning: bool = False

    @property
    def filled(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.paragraphs or any(t.rows for t in self.tables) or self.drawings or self.sheets or self.code)


def sections_of(report: RunReport) -> list[Section]:
    """Return the report's sections that have something to show, in the order in which a reader asks."""
    pictures = report.pictures
    made = [
        _failures(report),
        Section("results", "Results", _result_notes(report), _results(report), tuple(result_drawings(report))),
        Section("seen", "What each model saw", tables=(seen_table(report),)),
        Section("tests", "Paired tests", tables=(comparison_table(report),)),
        Section("other-tests", "Tests over models and between classes", tables=(other_tests_table(report),)),
        Section("curves", "Curves", drawings=tuple(curve_drawings(report.reports))),
        _figures(report),
        Section("choice", "Choice on validation", tables=(candidate_table(report.candidates),)),
        _learning(report),
        _data(report),
        Section("partitions", "Example partitions", sheets=_sheets(pictures, "partition")),
        Section("tasks", "Example tasks", sheets=_sheets(pictures, "tasks")),
        Section("map", "Map of the embedding", _captions(pictures), drawings=_maps(pictures)),
        Section("models", "What the models learnt", _failed_drawings(pictures), drawings=_told(pictures, "model")),
        Section("stages", "Stages", stage_notes(report.stages), tables=(stage_table(report.stages),)),
        _again(report),
    ]
    return [section for section in made if section.filled]


def _failures(report: RunReport) -> Section:
    named = list(report.failures)
    for stage in report.stages:
        told = any(stage.error and stage.error in failure for failure in report.failures)
        if stage.status in {"failed", "missing"} and not told:
            cell = f" ({short(stage.conditions)})" if stage.conditions else ""
            named.append(f"{stage.name}{cell} {stage.status}: {stage.error or 'what it needs is missing'}")
    named += [
        f"{name}: no numbers for {short(made.left_out, 400)}, which lack what it needs"
        for name, made in report.reports.items()
        if made.left_out
    ]
    title = "Partial report: what is missing" if named else "Read with care"
    if _leaks(report):
        named.append(f"{report.data['split_check']}: numbers on test rows may be too good")
    return Section("missing", title, tuple(dict.fromkeys(named)), warning=True)


def _results(report: RunReport) -> tuple[Table, ...]:
    return (*results_tables(report), paper_table(report))


def _result_notes(report: RunReport) -> tuple[str, ...]:
    lines = [line for results in results_of(report) for line in results.lines]
    if not lines:
        return ("No evaluator has given a number.",)
    seeds = {stage.seed for stage in report.stages if stage.kind in {"meta_learner", "learner", "embedder"}}
    repeated = any(line.repeats for line in lines) or len(seeds - {None}) > 1
    if repeated:
        return ()
    return ("Each model was trained once: the intervals cover the tasks or images, not another seed of the training.",)


def _figures(report: RunReport) -> Section:
    drawings, failed = evaluator_drawings(report.reports)
    return Section("figures", "Figures", tuple(failed), drawings=tuple(drawings))


def _learning(report: RunReport) -> Section:
    drawings = tuple(learning_drawings(report.stages))
    note = "Thin lines are what was logged; a thick line is the running mean, or the mean over cells that ran the same stage."
    return Section("learning", "Learning curves", (note,) if drawings else (), drawings=drawings)


def _leaks(report: RunReport) -> bool:
    return str(report.data.get("split_check", "")).startswith("a group is in ")


def _data(report: RunReport) -> Section:
    facts = {key: value for key, value in report.data.items() if key != "split_check"}
    notes = []
    if check := report.data.get("split_check"):
        own = " Each image is a group of its own." if facts.get("groups") == facts.get("images") else ""
        passed = "failed" if _leaks(report) else "passed"
        notes.append(f"Split check {passed}: {check} (a group is a patient, an alphabet: what belongs together).{own}")
    if len({repr(stage.conditions) for stage in report.stages}) > 1:
        notes.append("The pipeline has several cells, such as seeds or folds: the data of the first are shown.")
    told, sheets = _told(report.pictures, "histogram"), _sheets(report.pictures, "data")
    return Section("data", "Data", tuple(notes), (facts_table("Data", facts),), told, sheets)


def _sheets(pictures: Sequence[Picture], kind: str) -> tuple[Sheet, ...]:
    return tuple(sheet_of(p) for p in pictures if p.kind == kind and p.images is not None and len(p.images))


def _maps(pictures: Sequence[Picture]) -> tuple[Drawing, ...]:
    return tuple(map_drawing(p) for p in pictures if p.points is not None and len(p.points))


def _told(pictures: Sequence[Picture], kind: str) -> tuple[Drawing, ...]:
    drawn: dict[str, Drawing] = {}
    explained = set()
    for p in (p for p in pictures if p.kind == kind and p.svg):
        told = p.caption if kind == "histogram" else f"{p.stage}: {p.caption}"
        first, stop, rest = told.partition(". ")
        # How a figure is read is said above the first of its sort. Two data sets of the same images have one histogram.
        drawn[told] = Drawing(f"{first}{stop.strip()}" if rest in explained else told, p.svg, told)
        explained.add(rest)
    return tuple(drawn.values())


def _failed_drawings(pictures: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(f"{p.stage}: {p.caption}" for p in pictures if p.kind == "model" and not p.svg)


def _captions(pictures: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.caption for p in pictures if p.points is not None and len(p.points) and p.caption))


def _again(report: RunReport) -> Section:
    code = [("What was typed", report.command)] if report.command else []
    if report.pipeline:
        code += [("The same again, from the file beside this page", "fewcore run pipeline.yaml")]
        code += [("pipeline.yaml, with every option", report.pipeline)]
    note = "Results that are still in the store are not computed again. On a CPU equal versions and threads give equal numbers; on a GPU the last digits may differ."
    environment = facts_table("Environment", report.environment)
    return Section("again", "Run it again", (note,) if code else (), (environment,), code=tuple(code))


@dataclass(frozen=True)
class Page:
    """What a page shows: its heading, what was found in a few sentences, the numbers at a glance, and the sections.

    `kind` says above the title what the page is; `beside` names the files beside it that hold the same numbers.
    """

    kind: str
    title: str
    headline: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    beside: str


def page_of(report: RunReport) -> Page:
    """Return the page of a run."""
    title = report.title or report.name
    kind = "fewcore report" if title == report.name else f"fewcore report · {report.name}"
    shown = (tuple(headline(report)), tuple(tiles(report)), tuple(sections_of(report)))
    return Page(kind, title, *shown, "metrics.json, metrics.csv and report.md")


def render_html(report: RunReport) -> str:
    """Return the page of a run as HTML."""
    return page_html(page_of(report))


def page_html(page: Page) -> str:
    """Return a page as HTML: one file without outside resources, in which no script but its own may run."""
    from fewcore import __version__

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fewcore"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    script = _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("report.html.j2").render(
        page=page,
        most=MOST_FIGURES,
        version=__version__,
        style=Markup(_resource("report.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        digest=digest,
        svg=Markup,  # matplotlib escapes the text that it writes
    )


def _resource(name: str) -> str:
    return (resources.files("fewcore") / "templates" / name).read_text(encoding="utf-8")


def render_markdown(report: RunReport) -> str:
    """Return the page of a run as Markdown."""
    return page_markdown(page_of(report))


def page_markdown(page: Page) -> str:
    """Return a page as Markdown: the same text and tables; figures and sheets as what they show in words."""
    parts = [f"# {_md(page.title)}", *(_md(sentence) for sentence in page.headline)]
    parts += [" · ".join(f"{_md(name)}: {_md(value)}" for name, value in page.tiles)]
    for section in page.sections:
        parts.append(f"## {_md(section.title)}")
        parts += ["\n".join(f"- {_md(text)}" for text in section.paragraphs)] if section.warning else []
        parts += [_md(text) for text in section.paragraphs if not section.warning]
        for table in section.tables:
            parts += [_md_table(table), _md(table.note)] if table.rows else []
        parts += ["\n".join(f"- {_md(drawing.alt)}" for drawing in section.drawings)]
        for sheet in section.sheets:
            shown = [f"- {_md(strip.alt)}" for _, strips in sheet.rows for strip in strips]
            parts += [f"{_md(sheet.title)}. {_md(sheet.caption)}", "\n".join(shown)]
        for summary, text in section.code:
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            parts.append(f"{_md(summary)}:\n\n{fence}\n{text.rstrip()}\n{fence}")
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _md(text: Any) -> str:
    # Names are untrusted: neither HTML, nor links, nor a column or heading of their own.
    line = " ".join(printable(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#])", r"\\\1", line)


def _md_table(table: Table) -> str:
    def row(cells: Sequence[Cell]) -> str:
        return "| " + " | ".join(_md_cell(cell) for cell in cells) + " |"

    rule = "|" + "|".join("---:" if numeric else ":---" for numeric in table.numeric) + "|"
    return "\n".join([row(table.columns), rule, *(row(cells) for cells in table.rows)])


def _md_cell(cell: Cell) -> str:
    text = f"**{_md(cell.text)}**" if cell.best and cell.text else _md(cell.text)
    return f"{text}<br>{_md(cell.note)}" if cell.note else text
