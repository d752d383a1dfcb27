"""alter-pSVM: labels and machine in turns, while the cost of the machine's errors grows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from fewcore import Array, Run
from fewcore_propsvm.svm import SVM, SVMSolution, svm

FIRST_SHARE = 1e-4
GROWTH = 1.5
MAX_ROUNDS = 100
DIGITS = 1e9
"""Numbers that differ by less than one over this count as equal, so that devices agree on ties."""


@dataclass(frozen=True, eq=False)
class ProportionSVMSolution:
    """Labels (n,) of 1 and -1 found for the rows, the machine for them, and the objective that they reach.

    `objectives` are those of all restarts; `objective` is the least of them.
    """

    labels: torch.Tensor
    machine: SVMSolution
    objective: float
    objectives: Array


class Bags:
    """Bags of rows and the share of positives that each should have.

    `bag` (n,) numbers the bag of each row from 0 to k - 1; `proportions` (k,) are in [0, 1].
    """

    def __init__(self, bag: Array, proportions: Array, device: torch.device | str = "cpu") -> None:
        sizes = np.bincount(bag, minlength=len(proportions))
        order = np.argsort(bag, kind="stable")
        place = np.arange(len(bag)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        table = np.full((len(sizes), int(sizes.max())), -1)
        table[bag[order], place] = order
        self.table = torch.from_numpy(table).to(device)
        self.sizes = torch.from_numpy(sizes).to(device)
        self.proportions = torch.from_numpy(np.asarray(proportions, np.float64)).to(device)

    def penalties(self, eps: float) -> torch.Tensor:
        """Return |B_b| max(0, |m / |B_b| - p_b| - eps) for each number of positives m, (k, largest + 1); else inf."""
        counts = torch.arange(self.table.shape[1] + 1, device=self.sizes.device, dtype=torch.float64)
        sizes = self.sizes[:, None].double()
        found = sizes * ((counts / sizes - self.proportions[:, None]).abs() - eps).clamp(min=0)
        return torch.where(counts <= sizes, found, torch.inf)

    def positives(self, labels: torch.Tensor) -> torch.Tensor:
        """Return how many rows of each bag have the label 1, (k,) int64."""
        return ((labels[self.table] > 0) & (self.table >= 0)).sum(1)

    def penalty(self, labels: torch.Tensor, eps: float) -> float:
        """Return the sum of the penalties of labels (n,)."""
        return float(self.penalties(eps).gather(1, self.positives(labels)[:, None]).sum())


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return torch.round(values * DIGITS) / DIGITS


def best_labels(margins: torch.Tensor, bags: Bags, eps: float, ratio: float) -> torch.Tensor:
    """Return the labels (n,) with the least sum of hinge losses and `ratio` times the penalties, for margins f (n,).

    Bag by bag: with m positives they are those whose loss falls most by it, delta = max(0, 1 + f) - max(0, 1 - f), and
    each m costs what is left of the losses of negatives plus the penalty. Of equal costs the smallest m is taken.
    """
    delta = _rounded((1 + margins).clamp(min=0) - (1 - margins).clamp(min=0))
    known = bags.table >= 0
    table = torch.where(known, delta[bags.table], -torch.inf)
    ordered, order = table.sort(dim=1, descending=True, stable=True)
    saved = torch.where(ordered.isinf(), 0.0, ordered).cumsum(1)
    cost = ratio * bags.penalties(eps)
    cost[:, 1:] -= saved
    cost = _rounded(cost)
    counts = torch.arange(cost.shape[1], device=cost.device)
    least = cost <= cost.min(1, keepdim=True).values
    chosen = torch.where(least, counts, cost.shape[1]).min(1).values
    rank = torch.empty_like(order).scatter_(1, order, counts[:-1].expand_as(order))
    labels = torch.empty_like(margins)
    labels[bags.table[known]] = torch.where(rank < chosen[:, None], 1.0, -1.0).to(labels)[known]
    return labels


def balanced_labels(n: int, rng: np.random.Generator) -> Array:
    """Return labels (n,) int8, 1 and -1, as many of one as of the other, in random order."""
    return np.where(rng.permutation(n) % 2, 1, -1).astype(np.int8)


def any_labels(n: int, rng: np.random.Generator) -> Array:
    """Return labels (n,) int8, each 1 or -1 with equal probability."""
    return np.where(rng.integers(0, 2, n) == 1, 1, -1).astype(np.int8)


class _Annealing:
    """Descents from several starts; one that reaches what another has reached is not followed again."""

    def __init__(
        self, matrix: torch.Tensor, bags: Bags, cost: float, bag_cost: float, eps: float, first: float
    ) -> None:
        self.matrix, self.bags = matrix, bags
        self.cost, self.bag_cost, self.eps = cost, bag_cost, eps
        self.first = first
        self._known: dict[bytes, tuple[torch.Tensor, float]] = {}

    def objective(self, machine: SVMSolution, labels: torch.Tensor, cost: float) -> float:
        """Return the objective of labels (n,) and the machine for them."""
        return machine.norm / 2 + cost * machine.hinge + self.bag_cost * self.bags.penalty(labels, self.eps)

    def descend(self, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the labels to which a start leads, and their objective."""
        machines = SVM(self.matrix)
        cost, stage = self.first, 0
        visited: list[bytes] = []
        while True:
            for _ in range(MAX_ROUNDS):
                key = _key(stage, labels)
                if key in self._known:
                    return self._learnt(visited, self._known[key])
                visited.append(key)
                machine = machines.solve(labels, cost)
                better = best_labels(machine.margins, self.bags, self.eps, self.bag_cost / cost)
                if bool((better == labels).all()) or _key(stage, better) in visited:
                    break
                labels = better
            if cost >= self.cost:
                return self._learnt(visited, (labels, self.objective(machine, labels, cost)))
            cost, stage = min(GROWTH * cost, self.cost), stage + 1

    def _learnt(self, visited: list[bytes], end: tuple[torch.Tensor, float]) -> tuple[torch.Tensor, float]:
        self._known |= dict.fromkeys(visited, end)
        return end


