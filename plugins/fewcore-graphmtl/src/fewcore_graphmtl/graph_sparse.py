"""Sparse multi-task regression in which tasks that an edge joins get similar coefficients.

Source: J. Zhou, J. Chen, J. Ye: MALSAR, Multi-tAsk Learning via StructurAl Regularization, Arizona State University,
2012 (`Least_SRMTL`); S. Hussein, P. Kandel, C. W. Bolan, M. B. Wallace, U. Bagci: Lung and Pancreatic Tumor
Characterization in the Deep Learning Era, IEEE TMI 38, 2019, arXiv:1801.03230, eq. 6.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fewcore import Array
from fewcore_graphmtl.fista import Solution, look, minimise
from fewcore_graphmtl.least_squares import TaskSquares, check_penalties, checked, laplacian, weights

FIRST_FEATURES = 64
MOST_ROUNDS = 60
MOST_DROPS = 5
MOST_CONJUGATE = 30


class L1:
    """The sum of the absolute values of W."""

    separable = True

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def norm(self, w: torch.Tensor) -> torch.Tensor:
        """Return the sum of absolute values."""
        return w.abs().sum()

    def dual_norm(self, w: torch.Tensor) -> torch.Tensor:
        """Return the largest absolute value."""
        return w.abs().max()

    def prox(self, w: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return w with every value moved towards 0 by `step * weight`."""
        most = step * self.weight
        return w - torch.clamp(w, -most, most)

    def polished(self, problem: TaskSquares, w: torch.Tensor) -> torch.Tensor | None:
        """Return the point at which the gradient is 0, if the numbers of w keep their signs and those that are 0 stay so.

        Numbers whose sign would change are set to 0, and the rest is computed again, a few times at most.
        """
        sign = w.sign()
        made = w
        for _ in range(MOST_DROPS):
            made = problem.solve_near(problem.slope - self.weight * sign, made, sign != 0, MOST_CONJUGATE)
            flipped = made * sign < 0
            if not flipped.any():
                break
            sign = torch.where(flipped, 0.0, sign)
        return torch.where(made * sign > 0, made, 0.0)


def solve(
    problem: TaskSquares, rho2: float, *, tol: float, max_iter: int, start: torch.Tensor | None = None
) -> Solution:
    """Return the sparse solution of a problem.

    Where there are more features than rows, only features that can matter are worked on: those with weights and those
    that violate the optimality conditions most. The gap that ends the search is that of the whole problem.
    """
    penalty = L1(rho2)
    t, d = problem.shape
    if not rho2 or d <= max(FIRST_FEATURES, sum(len(a) for a in problem.x) / t):
        return _exact(problem, penalty, minimise(problem, penalty, tol=tol, max_iter=max_iter, start=start))
    w = torch.zeros_like(problem.slope) if start is None else start
    best = found = look(problem, penalty, w, problem.hessian(w))
    size, inner = FIRST_FEATURES, 0.1
    for _ in range(MOST_ROUNDS):
        if best.gap <= tol or found.iterations >= max_iter:
            break
        chosen = _chosen(found.w, found.hw - problem.slope, size)
        part = problem.of_features(chosen)
        left = max_iter - found.iterations
        small = minimise(part, penalty, tol=inner, max_iter=left, start=found.w.gather(1, chosen))
        w = torch.zeros_like(w).scatter_(1, chosen, small.w)
        found = look(problem, penalty, w, problem.hessian(w), found.iterations + max(1, small.iterations))
        if found.objective <= best.objective or found.gap <= tol:
            best = found
        # Where the chosen features were enough, only accuracy is missing.
        inner = 0.5 * tol if found.gap <= 2 * small.gap else max(0.5 * tol, min(inner, 0.3 * found.gap))
        size = max(size, 2 * int((w != 0).sum(1).max()))
    return _exact(problem, penalty, best)


def _chosen(w: torch.Tensor, gradient: torch.Tensor, size: int) -> torch.Tensor:
    """Return the features (t, k) that have weights in each task, and those with the steepest gradient up to `size`."""
    used = w != 0
    count = min(w.shape[1], max(size, int(used.sum(1).max())))
    return gradient.abs().masked_fill(used, torch.inf).topk(count).indices.sort().values


def _exact(problem: TaskSquares, penalty: L1, found: Solution) -> Solution:
    objective = problem.value(found.w) + penalty.weight * float(penalty.norm(found.w))
    return replace(found, objective=objective)


def warn_unless_solved(found: Solution, name: str, tol: float) -> None:
    """Warn that a solution lies farther from the best than was asked for."""
    if found.gap > tol:
        text = f"{name}: found a relative gap of {found.gap:.1e} after {found.iterations} iterations; expected at most "
        warnings.warn(f"{text}{tol:.1e} (raise max_iter or tol)", RuntimeWarning, stacklevel=3)


def srmtl(
    X: Sequence[Any],
    y: Sequence[Any],
    R: Any,
    rho1: float,
    rho2: float,
    *,
    tol: float = 1e-9,
    max_iter: int = 20_000,
    paper_scale: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[Array, float]:
    """Return W (d, t) float64 and the objective there: graph-regularised sparse multi-task least squares.

    The objective is sum_i 1/2 ||X_i w_i - y_i||^2 + rho1 ||W R||_F^2 + rho2 ||W||_1, as in MALSAR; with `paper_scale`
    without the half, as in the paper. `X` is a list of (n_t, d), `y` of (n_t,), for each task; `R` is (t, edges), with
    1 and -1 at the ends of each edge, and may have no edges: then the tasks are independent LASSOs.

    Computed in float64 on `device` by FISTA. `tol` bounds the relative duality gap: the objective returned is at most
    that share above the least one. (Without rho2 it bounds the gradient, as a share of that at W = 0.)

    Differs from MALSAR: the gap ends the search instead of a small change of the objective; the step starts at a
    power-iteration estimate, momentum restarts, the best point is kept, X^T X is made once where d <= n, and where d > n
    features that cannot matter are left out.

    Raises:
        DataError: shapes disagree, a task has no rows, or something is NaN or infinite.
        ValueError: a penalty is negative.

    """
    check_penalties(rho1=rho1, rho2=rho2)
    rows, values = checked(X, y, device)
    half = 0.5 if paper_scale else 1.0
    problem = TaskSquares(rows, values, laplacian(R, half * rho1, len(rows), device))
    found = solve(problem, half * rho2, tol=tol, max_iter=max_iter)
    warn_unless_solved(found, "srmtl", tol)
    return weights(found.w), found.objective / half
