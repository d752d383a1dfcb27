"""Tests of independent samples and of correlation, for all evaluators, on top of scipy.

What is counted must be independent of each other: images, or the means of groups (patients). NaN among the numbers is
left out; NaN stands for what cannot be given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fewcore.contracts import Array


@dataclass(frozen=True)
class SampleTest:
    """A two-sided test of samples: its `statistic` (F, t or r), p, and the number `n` of all that was counted.

    `effect` is what a reader asks for beside p, with its 95% interval `ci95`: the difference of the means (first minus
    second) of `independent t`, the correlation of `Pearson`; NaN of an analysis of variance.
    """

    test: str
    statistic: float
    p: float
    n: int
    effect: float = math.nan
    ci95: tuple[float, float] = (math.nan, math.nan)


def _known(values: Array) -> Array:
    values = np.asarray(values, np.float64)
    return np.asarray(values[~np.isnan(values)])


def one_way_anova(samples: Sequence[Array]) -> SampleTest:
    """Return the one-way analysis of variance of several samples (n,) each: whether all have one mean.

    Samples without a number are left out. p is NaN for fewer than two samples, or where no sample holds two numbers. Of
    samples that are constant within themselves p is 1 where they are equal and 0 where they are not.

    >>> round(one_way_anova([np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.array([6.0, 7.0])]).statistic, 3)
    28.0
    """
    found = [sample for sample in map(_known, samples) if len(sample)]
    n, name = sum(map(len, found)), "one-way ANOVA"
    if len(found) < 2 or n <= len(found):
        return SampleTest(name, math.nan, math.nan, n)
    if all(np.ptp(sample) == 0 for sample in found):
        equal = len({float(sample[0]) for sample in found}) == 1
        return SampleTest(name, 0.0 if equal else math.inf, 1.0 if equal else 0.0, n)
    made = stats.f_oneway(*found)
    return SampleTest(name, float(made.statistic), float(made.pvalue), n)


def independent_t(first: Array, second: Array) -> SampleTest:
    """Return Student's t-test of two independent samples (n,) and (m,) whose variances may differ (Welch's).

    Source: B. L. Welch: The Generalization of 'Student's' Problem when Several Different Population Variances are
    Involved, Biometrika 34, 1947, doi:10.1093/biomet/34.1-2.28.

    >>> round(independent_t(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])).statistic, 3)
    -3.674
    """
    a, b = _known(first), _known(second)
    n, name = len(a) + len(b), "independent t (Welch)"
    difference = float(a.mean() - b.mean()) if len(a) and len(b) else math.nan
    if min(len(a), len(b)) < 2:
        return SampleTest(name, math.nan, math.nan, n, difference)
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        same = difference == 0
        t = 0.0 if same else math.copysign(math.inf, difference)
        return SampleTest(name, t, 1.0 if same else 0.0, n, difference, (difference, difference))
    made = stats.ttest_ind(a, b, equal_var=False)
    low, high = made.confidence_interval(0.95)
    return SampleTest(name, float(made.statistic), float(made.pvalue), n, difference, (float(low), float(high)))


def pearson(x: Array, y: Array) -> SampleTest:
    """Return Pearson's correlation of pairs (n,), pairs with NaN left out, with Fisher's interval.

    NaN for fewer than three pairs, or where one of the two is constant. The interval is NaN for three pairs.

    >>> round(pearson(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])).statistic, 3)
    0.8
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = ~(np.isnan(x) | np.isnan(y))
    x, y, n = x[known], y[known], int(known.sum())
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return SampleTest("Pearson", math.nan, math.nan, n)
    made = stats.pearsonr(x, y)
    r = float(made.statistic)
    low, high = made.confidence_interval(0.95) if n > 3 else (math.nan, math.nan)
    return SampleTest("Pearson", r, float(made.pvalue), n, r, (float(low), float(high)))
