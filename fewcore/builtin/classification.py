"""Accuracy, area under the ROC curve, sensitivity, specificity and F1 of predicted classes, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.special import softmax

from fewcore import (
    Array,
    Comparison,
    Estimate,
    Figure,
    MetricReport,
    MetricRow,
    Outcome,
    PairedTest,
    Run,
    StatisticalTest,
    UnitScores,
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
)
from fewcore.builtin.accuracy_boxes import accuracy_figures
from fewcore.builtin.error_ttest import error_ttest
from fewcore.builtin.judged_classes import BINARY, Case, Cases, Metric, Model, is_usable, model_of, value_of
from fewcore.builtin.shown_cases import Judged, case_figures

SHARES = ("accuracy", *BINARY)
COMPARED: tuple[Metric, ...] = ("accuracy", "auc")
MAJORITY = "majority"


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
    Holm's correction spans all comparisons. `paper_ttest` adds, uncorrected, the t-test of a paper, which takes the standard
    error for the deviation of single images; the report says so beside it. The row `majority` is the share of the commonest class among the very
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
    paper_ttest: bool = option(
        False,
        "compare the AUC of two classes by the t-test of arXiv:1907.07816 too, which is far too sure",
        paper="true",
    )
    examples: int = option(3, "cases of each class, right and wrong, that are shown of the best model; 0: none", low=0)

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Return rows, comparisons, ROC curves of two classes, and in `arrays` what each image got right."""
        seed = int(run.rng.integers(2**63))
        models = [model_of(subject) for subject in grouping.subjects_of(o for o in outcomes if is_usable(o))]
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
        rows += _majorities(models, seed) if "accuracy" in self.metrics else ()
        left_out = grouping.left_out((o for o in outcomes if not is_usable(o)), (o for o in outcomes if is_usable(o)))
        judged = ((model.subject, [(case.right, case.groups) for case in model.cases]) for model in models)
        figures = accuracy_figures(judged, seed) if "accuracy" in self.metrics else ()
        figures += self._examples(models, rows, seed)
        units = {id(model.subject): model.units(seed) for model in models if model.averaged}
        pairs, tests = self._compared(models, units)
        return MetricReport(tuple(rows), pairs, arrays, left_out, curves, tests, figures, tuple(units.values()))

    def _examples(self, models: list[Model], rows: list[MetricRow], seed: int) -> tuple[Figure, ...]:
        """Return the figure of cases of the model whose value of the first metric is best on the test rows, of one seed."""
        first = {id(model): math.nan for model in models}
        for model in models:
            case = model.cases[0]
            if model.subject.first.split == "test" and len(case.truth) and case.statistics(self.metrics[0]):
                found = [value_of(s, len(case.truth)) for s in case.statistics(self.metrics[0]).values()]
                first[id(model)] = float(np.mean(found))
        best = max((m for m in models if not math.isnan(first[id(m)])), key=lambda m: first[id(m)], default=None)
        if best is None:
            return ()
        case, outcome = best.cases[0], grouping.pooled(best.subject.series[0][1])
        said = case.scores.argmax(1)
        chances = case.scores if _are_chances(case.scores) else softmax(case.scores, axis=1)
        judged = Judged(outcome, case.ids, case.truth, said, chances.max(1), case.names)
        return case_figures(judged, self.examples, seed)

    def _rows(self, model: Model, which: int | None, seed: int) -> Iterator[MetricRow]:
        cases = model.cases if which is None else model.cases[which : which + 1]
        by_fold = self.over == "fold" and model.subject.has_folds
        for metric in self.metrics:
            for name in cases[0].statistics(metric):
                if by_fold:
                    found, note = mean_interval(model.judged.by_fold(metric, name, which)), "over folds"
                else:
                    found, note = self._estimate(metric, name, cases, seed)
                if which is None:
                    values = [value_of(case.statistics(metric)[name], len(case.truth)) for case in cases]
                    note = f"{note}; {grouping.between(np.array(values))}"
                n = found.n if by_fold else int(cases[0].judged(metric).sum())
                yield model.subject.row(name, found, n, which=which, note=note)

    def _estimate(self, metric: Metric, name: str, cases: tuple[Case, ...], seed: int) -> tuple[Estimate, str]:
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

    def _compared(
        self, models: list[Model], units: Mapping[int, UnitScores]
    ) -> tuple[tuple[Comparison, ...], tuple[StatisticalTest, ...]]:
        """Return the paired comparisons, and of the areas the tests as published, where they are wanted."""
        by_subject = {id(model.subject): model for model in models if model.averaged}
        made: list[Comparison] = []
        published: list[StatisticalTest] = []
        for a, b, conditions in grouping.pairs_of(model.subject for model in by_subject.values()):
            first, second = by_subject[id(a)], by_subject[id(b)]
            ours, theirs = first.cases[0], second.cases[0]
            if not (np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.truth, theirs.truth)):
                continue
            for metric, test in self.paired_tests(units[id(a)], units[id(b)]):
                made.append(grouping.comparison(metric, a, b, test, conditions))
            if self.paper_ttest and "auc" in self.metrics and ours.binary:
                published.append(_as_published(first, second, conditions))
        return grouping.corrected(made), tuple(published)

    def paired_tests(self, first: UnitScores, second: UnitScores) -> tuple[tuple[str, PairedTest], ...]:
        """Return the paired tests of accuracy and AUC, as far as they are asked for, of two models on the same images."""
        ours, theirs = Cases.of(first), Cases.of(second)
        compared = [metric for metric in COMPARED if metric in self.metrics]
        return tuple((metric, self._test(metric, ours, theirs, first.seed)) for metric in compared)

    def _test(self, metric: Metric, first: Cases, second: Cases, seed: int) -> PairedTest:
        case = first.cases[0]
        if self.over == "fold" and len(first.folds[0]) == len(second.folds[0]) > 1:
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


