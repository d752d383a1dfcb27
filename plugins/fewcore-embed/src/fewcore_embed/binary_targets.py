"""Yes-or-no questions from what humans said of images: each rated attribute above or below the middle of its scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fewcore import Array, DataError, ImageSet, Target

PER_ATTRIBUTE = "per-attribute"


class Question(NamedTuple):
    """A question about each of n images: `answers` (n,) float64, 1 yes, 0 no, NaN unknown or a tie."""

    name: str
    answers: Array


def above_middle(target: Target, j: int, method: str) -> Question:
    """Return whether attribute j's mean rating is above the middle of its scale; equal means are ties.

    Raises:
        DataError: the ratings have no scale.

    """
    scales = target.scales
    if scales is None:
        raise DataError(f"{method}: found ratings without a scale; expected the lowest and highest (Target.scale)")
    values = np.asarray(target.values[:, :, j], dtype=np.float64)
    rated = ~np.isnan(values)
    count = rated.sum(1)
    mean = np.where(rated, values, 0).sum(1) / np.maximum(count, 1)
    middle = scales[j].mean()
    answers = np.where(mean > middle, 1.0, np.where(mean < middle, 0.0, np.nan))
    return Question(target.names[j], np.where(count > 0, answers, np.nan))


def of_class(images: ImageSet, name: str, method: str) -> Question:
    """Return whether each image is of the second of two classes.

    Raises:
        DataError: there are other than two classes.

    """
    target = images.targets[name]
    if len(target.names) != 2:
        raise DataError(
            f"{method}: found the classes {', '.join(target.names)}; expected two "
            "(type target: {of: NAME, positive: [...]} in the pipeline)"
        )
    return Question(name, np.where(target.values < 0, np.nan, target.values).astype(np.float64))


def questions(images: ImageSet, target: str, leave_out: tuple[str, ...], method: str) -> list[Question]:
    """Return the questions that an option `target` means: '' the set's classes, a name, or every rated attribute.

    Raises:
        DataError: nothing of that name is known of the images; a question has a single answer, or no known one.

    """
    rated = [t for t in images.targets.values() if t.kind == "ratings"]
    classes = [name for name, t in images.targets.items() if t.kind == "class"]
    names = [name for t in rated for name in t.names]
    if target == PER_ATTRIBUTE:
        unknown = [name for name in leave_out if name not in names]
        if unknown or not rated or set(names) <= set(leave_out):
            raise DataError(
                f"{method}: found {f'leave_out: {unknown[0]}' if unknown else 'no attribute left'} among the rated "
                f"attributes {', '.join(names) or '(none)'}; expected at least one, of a data set with ratings"
            )
        found = [above_middle(t, j, method) for t in rated for j, n in enumerate(t.names) if n not in leave_out]
    elif target in names:
        found = [above_middle(t, t.names.index(target), method) for t in rated if target in t.names][:1]
    elif (target or images.target) in classes:
        found = [of_class(images, target or images.target, method)]
    else:
        raise DataError(
            f"{method}: found target '{target}'; expected {PER_ATTRIBUTE} or one of "
            f"{', '.join([*names, *classes]) or 'no target at all: this data set has neither classes nor ratings'}"
        )
    for question in found:
        _check_answers(question, method)
    return found


def _check_answers(question: Question, method: str) -> None:
    yes, no = int((question.answers == 1).sum()), int((question.answers == 0).sum())
    if not (yes and no):
        raise DataError(
            f"{method}: {question.name}: found {yes} positive and {no} negative of {len(question.answers)} training "
            f"images; expected some of each (give more labels, or leave it out: leave_out: [{question.name}])"
        )
