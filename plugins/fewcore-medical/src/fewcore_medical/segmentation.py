"""The evaluator of masks: overlap, similarity and distance, pooled over pixels or image by image, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    UnitScores,
    group_bootstrap,
    grouping,
    numpy_generator,
    option,
    paired_comparison,
)
from fewcore_medical.judged_masks import TRUTH_THRESHOLD, JudgedMasks, Measuring, is_usable, judged_masks, truth_of
from fewcore_medical.mask_measures import RATIOS, pooled_ratio, ratio
from fewcore_medical.segmentation_figures import mask_figures
from fewcore_medical.segmentation_tests import mask_tests, shown_of

Metric = Literal["dice", "jaccard", "ssim", "average_hausdorff", "precision", "recall"]
TESTS: tuple[Literal["t", "wilcoxon"], ...] = ("t", "wilcoxon")
SHOWN = 3
"""Images that are drawn with their contours."""


@dataclass(frozen=True)
class Segmentation:
    """Dice, Jaccard, SSIM, average Hausdorff distance, precision and recall of predicted masks.

    `over: image` averages over images; `over: pooled` counts the pixels of all images together (SSIM and distances, which
    cannot be pooled, stay means over images). Published tables often pool without saying so. Folds are taken together;
    a target of several structures has rows for each.

    What is empty never improves a mean. A structure that is missed (truth, but no predicted pixel) has Dice, Jaccard,
    precision and recall 0 and the diagonal of the image as its distance, and so has a prediction of a structure that is
    absent; the rows `missed` and `false_alarms` count both where there are any. Where truth and prediction are empty the
    ratios are 1 and the distance is 0; with `absent: leave-out` all images without the structure are left out of means
    over images, of every model alike. Images whose truth is unknown (NaN) are left out, and each row says how many.

    Intervals: bootstrap (BCa) of groups for pooled ratios, Student's over images (or bootstrap of groups where they hold
    several) for means. Every two models are compared at equal conditions by the Dice of each image (the mean of a
    group): paired t and Wilcoxon's signed ranks, Holm's correction spanning all comparisons; with `reference` one model
    is also compared with all others, at any conditions. Beside them: one-way analysis of variance over models; of the
    shown models, analysis of variance, Welch's t and Pearson's correlation between the classes of the images, and
    Pearson's correlation of true and predicted pixels, with a correction of their own.

    Figures: box plots of Dice along the number that is varied, by class, Bland-Altman plots of the foreground, and the
    contours of some images. Shown are the reference and the last cell of each other model.

    Source: A.-A.-Z. Imran, C. Huang, H. Tang, W. Fan, Y. Xiao, D. Hao, Z. Qian, D. Terzopoulos: Partly Supervised
    Multitask Learning, arXiv:2005.02523 (the metrics, tests and figures); L. Maier-Hein, A. Reinke et al.: Metrics Reloaded, Nature
    Methods 21, 2024, doi:10.1038/s41592-023-02151-z (what is empty). Differs from the paper: it does not say what its
    Hausdorff distance is, nor the window of its SSIM; Holm's correction, intervals and Welch's t are added.
    """

    reads: ClassVar[tuple[str, ...]] = ("masks",)

    metrics: tuple[Metric, ...] = option(
        ("dice", "jaccard", "ssim", "average_hausdorff", "precision", "recall"), "what is measured"
    )
    over: Literal["image", "pooled"] = option(
        "image", "mean over images, or pixels of all images together", paper="pooled (inferred from its numbers)"
    )
    absent: Literal["judge", "leave-out"] = option(
        "judge",
        "images without the structure: 1 where nothing is predicted and 0 else, or left out of means over images",
    )
    threshold: float = option(0.5, "probability above which a pixel is foreground", paper="0.5", low=0, high=1)
    target: str = option("", "the masks to judge by; by default 'mask', or the only ones")
    ssim_window: int = option(7, "side of the window of SSIM, an odd number", unit="pixels", low=3)
    row_hausdorff: bool = option(
        False, "add the distance of sets of image rows: our inference of what the paper's column HD may be"
    )
    reference: tuple[str, ...] = option(
        (), "conditions of the model that is compared with all others, such as [stages.model=s4mtl, labels.share=0.5]"
    )

    def __post_init__(self) -> None:
        if self.ssim_window % 2 == 0:
            raise ValueError(f"ssim_window: found {self.ssim_window}; expected an odd number")
        if not self.metrics:
            raise ValueError("metrics: found none; expected at least one")
        for text in self.reference:
            if not all(text.partition("=")):
                raise ValueError(f"reference: found '{text}'; expected NAME=VALUE, such as labels.share=0.5")

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Return rows, comparisons, tests and figures, and the metrics of each image beside its id in `arrays`."""
        seed = int(run.rng.integers(2**63))
        usable = [o for o in outcomes if is_usable(o, self.target)]
        subjects = grouping.subjects_of(usable)
        shown = self._sample(subjects, run)
        metrics = (*self.metrics, *(("row_hausdorff",) if self.row_hausdorff else ()))
        measuring = Measuring(metrics, self.threshold, self.ssim_window, self.absent == "leave-out")
        judged = [
            made
            for subject in run.track(subjects, name="masks")
            for made in judged_masks(subject, self.target, measuring, shown)
        ]
        rows: list[MetricRow] = []
        arrays: dict[str, Array] = {}
        for one in judged:
            made = list(self._rows(one, judged, seed))
            if not made:
                continue
            rows += made
            name = grouping.label(made[-1])
            arrays |= {f"{name}, {metric}": values.mean(0) for metric, values in one.values.items()}
            arrays[f"{name}, ids"] = one.ids
        tested = [one for one in judged if one.subject.first.split == "test"]
        units = {id(one): one.units for one in tested if one.counted.any()}
        reference = self._reference(tested)
        drawn = shown_of(tested, reference)
        named = {row.stage for row in rows}
        left_out = grouping.left_out(outcomes, (o for o in outcomes if o.stage in named))
        return MetricReport(
            tuple(rows),
            self._compared(tested, reference, units),
            arrays,
            left_out,
            units=tuple(units.values()),
            tests=mask_tests(tested, drawn, everything=reference is not None),
            figures=mask_figures(tested, drawn),
        )

    def _sample(self, subjects: Sequence[grouping.Subject], run: Run) -> list[int]:
        """Return the ids of some images that have the structure, drawn by lot, one of each class first."""
        first = next((subject.first for subject in subjects if subject.first.split == "test"), None)
        truth = truth_of(first, self.target) if first is not None else None
        if first is None or truth is None:
            return []
        present = (np.nan_to_num(truth.values).reshape(len(truth.values), -1) > TRUTH_THRESHOLD).any(1)
        rows = run.rng.permutation(np.flatnonzero(present))
        classes = first.truth.get(first.target)
        if classes is not None and classes.kind == "class":
            found = classes.values[rows]
            turn = [int((found[:i] == value).sum()) for i, value in enumerate(found)]
            rows = rows[np.lexsort((found, turn))]
        return [int(i) for i in first.ids[rows[:SHOWN]]]

    # ---- rows

    def _rows(self, one: JudgedMasks, judged: Sequence[JudgedMasks], seed: int) -> Iterator[MetricRow]:
        n_seeds = len(one.counts)
        which: list[int | None] = [*range(n_seeds), *([None] if n_seeds > 1 else [])]
        has = one.true_pixels > 0
        missed = ((one.predicted_pixels == 0) & has).sum(1)
        alarms = ((one.predicted_pixels > 0) & ~has).sum(1)
        for metric, table in one.values.items():
            for i in which:
                seeds = slice(None) if i is None else slice(i, i + 1)
                found, note = self._estimate(metric, one, table[seeds], one.counts[seeds], seed)
                if not found.n:
                    continue
                note += f"; {grouping.between(self._by_seed(metric, one, table))}" if i is None else ""
                note += f"; {one.n_unknown} images of unknown truth left out" if one.n_unknown else ""
                n = len(one.ids) if self._is_pooled(metric) else int(one.counted.sum())
                yield one.subject.row(metric, found, n, which=i, note=note, more=one.more)
        for metric, counts, note in (
            ("missed", missed, f"empty predictions of {int(has.sum())} images that have the structure"),
            ("false_alarms", alarms, f"predictions for {int((~has).sum())} images that lack the structure"),
        ):
            if any(_count(other, metric) for other in judged):
                for i in which:
                    value = float(counts.mean() if i is None else counts[i])
                    found = Estimate(value, (math.nan, math.nan), len(one.ids))
                    yield one.subject.row(metric, found, len(one.ids), which=i, note=note, more=one.more)

    def _is_pooled(self, metric: str) -> bool:
        return self.over == "pooled" and metric in RATIOS

    def _by_seed(self, metric: str, one: JudgedMasks, table: Array) -> Array:
        """Return a metric of each seed, (seeds,)."""
        return ratio(one.counts.sum(1), metric) if self._is_pooled(metric) else table[:, one.counted].mean(1)

    def _estimate(self, metric: str, one: JudgedMasks, table: Array, counts: Array, seed: int) -> tuple[Estimate, str]:
        """Return a metric of some seeds, averaged over them, with its interval and what that is."""
        if self._is_pooled(metric):
            statistic = grouping.mean_of([pooled_ratio(pixels, metric) for pixels in counts])
            units = "images" if grouping.parted(one.groups) else "groups"
            found = group_bootstrap(statistic, one.groups, numpy_generator(seed))
            return found, f"pixels of all images; bootstrap of {units}"
        chosen = one.counted
        if not chosen.any():
            return Estimate(math.nan, (math.nan, math.nan), 0), ""
        found, note = grouping.estimate_of_mean(table[:, chosen], one.groups[chosen], seed, is_share=False)
        return found, f"mean over images; {note}"

    # ---- comparisons

    def _reference(self, tested: Sequence[JudgedMasks]) -> grouping.Subject | None:
        """Return the model that is compared with all others.

        Raises:
            DataError: no model, or several, have the conditions.

        """
        if not self.reference or not tested:
            return None
        wanted = dict(text.split("=", 1) for text in self.reference)
        subjects = list({id(one.subject): one.subject for one in tested}.values())

        def facts(subject: grouping.Subject) -> dict[str, Any]:
            return {"stage": subject.first.stage, "method": subject.first.method, **subject.conditions}

        found = [s for s in subjects if all(str(facts(s).get(name)) == value for name, value in wanted.items())]
        if len(found) != 1:
            known = "; ".join(", ".join(f"{k}={v}" for k, v in facts(s).items()) for s in (found or subjects)[:8])
            raise DataError(
                f"reference: found {len(found)} models with {', '.join(self.reference)}; expected one of: {known}"
            )
        return found[0]

    def paired_tests(self, first: UnitScores, second: UnitScores) -> tuple[tuple[str, PairedTest], ...]:
        """Return the paired tests of the Dice of each image, or the mean of each group, that counts."""
        chosen, numbered = (first.arrays[name] for name in ("counted", "groups"))
        groups = None if grouping.parted(numbered) else numbered[chosen]
        ours, theirs = (units.arrays["dice"][chosen] for units in (first, second))
        return tuple((self._per_image, paired_comparison(ours, theirs, groups=groups, test=test)) for test in TESTS)

    def _compared(
        self,
        tested: Sequence[JudgedMasks],
        reference: grouping.Subject | None,
        units: Mapping[int, UnitScores],
    ) -> tuple[Comparison, ...]:
        by_subject: dict[int, dict[str, JudgedMasks]] = {}
        for one in tested:
            by_subject.setdefault(id(one.subject), {})[one.structure] = one
        subjects = [next(iter(found.values())).subject for found in by_subject.values()]
        pairs = list(grouping.pairs_of(subjects))
        made = [
            grouping.comparison(metric, a, b, test, {**conditions, **first.more})
            for a, b, conditions in pairs
            for first, second in _common(by_subject[id(a)], by_subject[id(b)])
            if id(first) in units
            for metric, test in self.paired_tests(units[id(first)], units[id(second)])
        ]
        if reference is not None:
            done = {frozenset((id(a), id(b))) for a, b, _ in pairs}
            for other in subjects:
                if other is reference or frozenset((id(reference), id(other))) in done:
                    continue
                for first, second in _common(by_subject[id(reference)], by_subject[id(other)]):
                    conditions = {"reference": _told(reference), "against": _told(other), **first.more}
                    if id(first) not in units:
                        continue
                    made += [
                        grouping.comparison(metric, reference, other, test, conditions)
                        for metric, test in self.paired_tests(units[id(first)], units[id(second)])
                    ]
        return grouping.corrected(made)

    @property
    def _per_image(self) -> str:
        """The name of what is compared, which is not what pooled rows show."""
        return "dice" if self.over == "image" else "dice_per_image"


def _common(ours: dict[str, JudgedMasks], theirs: dict[str, JudgedMasks]) -> Iterator[tuple[JudgedMasks, JudgedMasks]]:
    """Yield what two models predicted of the same structure in the same images."""
    for structure, first in ours.items():
        second = theirs.get(structure)
        if second is not None and np.array_equal(first.ids, second.ids):
            yield first, second


def _count(one: JudgedMasks, metric: str) -> int:
    has = one.true_pixels > 0
    wrong = (one.predicted_pixels == 0) & has if metric == "missed" else (one.predicted_pixels > 0) & ~has
    return int(wrong.sum())


def _told(subject: grouping.Subject) -> str:
    return ", ".join(f"{key} {value}" for key, value in subject.others.items()) or "–"
