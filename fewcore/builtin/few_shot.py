"""Accuracy on few-shot tasks, by way and shot, with paired tests between models on the same tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fewcore import (
    Array,
    Comparison,
    DataError,
    MetricReport,
    MetricRow,
    Outcome,
    PairedTest,
    Run,
    UnitScores,
    grouping,
    mean_interval,
    option,
    paired_comparison,
)

PER_TASK = "over tasks"


def _task_accuracy(outcome: Outcome) -> Array:
    """Return the share of right queries of each task, (t,); padding (-1) counts for nothing."""
    scores, truth = outcome.predictions.scores, outcome.query_labels
    assert scores is not None
    assert truth is not None
    if np.isnan(scores[truth >= 0]).any():
        raise DataError(f"{outcome.stage}: found NaN among the scores of queries; expected numbers")
    right = (scores.argmax(-1) == truth) & (truth >= 0)
    counts = (truth >= 0).sum(1)
    return np.asarray(np.divide(right.sum(1), counts, out=np.full(len(truth), np.nan), where=counts > 0))


@dataclass(frozen=True)
class FewShot:
    """Mean accuracy over tasks with Student's 95% interval over tasks, and paired tests.

    A task's accuracy is the share of its queries whose highest score is that of the true class; of equal scores the
    first class counts. Where a model has several seeds, each has a row and a further row averages the seeds task by
    task, since all seeds meet the same tasks: its interval is over tasks, and its note gives the spread between seeds.
    Folds have tasks of their own, which stand side by side. Every two models are compared on their common tasks, after
    that averaging, and Holm's correction spans all comparisons of the report.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334 (accuracy
    over 1000 tasks).
    """

    reads: ClassVar[tuple[str, ...]] = ("few-shot",)

    test: Literal["t", "wilcoxon"] = option("t", "paired test over tasks: of means (t) or of signed ranks (wilcoxon)")

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Return accuracies and comparisons; `arrays` holds the accuracy of each task under each row's name."""
        usable = [o for o in outcomes if o.query_labels is not None and o.predictions.scores is not None]
        left_out = {o.stage: None for o in outcomes if o.query_labels is None or o.predictions.scores is None}
        subjects = grouping.subjects_of(usable)
        rows: list[MetricRow] = []
        arrays: dict[str, Array] = {}
        units: dict[int, UnitScores] = {}
        for subject in subjects:
            series = [np.concatenate([_task_accuracy(o) for o in found]) for _, found in subject.series]
            for which, values in enumerate(series):
                rows.append(subject.row("accuracy", mean_interval(values), len(values), which=which, note=PER_TASK))
                arrays[grouping.label(rows[-1])] = values
            table = grouping.stacked(series)
            if table is None:
                continue
            units[id(subject)] = subject.units({"accuracy": table.mean(0)})
            if len(series) > 1:
                found = mean_interval(table.mean(0))
                note = f"{PER_TASK}, each averaged over repeats; {grouping.between(table.mean(1))}"
                rows.append(subject.row("accuracy", found, found.n, note=note))
        compared = self._compared(subjects, units)
        return MetricReport(tuple(rows), compared, arrays, tuple(left_out), units=tuple(units.values()))

    def paired_tests(self, first: UnitScores, second: UnitScores) -> tuple[tuple[str, PairedTest], ...]:
        """Return the paired test of the accuracies of two models on the same tasks."""
        return (("accuracy", paired_comparison(first.arrays["accuracy"], second.arrays["accuracy"], test=self.test)),)

    def _compared(self, subjects: list[grouping.Subject], units: dict[int, UnitScores]) -> tuple[Comparison, ...]:
        return grouping.corrected(
            grouping.comparison(metric, a, b, test, conditions)
            for a, b, conditions in grouping.pairs_of(subjects)
            if id(a) in units and id(b) in units and _same_tasks(a, b)
            for metric, test in self.paired_tests(units[id(a)], units[id(b)])
        )


def _same_tasks(a: grouping.Subject, b: grouping.Subject) -> bool:
    """Return whether two subjects met the same tasks: the same queries' labels, fold by fold."""
    ours, theirs = ([np.asarray(o.query_labels) for o in s.series[0][1]] for s in (a, b))
    return len(ours) == len(theirs) and all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))
