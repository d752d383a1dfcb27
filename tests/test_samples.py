"""Tests of independent samples: each against the sums of its definition, and what cannot be tested."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fewcore import independent_t, one_way_anova, pearson


def f_by_sums(samples):
    """The F of a one-way analysis of variance, by the sums of squares between and within."""
    every = [x for sample in samples for x in sample]
    grand = sum(every) / len(every)
    means = [sum(sample) / len(sample) for sample in samples]
    between = sum(len(sample) * (mean - grand) ** 2 for sample, mean in zip(samples, means, strict=True))
    within = sum((x - mean) ** 2 for sample, mean in zip(samples, means, strict=True) for x in sample)
    return (between / (len(samples) - 1)) / (within / (len(every) - len(samples)))


def welch_by_sums(a, b):
    """Welch's t and its degrees of freedom."""
    (ma, va), (mb, vb) = ((np.mean(x), sum((y - np.mean(x)) ** 2 for y in x) / (len(x) - 1)) for x in (a, b))
    square = va / len(a) + vb / len(b)
    freedom = square**2 / ((va / len(a)) ** 2 / (len(a) - 1) + (vb / len(b)) ** 2 / (len(b) - 1))
    return (ma - mb) / math.sqrt(square), freedom


def r_by_sums(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return above / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


@pytest.mark.parametrize("seed", range(3))
def test_analysis_of_variance_is_the_ratio_of_the_sums_of_squares(seed):
    rng = np.random.default_rng(seed)
    samples = [rng.normal(0.2 * i, 1, 5 + 3 * i) for i in range(3)]
    found = one_way_anova(samples)
    f = f_by_sums(samples)
    assert found.statistic == pytest.approx(f)
    assert found.p == pytest.approx(stats.f.sf(f, 2, 24 - 3))
    assert (found.n, found.test) == (24, "one-way ANOVA")
    assert math.isnan(found.effect)


def test_analysis_of_variance_of_two_is_the_square_of_t():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9), rng.normal(size=9)
    assert one_way_anova([a, b]).statistic == pytest.approx(independent_t(a, b).statistic ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_welch_is_as_its_sums_say(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, 12), rng.normal(0.5, 3, 7)
    found = independent_t(a, b)
    t, freedom = welch_by_sums(a, b)
    half = abs(np.mean(a) - np.mean(b)) / abs(t) * stats.t.ppf(0.975, freedom)
    assert found.statistic == pytest.approx(t)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    assert found.effect == pytest.approx(np.mean(a) - np.mean(b))
    assert found.ci95 == pytest.approx((found.effect - half, found.effect + half))
    assert found.n == 19


@pytest.mark.parametrize("seed", range(3))
def test_pearson_is_as_its_sums_say(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=20)
    y = 0.5 * x + rng.normal(size=20)
    found = pearson(x, y)
    r = r_by_sums(x, y)
    z, half = math.atanh(r), 1.959964 / math.sqrt(17)
    assert found.statistic == found.effect == pytest.approx(r)
    assert found.ci95 == pytest.approx((math.tanh(z - half), math.tanh(z + half)), rel=1e-5)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(r) * math.sqrt(18 / (1 - r**2)), 18))


def test_nan_is_left_out():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=8), rng.normal(size=8)
    holed = np.append(a, math.nan)
    found, plain = one_way_anova([holed, b]), one_way_anova([a, b])
    assert (found.statistic, found.p, found.n) == (plain.statistic, plain.p, 16)
    assert independent_t(holed, b) == independent_t(a, b)
    assert pearson(np.append(a, [math.nan, 1]), np.append(b, [1, math.nan])) == pearson(a, b)


def test_what_does_not_vary_is_told_without_a_warning():
    same, other = np.ones(4), np.zeros(4)
    assert (one_way_anova([same, same]).p, one_way_anova([same, other]).p) == (1.0, 0.0)
    assert independent_t(same, same).p == 1.0
    assert (independent_t(same, other).p, independent_t(same, other).ci95) == (0.0, (1.0, 1.0))
    assert independent_t(other, same).statistic == -math.inf
    assert math.isnan(pearson(same, np.arange(4)).p)


def test_too_few_numbers_give_nan():
    assert math.isnan(one_way_anova([np.arange(3.0)]).p)
    assert math.isnan(one_way_anova([np.ones(1), np.zeros(1)]).p)
    assert math.isnan(one_way_anova([]).p)
    assert math.isnan(independent_t(np.ones(1), np.arange(4.0)).p)
    assert math.isnan(independent_t(np.empty(0), np.arange(4.0)).effect)
    assert math.isnan(pearson(np.arange(2), np.arange(2)).p)
    three = pearson(np.arange(3), np.array([0, 2, 1]))
    assert three.statistic == pytest.approx(0.5)
    assert math.isnan(three.ci95[0])