def _key(stage: int, labels: torch.Tensor) -> bytes:
    packed = np.packbits((labels > 0).cpu().numpy())
    return hashlib.sha256(stage.to_bytes(2, "little") + packed.tobytes()).digest()


def alternating_psvm(
    matrix: torch.Tensor,
    bag: Array,
    proportions: Array,
    *,
    C: float = 1.0,
    C_p: float = 1.0,
    eps: float = 0.0,
    restarts: int = 10,
    anneal: bool = True,
    run: Run | None = None,
) -> ProportionSVMSolution:
    """Return the best of several local minima, over labels y, w and b, of

        1/2 |w|^2 + C sum_i max(0, 1 - y_i f(x_i)) + C_p sum_b |B_b| max(0, |share of positives in b - p_b| - eps).

    `matrix` is K (n, n) float64 on any device, `bag` (n,) numbers the bag of each row from 0, `proportions` (k,) are
    the p_b. Each restart draws balanced labels; a stage solves for the machine and for the labels in turns until these
    stay; from stage to stage C grows by half, from C / 10,000, so that the proportions rule first. That finds low
    minima from few starts, but there are problems (4 of 16 with 6 or 8 rows) whose lowest it misses from every start.
    Without `anneal` each restart draws labels of any balance and works at C at once: as restarts grow, the lowest
    minimum is found with certainty, since its own labels are a start that stays.

    Source: F. X. Yu, D. Liu, S. Kumar, T. Jebara, S.-F. Chang: pSVM for Learning with Label Proportions, ICML 2013,
    arXiv:1306.0886, with the schedule of the authors' code.

    Differs from the paper: a stage ends when labels stay and not when the objective falls by less than 0.01; labels that
    are all equal give w = 0 instead of an error.
    """
    run = run if run is not None else Run()
    bags = Bags(bag, proportions, matrix.device)
    n = len(bag)
    draw = balanced_labels if anneal else any_labels
    starts = np.stack([draw(n, run.rng) for _ in range(restarts)])
    annealing = _Annealing(matrix, bags, C, C_p, eps, FIRST_SHARE * C if anneal else C)
    ends, objectives = np.zeros((restarts, n), np.int8), np.full(restarts, np.inf)
    for number in run.loop(restarts, name="restarts", ends=ends, objectives=objectives):
        labels, objective = annealing.descend(torch.from_numpy(starts[number]).to(matrix))
        ends[number], objectives[number] = labels.cpu().numpy(), objective
        run.log(objective=objective)
    chosen = int(np.flatnonzero(objectives <= objectives.min() * (1 + 1 / DIGITS))[0])
    labels = torch.from_numpy(ends[chosen]).to(matrix)
    machine = svm(matrix, labels, C)  # from a cold start: the same bits whatever was computed before
    return ProportionSVMSolution(labels, machine, annealing.objective(machine, labels, C), objectives)
