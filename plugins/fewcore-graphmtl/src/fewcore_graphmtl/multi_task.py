"""What the multi-task learners share: tasks from the ratings, problems for the solvers, and the predictor."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from fewcore import Array, DataError, Embeddings, ImageSet, NumericalError
from fewcore_graphmtl.cross_validation import Fitted
from fewcore_graphmtl.fista import Solution
from fewcore_graphmtl.inconsistency import Mode
from fewcore_graphmtl.least_squares import TaskSquares
from fewcore_graphmtl.linear_ratings import LinearRatings
from fewcore_graphmtl.ratings import (
    Design,
    Intercept,
    Task,
    check_learnable,
    check_rows,
    design,
    not_among,
    rated,
    ratings_of,
    task_of,
)

WORST_GAP = 1e-3
"""A solution farther than this share from the least objective is refused."""

Made = TypeVar("Made", bound=LinearRatings)


def tasks_of(
    images: ImageSet, embeddings: Embeddings, attribute: str, without: Sequence[str], who: str
) -> tuple[Task, ...]:
    """Return the tasks of all rated attributes but `without`, `attribute` first.

    An attribute that nobody rated on these rows is left out, with a warning.

    Raises:
        DataError: the attribute is not there or nobody rated it, `without` names one that is not there, the encoder has
            no features for an attribute, a vector is not finite, or no feature varies.

    """
    check_rows(images, embeddings, who)
    names = ratings_of(images, attribute, who).names
    for name in without:
        if name not in names:
            raise DataError(f"{who}: without: {not_among(name, names)}")
    found = [rated(task_of(images, embeddings, attribute, attribute, who), attribute, images, who)]
    for name in names:
        if name != attribute and name not in without:
            task = task_of(images, embeddings, name, name, who)
            if task is None:
                text = f"{who}: no reader rated '{name}' on these {len(images)} images; it is left out"
                warnings.warn(text, UserWarning, stacklevel=3)
            else:
                found.append(task)
    check_learnable(found, who)
    return tuple(found)


def check_without(attribute: str, without: Sequence[str]) -> None:
    """Raise ValueError where the attribute to predict is among those to leave out."""
    if attribute in without:
        raise ValueError(f"without: found '{attribute}', the attribute to predict; expected other attributes")


def designs_of(tasks: Sequence[Task], mode: Mode, intercept: Intercept) -> list[Design]:
    """Return the problem of each task."""
    return [design(task, mode, intercept) for task in tasks]


def problem_of(designs: Sequence[Design], device: torch.device) -> TaskSquares:
    """Return the squared errors of all tasks, on a device."""
    x = [torch.as_tensor(one.x, device=device) for one in designs]
    return TaskSquares(x, [torch.as_tensor(one.y, device=device) for one in designs])


def fitted(designs: Sequence[Design], w: torch.Tensor) -> Fitted:
    """Return weights and level of each task for vectors as the encoder makes them, of w (t, d)."""
    return [one.unscaled(own) for one, own in zip(designs, w.cpu().numpy(), strict=True)]


def check_solved(found: Solution, who: str) -> None:
    """Raise NumericalError where a solution is not one."""
    if not found.gap <= WORST_GAP:
        raise NumericalError(
            f"{who}: found a relative gap of {found.gap:.1e} after {found.iterations} iterations; expected at most "
            f"{WORST_GAP} (raise the penalty, or reduce the features by whitening)"
        )


def predictor_of(
    made: type[Made],
    embeddings: Embeddings,
    tasks: Sequence[Task],
    weights: Array,
    levels: Array,
    facts: Mapping[str, Any],
) -> Made:
    """Return the predictor, of the class `made`, of all tasks, of weights (t, e) and levels (t,)."""
    names, places = tuple(task.name for task in tasks), np.array([task.place for task in tasks])
    return made(embeddings.encoder, names, weights, levels, places, facts)
