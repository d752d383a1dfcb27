"""The figure of accuracy along a number that is varied, such as the share of labels: box plots, a colour a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fewcore import Array, Figure, box_figure, grouping, numpy_generator

RESAMPLES = 200
"""Resamples behind one box."""

Judged = tuple[grouping.Subject, Sequence[tuple[Array, Array]]]
"""A model, and for each of its seeds which images it got right, (n,) bool, with their groups (n,)."""


def accuracy_figures(judged: Iterable[Judged], seed: int) -> tuple[Figure, ...]:
    """Return boxes of the accuracy along the first varied number, or nothing where no number is varied.

    One image is only right or wrong, so a box holds the accuracies of bootstrap resamples of groups, of all seeds.
    """
    tested = [(subject, cases) for subject, cases in judged if subject.first.split == "test"]
    axis = grouping.numeric_axis(subject for subject, _ in tested)
    if not axis:
        return ()
    boxes: dict[tuple[str, str], list[Array]] = {}
    cases_of = {id(subject): cases for subject, cases in tested}
    for subject in grouping.in_order((subject for subject, _ in tested), axis):
        made = [resampled_accuracy(right, groups, seed) for right, groups in cases_of[id(subject)] if len(right)]
        boxes.setdefault(grouping.placed(subject, axis), []).extend(made)
    drawn = {key: np.concatenate(found) for key, found in boxes.items() if found}
    note = f"Each box holds {RESAMPLES} bootstrap resamples of the judged images, whole groups, for each seed."
    title = f"Accuracy along {axis}"
    return (box_figure(title, drawn, x_label=axis, y_label="accuracy", percent=True, note=note),)


def resampled_accuracy(right: Array, groups: Array, seed: int) -> Array:
    """Return the accuracy of bootstrap resamples, (RESAMPLES,), whole groups (n,) being drawn with replacement."""
    index = np.unique(groups, return_inverse=True)[1]
    hits, sizes = np.bincount(index, right), np.bincount(index)
    drawn = numpy_generator(seed).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    return np.asarray(hits[drawn].sum(1) / sizes[drawn].sum(1))
