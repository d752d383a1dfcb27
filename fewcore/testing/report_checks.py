"""Checks of evaluators: rows are sane, and paired tests follow from what the report keeps of each task or image."""

from __future__ import annotations

import functools
import json
import math

import numpy as np

from fewcore.comparing.scores import PLAIN, smallest
from fewcore.components import Offer
from fewcore.contracts import Array
from fewcore.metrics import Comparison, MetricReport, UnitScores
from fewcore.testing.trial import Setup, Trial, complain


def report_is_sane(offer: Offer, setup: Setup) -> None:
    """Rows name their model, their interval holds their value, and the report is JSON; the input is not judged twice."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    report: MetricReport = trial.make(arguments=given)
    stages = {outcome.stage: outcome.method for outcome in given["outcomes"]}
    if not report.rows and not report.left_out:
        complain(
            offer,
            "no rows, and no model left out",
            "rows, or the names of the models that lack what it needs",
            "MetricReport(rows, left_out=...)",
        )
    for row in report.rows:
        # A row of no model is the evaluator's own reference, such as a constant guess, and says so by its method.
        if stages.get(row.stage, row.stage) != row.method:
            complain(
                offer,
                f"a row of '{row.stage}' ({row.method})",
                f"stage and method of an outcome: {stages}",
                "MetricRow(metric, value, ci95, n, outcome.stage, outcome.method)",
            )
        low, high = row.ci95
        slack = 1e-9 * max(1.0, abs(row.value))
        if math.isfinite(low) and math.isfinite(high) and not low - slack <= row.value <= high + slack:
            complain(
                offer,
                f"{row.metric} {row.value:g} outside its interval {row.ci95}",
                "low <= value <= high",
                "ci95=(low, high) around the value, NaN where there is none",
            )
        if row.n < 1:
            complain(
                offer, f"{row.metric} of n={row.n}", "what was counted, at least 1", "n=the number of images or tasks"
            )
        try:
            json.dumps(row.to_json())
        except TypeError as error:
            complain(offer, f"a row that is no JSON: {error}", "plain numbers and text", "float(value)")
    unknown = set(report.left_out) - set(stages)
    if unknown:
        complain(
            offer,
            f"left_out naming {', '.join(sorted(unknown))}",
            f"stages among {', '.join(sorted(stages))}",
            "outcome.stage for the model",
        )


def paired_tests_follow_from_units(offer: Offer, setup: Setup) -> None:
    """Each comparison of the report is made again by `paired_tests` from two of its `units`, as a run keeps them."""
    trial = Trial(offer, setup)
    report: MetricReport = trial.make()
    has_tests = callable(getattr(trial.component, "paired_tests", None))
    if not has_tests and not report.units:
        return
    if not has_tests:
        complain(offer, "units, and no method paired_tests", "both", "def paired_tests(self, first, second)")
    if not report.units:
        complain(offer, "paired_tests, and no units in the report", "both", "MetricReport(..., units=...)")
    units = [_kept(one) for one in report.units]
    made = [
        (metric, a.name, b.name, test.test, test.difference, test.p)
        for a in units
        for b in units
        if a is not b and a.more == b.more and len(a) == len(b)
        for metric, test in trial.attempt("paired_tests", functools.partial(trial.component.paired_tests, a, b))
    ]
    for one in report.comparisons:
        if not any(_is(one, found) for found in made):
            found = (
                f"{one.metric} of {one.first} and {one.second} ({one.test}), which paired_tests does not make of units"
            )
            complain(offer, found, "the same difference and p", "comparisons by self.paired_tests(units[a], units[b])")


def _kept(units: UnitScores) -> UnitScores:
    """Return scores as they are after a file: other arrays, in full precision."""
    arrays: dict[str, Array] = {
        name: smallest(array).astype(PLAIN[array.dtype.kind]) for name, array in units.arrays.items()
    }
    facts = (units.stage, units.method, units.split, units.name, dict(units.conditions))
    return UnitScores(*facts, arrays, dict(units.more), units.seed)


def _is(one: Comparison, found: tuple[str, str, str, str, float, float]) -> bool:
    metric, first, second, test, difference, p = found
    same = (one.metric, one.first, one.second, one.test) == (metric, first, second, test)
    return same and bool(np.allclose((one.difference, one.p), (difference, p), rtol=0, atol=1e-12, equal_nan=True))
