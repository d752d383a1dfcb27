"""The smooth part of multi-task problems: the squared errors of all tasks and the spread of W along a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fewcore import Array, DataError, numpy_generator

MOST_GRAM_NUMBERS = 2**27
"""Gram matrices of all tasks together hold at most this many numbers (1 GiB); larger ones are never made."""
POWER_STEPS = 12
RIDGE = 1e-10
"""Added to the diagonal of a preconditioner, as a share of it, for features that are copies of each other."""

Rows = Sequence[torch.Tensor]


def checked(x: Sequence[Any], y: Sequence[Any], device: torch.device | str) -> tuple[list[torch.Tensor], ...]:
    """Return X and y of each task as float64 tensors (n_t, d) and (n_t,) on a device.

    Raises:
        DataError: there is no task, a task has no rows, shapes disagree, or something is NaN or infinite.

    """
    if len(x) != len(y) or not len(x):
        raise DataError(f"X and y: found {len(x)} and {len(y)} tasks; expected as many in both, at least one")
    rows: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    for task, (one, truth) in enumerate(zip(x, y, strict=True)):
        table = torch.as_tensor(_numbers(one), dtype=torch.float64)
        wanted = torch.as_tensor(_numbers(truth), dtype=torch.float64)
        wanted = wanted[:, 0] if wanted.ndim == 2 and wanted.shape[1] == 1 else wanted
        fits = table.ndim == 2 and wanted.shape == table.shape[:1] and table.numel() > 0
        if not fits or (rows and table.shape[1] != rows[0].shape[1]):
            found = f"X {tuple(table.shape)} and y {tuple(wanted.shape)}"
            raise DataError(f"task {task}: found {found}; expected (n, d) and (n,), n > 0, and one d for all tasks")
        if not (torch.isfinite(table).all() and torch.isfinite(wanted).all()):
            raise DataError(
                f"task {task}: found NaN or infinity in X or y; expected finite numbers (leave such rows out)"
            )
        rows.append(table.to(device))
        values.append(wanted.to(device))
    return rows, values


def _numbers(values: Any) -> Any:
    return values.detach() if isinstance(values, torch.Tensor) else np.array(values, np.float64)


def laplacian(structure: Any, rho1: float, n_tasks: int, device: torch.device | str) -> torch.Tensor:
    """Return 2 rho1 R R^T (t, t), by which the graph enters the gradient; R is (t, edges), and may have no edges.

    Raises:
        DataError: R has another number of tasks, or NaN or infinity in it.

    """
    found = np.asarray(structure, np.float64)
    if found.ndim != 2 or len(found) != n_tasks or not np.isfinite(found).all():
        raise DataError(f"R: found {found.shape}; expected ({n_tasks}, edges) of finite numbers, one row a task")
    return torch.as_tensor(2 * rho1 * found @ found.T, device=device)


class TaskSquares:
    """f(W) = sum over tasks of 1/2 ||X_i w_i - y_i||^2 + 1/2 <W, graph W>, W as (t, d), `graph` (t, t).

    Where d is at most the mean number of rows, X^T X is made once and X is not touched again; else X is multiplied
    directly. `slope` (t, d) is X_i^T y_i, `constant` half the sum of y squared.
    """

    def __init__(self, x: Rows, y: Rows, graph: torch.Tensor | None = None) -> None:
        self.x, self.y = x, y
        self.graph = graph if graph is not None and bool(graph.any()) else None
        t, d = len(x), x[0].shape[1]
        self.shape = (t, d)
        self._features: torch.Tensor | None = None
        self._width = d
        self.slope = torch.stack([a.mT @ b for a, b in zip(x, y, strict=True)])
        self.constant = 0.5 * sum(float(b @ b) for b in y)
        small = d * t <= sum(len(a) for a in x) and t * d * d <= MOST_GRAM_NUMBERS
        self._gram = torch.stack([a.mT @ a for a in x]) if small else None

    def with_graph(self, graph: torch.Tensor) -> TaskSquares:
        """Return the same squares with another graph; what was computed from X is shared."""
        other = TaskSquares.__new__(TaskSquares)
        other.__dict__.update(self.__dict__)
        other.graph = graph if bool(graph.any()) else None
        return other

    def of_features(self, chosen: torch.Tensor) -> TaskSquares:
        """Return the problem in which each task may have weights at some features only: indices `chosen` (t, k)."""
        part = TaskSquares([a[:, own] for a, own in zip(self.x, chosen, strict=True)], self.y, self.graph)
        part._features, part._width = chosen, self.shape[1]
        return part

    def spread(self, w: torch.Tensor) -> torch.Tensor:
        """Return what the graph makes of w: differences between tasks count at the same feature alone."""
        assert self.graph is not None
        if self._features is None:
            return self.graph @ w
        whole = w.new_zeros(len(w), self._width).scatter_(1, self._features, w)
        return (self.graph @ whole).gather(1, self._features)

    def hessian(self, w: torch.Tensor) -> torch.Tensor:
        """Return the second derivative of f applied to w (t, d)."""
        if self._gram is not None:
            made = (self._gram @ w[:, :, None])[:, :, 0]
        else:
            made = torch.stack([(a @ v) @ a for a, v in zip(self.x, w, strict=True)])
        return made if self.graph is None else made + self.spread(w)

    def solve_near(self, wanted: torch.Tensor, w: torch.Tensor, free: torch.Tensor, max_iter: int) -> torch.Tensor:
        """Return the v, 0 where `free` (t, d) bool is not, whose second derivative there is `wanted`, by conjugate gradients.

        The search starts at w and is preconditioned by each task's own second derivative.
        """
        inverse = self._preconditioner(free)
        v = w * free
        residual = (wanted - self.hessian(v)) * free
        z = inverse(residual)
        p, along = z, (residual * z).sum()
        enough = 1e-24 * along
        for _ in range(max_iter):
            bent = self.hessian(p) * free
            length = along / (p * bent).sum().clamp(min=torch.finfo(p.dtype).tiny)
            v = v + length * p
            residual = residual - length * bent
            z = inverse(residual)
            following = (residual * z).sum()
            if not following > enough:
                break
            p, along = z + following / along * p, following
        return v

    def _preconditioner(self, free: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        diagonal = self.diagonal()
        if self._gram is None:
            return lambda r: r / diagonal
        blocks = self._gram * (free[:, :, None] & free[:, None])
        torch.diagonal(blocks, dim1=1, dim2=2).copy_(torch.where(free, (1 + RIDGE) * diagonal, 1.0))
        factors, failed = torch.linalg.cholesky_ex(blocks)
        if failed.any():
            return lambda r: r / diagonal
        return lambda r: torch.cholesky_solve(r[:, :, None], factors)[:, :, 0]

    def value(self, w: torch.Tensor) -> float:
        """Return f(w) from the residuals, without the cancellation of the expanded square."""
        squares = sum(float((a @ v - b).square().sum()) for a, b, v in zip(self.x, self.y, w, strict=True))
        spread = 0.0 if self.graph is None else float((w * self.spread(w)).sum())
        return 0.5 * (squares + spread)

    def diagonal(self) -> torch.Tensor:
        """Return the diagonal of the second derivative (t, d); 1 where it is 0, since nothing depends on that weight."""
        if self._gram is not None:
            made = torch.diagonal(self._gram, dim1=1, dim2=2)
        else:
            made = torch.stack([a.square().sum(0) for a in self.x])
        if self.graph is not None:
            made = made + torch.diagonal(self.graph)[:, None]
        return torch.where(made > 0, made, 1.0)

    def curvature(self, scale: torch.Tensor) -> tuple[float, float]:
        """Return the largest eigenvalue of the second derivative in units of `scale`: an estimate and an upper bound.

        `scale` is (t, d), or (1, 1).
        """
        root = scale.sqrt()
        v = torch.as_tensor(numpy_generator(0).normal(size=self.shape), device=root.device)
        estimate = 0.0
        for _ in range(POWER_STEPS):
            v = v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)
            v = self.hessian(v / root) / root
            estimate = float(v.norm())
        # The trace of a task's matrix and Gershgorin's rows of the graph.
        squares = torch.stack([a.square().sum(0) for a in self.x]) / scale
        most = float(squares.sum(1).max())
        if self.graph is not None:
            most += float((self.graph.abs().sum(1)[:, None] / scale).max() * (scale.max() / scale.min()) ** 0.5)
        return min(1.05 * estimate, most), most


def weights(w: torch.Tensor) -> Array:
    """Return W (d, t), as the literature writes it, of w (t, d)."""
    return np.ascontiguousarray(w.cpu().numpy().T)


def check_penalties(**penalties: float) -> None:
    """Raise ValueError for a penalty that is negative or no number."""
    for name, value in penalties.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: found {value}; expected a number of at least 0")
