"""Accelerated proximal gradient descent (FISTA) on convex quadratics with a norm as penalty, with a certified gap.

Source: A. Beck, M. Teboulle: A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems, SIAM Journal
on Imaging Sciences 2, 2009, doi:10.1137/080716542; B. O'Donoghue, E. Candes: Adaptive Restart for Accelerated Gradient
Schemes, Foundations of Computational Mathematics 15, 2015, doi:10.1007/s10208-013-9150-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from fewcore_graphmtl.least_squares import TaskSquares

CHECK_EVERY = 10
"""Iterations between two looks at the gap."""
ROUNDING = 1e-14
"""A gap of this share of the objective at W = 0 cannot be told from a rounding error."""
FIRST_POLISH = 50
"""Iterations before the solution is first computed from the signs; later tries come as far apart, or a quarter later."""


class Penalty(Protocol):
    """A norm of W, times its weight. `separable` where it is a sum over the numbers in W."""

    weight: float
    separable: bool

    def norm(self, w: torch.Tensor) -> torch.Tensor:
        """Return the norm of w (t, d), without the weight."""
        ...

    def dual_norm(self, w: torch.Tensor) -> torch.Tensor:
        """Return the largest <w, v> over all v whose norm is 1."""
        ...

    def prox(self, w: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return the v at which 1/2 ||v - w||^2 + step * weight * norm(v) is least.

        `step` is (1, 1), or (t, d) where `separable` is true and each coordinate has a step of its own.
        """
        ...

    def polished(self, problem: TaskSquares, w: torch.Tensor) -> torch.Tensor | None:
        """Return the solution, computed from the structure that w has, where that can be done and may be right."""
        ...


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights w (t, d), the objective there, and how far it can at most lie above the least one.

    `hw` is the second derivative applied to w; `gap` is a share of the objective.
    """

    w: torch.Tensor
    hw: torch.Tensor
    objective: float
    gap: float
    iterations: int = 0


def look(problem: TaskSquares, penalty: Penalty, w: torch.Tensor, hw: torch.Tensor, iterations: int = 0) -> Solution:
    """Return w with its objective and its duality gap as a share of it.

    The graph's term is a sum of squares too, so that the dual is that of a LASSO (or trace norm) whose residuals
    number n + d * edges: they are shrunk until their correlations with the features are feasible. Without a penalty
    the share of the gradient that is left stands in for the gap.
    """
    gradient = hw - problem.slope
    fitted = (problem.slope * w).sum()
    square = (w * hw).sum() - 2 * fitted + 2 * problem.constant
    numbers = [fitted, square, penalty.norm(w), penalty.dual_norm(gradient), penalty.dual_norm(problem.slope)]
    of_fit, residual, norm, steepness, first = torch.stack(numbers).tolist()
    residual = max(residual, 0.0)
    objective = 0.5 * residual + penalty.weight * norm
    if not penalty.weight:
        return Solution(w, hw, objective, steepness / first if first else 0.0, iterations)
    shrink = min(1.0, penalty.weight / steepness) if steepness else 1.0
    gap = objective - shrink * (2 * problem.constant - of_fit) + 0.5 * shrink**2 * residual
    relative = 0.0 if gap <= ROUNDING * problem.constant else gap / objective
    return Solution(w, hw, objective, relative, iterations)


class _Descent:
    """The state of FISTA: the point w, the extrapolated point v, both with their second derivative, and the steps.

    Under a separable norm lengths are measured in units of the diagonal of the second derivative, so that the scale of
    a feature costs no iterations.
    """

    def __init__(self, problem: TaskSquares, penalty: Penalty, start: Solution) -> None:
        self.problem, self.penalty = problem, penalty
        self.scale = problem.diagonal() if penalty.separable else problem.slope.new_ones(1, 1)
        self.steep, self.most = problem.curvature(self.scale)
        self.step = 1 / (max(self.steep, torch.finfo(self.scale.dtype).tiny) * self.scale)
        self.go_on_from(start)

    def go_on_from(self, point: Solution) -> None:
        """Start again from a point, without momentum."""
        self.w, self.hw = self.v, self.hv = point.w, point.hw
        self.t = 1.0

    def advance(self) -> bool:
        """Take one step, and return whether it moved at all.

        Since f is quadratic, the second derivative is applied once: gradients at extrapolated points follow. The step
        is halved where it proves too long. Momentum starts again where it points uphill.
        """
        while True:
            new = self.penalty.prox(torch.addcmul(self.v, self.problem.slope - self.hv, self.step), self.step)
            hnew = self.problem.hessian(new)
            moved = new - self.v
            length = moved / self.step
            sums = [(moved * (hnew - self.hv)).sum(), (moved * length).sum(), (length * (new - self.w)).sum()]
            bent, square, along = torch.stack(sums).tolist()
            if bent <= square * (1 + 1e-9) or self.steep >= self.most:
                break
            self.steep = min(2 * self.steep, self.most)
            self.step = 1 / (self.steep * self.scale)
        following = 1.0 if along < 0 else (1 + (1 + 4 * self.t**2) ** 0.5) / 2
        a = 0.0 if along < 0 else (self.t - 1) / following
        self.v, self.hv = torch.lerp(self.w, new, 1 + a), torch.lerp(self.hw, hnew, 1 + a)
        self.w, self.hw, self.t = new, hnew, following
        return bool(square > 0)


def minimise(
    problem: TaskSquares, penalty: Penalty, *, tol: float, max_iter: int, start: torch.Tensor | None = None
) -> Solution:
    """Return the w at which f(w) + weight * norm(w) is least, to a relative gap of `tol` or after `max_iter` iterations.

    Now and then the solution is computed from the structure that w has by then (the signs of its numbers), and taken
    where it is better. The best of the points that were looked at is returned.
    """
    w = torch.zeros_like(problem.slope) if start is None else start
    best = look(problem, penalty, w, problem.hessian(w))
    if best.gap <= tol:
        return best
    descent = _Descent(problem, penalty, best)
    polish_at = FIRST_POLISH
    for iteration in range(1, max_iter + 1):
        moving = descent.advance()
        if iteration % CHECK_EVERY and moving and iteration < max_iter:
            continue
        found = look(problem, penalty, descent.w, descent.hw, iteration)
        if iteration >= polish_at and found.gap > tol:
            polish_at = iteration + max(FIRST_POLISH, iteration // 4)
            better = penalty.polished(problem, found.w)
            if better is not None:
                polished = look(problem, penalty, better, problem.hessian(better), iteration)
                if polished.objective < found.objective:
                    found = polished
                    descent.go_on_from(found)
        if found.objective <= best.objective or found.gap <= tol:
            best = found
        if best.gap <= tol or not moving:
            break
    return best
