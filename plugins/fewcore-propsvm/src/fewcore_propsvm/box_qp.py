"""Quadratic programmes between bounds, solved exactly by an active set that a warm start shortens; torch, CPU and CUDA."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewcore import NumericalError

RIDGE = 1e-12
"""Added to the diagonal, as a share of its mean: it makes equal rows a problem with one answer."""
TOLERANCE = 1e-10
ROUNDING = 1e-15
PENALTY = 10.0
RELEASED = 8
"""Variables that leave their bounds together."""
WORTH = 0.1
"""A variable is released with the worst one where its gradient is at least this share of the worst."""
FRESH = 100
"""Changes after which the inverse is made anew."""
KEPT = 0.7
"""A face is kept from one problem to the next where this share of it stays."""
PIVOTS_PER_VARIABLE = 100


@dataclass(frozen=True, eq=False)
class BoxSolution:
    """Minimiser `x` (n,), `slope` (n,) = Q x - linear + multiplier, and the multiplier of sum(x) = 0, 0 without it."""

    x: torch.Tensor
    slope: torch.Tensor
    multiplier: float


class _Face:
    """The variables strictly between their bounds and the inverse of their block of the matrix.

    The inverse lies in a buffer that grows by doubling; a variable that leaves changes places with the last.
    """

    def __init__(self, solver: BoxSolver) -> None:
        self._solver = solver
        self._index = torch.zeros(16, dtype=torch.long, device=solver.matrix.device)
        self._inverse = solver.matrix.new_zeros(16, 16)
        self.size = 0
        self.changes = 0

    @property
    def index(self) -> torch.Tensor:
        """Numbers of the variables, (m,)."""
        return self._index[: self.size]

    @property
    def inverse(self) -> torch.Tensor:
        """Inverse of their block, (m, m)."""
        return self._inverse[: self.size, : self.size]

    def _grow(self, size: int) -> None:
        old = len(self._index)
        if size > old:
            wide = max(2 * old, size)
            index, inverse = self._index.new_zeros(wide), self._inverse.new_zeros(wide, wide)
            index[:old], inverse[:old, :old] = self._index, self._inverse
            self._index, self._inverse = index, inverse

    def set(self, index: torch.Tensor) -> None:
        """Take these variables, and invert their block anew."""
        self._grow(len(index))
        self.size, self.changes = len(index), 0
        self.index.copy_(index)
        if self.size:
            block = self._solver.block(index, index)
            self.inverse.copy_(torch.cholesky_inverse(torch.linalg.cholesky(block)))

    def become(self, inside: torch.Tensor) -> None:
        """Take the variables that a mask (n,) names, those that are there already with what is known of them."""
        wanted = inside.nonzero()[:, 0]
        surplus = (~inside[self.index]).nonzero()[:, 0].tolist()
        if self.size - len(surplus) < KEPT * len(wanted) or len(surplus) > KEPT * self.size:
            self.set(wanted)
            return
        for place in reversed(surplus):
            self.drop(place)
        missing = inside.clone()
        missing[self.index] = False
        new = missing.nonzero()[:, 0]
        if len(new):
            self.add(new)

    def add(self, new: torch.Tensor) -> None:
        """Add variables (a,), by the Schur complement of their block."""
        m, a = self.size, len(new)
        self._grow(m + a)
        cross = self._solver.block(self.index, new)
        moved = self.inverse @ cross
        inner = torch.linalg.inv(self._solver.block(new, new) - cross.mT @ moved)
        inner = (inner + inner.mT) / 2
        outer = moved @ inner
        self.inverse.addmm_(outer, moved.mT)
        self._index[m : m + a] = new
        self._inverse[:m, m : m + a] = -outer
        self._inverse[m : m + a, :m] = -outer.mT
        self._inverse[m : m + a, m : m + a] = inner
        self.size += a
        self.changes += a

    def drop(self, place: int) -> None:
        """Remove the variable at a place; the last one takes its place."""
        last = self.size - 1
        whole = self.inverse
        column = whole[place].clone()
        whole.addr_(column, column / column[place], alpha=-1)
        if place != last:
            self._index[place] = self._index[last]
            whole[place, :last] = whole[last, :last]
            whole[:last, place] = whole[:last, last]
            whole[place, place] = whole[last, last]
        self.size = last
        self.changes += 1


class BoxSolver:
    """Minimises 1/2 x^T Q x - linear^T x over low <= x <= high, and sum(x) = 0 where `zero_sum` says so.

    `matrix` is Q (n, n) float64, positive semi-definite. One solver serves many problems with the same Q; what it keeps
    of the last one makes the next one quicker, and changes its solution in the last digits only.

    A face of the box (the variables strictly between their bounds) is kept with the inverse of its block of Q. The least
    point of the face is aimed at; a bound that is met on the way takes its variable out of the face, otherwise those
    variables are released from their bounds whose gradients point inwards most. The objective falls with each step,
    so no face comes twice. The equation sum(x) = 0 is met by the method of multipliers, which ends after finitely many
    steps where the objective is piecewise quadratic (a proximal point in the multiplier).

    Source: K. Scheinberg: An efficient implementation of an active set method for SVMs, JMLR 7, 2006; R. T. Rockafellar:
    Augmented Lagrangians and applications of the proximal point algorithm, 1976, doi:10.1287/moor.1.2.97.
    """

    def __init__(self, matrix: torch.Tensor, *, zero_sum: bool = False) -> None:
        scale = float(matrix.diagonal().mean()) or 1.0
        self.matrix = matrix
        self.ridge = RIDGE * scale
        self.penalty = PENALTY * scale if zero_sum else 0.0
        self._scale = scale
        self.face = _Face(self)

    def block(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return a block of Q with ridge and penalty."""
        found = self.matrix[rows][:, columns] + self.penalty
        return torch.where(rows[:, None] == columns, found + self.ridge, found)

    def _times(self, x: torch.Tensor) -> torch.Tensor:
        moved = x.nonzero()[:, 0]
        part = x[moved]
        return part @ self.matrix[moved] + self.ridge * x

    def solve(
        self,
        linear: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        start: torch.Tensor,
        multiplier: float = 0.0,
    ) -> BoxSolution:
        """Return the minimiser, from a start (n,) that need be neither between the bounds nor of sum zero.

        Raises:
            NumericalError: the bounds of rounding are met before the conditions of a minimum.

        """
        return _Search(self, linear, low, high, start, multiplier).run()

    def tolerance(self, bound: float) -> float:
        """Return by how much a gradient may miss zero, where the variables are at most `bound`."""
        return max(TOLERANCE, ROUNDING * len(self.matrix) * bound * self._scale)


