"""Predicted masks beside the truth: what a model predicted of one structure, measured image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewcore import Array, DataError, Outcome, Target, UnitScores, grouping
from fewcore_medical.mask_measures import RATIOS, average_hausdorff, confusion, ratio, row_hausdorff, similarity

TRUTH_THRESHOLD = 0.5
"""A truth between 0 and 1, such as the share of readers, is foreground above this."""


@dataclass(frozen=True)
class Measuring:
    """How masks are measured: which metrics, above which probability a pixel is foreground, the window of SSIM.

    `only_present` leaves images that lack the structure out of means over images.
    """

    metrics: tuple[str, ...]
    threshold: float
    window: int
    only_present: bool = False


@dataclass(frozen=True, eq=False)
class JudgedMasks:
    """What one model (a subject) predicted of one structure, of the images whose truth is known.

    `counts` (seeds, n, 4) are pixels as `confusion` counts them; `values` maps each metric to (seeds, n). `classes` (n,)
    are the images' classes, -1 unknown. `samples` maps the ids of some images to (truth, prediction of the first seed).
    `counted` (n,) bool are the images that enter means over images, the same for every model. `n_unknown` images were
    left out of everything, because nobody said where the structure is.
    """

    subject: grouping.Subject
    structure: str
    counts: Array
    values: Mapping[str, Array]
    ids: Array
    groups: Array
    classes: Array
    class_names: tuple[str, ...]
    samples: Mapping[int, tuple[Array, Array]]
    counted: Array
    n_unknown: int

    @property
    def more(self) -> dict[str, Any]:
        """The condition that says which structure is meant, where the target has several."""
        return {"structure": self.structure} if self.structure else {}

    @property
    def true_pixels(self) -> Array:
        """How many pixels the structure has in each image, (n,)."""
        return np.asarray(self.counts[0, :, 0] + self.counts[0, :, 3])

    @property
    def predicted_pixels(self) -> Array:
        """How many pixels were predicted in each image, (seeds, n)."""
        return np.asarray(self.counts[:, :, 0] + self.counts[:, :, 1])

    @property
    def dice(self) -> Array:
        """The Dice of each image, averaged over seeds, (n,)."""
        return np.asarray(np.mean([ratio(counts, "dice") for counts in self.counts], 0))

    @property
    def units(self) -> UnitScores:
        """What the paired tests read: the Dice of each image, whether it counts, and its group."""
        arrays = {"dice": self.dice, "counted": self.counted, "groups": grouping.anonymous(self.groups)}
        return self.subject.units(arrays, more=self.more)

    def dice_of(self, rows: Array) -> Array:
        """Return the Dice of those of the rows (n,) bool that count, averaged within groups: independent numbers."""
        chosen = rows & self.counted
        return grouping.means_of_groups(self.dice[chosen], self.groups[chosen]) if chosen.any() else np.empty(0)


def truth_of(outcome: Outcome, wanted: str) -> Target | None:
    """Return the masks by which an outcome is judged, or None where it has none.

    Raises:
        DataError: the wanted target is not there or holds no masks, or there are several and none is named `mask`.

    """
    masks = {name: target for name, target in outcome.truth.items() if target.kind == "masks"}
    if wanted and outcome.truth and wanted not in masks:
        raise DataError(
            f"{outcome.stage}: found no masks named '{wanted}'; expected one of {', '.join(masks) or 'none'} (option target)"
        )
    name = wanted or ("mask" if "mask" in masks else next(iter(masks), ""))
    if not wanted and len(masks) > 1 and name != "mask":
        raise DataError(
            f"{outcome.stage}: found the masks {', '.join(masks)}; expected one to judge by (type target: {name})"
        )
    return masks.get(name)


def is_usable(outcome: Outcome, wanted: str) -> bool:
    """Return whether an outcome has masks and a truth of masks that is known for some image."""
    if outcome.predictions.masks is None or outcome.query_labels is not None:
        return False
    truth = truth_of(outcome, wanted)
    return truth is not None and bool(truth.known.any())


def judged_masks(
    subject: grouping.Subject, wanted: str, measuring: Measuring, shown: Sequence[int]
) -> Iterator[JudgedMasks]:
    """Yield what a subject predicted of each structure; images in `shown`, by id, keep their masks.

    Seeds that lack folds are left out.

    Raises:
        DataError: predicted masks of another shape than the truth, outside [0, 1] or NaN; seeds with other images.

    """
    most = max(len(outcomes) for _, outcomes in subject.series)
    series = tuple(entry for entry in subject.series if len(entry[1]) == most)
    whole = grouping.Subject(subject.conditions, series)
    made = [grouping.pooled(outcomes) for _, outcomes in series]
    first = made[0]
    truth = truth_of(first, wanted)
    assert truth is not None
    if any(not np.array_equal(outcome.ids, first.ids) for outcome in made):
        raise DataError(f"{subject.name}: found other images in each seed; expected the same in all")
    for outcome in made:
        _check(outcome, truth, subject.name)
    names = truth.names or tuple(f"structure {i + 1}" for i in range(truth.values.shape[1]))
    for k, name in enumerate(names):
        known = np.asarray(~np.isnan(truth.values[:, k]).reshape(len(truth.values), -1).any(1))
        if known.any():
            several = name if len(names) > 1 else ""
            yield _structure(whole, several, made, truth.values[:, k], known, k, measuring, shown)


def _check(outcome: Outcome, truth: Target, name: str) -> None:
    masks = np.asarray(outcome.predictions.masks)
    if masks.shape != truth.values.shape:
        raise DataError(
            f"{name}: found predicted masks {masks.shape}; expected {truth.values.shape}, the shape of the true ones"
        )
    low, high = float(masks.min()), float(masks.max())
    if not (low >= 0 and high <= 1):  # NaN too
        raise DataError(
            f"{name}: found predicted masks between {low:g} and {high:g}; expected probabilities in [0, 1] (a sigmoid's)"
        )


def _structure(
    subject: grouping.Subject,
    structure: str,
    made: Sequence[Outcome],
    values: Array,
    known: Array,
    k: int,
    measuring: Measuring,
    shown: Sequence[int],
) -> JudgedMasks:
    first = made[0]
    truth = values[known] > TRUTH_THRESHOLD
    predicted = [np.asarray(o.predictions.masks)[known, k] > measuring.threshold for o in made]
    counts = np.stack([confusion(masks, truth) for masks in predicted])
    rows = [measured(masks, truth, c, measuring) for masks, c in zip(predicted, counts, strict=True)]
    ids = first.ids[known]
    place = {int(i): row for row, i in enumerate(ids)}
    samples = {i: (truth[place[i]], predicted[0][place[i]]) for i in shown if i in place}
    target = first.truth.get(first.target)
    is_class = target is not None and target.kind == "class"
    return JudgedMasks(
        subject,
        structure,
        counts,
        {name: np.stack([row[name] for row in rows]) for name in rows[0]},
        ids,
        first.groups[known],
        target.values[known] if is_class and target is not None else np.full(len(ids), -1),
        target.names if is_class and target is not None else (),
        samples,
        np.asarray(truth.reshape(len(truth), -1).any(1)) if measuring.only_present else np.ones(len(truth), bool),
        int((~known).sum()),
    )


def measured(predicted: Array, truth: Array, counts: Array, measuring: Measuring) -> dict[str, Array]:
    """Return each metric of each image, (n,).

    Raises:
        DataError: images smaller than the window of SSIM.

    """
    found: dict[str, Array] = {}
    for metric in measuring.metrics:
        if metric in RATIOS:
            found[metric] = ratio(counts, metric)
        elif metric == "ssim":
            smallest = min(truth.shape[1:])
            if smallest < measuring.window:
                size = " x ".join(map(str, truth.shape[1:]))
                odd = smallest - 1 + smallest % 2
                advice = f"type ssim_window: {odd}, or " if odd >= 3 else ""
                raise DataError(
                    f"ssim: found masks of {size} pixels; expected at least {measuring.window} on each side"
                    f" ({advice}leave ssim out of metrics)"
                )
            found[metric] = similarity(predicted, truth, measuring.window)
        elif metric == "average_hausdorff":
            found[metric] = average_hausdorff(predicted, truth)
        else:
            found[metric] = row_hausdorff(predicted, truth)
    return found
