"""The tests of a run as tables: paired tests of two models, and tests over models, between classes, of correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewcore.reports.results import Column
from fewcore.reports.tables import Cell, Table, is_percent, number, p_text, short, signed, words

if TYPE_CHECKING:
    from fewcore.reports.report import RunReport

MOST_TESTS = 60
"""More paired tests than these are folded away."""


def comparison_table(report: RunReport) -> Table:
    """Return the paired tests; the Holm-corrected p is stressed where it is below 0.05."""
    rows = []
    names = _names([name for made in report.reports.values() for p in made.comparisons for name in (p.first, p.second)])
    for made in report.reports.values():
        for pair in made.comparisons:
            percent = is_percent(pair.metric, [pair.difference])
            conditions = dict(pair.conditions)
            label = Column(pair.metric, "", conditions.pop("way", None), conditions.pop("shot", None)).label
            low, high = (number(float(end), percent, sign=True) for end in pair.ci95)
            rows.append(
                (
                    Cell(f"{names[pair.first]} − {names[pair.second]}", note=short(conditions) if conditions else ""),
                    Cell(label + (" (points)" if percent else "")),
                    signed(pair.difference, percent),
                    Cell(f"{low} to {high}", _sortable(pair.ci95[0])),
                    Cell(p_text(pair.p), _sortable(pair.p)),
                    Cell(p_text(pair.p_holm), _sortable(pair.p_holm), best=pair.p_holm < 0.05),
                    Cell(short(pair.n), float(pair.n)),
                    Cell(pair.test),
                )
            )
    heads = ("pair", "metric", "difference", "95% interval", "p", "p (Holm)", "n", "test")
    note = "Each pair was judged on the same tasks or images. Bold: below 0.05 after Holm's correction for the whole table."
    many = len(rows) > MOST_TESTS
    title = f"All {len(rows)} paired tests" if many else "Paired tests"
    return Table(title, tuple(map(Cell, heads)), tuple(rows), note, folded=many)


def _names(names: Sequence[str]) -> dict[str, str]:
    """Return what models are called: `s4mtl` for `model [s4mtl]` where all are variants of one stage."""
    stages = {name.partition(" [")[0] for name in names}
    variants = len(stages) == 1 and all(name.endswith("]") and " [" in name for name in names)
    return {name: name.partition(" [")[2][:-1] if variants else name for name in names}


def _sortable(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def other_tests_table(report: RunReport) -> Table:
    """Return the tests that pair no models; the Holm-corrected p is stressed where it is below 0.05."""
    rows = []
    tests = [test for made in report.reports.values() for test in made.tests]
    notes = {test.note for test in tests}
    # What holds for all is said once, below.
    common = notes.pop() if len(notes) == 1 else ""
    for test in tests:
        low, high = (number(float(end), sign=True) for end in test.ci95)
        interval = f" ({low} to {high})" if math.isfinite(test.ci95[0]) else ""
        rows.append(
            (
                Cell(test.about, note=short(dict(test.conditions)) if test.conditions else ""),
                Cell(words(test.metric)),
                Cell(test.test, note="" if common else test.note),
                Cell(number(test.statistic), _sortable(test.statistic)),
                Cell(number(test.effect, sign=True) + interval, _sortable(test.effect)),
                Cell(p_text(test.p), _sortable(test.p)),
                Cell(p_text(test.p_holm), _sortable(test.p_holm), test.p_holm < 0.05),
                Cell(short(test.n), float(test.n)),
            )
        )
    heads = ("of what", "metric", "test", "statistic", "difference or correlation", "p", "p (Holm)", "n")
    told = [f"{common[0].upper()}{common[1:]}."] if common else []
    if any(math.isfinite(test.p_holm) for test in tests):
        told += [
            "Bold: below 0.05 after Holm's correction for all of these tests of an evaluator. A p above 0.05 does not show "
            "that there is no difference: the interval says how large it may be."
        ]
    note = " ".join(told)
    many = len(rows) > MOST_TESTS
    title = f"All {len(rows)} tests" if many else "Tests over models and between classes"
    return Table(title, tuple(map(Cell, heads)), tuple(rows), note if rows else "", folded=many)
