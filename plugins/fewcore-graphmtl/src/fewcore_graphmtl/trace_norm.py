"""Multi-task regression whose coefficients span few dimensions: the trace norm as penalty.

Source: S. Ji, J. Ye: An Accelerated Gradient Method for Trace Norm Minimization, ICML 2009,
doi:10.1145/1553374.1553434; J. Zhou, J. Chen, J. Ye: MALSAR, Arizona State University, 2012 (`Least_Trace`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fewcore import Array
from fewcore_graphmtl.fista import Solution, minimise
from fewcore_graphmtl.graph_sparse import warn_unless_solved
from fewcore_graphmtl.least_squares import TaskSquares, check_penalties, checked, weights


class TraceNorm:
    """The sum of the singular values of W."""

    separable = False

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def norm(self, w: torch.Tensor) -> torch.Tensor:
        """Return the sum of singular values."""
        total: torch.Tensor = torch.linalg.svdvals(w).sum()
        return total

    def dual_norm(self, w: torch.Tensor) -> torch.Tensor:
        """Return the largest singular value."""
        largest: torch.Tensor = torch.linalg.svdvals(w)[0]
        return largest

    def prox(self, w: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return w with every singular value moved towards 0 by `step * weight`."""
        u, s, v = torch.linalg.svd(w, full_matrices=False)
        moved: torch.Tensor = (u * (s - step[0] * self.weight).clamp(min=0)) @ v
        return moved

    def polished(self, problem: TaskSquares, w: torch.Tensor) -> None:
        """Return nothing: the solution is not linear in what is known of its structure."""
        return


def solve(
    problem: TaskSquares, rho: float, *, tol: float, max_iter: int, start: torch.Tensor | None = None
) -> Solution:
    """Return the solution of a problem."""
    penalty = TraceNorm(rho)
    found = minimise(problem, penalty, tol=tol, max_iter=max_iter, start=start)
    objective = problem.value(found.w) + rho * float(penalty.norm(found.w))
    return replace(found, objective=objective)


def trace_norm_mtl(
    X: Sequence[Any],
    y: Sequence[Any],
    rho: float,
    *,
    tol: float = 1e-9,
    max_iter: int = 20_000,
    paper_scale: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Array, float]:
    """Return W (d, t) float64 and the objective there: least squares with the trace norm of W as penalty.

    The objective is sum_i 1/2 ||X_i w_i - y_i||^2 + rho ||W||_*, as in MALSAR; with `paper_scale` without the half. `X`
    is a list of (n_t, d), `y` of (n_t,), for each task. `tol` bounds the relative duality gap, as in `srmtl`.

    Raises:
        DataError: shapes disagree, a task has no rows, or something is NaN or infinite.
        ValueError: the penalty is negative.

    """
    check_penalties(rho=rho)
    rows, values = checked(X, y, device)
    half = 0.5 if paper_scale else 1.0
    found = solve(TaskSquares(rows, values), half * rho, tol=tol, max_iter=max_iter)
    warn_unless_solved(found, "trace_norm_mtl", tol)
    return weights(found.w), found.objective / half
