"""Each way from clusters to shares of positives."""

from __future__ import annotations

import numpy as np
import pytest

from fewcore import DataError
from fewcore_propsvm.proportions import proportions_of


def overlapping(n=400, gap=1.0, d=3, seed=0):
    """Two Gaussian clouds cut half-way, so that each part holds some of the other cloud."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    x = rng.normal(size=(n, d))
    x[:, 0] += gap * (2 * truth - 1)
    return x, truth, (x[:, 0] > 0).astype(int)


def test_soft_is_near_the_truth_of_two_gaussians():
    x, truth, bag = overlapping(4000, gap=1.5)
    found = proportions_of("soft", x, bag, 2)
    expected = [truth[bag == b].mean() for b in range(2)]
    np.testing.assert_allclose(found, expected, atol=0.08)


def test_soft_is_nearly_pure_where_clusters_are_far_apart():
    x, _, bag = overlapping(gap=6.0)
    np.testing.assert_allclose(proportions_of("soft", x, bag, 2), [0, 1], atol=1e-3)


def test_soft_is_deterministic_and_in_range_for_many_bags():
    x, _, _ = overlapping(120, d=30)
    bag = np.arange(120) % 7
    found = proportions_of("soft", x, bag, 7)
    np.testing.assert_array_equal(found, proportions_of("soft", x, bag, 7))
    assert found.min() >= 0
    assert found.max() <= 1
    assert found[-1] >= found[0]


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 5), (40, 2)])
def test_soft_stands_constant_vectors_and_few_rows(n, d):
    bag = np.arange(n) % 2
    for x in (np.zeros((n, d)), np.random.default_rng(0).normal(size=(n, d))):
        found = proportions_of("soft", x, bag, 2)
        assert bool(np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all())


def test_size_says_nothing_but_the_balance():
    x, _, bag = overlapping(10)
    bag = np.array([0] * 7 + [1] * 3)
    np.testing.assert_allclose(proportions_of("size", x, bag, 2), [0.3, 0.3])
    np.testing.assert_allclose(proportions_of("positive-size", x, bag, 2), [0.7, 0.3])
    np.testing.assert_array_equal(proportions_of("pure", x, bag, 2), [0, 1])


def slow_silhouette(x, bag, i):
    mine = [np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if bag[j] == bag[i] and j != i]
    other = [np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if bag[j] != bag[i]]
    a, b = np.mean(mine), np.mean(other)
    return (b - a) / max(a, b)


def test_silhouette_counts_members_nearer_to_the_other_bag():
    x, _, _ = overlapping(30, gap=1.0)
    bag = (x[:, 0] + 0.8 * np.random.default_rng(1).normal(size=30) > 0).astype(int)
    odd = np.array([slow_silhouette(x, bag, i) < 0 for i in range(30)])
    found = proportions_of("silhouette", x, bag, 2)
    np.testing.assert_allclose(found, [odd[bag == 0].mean(), 1 - odd[bag == 1].mean()])
    assert 0 < odd.sum() < 15


@pytest.mark.parametrize("mode", ["size", "pure", "silhouette"])
def test_two_bags_only(mode):
    message = rf"proportions: found 3 bags for '{mode}', .*expected two parts \(n_clusters: 2, or proportions: soft\)"
    with pytest.raises(DataError, match=message):
        proportions_of(mode, np.zeros((9, 2)), np.arange(9) % 3, 3)