def _as_published(first: Model, second: Model, conditions: Mapping[str, Any]) -> StatisticalTest:
    """Return the paper's t-test of two models' mean areas, with the errors of Hanley and McNeil."""
    case = first.cases[0]
    positives, n = int((case.truth == 1).sum()), len(case.truth)
    areas = [
        float(np.mean([value_of(c.statistics("auc")["auc"], n) for c in model.cases])) for model in (first, second)
    ]
    errors = [hanley_mcneil(area, positives, n - positives) for area in areas]
    about = f"{first.subject.name} − {second.subject.name}"
    return error_ttest(about, (areas[0], areas[1]), (errors[0], errors[1]), n, conditions)


def _are_chances(scores: Array) -> bool:
    return bool((scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-3))


def _majorities(models: list[Model], seed: int) -> Iterator[MetricRow]:
    """Yield the share of the commonest class, once for each set of images."""
    done = set()
    for model in models:
        case, split = model.cases[0], model.subject.first.split
        same = (split, case.ids.tobytes(), case.truth.tobytes())
        if same not in done and len(case.truth):
            done.add(same)
            common = case.truth == np.bincount(case.truth).argmax()
            if grouping.parted(case.groups):
                found = share_interval(int(common.sum()), len(common))
            else:  # as the models beside it: images of a patient are not independent
                found = group_bootstrap(
                    grouping.ratio(common, np.ones(len(common))), case.groups, numpy_generator(seed)
                )
            note = "share of the commonest class of these images: upper bound for a constant prediction"
            yield MetricRow("accuracy", found.value, found.ci95, len(case.truth), MAJORITY, MAJORITY, split, note=note)


def _roc(case: Case) -> dict[str, Any]:
    """Return a ROC curve, ready to be drawn."""
    # Imported here: a pipeline without two classes need not wait for scikit-learn.
    from sklearn.metrics import roc_curve

    x, y, _ = roc_curve(case.truth == 1, case.margin)
    return {"x": x, "y": y, "x_label": "false positive rate", "y_label": "true positive rate (sensitivity)"}
