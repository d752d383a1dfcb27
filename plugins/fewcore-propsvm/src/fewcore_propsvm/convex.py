"""conv-pSVM: a convex relaxation over all labels that keep the proportions, by cutting planes and kernel weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize

from fewcore import Array, NumericalError, Run
from fewcore_propsvm.alternating import Bags
from fewcore_propsvm.box_qp import BoxSolver

MAX_ROUNDS = 10
WORTH = 0.01
LEAST_COMPONENTS, ENERGY = 50, 0.9
WEIGHT_TOLERANCE = 1e-9
MAX_WEIGHT_STEPS = 100


@dataclass(frozen=True, eq=False)
class ConvexSolution:
    """f(x) = sum_i coefficients_i (K(x_i, x) + 1), with coefficients (n,) = alpha o v.

    `labels` (t, n) of 1 and -1 are the labelings of the working set, `weights` (t,) theirs, `objectives` (rounds,) the
    objective after each round, which cannot rise; `gap` is max_t q_t - sum_t d_t q_t over the objective, 0 at the best
    weights.
    """

    coefficients: torch.Tensor
    alpha: torch.Tensor
    labels: torch.Tensor
    weights: Array
    objectives: Array
    gap: float


def components(matrix: Array) -> Array:
    """Return X (n, r) with X X^T close to the matrix (n, n): the leading directions of 90% of the energy, at least 50."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    total = values.sum()
    enough = int(np.searchsorted(values.cumsum(), ENERGY * total)) + 1 if total > 0 else 1
    r = min(max(LEAST_COMPONENTS, enough), len(values))
    return np.asarray(vectors[:, :r] * np.sqrt(values[:r]))


