"""What LASSO and ridge share: one task, one penalty, chosen by cross-validation or given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from fewcore import Array, Embeddings, ImageSet, Run
from fewcore_graphmtl.cross_validation import Fitted, best_candidate
from fewcore_graphmtl.linear_ratings import LinearRatings
from fewcore_graphmtl.multi_task import predictor_of
from fewcore_graphmtl.ratings import Intercept, Task, check_learnable, check_rows, design, rated, task_of

Path = Callable[[Array, Array, Sequence[float]], Array]
"""From x (n, d), y (n,) and penalties to weights (penalties, d)."""
Grid = Callable[[Array, Array], list[float]]
"""From x (n, d) and y (n,) to the penalties among which to choose, the largest first."""


class _OneTask(Protocol):
    """The options that LASSO and ridge have in common."""

    @property
    def attribute(self) -> str: ...
    @property
    def feature(self) -> str: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def intercept(self) -> Intercept: ...
    @property
    def folds(self) -> int: ...


def fit_one(
    options: _OneTask, images: ImageSet, embeddings: Embeddings, run: Run, path: Path, grid: Grid, *, who: str
) -> LinearRatings:
    """Return the predictor of one attribute from the features of `feature` (of the attribute itself where empty)."""
    check_rows(images, embeddings, who)
    attribute = options.attribute
    task = rated(task_of(images, embeddings, attribute, options.feature or attribute, who), attribute, images, who)
    check_learnable([task], who)

    def fit_all(tasks: Sequence[Task], alphas: Sequence[float]) -> list[Fitted]:
        made = design(tasks[0], "none", options.intercept)
        return [[made.unscaled(w)] for w in path(made.x, made.y, alphas)]

    whole = design(task, "none", options.intercept)
    candidates = [options.alpha] if options.alpha is not None else grid(whole.x, whole.y)
    chosen = best_candidate([task], candidates, fit_all, options.folds, run, who)
    weights, levels = np.zeros((1, embeddings.vectors.shape[-1])), np.zeros(1)
    for _ in run.loop(1, name="solve", weights=weights, levels=levels):
        w = path(whole.x, whole.y, [chosen])[0]
        weights[0], levels[0] = whole.unscaled(w)
        run.log(alpha=chosen, nonzero=float((w != 0).sum()))
    return predictor_of(LinearRatings, embeddings, [task], weights, levels, {"alpha": chosen})
