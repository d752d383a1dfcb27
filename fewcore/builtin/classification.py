"""Accuracy, area under the ROC curve, sensitivity, specificity and F1 of predicted classes, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
    bootstrap_comparison,
    delong,
    group_bootstrap,
    grouping,
    hanley_mcneil,
    mcnemar,
    mean_interval,
    normal_interval,
    numpy_generator,
    option,
    paired_comparison,
    paired_delong,
    share_interval,
    weighted_auc,
)
from fewcore.builtin.accuracy_boxes import accuracy_figures

Metric = Literal["accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1"]
BINARY = ("sensitivity", "specificity")
SHARES = ("accuracy", *BINARY)
COMPARED = ("accuracy", "auc")
MAJORITY = "majority"


@dataclass(frozen=True, eq=False)
class _Case:
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


def _value(statistic: grouping.Statistic, n: int) -> float:
    return float(statistic(np.ones((1, n)))[0])


def _case(outcome: Outcome) -> _Case:
    target, scores = outcome.truth[outcome.target], np.asarray(outcome.predictions.scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(target.names):
        expected = f"(n, {len(target.names)}), a column for each class of '{outcome.target}'"
        raise DataError(f"{outcome.stage}: found scores {scores.shape}; expected {expected}")
    known = target.values >= 0
    if np.isnan(scores[known]).any():
        raise DataError(f"{outcome.stage}: found NaN among the scores of images; expected numbers")
    return _Case(scores[known], target.values[known], outcome.ids[known], outcome.groups[known], target.names)


def _usable(outcome: Outcome) -> bool:
    target = outcome.truth.get(outcome.target)
    is_class = target is not None and target.kind == "class" and bool(target.known.any())
    return is_class and outcome.predictions.scores is not None and outcome.query_labels is None


@dataclass(frozen=True, eq=False)
class _Model:
    """A subject and its cases: one for each seed with the images of all folds, and one for each seed and fold."""

    subject: grouping.Subject
    cases: tuple[_Case, ...]
    folds: tuple[tuple[_Case, ...], ...]

    @property
    def averaged(self) -> bool:
        """Whether all seeds have the same images, so that they can be averaged and compared."""
        first = self.cases[0]
        same = all(np.array_equal(case.ids, first.ids) for case in self.cases)
        return same and len({len(folds) for folds in self.folds}) == 1

    def by_fold(self, metric: Metric, name: str, which: int | None) -> Array:
        """Return a metric of each fold, (folds,): of one seed, or the mean over all."""
        seeds = self.folds if which is None else self.folds[which : which + 1]
        found = [[_value(case.statistics(metric)[name], len(case.truth)) for case in folds] for folds in seeds]
        return np.asarray(np.mean(found, axis=0))


def _model(subject: grouping.Subject) -> _Model:
    cases = tuple(_case(grouping.pooled(outcomes)) for _, outcomes in subject.series)
    folds = tuple(tuple(_case(o) for o in outcomes if _usable(o)) for _, outcomes in subject.series)
    return _Model(subject, cases, folds)


@dataclass(frozen=True)
class Classification:
    """Accuracy, balanced accuracy, AUC, sensitivity, specificity and F1 of the class target that the pipeline means.

    The class of the highest score is the predicted one. Of two classes the second is positive, and the AUC ranks by the
    difference of the two scores; of more it is the mean over classes of one against the rest, by the class's own score,
    which must then be comparable between images (a probability). Images of unknown class are left out.

    Intervals: Wilson's for accuracy, sensitivity and specificity of images that are groups of their own; else the
    bootstrap (BCa) of whole groups. `errors` says how the AUC of two classes gets its interval; `delong` and
    `hanley-mcneil` take images as independent. The mean over seeds has the interval of the mean, over images.
    `pooled` takes the images of all folds together, each once; `fold` averages over folds, with Student's interval and
    paired t-test over folds (folds share training images, so these are somewhat too sure).

    Paired tests on the same images: McNemar's exact test for accuracy and DeLong's for the AUC; the paired bootstrap of
    groups where groups hold several images, where seeds are averaged (accuracy), and for more than two classes (AUC).
    Holm's correction spans all comparisons. The row `majority` is the share of the commonest class among the very
    images that are judged: no constant prediction can be right more often.

    Source: J. A. Hanley, B. J. McNeil, Radiology 143, 1982, doi:10.1148/radiology.143.1.7063747; E. R. DeLong et al.,
    Biometrics 44, 1988, doi:10.2307/2531595.
    """

    reads: ClassVar[tuple[str, ...]] = ("scores",)

    metrics: tuple[Metric, ...] = option(
        ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "f1"), "what is measured"
    )
    over: Literal["pooled", "fold"] = option("pooled", "images of all folds together, or the mean over folds")
    errors: Literal["bootstrap", "delong", "hanley-mcneil"] = option(
        "bootstrap", "interval of the AUC of two classes", paper="hanley-mcneil"
    )

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Return rows, comparisons, ROC curves of two classes, and in `arrays` what each image got right."""
        seed = int(run.rng.integers(2**63))
        models = [_model(subject) for subject in grouping.subjects_of(o for o in outcomes if _usable(o))]
        rows: list[MetricRow] = []
        arrays: dict[str, Array] = {}
        curves: dict[str, Mapping[str, Any]] = {}
        for model in models:
            for which, case in enumerate(model.cases):
                made = list(self._rows(model, which, seed))
                rows += made
                if not made:
                    continue
                arrays |= {f"{grouping.label(made[0])}, right": case.right, f"{grouping.label(made[0])}, ids": case.ids}
                if "auc" in self.metrics and case.binary and len(np.unique(case.truth)) == 2:
                    curves[f"roc of {grouping.label(made[0])}"] = _roc(case)
            if len(model.cases) > 1 and model.averaged:
                rows += self._rows(model, None, seed)
        rows += _majorities(models)
        left_out = grouping.left_out((o for o in outcomes if not _usable(o)), (o for o in outcomes if _usable(o)))
        judged = ((model.subject, [(case.right, case.groups) for case in model.cases]) for model in models)
        figures = accuracy_figures(judged, seed) if "accuracy" in self.metrics else ()
        return MetricReport(tuple(rows), self._compared(models, seed), arrays, left_out, curves, figures=figures)

    def _rows(self, model: _Model, which: int | None, seed: int) -> Iterator[MetricRow]:
        cases = model.cases if which is None else model.cases[which : which + 1]
        by_fold = self.over == "fold" and model.subject.has_folds
        for metric in self.metrics:
            for name in cases[0].statistics(metric):
                if by_fold:
                    found, note = mean_interval(model.by_fold(metric, name, which)), "over folds"
                else:
                    found, note = self._estimate(metric, name, cases, seed)
                if which is None:
                    values = [_value(case.statistics(metric)[name], len(case.truth)) for case in cases]
                    note = f"{note}; {grouping.between(np.array(values))}"
                n = found.n if by_fold else int(cases[0].judged(metric).sum())
                yield model.subject.row(name, found, n, which=which, note=note)

    def _estimate(self, metric: Metric, name: str, cases: tuple[_Case, ...], seed: int) -> tuple[Estimate, str]:
        """Return a metric of one seed, or its mean over several, with its interval and what that is."""
        first, n = cases[0], len(cases[0].truth)
        if metric == "auc" and first.binary and self.errors != "bootstrap":
            areas, covariance = delong(np.stack([case.margin for case in cases]), first.truth == 1)
            area, positives = float(areas.mean()), int((first.truth == 1).sum())
            if self.errors == "hanley-mcneil":
                error = hanley_mcneil(area, positives, n - positives)
            else:
                error = math.sqrt(max(0.0, covariance.mean()))
            alone = "" if grouping.parted(first.groups) else ", images taken as independent"
            return normal_interval(area, error, n, (0, 1)), f"{self.errors}{alone}"
        if metric in SHARES and len(cases) == 1 and grouping.parted(first.groups):
            chosen = first.judged(metric)
            return share_interval(int(first.right[chosen].sum()), int(chosen.sum())), "Wilson, over images"
        statistic = grouping.mean_of([case.statistics(metric)[name] for case in cases])
        note = "bootstrap of images" if grouping.parted(first.groups) else "bootstrap of groups"
        return group_bootstrap(statistic, first.groups, numpy_generator(seed)), note

    def _compared(self, models: list[_Model], seed: int) -> tuple[Comparison, ...]:
        by_subject = {id(model.subject): model for model in models if model.averaged}
        made = []
        for a, b, conditions in grouping.pairs_of(model.subject for model in by_subject.values()):
            first, second = by_subject[id(a)], by_subject[id(b)]
            ours, theirs = first.cases[0], second.cases[0]
            if not (np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.truth, theirs.truth)):
                continue
            for metric in COMPARED:
                if metric in self.metrics:
                    test = self._test(metric, first, second, seed)
                    made.append(grouping.comparison(metric, a, b, test, conditions))
        return grouping.corrected(made)

    def _test(self, metric: Metric, first: _Model, second: _Model, seed: int) -> PairedTest:
        """Return the paired test of two models on the same images."""
        case = first.cases[0]
        if self.over == "fold" and first.subject.has_folds and len(first.folds[0]) == len(second.folds[0]):
            return paired_comparison(*(model.by_fold(metric, metric, None) for model in (first, second)))
        alone = grouping.parted(case.groups)
        if metric == "auc" and case.binary and alone:
            margins = [np.stack([c.margin for c in model.cases]) for model in (first, second)]
            return paired_delong(margins[0], margins[1], case.truth == 1)
        if metric == "accuracy" and alone and len(first.cases) == len(second.cases) == 1:
            return mcnemar(case.right, second.cases[0].right)
        ours, theirs = (
            grouping.mean_of([c.statistics(metric)[metric] for c in model.cases]) for model in (first, second)
        )
        return bootstrap_comparison(lambda w: ours(w) - theirs(w), case.groups, numpy_generator(seed))


def _majorities(models: list[_Model]) -> Iterator[MetricRow]:
    """Yield the share of the commonest class, once for each set of images."""
    done = set()
    for model in models:
        case, split = model.cases[0], model.subject.first.split
        same = (split, case.ids.tobytes(), case.truth.tobytes())
        if same not in done and len(case.truth):
            done.add(same)
            found = share_interval(int(np.bincount(case.truth).max()), len(case.truth))
            note = "share of the commonest class of these images: upper bound for a constant prediction"
            yield MetricRow("accuracy", found.value, found.ci95, len(case.truth), MAJORITY, MAJORITY, split, note=note)


def _roc(case: _Case) -> dict[str, Any]:
    """Return a ROC curve, ready to be drawn."""
    # Imported here: a pipeline without two classes need not wait for scikit-learn.
    from sklearn.metrics import roc_curve

    x, y, _ = roc_curve(case.truth == 1, case.margin)
    return {"x": x, "y": y, "x_label": "1 - specificity", "y_label": "sensitivity"}
