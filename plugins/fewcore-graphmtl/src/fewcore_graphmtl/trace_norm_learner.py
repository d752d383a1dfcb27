"""Multi-task regression with the trace norm as penalty: the baseline in which all tasks share a subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from fewcore import Embeddings, ImageSet, Run, option
from fewcore_graphmtl import trace_norm
from fewcore_graphmtl.cross_validation import Fitted, best_candidate
from fewcore_graphmtl.linear_ratings import LinearRatings
from fewcore_graphmtl.multi_task import (
    check_solved,
    check_without,
    designs_of,
    fitted,
    predictor_of,
    problem_of,
    tasks_of,
)
from fewcore_graphmtl.ratings import Task

RHO_SHARES = tuple(np.logspace(-0.25, -3, 8).tolist())
"""Candidates for rho, as shares of that at which all weights are 0."""
WHO = "trace-norm-mtl"


@dataclass(frozen=True)
class TraceNormMtl:
    """A linear map for each rated attribute, all learnt together, whose coefficients span few dimensions.

    sum_i 1/2 ||X_i w_i - y_i||^2 + rho * (sum of the singular values of W) is minimised by FISTA in float64 on the
    run's device. All attributes are predicted, `attribute` first, each from its own features where the encoder makes
    them. Features and scores are centred and scaled as for graph-mtl.

    Source: the baseline of S. Hussein et al., IEEE TMI 38, 2019, arXiv:1801.03230, Table II; S. Ji, J. Ye: An
    Accelerated Gradient Method for Trace Norm Minimization, ICML 2009, doi:10.1145/1553374.1553434.

    Differs from the paper: the paper names no rho; null chooses it by cross-validation on the training patients, for
    the squared error of `attribute`.

    Raises:
        DataError: there are no ratings, the attribute or a name in `without` is not among them, vectors are not finite,
            no feature varies, or the encoder has no features of an attribute.
        NumericalError: the problem could not be solved.

    """

    deterministic: ClassVar[bool] = True

    attribute: str = option("malignancy", "the rated attribute that is predicted first and judged by")
    without: tuple[str, ...] = option((), "attributes to leave out")
    rho: float | None = option(None, "weight of the trace norm; null chooses it by cross-validation", low=0)
    intercept: Literal["center", "none"] = option(
        "center", "centre features and scores, or take them as they are", paper="none"
    )
    folds: int = option(5, "folds of cross-validation, where rho is null", low=2)

    def __post_init__(self) -> None:
        check_without(self.attribute, self.without)

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> LinearRatings:
        """Return the predictor of all attributes."""
        tasks = tasks_of(images, embeddings, self.attribute, self.without, WHO)
        candidates = [self.rho]
        if self.rho is None:
            slope = problem_of(designs_of(tasks, "none", self.intercept), run.device).slope
            candidates = [share * float(torch.linalg.svdvals(slope)[0]) for share in RHO_SHARES]

        def fit_all(kept: Sequence[Task], all_of: Sequence[Any]) -> list[Fitted]:
            return self._fit_all(kept, all_of, run)

        rho = best_candidate(tasks, candidates, fit_all, self.folds, run, WHO)
        weights, levels = np.zeros((len(tasks), embeddings.vectors.shape[-1])), np.zeros(len(tasks))
        for _ in run.loop(1, name="solve", weights=weights, levels=levels):
            designs = designs_of(tasks, "none", self.intercept)
            found = trace_norm.solve(problem_of(designs, run.device), rho, tol=1e-6, max_iter=5000)
            check_solved(found, WHO)
            for task, (own, level) in enumerate(fitted(designs, found.w)):
                weights[task], levels[task] = own, level
            run.log(objective=found.objective, rank=float(torch.linalg.matrix_rank(found.w, rtol=1e-9)))
        return predictor_of(LinearRatings, embeddings, tasks, weights, levels, {"rho": rho})

    def _fit_all(self, tasks: Sequence[Task], candidates: Sequence[float], run: Run) -> list[Fitted]:
        designs = designs_of(tasks, "none", self.intercept)
        problem = problem_of(designs, run.device)
        made, start = [], None
        for rho in candidates:
            start = trace_norm.solve(problem, rho, tol=1e-3, max_iter=1000, start=start).w
            made.append(fitted(designs, start))
        return made
