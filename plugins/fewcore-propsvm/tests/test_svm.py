"""The machine with fixed labels against scikit-learn, and where it has no answer of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from fewcore_propsvm.kernels import kernel_matrix
from fewcore_propsvm.svm import SVM, hinge_bias, svm


def rows(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = np.where(x[:, 0] + 0.8 * rng.normal(size=n) > 0.2, 1.0, -1.0)
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("cost", [1e-3, 0.1, 1.0, 100.0])
def test_agrees_with_scikit_learn(kernel, cost):
    x, y = rows()
    matrix = kernel_matrix(x, x, kernel, 0.3)
    found = svm(matrix, y, cost)
    peer = SVC(C=cost, kernel=kernel, gamma=0.3, tol=1e-9).fit(x.numpy(), y.numpy())
    beta = np.zeros(len(y))
    beta[peer.support_] = peer.dual_coef_[0]
    tolerance = 1e-6 * max(1.0, cost)  # the peer's: its duality gap is a million times ours
    np.testing.assert_allclose((matrix @ found.beta).numpy(), matrix.numpy() @ beta, atol=tolerance)
    bounded = np.abs(beta[peer.support_]) > cost * (1 - 1e-6)
    if not bounded.all():  # otherwise the bias is one of many
        np.testing.assert_allclose(found.margins.numpy(), peer.decision_function(x.numpy()), atol=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_no_gap_between_primal_and_dual(seed):
    x, y = rows(seed=seed)
    matrix = x @ x.T
    found = svm(matrix, y, 0.7)
    primal = found.norm / 2 + 0.7 * found.hinge
    dual = float(y @ found.beta) - found.norm / 2
    assert primal == pytest.approx(dual, abs=1e-8)
    assert abs(float(found.beta.sum())) < 1e-9
    slow = sum(max(0.0, 1 - float(a * b)) for a, b in zip(y, matrix @ found.beta + found.bias, strict=True))
    assert found.hinge == pytest.approx(slow, abs=1e-9)


def test_a_warm_start_gives_what_a_cold_one_gives():
    x, y = rows(80, 8, seed=3)
    matrix, machines = x @ x.T, SVM(x @ x.T)
    rng = np.random.default_rng(0)
    for cost in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(3):
            y[rng.integers(80)] *= -1
            warm, cold = machines.solve(y, cost), svm(matrix, y, cost)
            torch.testing.assert_close(warm.margins, cold.margins, rtol=0, atol=1e-8)


def test_equal_labels_cost_nothing():
    x, y = rows()
    for side in (1.0, -1.0):
        found = svm(x @ x.T, side * y.abs(), 1.0)
        assert (found.norm, found.hinge, found.bias) == (0.0, 0.0, side)


@pytest.mark.parametrize("seed", range(5))
def test_the_bias_is_the_middle_of_the_best(seed):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=7))
    labels = torch.from_numpy(np.where(np.arange(7) < seed, 1.0, -1.0))
    grid = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    cost = (1 - labels[:, None] * (scores[:, None] + grid)).clamp(min=0).sum(0)
    best = grid[cost <= cost.min() + 1e-9]
    found = hinge_bias(scores, labels)
    inside = [float(best.min()), float(best.max())]
    expected = float(np.mean(inside)) if seed > 0 else inside[1]
    assert found == pytest.approx(expected, abs=2e-3)


def test_one_row_of_a_class_and_constant_features():
    matrix = torch.ones(6, 6, dtype=torch.float64)
    found = svm(matrix, torch.tensor([1.0, -1, -1, -1, -1, -1], dtype=torch.float64), 1.0)
    assert found.norm == pytest.approx(0, abs=1e-9)
    assert found.hinge == pytest.approx(2)


def test_no_variation_at_all():
    found = svm(torch.zeros(4, 4, dtype=torch.float64), torch.tensor([1.0, 1, 1, -1], dtype=torch.float64), 1.0)
    assert bool((found.margins > 0).all())
