"""How near predicted numbers come to what readers said: tolerance accuracy and mean absolute difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fewcore import (
    Array,
    Comparison,
    DataError,
    Estimate,
    MetricReport,
    MetricRow,
    Outcome,
    PairedTest,
    Run,
    Target,
    UnitScores,
    grouping,
    mean_interval,
    option,
    paired_comparison,
)

SHARE, DISTANCE = "tolerance_accuracy", "mae"
CONSTANT = "constant"


@dataclass(frozen=True, eq=False)
class _Column:
    """One predicted number of one model: predictions (seeds, n) and truth (n,) of the images whose truth is known.

    `fold` (n,) numbers the fold of each image, or is 0 throughout.
    """

    subject: grouping.Subject
    name: str
    predicted: Array
    truth: Array
    ids: Array
    groups: Array
    fold: Array

    def numbers(self, metric: str, tolerance: float) -> Array:
        """Return what a metric averages: (seeds, n)."""
        return _numbers(metric, self.predicted, self.truth, tolerance)

    def units(self, tolerance: float, seed: int) -> UnitScores:
        """Return what the paired tests read: both numbers of each image, averaged over the seeds, its group and fold."""
        arrays = {metric: self.numbers(metric, tolerance).mean(0) for metric in (SHARE, DISTANCE)}
        arrays |= {"groups": grouping.anonymous(self.groups), "fold": self.fold}
        return self.subject.units(arrays, more={"attribute": self.name}, seed=seed)


def _numbers(metric: str, predicted: Array, truth: Array, tolerance: float) -> Array:
    apart = np.abs(predicted - truth)
    # A prediction that is off by the tolerance and a rounding error is still within it.
    return np.asarray(apart if metric == DISTANCE else apart <= tolerance + 1e-9, np.float64)


def _as_numbers(target: Target, name: str) -> Array | None:
    """Return what is true of each image as a number (n,), NaN where unknown: the mean of the readers, or the class."""
    if target.kind == "ratings" and name in target.names:
        ratings = target.values[:, :, target.names.index(name)].astype(np.float64)
        known = ~np.isnan(ratings)
        counts = known.sum(1)
        sums = np.where(known, ratings, 0).sum(1)
        return np.asarray(np.divide(sums, counts, out=np.full(len(ratings), np.nan), where=counts > 0))
    if target.kind != "class":
        return None
    try:
        values = np.array([float(text) for text in target.names])
    except ValueError:
        values = np.arange(len(target.names), dtype=np.float64)
    return np.asarray(np.where(target.values >= 0, values[target.values], np.nan))


def _truth(outcome: Outcome, name: str, wanted: str) -> Array | None:
    """Return the truth that a predicted number of this name stands for, or None where nothing says it."""
    targets = outcome.truth
    if wanted:
        return _as_numbers(targets[wanted], name) if wanted in targets else None
    for target in targets.values():
        if target.kind == "ratings" and name in target.names:
            return _as_numbers(target, name)
    chosen = name if name in targets else outcome.target
    return _as_numbers(targets[chosen], name) if chosen in targets else None


@dataclass(frozen=True)
class Regression:
    """Tolerance accuracy (the share of images within `tolerance`) and mean absolute difference, beside a constant.

    A predicted number is judged by the rating of its name, averaged over the readers who gave one; else by the class
    target of its name, or by the one that is meant, as a number: the classes' names where all are numbers, else their
    places from 0. Images without truth are left out. The row `constant` predicts the mean truth of the other folds, or,
    where there are none, of the other groups: a window of one point on a scale of five is generous, and this row shows
    how generous.

    `pooled` takes the images of all folds together; `fold` averages over folds, with Student's interval and the paired
    t-test over folds (folds share training images, so these are somewhat too sure). Seeds are averaged image by image.
    Holm's correction spans all comparisons.

    Source: S. Hussein, P. Kandel, C. W. Bolan, M. B. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in
    the Deep Learning Era: Novel Supervised and Unsupervised Learning Approaches, IEEE TMI 38, 2019, arXiv:1801.03230
    (both metrics, tolerance 1, mean over ten folds).
    """

    reads: ClassVar[tuple[str, ...]] = ("values",)

    tolerance: float = option(1.0, "largest difference that counts as right, inclusive", paper="1", low=0)
    target: str = option("", "the target to judge by; by default found by the name of each predicted number")
    over: Literal["pooled", "fold"] = option("pooled", "images of all folds together, or the mean over folds")

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Return rows, comparisons, and the absolute difference of each image beside its id in `arrays`."""
        seed = int(run.rng.integers(2**63))
        usable = [o for o in outcomes if self._names(o)]
        left_out = grouping.left_out((o for o in outcomes if not self._names(o)), usable)
        columns = [column for subject in grouping.subjects_of(usable) for column in self._columns(subject)]
        rows: list[MetricRow] = []
        arrays: dict[str, Array] = {}
        for column in columns:
            rows += self._rows(column, seed)
            arrays[f"{grouping.label(rows[-1])}, difference"] = column.numbers(DISTANCE, 0).mean(0)
            arrays[f"{grouping.label(rows[-1])}, ids"] = column.ids
        rows += self._constants(columns, seed)
        units = {id(column): column.units(self.tolerance, seed) for column in columns}
        compared = self._compared(columns, units)
        return MetricReport(tuple(rows), compared, arrays, left_out, units=tuple(units.values()))

    def paired_tests(self, first: UnitScores, second: UnitScores) -> tuple[tuple[str, PairedTest], ...]:
        """Return the paired tests of both metrics of two models on the same images."""
        found, fold = [], first.arrays["fold"]
        by_fold = self.over == "fold" and bool(fold.any()) and np.array_equal(fold, second.arrays["fold"])
        for metric in (SHARE, DISTANCE):
            ours, theirs = first.arrays[metric], second.arrays[metric]
            if by_fold:
                test = paired_comparison(_by_fold(ours[None], fold), _by_fold(theirs[None], fold))
            else:
                test = grouping.comparison_of_means(ours, theirs, first.arrays["groups"], first.seed)
            found.append((metric, test))
        return tuple(found)

    def _names(self, outcome: Outcome) -> list[str]:
        if outcome.predictions.values is None:
            return []
        return [n for n in outcome.predictions.value_names if _truth(outcome, n, self.target) is not None]

    def _columns(self, subject: grouping.Subject) -> Iterator[_Column]:
        """Yield what a subject predicts; seeds that lack folds are left out of it."""
        most = max(len(outcomes) for _, outcomes in subject.series)
        whole = grouping.Subject(subject.conditions, tuple(s for s in subject.series if len(s[1]) == most))
        series = [grouping.pooled(outcomes) for _, outcomes in whole.series]
        fold_of = {i: f for f, o in enumerate(whole.series[0][1]) for i in o.ids.tolist()}
        first = series[0]
        for name in self._names(first):
            found = [np.asarray(o.predictions.values)[:, o.predictions.value_names.index(name)] for o in series]
            truth = _truth(first, name, self.target)
            assert truth is not None
            if any(not np.array_equal(o.ids, first.ids) for o in series):
                raise DataError(f"{subject.name}: found other images in each seed; expected the same in all")
            predicted, known = np.stack(found), ~np.isnan(truth)
            if not np.isfinite(predicted[:, known]).all():
                raise DataError(f"{subject.name}: found NaN or infinity among values '{name}'; expected numbers")
            fold = np.array([fold_of[i] for i in first.ids[known].tolist()], int)
            yield _Column(whole, name, predicted[:, known], truth[known], first.ids[known], first.groups[known], fold)

    def _estimate(self, table: Array, column: _Column, metric: str, seed: int) -> tuple[Estimate, str]:
        if self.over == "fold" and column.subject.has_folds:
            return mean_interval(_by_fold(table, column.fold)), "over folds"
        return grouping.estimate_of_mean(table, column.groups, seed, metric == SHARE)

    def _rows(self, column: _Column, seed: int) -> Iterator[MetricRow]:
        for metric in (SHARE, DISTANCE):
            table = column.numbers(metric, self.tolerance)
            which: list[int | None] = list(range(len(table)))
            for i in [*which, *([None] if len(table) > 1 else [])]:
                chosen = table if i is None else table[i : i + 1]
                found, note = self._estimate(chosen, column, metric, seed)
                note = f"{note}; {grouping.between(table.mean(1))}" if i is None else note
                n = found.n if note.startswith("over folds") else len(column.truth)
                yield column.subject.row(metric, found, n, which=i, note=note, more={"attribute": column.name})

    def _constants(self, columns: list[_Column], seed: int) -> Iterator[MetricRow]:
        """Yield the rows of the constant, once for each attribute and set of images."""
        done = set()
        for column in columns:
            first = column.subject.first
            apart = column.fold if column.subject.has_folds else column.groups
            same = (first.split, column.name, column.ids.tobytes(), column.truth.tobytes(), apart.tobytes())
            if same in done or len(np.unique(apart)) < 2:
                continue
            done.add(same)
            index = np.unique(apart, return_inverse=True)[1]
            sums, counts = np.bincount(index, column.truth), np.bincount(index)
            others = (column.truth.sum() - sums) / (len(index) - counts)
            what = "other folds" if column.subject.has_folds else "other groups"
            for metric in (SHARE, DISTANCE):
                table = _numbers(metric, others[index][None], column.truth, self.tolerance)
                found, note = self._estimate(table, column, metric, seed)
                n = found.n if note.startswith("over folds") else len(column.truth)
                note = f"{note}; the mean truth of the {what}"
                where = {"attribute": column.name}
                yield MetricRow(metric, found.value, found.ci95, n, CONSTANT, CONSTANT, first.split, where, note=note)

    def _compared(self, columns: list[_Column], units: dict[int, UnitScores]) -> tuple[Comparison, ...]:
        by_subject: dict[int, dict[str, _Column]] = {}
        for column in columns:
            by_subject.setdefault(id(column.subject), {})[column.name] = column
        subjects = [next(iter(found.values())).subject for found in by_subject.values()]
        made = []
        for a, b, conditions in grouping.pairs_of(subjects):
            for name, first in by_subject[id(a)].items():
                second = by_subject[id(b)].get(name)
                if second is None or not np.array_equal(first.ids, second.ids):
                    continue
                for metric, test in self.paired_tests(units[id(first)], units[id(second)]):
                    made.append(grouping.comparison(metric, a, b, test, {**conditions, "attribute": name}))
        return grouping.corrected(made)


def _by_fold(table: Array, fold: Array) -> Array:
    """Return the mean of numbers (seeds, n) in each fold, (folds,); folds without a known truth are missing."""
    index = np.unique(fold, return_inverse=True)[1]
    return np.asarray(np.bincount(index, table.mean(0)) / np.bincount(index))