def bounds_of_positives(bags: Bags, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and largest number of positives of each bag, (k,) each; where there is none the nearest one."""
    sizes = bags.sizes.double()
    exact = sizes * bags.proportions
    low = torch.ceil(exact - eps * sizes - 1e-9).clamp(min=0)
    high = torch.minimum(torch.floor(exact + eps * sizes + 1e-9), sizes)
    nearest = torch.floor(exact + 0.5)
    empty = low > high
    return torch.where(empty, nearest, low).long(), torch.where(empty, nearest, high).long()


def most_violated(alpha: torch.Tensor, parts: torch.Tensor, bags: Bags, eps: float) -> torch.Tensor:
    """Return labels (n,) that keep the proportions and make max_j |sum_i alpha_i y_i x_ij| largest, x (n, r) = `parts`.

    For each direction j and sign, bag by bag: 1 for the largest of +-alpha_i x_ij, as many as are above 0, clamped to
    what the bag allows. It stands in for the Euclidean norm, whose largest value is hard to find.
    """
    low, high = bounds_of_positives(bags, eps)
    known = (bags.table >= 0)[..., None]
    scores = torch.cat([alpha[:, None] * parts, -alpha[:, None] * parts], 1)
    table = torch.where(known, scores[bags.table], -torch.inf)
    order = table.argsort(dim=1, descending=True, stable=True)
    counts = torch.minimum(torch.maximum(((table > 0) & known).sum(1), low[:, None]), high[:, None])
    places = torch.arange(table.shape[1], device=table.device)[None, :, None].expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    signs = torch.where(rank < counts[:, None], 1.0, -1.0).to(alpha)
    totals = torch.where(known, signs * scores[bags.table], 0.0).sum((0, 1))
    best = totals >= totals.max() * (1 - 1e-9)
    column = int(best.nonzero()[0, 0])
    labels = torch.empty_like(alpha)
    labels[bags.table[known[..., 0]]] = signs[..., column][known[..., 0]]
    return labels


class _Weighing:
    """The least over weights d on the simplex of max over alpha in [0, C] of sum(alpha) - 1/2 sum_t d_t q_t(alpha)."""

    def __init__(self, matrix: torch.Tensor, labels: torch.Tensor, cost: float) -> None:
        self.matrix, self.labels, self.cost = matrix, labels, cost
        self.alpha = torch.full_like(matrix[0], cost)

    def value(self, weights: Array) -> tuple[float, Array]:
        """Return the largest value over alpha and its gradient, -q_t / 2, (t,)."""
        share = torch.from_numpy(np.asarray(weights)).to(self.matrix)
        mixed = self.matrix * (self.labels.mT @ (share[:, None] * self.labels))
        one = torch.ones_like(self.alpha)
        self.alpha = BoxSolver(mixed).solve(one, 0 * one, self.cost * one, self.alpha).x
        quadratic = self.quadratic()
        return float(self.alpha.sum()) - float(weights @ quadratic) / 2, -quadratic / 2

    def quadratic(self) -> Array:
        """Return q_t = alpha^T (K o y_t y_t^T) alpha, (t,)."""
        signed = self.labels * self.alpha
        return np.asarray(((signed @ self.matrix) * signed).sum(1).cpu().numpy())

    def best(self, start: Array) -> tuple[Array, float]:
        """Return the best weights, and the value there."""
        if len(start) == 1:
            return start, self.value(start)[0]
        found = optimize.minimize(
            self.value,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * len(start),
            constraints={"type": "eq", "fun": lambda d: d.sum() - 1, "jac": np.ones_like},
            options={"ftol": WEIGHT_TOLERANCE, "maxiter": MAX_WEIGHT_STEPS},
        )
        weights = found.x.clip(min=0)
        weights /= weights.sum()
        if not np.isfinite(weights).all():
            raise NumericalError(
                "convex: found weights that are not finite; expected numbers (standardise the vectors)"
            )
        return weights, self.value(weights)[0]


def _direction(labels: torch.Tensor, weights: Array) -> torch.Tensor:
    """Return sqrt(lambda) v (n,) for the largest eigenvalue lambda of sum_t d_t y_t y_t^T and its eigenvector v."""
    root = labels * torch.from_numpy(np.sqrt(weights)).to(labels)[:, None]
    small = (root @ root.mT).cpu().numpy()
    vector = np.linalg.eigh(small)[1][:, -1]
    vector *= np.sign(vector[np.abs(vector).argmax()])
    return root.mT @ torch.from_numpy(vector).to(labels)


def convex_psvm(
    matrix: torch.Tensor,
    bag: Array,
    proportions: Array,
    *,
    C: float = 1.0,
    eps: float = 0.0,
    run: Run | None = None,
) -> ConvexSolution:
    """Return the machine of the convex relaxation of

        min_y max_{0 <= alpha <= C} sum(alpha) - 1/2 alpha^T ((K + 1) o y y^T) alpha, |share of positives in b - p_b| <= eps,

    in which y y^T may be any mean of such matrices. `matrix` is K (n, n) float64 on any device; `bag` (n,) numbers the
    bag of each row from 0; `proportions` (k,) are the p_b. The 1 added to the kernel stands for the bias. The labeling
    that is most violated joins the working set until the objective falls by less than 1%, or ten times. The sign of the
    machine is that with which the training rows keep the proportions better.

    Source: F. X. Yu, D. Liu, S. Kumar, T. Jebara, S.-F. Chang: pSVM for Learning with Label Proportions, ICML 2013,
    arXiv:1306.0886; Y.-F. Li, I. W. Tsang, J. T. Kwok, Z.-H. Zhou: Tighter and convex maximum margin clustering,
    AISTATS 2009.

    Differs from the authors' code: the number of positives is that of scores above 0 (there: the place of the smallest
    in an unsorted list), the weights are found by sequential quadratic programming, and the sign is set.
    """
    run = run if run is not None else Run()
    device = matrix.device
    bags = Bags(bag, proportions, device)
    kernel = matrix + 1
    parts = torch.from_numpy(components(kernel.cpu().numpy())).to(kernel)
    alpha = torch.full_like(kernel[0], 1 / len(kernel))
    labels, weights = kernel.new_zeros(0, len(kernel)), np.zeros(0)
    objectives: list[float] = []
    for _ in run.track(range(MAX_ROUNDS), name="cutting planes"):
        new = most_violated(alpha, parts, bags, eps)
        if len(labels) and bool((labels == new).all(1).any() | (labels == -new).all(1).any()):
            break
        labels = torch.cat([labels, new[None]])
        weighing = _Weighing(kernel, labels, C)
        start = np.append(weights * (1 - 1 / len(labels)), 1 / len(labels))
        weights, objective = weighing.best(start)
        alpha = weighing.alpha
        run.log(objective=objective)
        objectives.append(objective)
        if len(objectives) > 1 and objectives[-2] - objective < WORTH * abs(objective):
            break
    quadratic = weighing.quadratic()
    gap = float(quadratic.max() - weights @ quadratic) / max(abs(objectives[-1]), 1e-12)
    coefficients = alpha * _direction(labels, weights)
    margins = kernel @ coefficients
    wrong = [_error(bags, side * margins) for side in (1.0, -1.0)]
    side = 1.0 if wrong[0] <= wrong[1] else -1.0
    return ConvexSolution(side * coefficients, alpha, labels, weights, np.array(objectives), gap)


def _error(bags: Bags, margins: torch.Tensor) -> float:
    """Return the mean over rows of |share of positives in the row's bag - p_b|."""
    signs = torch.where(margins > 0, 1.0, -1.0).to(margins)
    shares = bags.positives(signs) / bags.sizes
    return float(((shares - bags.proportions).abs() * bags.sizes).sum() / bags.sizes.sum())
