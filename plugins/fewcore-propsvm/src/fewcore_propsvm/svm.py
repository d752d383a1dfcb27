"""The support vector machine with fixed labels, solved exactly in its dual, with a bias that is not penalised."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewcore_propsvm.box_qp import BoxSolver


@dataclass(frozen=True, eq=False)
class SVMSolution:
    """f(x) = sum_i beta_i K(x_i, x) + bias, with beta = alpha o y (n,), `margins` f(x_i) (n,) of the training rows.

    `norm` is |w|^2, `hinge` the sum of max(0, 1 - y_i f(x_i)).
    """

    beta: torch.Tensor
    bias: float
    margins: torch.Tensor
    norm: float
    hinge: float


def hinge_bias(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the b at which sum_i max(0, 1 - y_i (s_i + b)) is least, for scores s (n,) and labels y (n,) of 1 and -1.

    The slope of the sum changes by 1 at each kink y_i - s_i and is 0 beyond as many kinks as there are positive labels.
    Where a whole interval is least it is the interval's middle, and its finite end where it has but one.
    """
    kinks = (labels - scores).sort().values
    positives = int((labels > 0).sum())
    last = len(kinks) - 1
    low, high = kinks[min(max(positives - 1, 0), last)], kinks[min(positives, last)]
    return float((low + high) / 2) if 0 < positives <= last else float(low if positives else high)


class SVM:
    """Machines on one kernel matrix (n, n) float64 with changing labels: each solution is the start of the next.

    It minimises 1/2 |w|^2 + C sum_i max(0, 1 - y_i f(x_i)) over w and the bias b, in the dual: beta between 0 and
    C y_i, sum(beta) = 0. Where all labels are equal w = 0 and b is that label, which costs nothing.

    Source: C. Cortes, V. Vapnik: Support-vector networks, 1995, doi:10.1007/BF00994018.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self._solver = BoxSolver(matrix, zero_sum=True)
        self._last: tuple[SVMSolution, float] | None = None

    def _start(self, labels: torch.Tensor, cost: float) -> torch.Tensor:
        """Return a start: beta at the bounds where the last margins say so, and as it was in between."""
        if self._last is None:
            return cost * labels
        last, last_cost = self._last
        at_bound = (last.beta.abs() >= last_cost) | (last.beta * labels <= 0)
        full = torch.where(labels * last.margins < 1, cost * labels, 0.0)
        return torch.where(at_bound, full, last.beta)

    def solve(self, labels: torch.Tensor, cost: float) -> SVMSolution:
        """Return the machine for labels (n,) float64 of 1 and -1, and a cost C."""
        zero = torch.zeros_like(labels)
        if bool((labels == labels[0]).all()):
            return SVMSolution(zero, float(labels[0]), labels.clone(), 0.0, 0.0)
        bound = cost * labels
        low, high = torch.minimum(bound, zero), torch.maximum(bound, zero)
        multiplier = self._last[0].bias if self._last is not None else 0.0
        found = self._solver.solve(labels, low, high, self._start(labels, cost), multiplier)
        beta = found.x
        scores = beta @ self.matrix
        inside = (beta > low) & (beta < high)
        bias = found.multiplier if bool(inside.any()) else hinge_bias(scores, labels)
        margins = scores + bias
        hinge = float((1 - labels * margins).clamp(min=0).sum())
        solution = SVMSolution(beta, bias, margins, float(beta @ scores), hinge)
        self._last = (solution, cost)
        return solution


def svm(matrix: torch.Tensor, labels: torch.Tensor, cost: float) -> SVMSolution:
    """Return the machine for one kernel matrix (n, n), labels (n,) of 1 and -1, and a cost C; see `SVM`."""
    return SVM(matrix).solve(labels.to(matrix), cost)
