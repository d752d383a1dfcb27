"""Choosing a penalty by cross-validation on the training rows, patients kept together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold

from fewcore import Array, DataError, Run
from fewcore_graphmtl.ratings import Task

Fitted = list[tuple[Array, float]]
"""Weights (d,) and level of each task."""
FitAll = Callable[[Sequence[Task], Sequence[Any]], list[Fitted]]
"""From tasks and candidates to what was fitted with each candidate."""


def fold_of_group(groups: Array, folds: int, who: str) -> dict[int, int]:
    """Return the fold of each group; there are as many folds as groups where there are fewer groups than folds.

    Raises:
        DataError: there is one group only.

    """
    count = len(np.unique(groups))
    if count < 2:
        raise DataError(
            f"{who}: found the rated images of {count} patient; expected at least 2 to choose a penalty by "
            "cross-validation (give the penalty as an option)"
        )
    splits = GroupKFold(min(folds, count)).split(groups, groups=groups)
    return {int(group): fold for fold, (_, held_out) in enumerate(splits) for group in groups[held_out]}


def best_candidate(
    tasks: Sequence[Task], candidates: Sequence[Any], fit_all: FitAll, folds: int, run: Run, who: str
) -> Any:
    """Return the candidate whose squared error on held-out patients is least for the first task.

    Errors of all folds are pooled; of equals the first candidate wins, so candidates start with the simplest.
    """
    if len(candidates) == 1:
        return candidates[0]
    fold_of = fold_of_group(np.concatenate([task.groups for task in tasks]), folds, who)
    n_folds = max(fold_of.values()) + 1
    errors = np.zeros((n_folds, len(candidates)))
    for fold in run.loop(n_folds, name="cross-validation", errors=errors):
        held_out = [np.array([fold_of[int(g)] == fold for g in task.groups], bool) for task in tasks]
        kept = [task.rows(~out) for task, out in zip(tasks, held_out, strict=True) if not out.all()]
        mine = tasks[0].rows(held_out[0])
        if not len(mine.scores) or held_out[0].all():
            continue
        x = mine.vectors.astype(np.float64)
        for number, fitted in enumerate(fit_all(kept, candidates)):
            w, level = fitted[0]
            errors[fold, number] = ((x @ w + level - mine.scores) ** 2).sum()
        run.log(error=errors[fold].min() / len(mine.scores))
    return candidates[int(errors.sum(0).argmin())]
