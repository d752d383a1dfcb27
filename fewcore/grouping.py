"""Which outcomes belong to one row of a report, and which rows are compared: the same for every evaluator."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Any

import numpy as np

from fewcore.contracts import Array, Predictions, Target
from fewcore.errors import DataError
from fewcore.metrics import Comparison, MetricRow, Outcome, StatisticalTest, UnitScores, replaces_stage
from fewcore.samples import SampleTest
from fewcore.seeds import numpy_generator
from fewcore.statistics import (
    Estimate,
    PairedTest,
    bootstrap_comparison,
    group_bootstrap,
    holm,
    mean_interval,
    paired_comparison,
    share_interval,
)

FOLD = "fold"

Statistic = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Subject:
    """What a report compares: one model under one set of conditions, with the outcomes of all its seeds and folds.

    `series` holds the outcomes of each seed (of each combination of repeats other than the fold), by fold.
    """

    conditions: Mapping[str, Any]
    series: tuple[tuple[Mapping[str, Any], tuple[Outcome, ...]], ...]

    @property
    def first(self) -> Outcome:
        """The outcome that stands for all in what they share: stage, method, split, target."""
        return self.series[0][1][0]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All outcomes, seed by seed."""
        return tuple(outcome for _, outcomes in self.series for outcome in outcomes)

    @property
    def has_folds(self) -> bool:
        """Whether there are several folds, so that one can average over them."""
        return any(len(outcomes) > 1 for _, outcomes in self.series)

    @property
    def identity(self) -> dict[str, Any]:
        """What was put where a stage stands (axes `stages.NAME`): it says which model this is."""
        return {k: v for k, v in self.conditions.items() if replaces_stage(k)}

    @property
    def others(self) -> dict[str, Any]:
        """The conditions that do not say which model this is."""
        return {k: v for k, v in self.conditions.items() if k not in self.identity}

    @property
    def model(self) -> str:
        """What a reader calls the model: what was put into its stage's place, else its name."""
        own = self.identity.get(f"stages.{self.first.stage}")
        return str(own) if own is not None and len(self.identity) == 1 else self.name

    @property
    def name(self) -> str:
        """The stage's name, with what was put into the place of stages."""
        chosen = ", ".join(str(value) for value in self.identity.values())
        return f"{self.first.stage} [{chosen}]" if chosen else self.first.stage

    def repeats(self, which: int | None = None) -> dict[str, Any]:
        """Return the repeats of one seed, or of the mean over all, and what became of the folds."""
        n_folds = len(self.series[which or 0][1])
        folds = self.series[which or 0][1][0].repeats.get(FOLD) if n_folds == 1 else f"all {n_folds}"
        fold = {FOLD: folds} if folds is not None else {}
        if which is not None:
            return {**self.series[which][0], **fold}
        return {**{axis: f"mean of {len(self.series)}" for axis in self.series[0][0]}, **fold}

    def row(
        self,
        metric: str,
        found: Estimate,
        n: int,
        *,
        which: int | None = None,
        note: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> MetricRow:
        """Return a row of the report, for one seed or (`which` is None) for the mean over all."""
        outcomes = self.outcomes if which is None else self.series[which][1]
        return MetricRow(
            metric,
            found.value,
            found.ci95,
            n,
            self.first.stage,
            self.first.method,
            self.first.split,
            {**self.conditions, **(more or {})},
            self.repeats(which),
            ", ".join(sorted({outcome.norm for outcome in outcomes})),
            str(reduce(or_, [outcome.seen for outcome in outcomes])),
            note,
        )

    def units(self, arrays: Mapping[str, Array], *, more: Mapping[str, Any] | None = None, seed: int = 0) -> UnitScores:
        """Return what the model got on each task or image, (n, ...), for the paired tests."""
        first = self.first
        return UnitScores(first.stage, first.method, first.split, self.name, self.conditions, arrays, more or {}, seed)


def subjects_of(outcomes: Iterable[Outcome]) -> list[Subject]:
    """Return the subjects in the order in which they first come."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        who = [outcome.stage, outcome.method, outcome.split, dict(outcome.conditions)]
        groups.setdefault(json.dumps(who, sort_keys=True, default=str), []).append(outcome)
    subjects = []
    for same in groups.values():
        series: dict[str, tuple[dict[str, Any], list[Outcome]]] = {}
        for outcome in same:
            repeats = {axis: value for axis, value in outcome.repeats.items() if axis != FOLD}
            series.setdefault(json.dumps(repeats, sort_keys=True, default=str), (repeats, []))[1].append(outcome)
        made = tuple((repeats, tuple(outcomes)) for repeats, outcomes in series.values())
        subjects.append(Subject(same[0].conditions, made))
    return subjects


def pairs_of(subjects: Iterable[Subject]) -> Iterator[tuple[Subject, Subject, dict[str, Any]]]:
    """Yield the pairs of models that are compared on the test rows, and the conditions that both keep.

    Two models are compared where they differ in one thing, the stage or what was put into its place, and agree in every
    other condition that both have: an axis on which one does not depend parts them not.
    """
    tested = [subject for subject in subjects if subject.first.split == "test"]
    for a, b in combinations(tested, 2):
        differ = {axis for axis in {*a.conditions} & {*b.conditions} if a.conditions[axis] != b.conditions[axis]}
        same_stage = a.first.stage == b.first.stage
        if differ <= {*a.identity} and len(differ) + (not same_stage) == 1:
            kept = {**a.conditions, **b.conditions}
            yield a, b, {axis: value for axis, value in kept.items() if axis not in {*a.identity, *b.identity}}


def comparison(metric: str, a: Subject, b: Subject, found: PairedTest, conditions: Mapping[str, Any]) -> Comparison:
    """Return a comparison of two subjects, not yet corrected."""
    p = found.p
    return Comparison(metric, a.name, b.name, found.difference, found.ci95, p, p, found.n, found.test, conditions)


def corrected(comparisons: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """Return the comparisons with Holm's p over all of them together."""
    family = list(comparisons)
    return tuple(
        replace(c, p_holm=float(p)) for c, p in zip(family, holm(np.array([c.p for c in family])), strict=True)
    )


def corrected_tests(tests: Iterable[StatisticalTest]) -> tuple[StatisticalTest, ...]:
    """Return the tests with Holm's p over all of them together."""
    family = list(tests)
    return tuple(
        replace(t, p_holm=float(p)) for t, p in zip(family, holm(np.array([t.p for t in family])), strict=True)
    )


def statistical_test(
    metric: str, about: str, found: SampleTest, conditions: Mapping[str, Any], note: str = ""
) -> StatisticalTest:
    """Return a test of samples for the report, not yet corrected."""
    p = found.p
    effect = (found.effect, found.ci95)
    return StatisticalTest(metric, about, found.test, found.statistic, p, p, found.n, *effect, conditions, note)


def left_out(lacking: Iterable[Outcome], judged: Iterable[Outcome]) -> tuple[str, ...]:
    """Return the stages of which no outcome could be judged; a stage in whose place methods take turns may have some."""
    has_rows = {outcome.stage for outcome in judged}
    return tuple(dict.fromkeys(outcome.stage for outcome in lacking if outcome.stage not in has_rows))


def anonymous(groups: Array) -> Array:
    """Return groups (n,) numbered from 0: which images belong together, and nothing else."""
    return np.asarray(np.unique(groups, return_inverse=True)[1])


def means_of_groups(values: Array, groups: Array) -> Array:
    """Return the mean of `values` (n,) in each group, (groups,): units that are independent of each other."""
    index = np.unique(groups, return_inverse=True)[1]
    return np.asarray(np.bincount(index, values) / np.bincount(index))


def numeric_axis(subjects: Iterable[Subject]) -> str:
    """Return the first condition along which models take two numbers or more, such as `labels.share`, or nothing."""
    values: dict[str, set[Any]] = {}
    for subject in subjects:
        for axis, value in subject.conditions.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(axis, set()).add(value)
    return next((axis for axis, found in values.items() if len(found) > 1), "")


def placed(subject: Subject, axis: str) -> tuple[str, str]:
    """Return where a subject stands along an axis, and what it is called there: its model and its other conditions."""
    place = subject.conditions.get(axis)
    others = ", ".join(f"{key} {value}" for key, value in subject.others.items() if key != axis)
    name = f"{subject.model} ({others})" if others else subject.model
    return ("–" if place is None else str(place)), name


def in_order(subjects: Iterable[Subject], axis: str) -> list[Subject]:
    """Return subjects by their number along an axis; those that have none stand last."""

    def rank(subject: Subject) -> float:
        value = subject.conditions.get(axis)
        return float(value) if isinstance(value, int | float) else math.inf

    return sorted(subjects, key=rank)


def pooled(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of all folds as one, by the order of ids, so that models can be paired.

    Raises:
        DataError: an image stands in two folds.

    """
    first = outcomes[0]
    ids = np.concatenate([outcome.ids for outcome in outcomes])
    order = np.argsort(ids, kind="stable")
    if len(np.unique(ids)) < len(ids):
        folds = [outcome.repeats.get(FOLD) for outcome in outcomes]
        raise DataError(
            f"{first.stage}: found an image in two of the folds {folds}; expected each image once (pool folds that do "
            "not overlap, or average them with over: fold)"
        )

    def joined(arrays: list[Any]) -> Array:
        return np.asarray(np.concatenate(arrays)[order])

    made = [outcome.predictions for outcome in outcomes]
    parts = {
        name: None if any(getattr(p, name) is None for p in made) else joined([getattr(p, name) for p in made])
        for name in ("scores", "masks", "values")
    }
    truth = {
        name: Target(target.kind, joined([o.truth[name].values for o in outcomes]), target.names, target.scale)
        for name, target in first.truth.items()
    }
    return replace(
        first,
        predictions=Predictions(ids[order], **parts, value_names=made[0].value_names),
        ids=ids[order],
        groups=joined([outcome.groups for outcome in outcomes]),
        truth=truth,
    )


def stacked(arrays: list[Array]) -> Array | None:
    """Return the arrays of all seeds as one, (seeds, ...), or None where a seed lacks folds, so that no mean is fair."""
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else None


def between(values: Array) -> str:
    """Return the note on what differs between seeds."""
    return f"sd between repeats {float(np.std(values, ddof=1)):.3g}"


def label(row: MetricRow) -> str:
    """Return the name of the arrays behind a row: `maml, way 5, shot 1, seed 0`."""
    facts = {**row.conditions, **row.repeats}
    split = "" if row.split == "test" else f" ({row.split})"
    return ", ".join([row.stage + split, *(f"{key} {value}" for key, value in facts.items())])


def parted(groups: Array) -> bool:
    """Return whether every image is a group of its own."""
    return len(np.unique(groups)) == len(groups)


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """Return the mean of several statistics (of several seeds) as one."""
    return lambda weights: np.asarray(np.mean([statistic(weights) for statistic in statistics], axis=0))


def weighted_mean(values: Array) -> Statistic:
    """Return the mean of `values` (n,) as a statistic of weights (b, n); NaN where no row has weight."""
    return ratio(values, np.ones(len(values)))


def ratio(above: Array, below: Array) -> Statistic:
    """Return the sum of `above` (n,) divided by that of `below`, as a statistic of weights (b, n)."""

    def statistic(weights: Array) -> Array:
        total = weights @ below
        return np.asarray(np.divide(weights @ above, total, out=np.full(len(weights), np.nan), where=total > 0))

    return statistic


def estimate_of_mean(table: Array, groups: Array, seed: int, is_share: bool) -> tuple[Estimate, str]:
    """Return the mean of numbers (seeds, n) of images, and what its interval is.

    Groups of several images are resampled whole. Otherwise the interval is Wilson's, for right and wrong of one seed,
    or Student's, of the images' means over the seeds.
    """
    if not parted(groups):
        return group_bootstrap(weighted_mean(table.mean(0)), groups, numpy_generator(seed)), "bootstrap of groups"
    if is_share and len(table) == 1:
        return share_interval(int(table.sum()), table.shape[1]), "Wilson, over images"
    return mean_interval(table.mean(0)), "over images"


def comparison_of_means(a: Array, b: Array, groups: Array, seed: int) -> PairedTest:
    """Return the paired test of two models' numbers (n,) of the same images; groups of several are resampled whole."""
    if parted(groups):
        return paired_comparison(a, b)
    return bootstrap_comparison(weighted_mean(a - b), groups, numpy_generator(seed))
