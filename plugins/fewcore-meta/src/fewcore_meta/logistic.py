"""Multinomial logistic regression with an L2 penalty, for many tasks at once."""

from __future__ import annotations

import torch

from fewcore import NumericalError

MEMORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps."""
MAX_ITERATIONS = 2000
MAX_LINE_SEARCH = 20
TARGET_GAP = 1e-10
WORST_GAP = 1e-5
CURVATURE = 0.5
MAX_ELEMENTS = 2**22


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner product of each task's parameters, (t, 1, 1)."""
    return (a * b).sum((1, 2), keepdim=True)


class _Objective:
    """C times the summed cross-entropy plus half the squared weights, of tasks with features (t, s, r + 1).

    The last feature is 1: its weights (t, 1, k) are the biases, which are not penalised.
    """

    def __init__(self, features: torch.Tensor, one_hot: torch.Tensor, cost: float) -> None:
        self.features = features
        self.one_hot = one_hot
        self.cost = cost
        self.penalised = torch.ones(features.shape[2], 1, dtype=features.dtype, device=features.device)
        self.penalised[-1] = 0

    def value(self, weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the objective, (t, 1, 1)."""
        loss = (logits.logsumexp(-1) - (logits * self.one_hot).sum(-1)).sum(-1)[:, None, None]
        return self.cost * loss + 0.5 * _dot(weights, self.penalised * weights)

    def gradient(self, weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the gradient, (t, r + 1, k)."""
        residual = self.cost * (logits.softmax(-1) - self.one_hot)
        return torch.baddbmm(self.penalised * weights, self.features.mT, residual)

    def gap(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return how far the objective may be above its least, (t, 1, 1).

        It is 1-strongly convex in the weights, which gives half the squared gradient. The biases have no penalty; for
        theirs the curvature at equal probabilities stands in, where it is less than 1.
        """
        n_support, n_way = self.one_hot.shape[1:]
        bias = gradient[:, -1:]
        factor = max(0.0, n_way / (self.cost * n_support) - 1)
        return 0.5 * (_dot(gradient, gradient) + factor * _dot(bias, bias))

    def along(
        self, weights: torch.Tensor, logits: torch.Tensor, step: torch.Tensor, change: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return first and second derivative along `step`, which changes the logits by `change`, (t, 1, 1) each."""
        shares = logits.softmax(-1)
        mean = (shares * change).sum(-1, keepdim=True)
        penalty = self.penalised * step
        first = self.cost * _dot(shares - self.one_hot, change) + _dot(weights, penalty)
        second = self.cost * _dot(shares * change, change - mean) + _dot(step, penalty)
        return first, second


def _line_search(
    objective: _Objective,
    weights: torch.Tensor,
    logits: torch.Tensor,
    step: torch.Tensor,
    start: torch.Tensor,
    first_guess: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the length (t, 1, 1) of the step and the change of the logits that a whole step makes.

    Along a line the objective is convex, and its derivatives cost no product with the features: Newton's method on the
    length, kept between the bounds that the sign of the slope gives, until little of the slope `start` is left.
    """
    change = objective.features @ step
    low, high = torch.zeros_like(first_guess), torch.full_like(first_guess, torch.inf)
    length = first_guess
    for _ in range(MAX_LINE_SEARCH):
        slope, curvature = objective.along(weights + length * step, logits + length * change, step, change)
        good = slope.abs() <= CURVATURE * start.abs()
        if bool(good.all()):
            break
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        newton = length - slope / curvature.clamp(min=torch.finfo(slope.dtype).tiny)
        middle = torch.where(high.isinf(), 4 * length, (low + high) / 2)
        better = torch.where((newton > low) & (newton < high) & (newton < 10 * length), newton, middle)
        length = torch.where(good, length, better)
    return length, change


class _History:
    """The last steps and gradient changes of L-BFGS, per task."""

    def __init__(self) -> None:
        self.pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.scale: torch.Tensor | None = None

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Keep a pair. Where a task did not move, its pair is zero and changes no direction."""
        product = _dot(step, change)
        moved = product > 0
        inverse = torch.where(moved, 1 / product.clamp(min=torch.finfo(product.dtype).tiny), 0.0)
        self.pairs = [*self.pairs[-MEMORY + 1 :], (step, change, inverse)]
        scale = product / _dot(change, change).clamp(min=torch.finfo(product.dtype).tiny)
        self.scale = torch.where(moved, scale, self.scale if self.scale is not None else 1.0)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the direction of descent: the two loops of L-BFGS."""
        found = -gradient
        shares = []
        for step, change, inverse in reversed(self.pairs):
            share = inverse * _dot(step, found)
            found = found - share * change
            shares.append(share)
        if self.scale is not None:
            found = found * self.scale
        for (step, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            found = found + (share - inverse * _dot(change, found)) * step
        return found


def _minimise(objective: _Objective, n_way: int) -> torch.Tensor:
    """Return the weights (t, r + 1, k) at which the objective is least."""
    t, s, width = objective.features.shape
    weights = objective.features.new_zeros(t, width, n_way)
    logits = objective.features.new_zeros(t, s, n_way)
    gradient = objective.gradient(weights, logits)
    history = _History()
    start = objective.value(weights, logits)
    for _ in range(MAX_ITERATIONS):
        gap = objective.gap(gradient)
        # A share of what is left and of what was gained: at a small C hardly any is gained, at a large one little left.
        value = objective.value(weights, logits)
        scale = torch.minimum(value, start - value)
        running = gap > TARGET_GAP * scale
        if not bool(running.any()):
            return weights
        step = history.direction(gradient) * running
        guess = torch.ones_like(gap)
        if not history.pairs:
            guess = 1 / _dot(gradient, gradient).sqrt().clamp(min=1.0)
        length, change = _line_search(objective, weights, logits, step, _dot(gradient, step), guess)
        weights = weights + length * step
        logits = logits + length * change
        new = objective.gradient(weights, logits)
        history.add(length * step, (new - gradient) * running)
        gradient = new
    worst = float((gap / scale).max())
    if not worst <= WORST_GAP:
        raise NumericalError(
            f"linear: found a relative gap of {worst:.1e} after {MAX_ITERATIONS} iterations at C = {objective.cost}; "
            f"expected at most {WORST_GAP} (scale the vectors, or lower the largest C of the grid)"
        )
    return weights


def _fit_part(support: torch.Tensor, one_hot: torch.Tensor, cost: float) -> tuple[torch.Tensor, torch.Tensor]:
    mean = support.mean(1, keepdim=True)
    centred = support - mean
    basis = None
    if support.shape[1] < support.shape[2]:
        # The best weights lie in the span of the s support vectors: s numbers an image instead of e.
        basis, triangle = torch.linalg.qr(centred.mT)
        centred = triangle.mT
    ones = centred.new_ones(*centred.shape[:2], 1)
    found = _minimise(_Objective(torch.cat([centred, ones], -1), one_hot, cost), one_hot.shape[-1])
    weights, bias = found[:, :-1], found[:, -1]
    if basis is not None:
        weights = basis @ weights
    return weights, bias - (mean @ weights)[:, 0]


def fit(support: torch.Tensor, labels: torch.Tensor, n_way: int, cost: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (t, e, k) and biases (t, k), float64, of the regression of each task.

    They minimise `cost` times the cross-entropy, summed over the support set, plus half the sum of the squared weights;
    the biases are free. `support` (t, s, e), `labels` (t, s) from 0 to n_way - 1. L-BFGS in float64 runs until each task
    lies within 1e-10 of the least objective, as a share of that and of what was gained over weights of zero.

    Raises:
        NumericalError: a task is still farther than 1e-5 from it after 2000 iterations.

    """
    one_hot = torch.nn.functional.one_hot(labels, n_way).double()
    width = min(support.shape[1], support.shape[2]) + 1
    each = 2 * MEMORY * width * n_way + support.shape[1] * support.shape[2]
    size = max(1, MAX_ELEMENTS // each)
    made = [
        _fit_part(rows.double(), hot, cost)
        for rows, hot in zip(torch.split(support, size), torch.split(one_hot, size), strict=True)
    ]
    return torch.cat([weights for weights, _ in made]), torch.cat([bias for _, bias in made])
