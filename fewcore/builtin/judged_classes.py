"""What the classification evaluator judges: the images of one model whose class is known, and their statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fewcore import Array, DataError, Outcome, UnitScores, grouping, weighted_auc

Metric = Literal["accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1"]
BINARY = ("sensitivity", "specificity")


@dataclass(frozen=True, eq=False)
class Case:
    """The images of one seed whose class is known, of all folds or of one: scores (n, k), truth (n,), ids, groups."""

    scores: Array
    truth: Array
    ids: Array
    groups: Array
    names: tuple[str, ...]

    @property
    def right(self) -> Array:
        """Whether the highest score is that of the true class; of equal scores the first class counts."""
        return np.asarray(self.scores.argmax(1) == self.truth)

    @property
    def binary(self) -> bool:
        """Whether there are two classes; the second is the positive one."""
        return len(self.names) == 2

    @property
    def margin(self) -> Array:
        """How much likelier the positive class is, (n,); of two classes."""
        return np.asarray(self.scores[:, 1] - self.scores[:, 0])

    def judged(self, metric: Metric) -> Array:
        """Return which images a metric is about, (n,) bool."""
        return self.truth == (metric == "sensitivity") if metric in BINARY else np.ones(len(self.truth), bool)

    def statistics(self, metric: Metric) -> dict[str, grouping.Statistic]:
        """Return the statistic of a metric under the name of its row; F1 has one for each class."""
        n, k, truth, right = len(self.truth), len(self.names), self.truth, self.right
        if metric == "accuracy":
            return {metric: grouping.ratio(right, np.ones(n))}
        if metric in BINARY:
            chosen = self.judged(metric)
            return {metric: grouping.ratio(right & chosen, chosen)} if self.binary else {}
        if metric == "balanced_accuracy":
            return {
                metric: grouping.mean_of([grouping.ratio(right & (truth == c), truth == c) for c in np.unique(truth)])
            }
        if metric == "f1":
            said = self.scores.argmax(1)
            twice = [2.0 * (right & (truth == c)) for c in range(k)]
            both = [(said == c).astype(float) + (truth == c) for c in range(k)]
            return {f"f1_{name}": grouping.ratio(twice[c], both[c]) for c, name in enumerate(self.names)}
        if self.binary:
            return {metric: weighted_auc(self.margin, truth == 1)}
        return {metric: grouping.mean_of([weighted_auc(self.scores[:, c], truth == c) for c in np.unique(truth)])}


def value_of(statistic: grouping.Statistic, n: int) -> float:
    """Return a statistic of n rows that all count once."""
    return float(statistic(np.ones((1, n)))[0])


def case_of(outcome: Outcome) -> Case:
    """Return the images of an outcome whose class is known.

    Raises:
        DataError: the scores have another shape than the classes, or NaN among them.

    """
    target, scores = outcome.truth[outcome.target], np.asarray(outcome.predictions.scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(target.names):
        expected = f"(n, {len(target.names)}), a column for each class of '{outcome.target}'"
        raise DataError(f"{outcome.stage}: found scores {scores.shape}; expected {expected}")
    known = target.values >= 0
    if np.isnan(scores[known]).any():
        raise DataError(f"{outcome.stage}: found NaN among the scores of images; expected numbers")
    return Case(scores[known], target.values[known], outcome.ids[known], outcome.groups[known], target.names)


def is_usable(outcome: Outcome) -> bool:
    """Return whether an outcome has scores of images of which some class is known."""
    target = outcome.truth.get(outcome.target)
    is_class = target is not None and target.kind == "class" and bool(target.known.any())
    return is_class and outcome.predictions.scores is not None and outcome.query_labels is None


@dataclass(frozen=True, eq=False)
class Cases:
    """The cases of one model: one for each seed with the images of all folds, and one for each seed and fold."""

    cases: tuple[Case, ...]
    folds: tuple[tuple[Case, ...], ...]

    def by_fold(self, metric: Metric, name: str, which: int | None) -> Array:
        """Return a metric of each fold, (folds,): of one seed, or the mean over all."""
        seeds = self.folds if which is None else self.folds[which : which + 1]
        found = [[value_of(case.statistics(metric)[name], len(case.truth)) for case in folds] for folds in seeds]
        return np.asarray(np.mean(found, axis=0))

    @classmethod
    def of(cls, units: UnitScores) -> Cases:
        """Build the cases again from what `Model.units` gave; classes have numbers for names."""
        scores, truth, groups, fold = (units.arrays[name] for name in ("scores", "truth", "groups", "fold"))
        ids, names = np.arange(len(truth)), tuple(map(str, range(scores.shape[2])))

        def case(seed: int, rows: Array) -> Case:
            return Case(scores[rows, seed].astype(np.float64), truth[rows], ids[rows], groups[rows], names)

        seeds = range(scores.shape[1])
        whole = tuple(case(seed, np.ones(len(truth), bool)) for seed in seeds)
        folds = tuple(tuple(case(s, fold[:, s] == f) for f in np.unique(fold[:, s])) for s in seeds)
        return cls(whole, folds)


@dataclass(frozen=True, eq=False)
class Model:
    """A subject and its cases."""

    subject: grouping.Subject
    judged: Cases

    @property
    def cases(self) -> tuple[Case, ...]:
        """One case for each seed, with the images of all folds."""
        return self.judged.cases

    @property
    def averaged(self) -> bool:
        """Whether all seeds have the same images, so that they can be averaged and compared."""
        first = self.cases[0]
        same = all(np.array_equal(case.ids, first.ids) for case in self.cases)
        return same and len({len(folds) for folds in self.judged.folds}) == 1

    def units(self, seed: int) -> UnitScores:
        """Return what the paired tests read: of each image the scores (n, seeds, k), class, group, and folds (n, seeds)."""
        first = self.cases[0]
        fold = np.empty((len(first.ids), len(self.cases)), int)
        for s, folds in enumerate(self.judged.folds):
            for f, case in enumerate(folds):
                fold[np.searchsorted(first.ids, case.ids), s] = f
        scores = np.stack([case.scores for case in self.cases], 1)
        arrays = {"scores": scores, "truth": first.truth, "groups": grouping.anonymous(first.groups), "fold": fold}
        return self.subject.units(arrays, seed=seed)


def model_of(subject: grouping.Subject) -> Model:
    """Return a subject with its cases."""
    cases = tuple(case_of(grouping.pooled(outcomes)) for _, outcomes in subject.series)
    folds = tuple(tuple(case_of(o) for o in outcomes if is_usable(o)) for _, outcomes in subject.series)
    return Model(subject, Cases(cases, folds))