class _Search:
    """One problem on its way to the minimum."""

    def __init__(
        self,
        solver: BoxSolver,
        linear: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        start: torch.Tensor,
        multiplier: float,
    ) -> None:
        self.solver, self.linear, self.low, self.high = solver, linear, low, high
        self.multiplier = multiplier
        self.x = torch.minimum(torch.maximum(start, low), high)
        self.tolerance = solver.tolerance(float(torch.maximum(low.abs(), high.abs()).max()))
        self.inside = (self.x > low) & (self.x < high)
        self.face = solver.face
        self.face.become(self.inside)
        self.gradient = self._anew()
        self.released = RELEASED

    def _anew(self) -> torch.Tensor:
        total = self.solver.penalty * self.x.sum() + self.multiplier
        return self.solver._times(self.x) + total - self.linear

    def run(self) -> BoxSolution:
        """Return the minimiser."""
        for _ in range(PIVOTS_PER_VARIABLE * (len(self.x) + 10)):
            self._descend()
            settled = not self.face.size or float(self.gradient[self.face.index].abs().max()) <= self.tolerance
            if not settled:  # what rounding has left: once more, with an inverse made anew
                self.face.set(self.face.index.clone())
            elif not self._release() and not self._shift():
                slope = self.gradient - self.solver.penalty * self.x.sum()
                return BoxSolution(self.x, slope, self.multiplier)
        raise NumericalError(
            f"box_qp: found no minimum of {len(self.x)} variables to {self.tolerance:.1e}; expected one "
            "(standardise the vectors, or lower C)"
        )

    def _descend(self) -> None:
        """Go to the least point of the face; each bound that is met on the way makes the face smaller."""
        before = self.x.clone()
        if self.face.changes > FRESH:
            self.face.set(self.face.index.clone())
        index = self.face.index
        # Value, bounds and gradient of the face's variables, (4, m), in the order of the face.
        local = torch.stack([self.x[index], self.low[index], self.high[index], self.gradient[index]])
        while self.face.size:
            way = -(self.face.inverse @ local[3])
            aim = torch.where(way > 0, local[2], local[1])
            room = torch.where(way == 0, torch.inf, (aim - local[0]) / way)
            found, place = room.min(0)
            length, at = max(0.0, float(found)), int(place)
            if length >= 1:
                local[0] += way
                break
            local[0] += length * way
            local[3] *= 1 - length
            out = int(self.face.index[at])
            self.x[out], self.inside[out] = aim[at], False
            local[:, at] = local[:, -1]
            local = local[:, :-1]
            self.face.drop(at)
        self.x[self.face.index] = local[0]
        moved = self.x - before
        self.released = RELEASED if bool((moved != 0).any()) else 1
        self.gradient = self.gradient + self.solver._times(moved) + self.solver.penalty * moved.sum()

    def _release(self) -> bool:
        """Release the variables whose gradients point inwards most; returns whether there were any."""
        inwards = torch.where(self.x <= self.low, -self.gradient, self.gradient)
        fixed = self.inside | (self.low >= self.high)
        inwards = torch.where(fixed, -torch.inf, inwards)
        worst, new = inwards.topk(min(self.released, len(inwards)))
        if float(worst[0]) <= self.tolerance:
            self.gradient = self._anew()  # rid of what rounding has gathered
            inwards = torch.where(self.x <= self.low, -self.gradient, self.gradient)
            inwards = torch.where(fixed, -torch.inf, inwards)
            worst, new = inwards.topk(min(self.released, len(inwards)))
            if float(worst[0]) <= self.tolerance:
                return False
        new = new[worst > max(self.tolerance, WORTH * float(worst[0]))]
        self.inside[new] = True
        self.face.add(new)
        return True

    def _shift(self) -> bool:
        """Make a step of the method of multipliers; returns whether the sum was still away from zero."""
        change = self.solver.penalty * float(self.x.sum())
        if abs(change) <= self.tolerance:
            return False
        self.multiplier += change
        self.gradient = self.gradient + change
        return True
