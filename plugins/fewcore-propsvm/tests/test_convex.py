"""conv-pSVM against slow forms of its dual, of the most violated labels and of its weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fewcore import Run
from fewcore_propsvm.alternating import Bags
from fewcore_propsvm.convex import bounds_of_positives, components, convex_psvm, most_violated


def two_clouds(n=40, gap=2.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, 3))
    x[:, 0] += gap * (2 * truth - 1)
    return torch.from_numpy(x), truth


def slow_dual(kernel, labels, weights, alpha):
    """sum alpha - 1/2 alpha^T ((sum_t d_t y_t y_t^T) o K) alpha, term by term."""
    total = float(alpha.sum())
    for d, y in zip(weights, labels, strict=True):
        for i, j in itertools.product(range(len(alpha)), repeat=2):
            total -= 0.5 * d * float(alpha[i] * alpha[j] * y[i] * y[j] * kernel[i, j])
    return total


@pytest.mark.parametrize("seed", range(5))
def test_most_violated_labels_are_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    bag, proportions = np.array([0, 0, 0, 0, 1, 1, 1, 1]), rng.random(2)
    alpha, parts = rng.random(8), rng.normal(size=(8, 3))
    bags, eps = Bags(bag, proportions), 0.3
    low, high = (bound.tolist() for bound in bounds_of_positives(bags, eps))
    best = 0.0
    for signs in itertools.product((1, -1), repeat=8):
        y = np.array(signs)
        counts = [(y[bag == b] == 1).sum() for b in range(2)]
        if all(low[b] <= counts[b] <= high[b] for b in range(2)):
            best = max(best, *np.abs((alpha * y) @ parts))
    found = most_violated(torch.from_numpy(alpha), torch.from_numpy(parts), bags, eps).numpy()
    assert np.abs((alpha * found) @ parts).max() == pytest.approx(best)
    assert all(low[b] <= (found[bag == b] == 1).sum() <= high[b] for b in range(2))


def test_bounds_count_positives_and_are_never_empty():
    bags = Bags(np.repeat([0, 1, 2], [4, 3, 1]), np.array([0.5, 0.5, 0.6]))
    low, high = bounds_of_positives(bags, 0.0)
    assert low.tolist() == high.tolist() == [2, 2, 1]
    low, high = bounds_of_positives(bags, 0.25)
    assert (low.tolist(), high.tolist()) == ([1, 1, 1], [3, 2, 1]) or low[2] == high[2] == 1


def test_the_solution_is_that_of_the_slow_dual():
    x, truth = two_clouds(12, gap=0.5)
    bag = np.arange(12) % 2
    shares = np.array([truth[bag == b].mean() for b in range(2)])
    found = convex_psvm(x @ x.T, bag, shares, C=1.0, run=Run())
    kernel = (x @ x.T + 1).numpy()
    labels, alpha = found.labels.numpy(), found.alpha.numpy()
    assert found.objectives[-1] == pytest.approx(slow_dual(kernel, labels, found.weights, alpha), abs=1e-7)
    assert found.weights.sum() == pytest.approx(1)
    assert found.gap < 1e-3

    def worst(alpha):  # min over alpha of max_t: the same saddle point from the other side
        signed = labels * alpha
        values = np.einsum("ti,ij,tj->t", signed, kernel, signed) / 2
        return values.max() - alpha.sum()

    def epigraph(z):
        signed = labels * z[:-1]
        return z[-1] - np.einsum("ti,ij,tj->t", signed, kernel, signed) / 2

    start = np.append(alpha, worst(alpha) + alpha.sum() + 0.1)
    slow = minimize(
        lambda z: z[-1] - z[:-1].sum(),
        start,
        bounds=[(0, 1)] * 12 + [(None, None)],
        constraints={"type": "ineq", "fun": epigraph},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.objectives[-1] == pytest.approx(-slow.fun, abs=1e-4)


def test_the_objective_falls_as_labels_join():
    x, truth = two_clouds(60, gap=0.3, seed=2)
    bag = np.arange(60) // 10
    found = convex_psvm(x @ x.T, bag, np.bincount(bag, truth) / 10, run=Run())
    assert len(found.objectives) > 1
    assert bool((np.diff(found.objectives) <= 1e-6).all())
    assert len(found.labels) == len(found.weights)


@pytest.mark.parametrize("flipped", [False, True])
def test_two_clouds_are_told_apart_and_oriented_by_the_proportions(flipped):
    x, truth = two_clouds()
    truth = 1 - truth if flipped else truth
    bag = np.where(np.random.default_rng(1).random(40) < 0.2, 1 - truth, truth)
    shares = np.array([truth[bag == b].mean() for b in range(2)])
    found = convex_psvm(x @ x.T, bag, shares, run=Run())
    said = ((x @ x.T + 1) @ found.coefficients).numpy() > 0
    assert (said == truth).mean() > 0.9


def test_components_keep_the_energy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 70))
    parts = components(x @ x.T)
    assert 50 <= parts.shape[1] < 80
    assert (parts**2).sum() >= 0.9 * (x**2).sum()
    low = components(x[:, :3] @ x[:, :3].T)
    np.testing.assert_allclose(low @ low.T, x[:, :3] @ x[:, :3].T, atol=1e-8)


def test_bags_of_one_side_and_constant_features():
    flat = convex_psvm(torch.zeros(10, 10, dtype=torch.float64), np.arange(10) % 2, np.ones(2), run=Run())
    assert bool((flat.coefficients.sum() > 0).all())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    x, truth = two_clouds(100, gap=0.5)
    bag = np.arange(100) // 10
    shares = np.bincount(bag, truth) / 10
    one, other = (convex_psvm((x @ x.T).to(device), bag, shares, run=Run(0, device)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(one.coefficients, other.coefficients.cpu(), rtol=0, atol=1e-8)
