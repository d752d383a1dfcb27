"""Intervals and paired tests for all evaluators, on top of scipy.

Intervals are of 95% unless `level` says otherwise, tests are two-sided. What is resampled or paired are the units that
are independent of each other: tasks, images, or the groups (patients) of images. NaN stands for what cannot be given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from fewcore.contracts import Array

N_RESAMPLES = 2000
CHUNK = 4_000_000
"""Weights that a bootstrap holds at a time (32 MB)."""

Statistic = Callable[[Array], Array]
"""From weights (b, n), how often each row counts, to the statistic of each resample, (b,)."""


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, and the number `n` of units that the interval is over."""

    value: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class PairedTest:
    """A paired test: `difference` is first minus second, `n` the number of pairs, `test` the test's name."""

    difference: float
    ci95: tuple[float, float]
    p: float
    n: int
    test: str


def two_sided_p(z: float) -> float:
    """Return the two-sided p of a standard normal z; NaN for NaN.

    >>> round(two_sided_p(1.96), 3)
    0.05
    """
    return float(2 * stats.norm.sf(abs(z)))


def mean_interval(values: Array, level: float = 0.95) -> Estimate:
    """Return the mean of `values` (n,) with Student's t-interval; NaN among them is left out.

    >>> mean_interval(np.array([1.0, 2.0, 3.0])).value
    2.0
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    n = len(known)
    if n < 2:
        return Estimate(float(known[0]) if n else math.nan, (math.nan, math.nan), n)
    mean = float(known.mean())
    half = float(known.std(ddof=1) / math.sqrt(n) * stats.t.ppf((1 + level) / 2, n - 1))
    return Estimate(mean, (mean - half, mean + half), n)


def share_interval(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return a share with Wilson's score interval, which stays in [0, 1] and holds for shares near 0 and 1.

    Source: E. B. Wilson, JASA 22, 1927, doi:10.1080/01621459.1927.10502953.
    """
    if n == 0:
        return Estimate(math.nan, (math.nan, math.nan), 0)
    found = stats.binomtest(int(successes), n).proportion_ci(level, method="wilson")
    return Estimate(successes / n, (float(found.low), float(found.high)), n)


def normal_interval(
    value: float, error: float, n: int, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Return value +- 1.96 standard errors, cut to `bounds`."""
    half = float(stats.norm.ppf(0.975)) * error
    if math.isnan(half):
        return Estimate(value, (math.nan, math.nan), n)
    return Estimate(value, (max(bounds[0], value - half), min(bounds[1], value + half)), n)


def _resamples(group_index: Array, rng: np.random.Generator, n_resamples: int) -> Iterator[Array]:
    """Yield weights (b, n): how often each row counts when whole groups are drawn with replacement."""
    g = int(group_index.max()) + 1
    step = max(1, CHUNK // max(len(group_index), g))
    for begin in range(0, n_resamples, step):
        b = min(step, n_resamples - begin)
        drawn = rng.integers(g, size=(b, g)) + np.arange(b)[:, None] * g
        counts = np.bincount(drawn.ravel(), minlength=b * g).reshape(b, g)
        yield counts.astype(np.float64)[:, group_index]


def _leaving_one_out(group_index: Array) -> Iterator[Array]:
    """Yield weights (b, n) in which one group after the other is missing."""
    g = int(group_index.max()) + 1
    step = max(1, CHUNK // len(group_index))
    for begin in range(0, g, step):
        yield (group_index != np.arange(begin, min(begin + step, g))[:, None]).astype(np.float64)


def group_bootstrap(
    statistic: Statistic,
    groups: Array,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    method: Literal["bca", "percentile"] = "bca",
    level: float = 0.95,
) -> Estimate:
    """Return a statistic with its bootstrap interval, whole groups (n,) being resampled.

    `statistic` gets weights (b, n) float64, how often each row counts, and returns (b,); so `lambda w: w @ x / w.sum(1)`
    is a mean. With a group for each row it is the ordinary bootstrap. Resamples in which the statistic is NaN (a class
    is missing) are left out; where they are the majority, or there is one group only, the interval is NaN. `bca`
    corrects for bias and skewness, and falls back to percentiles where it is not defined.

    Source: B. Efron, JASA 82, 1987, doi:10.1080/01621459.1987.10478410 (BCa).
    """
    group_index = np.unique(groups, return_inverse=True)[1]
    n_groups = int(group_index.max()) + 1 if len(group_index) else 0
    if n_groups < 2:
        alone = float(statistic(np.ones((1, len(group_index))))[0]) if n_groups else math.nan
        return Estimate(alone, (math.nan, math.nan), n_groups)
    value = float(statistic(np.ones((1, len(group_index))))[0])
    drawn = np.concatenate([statistic(weights) for weights in _resamples(group_index, rng, n_resamples)])
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) * 2 < n_resamples or math.isnan(value):
        return Estimate(value, (math.nan, math.nan), n_groups)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _bca_tails(value, drawn, statistic, group_index, tails)
    low, high = np.quantile(drawn, tails)
    return Estimate(value, (float(low), float(high)), n_groups)


def _bca_tails(value: float, drawn: Array, statistic: Statistic, group_index: Array, tails: Array) -> Array:
    """Return the corrected tails (Efron 1987, eq. 2.3), or `tails` where the correction is not defined."""
    bias = stats.norm.ppf(((drawn < value).mean() + (drawn <= value).mean()) / 2)
    without = np.concatenate([statistic(weights) for weights in _leaving_one_out(group_index)])
    spread = without.mean() - without
    square = float((spread**2).sum())
    if not np.isfinite(bias) or not square > 0:
        return tails
    acceleration = float((spread**3).sum()) / (6 * square**1.5)
    z = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + z / (1 - acceleration * z)))


def bootstrap_comparison(
    difference: Statistic, groups: Array, rng: np.random.Generator, *, n_resamples: int = N_RESAMPLES
) -> PairedTest:
    """Return a paired test of a `difference` of two models' statistics on the same rows, groups being resampled.

    `difference` is a statistic as in `group_bootstrap`. The interval is of percentiles, and p is twice the smaller share
    of resamples on either side of 0, each counted with one more, so that p and interval agree.
    """
    kept: list[Array] = []

    def noted(weights: Array) -> Array:
        kept.append(difference(weights))
        return kept[-1]

    found = group_bootstrap(noted, groups, rng, n_resamples=n_resamples, method="percentile")
    drawn = np.concatenate(kept[1:]) if len(kept) > 1 else np.empty(0)
    drawn = drawn[~np.isnan(drawn)]
    name = "paired bootstrap of groups" if found.n < len(groups) else "paired bootstrap"
    if math.isnan(found.ci95[0]):
        return PairedTest(found.value, found.ci95, math.nan, found.n, name)
    smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return PairedTest(found.value, found.ci95, min(1.0, float(2 * (1 + smaller) / (1 + len(drawn)))), found.n, name)


def paired_comparison(
    first: Array, second: Array, *, groups: Array | None = None, test: Literal["t", "wilcoxon"] = "t"
) -> PairedTest:
    """Return a paired test of two models on the same tasks or images: numbers (n,) each, NaN pairs left out.

    With `groups` the numbers are averaged within a group first, and groups are the pairs. The paired t-test is the
    default: it tests the mean difference, which is what reports show, and over tens of pairs or more the mean is normal
    enough. `wilcoxon`, the signed-rank test with Pratt's zeros, suits few pairs (folds) and heavy tails; it tests
    whether differences are symmetric around 0. The interval is that of the mean difference in both.
    """
    both = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    known = ~np.isnan(both)
    both = both[known]
    if groups is not None and len(both):
        group_index = np.unique(groups[known], return_inverse=True)[1]
        both = np.bincount(group_index, both) / np.bincount(group_index)
    found = mean_interval(both)
    name = "paired t" if test == "t" else "Wilcoxon signed-rank"
    if found.n < 2:
        return PairedTest(found.value, found.ci95, math.nan, found.n, name)
    if not both.any():
        p = 1.0
    elif test == "wilcoxon":
        p = float(stats.wilcoxon(both, zero_method="pratt").pvalue)
    else:
        error = float(both.std(ddof=1)) / math.sqrt(found.n)
        p = float(2 * stats.t.sf(abs(found.value) / error, found.n - 1)) if error > 0 else 0.0
    return PairedTest(found.value, found.ci95, p, found.n, name)


def mcnemar(first: Array, second: Array) -> PairedTest:
    """Return McNemar's exact test of two models that are right or wrong (n,) bool on the same images.

    The interval of the difference of accuracies is Student's, of the paired differences.

    Source: Q. McNemar, Psychometrika 12, 1947, doi:10.1007/BF02295996.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    found = mean_interval(first.astype(float) - second)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    unlike = only_first + only_second
    p = float(stats.binomtest(only_first, unlike).pvalue) if unlike else 1.0
    return PairedTest(found.value, found.ci95, p, found.n, "McNemar exact")


def holm(p: Array) -> Array:
    """Return Holm's corrected p of a family of tests, (m,), in the order given; NaN stays NaN and counts for nothing.

    Source: S. Holm: A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6, 1979.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    corrected = np.full(len(p), math.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def hanley_mcneil(auc: float, n_positive: int, n_negative: int) -> float:
    """Return the standard error of an area under the ROC curve, from the area and the counts alone.

    Source: J. A. Hanley, B. J. McNeil, Radiology 143, 1982, doi:10.1148/radiology.143.1.7063747.

    >>> round(hanley_mcneil(0.83, 38, 80), 3)
    0.044
    """
    if not (n_positive and n_negative):
        return math.nan
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (n_positive - 1) * (one - auc**2) + (n_negative - 1) * (two - auc**2)
    return math.sqrt(max(0.0, spread) / (n_positive * n_negative))


def auc(scores: Array, positive: Array) -> float:
    """Return the area under the ROC curve of `scores` (n,): the chance that a positive scores above a negative.

    Ties count half; NaN where a class is missing. `positive` is (n,) bool.
    """
    if not positive.any() or positive.all():
        return math.nan
    n_positive = int(positive.sum())
    ranks = stats.rankdata(scores)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (len(scores) - n_positive)))


def weighted_auc(scores: Array, positive: Array) -> Statistic:
    """Return the area under the ROC curve as a statistic of weights (b, n), for `group_bootstrap`."""
    order = np.argsort(scores, kind="stable")
    is_positive = positive[order]
    begins = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])

    def area(weights: Array) -> Array:
        sorted_weights = weights[:, order]
        above = np.add.reduceat(sorted_weights * is_positive, begins, axis=1)
        below = np.add.reduceat(sorted_weights * ~is_positive, begins, axis=1)
        wins = (above * (np.cumsum(below, 1) - below / 2)).sum(1)
        pairs = above.sum(1) * below.sum(1)
        return np.asarray(np.divide(wins, pairs, out=np.full(len(weights), math.nan), where=pairs > 0))

    return area


def delong(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Return the areas under the ROC curves of m models on the same images, (m,), and their covariance (m, m).

    `scores` is (m, n), `positive` (n,) bool. Images count as independent. The covariance is NaN where a class has fewer
    than two images.

    Source: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44, 1988, doi:10.2307/2531595; computed from
    midranks as in X. Sun, W. Xu, IEEE Signal Processing Letters 21, 2014, doi:10.1109/LSP.2014.2337313.
    """
    scores = np.atleast_2d(scores)
    m, n_positive, n_negative = len(scores), int(positive.sum()), int((~positive).sum())
    if min(n_positive, n_negative) == 0:
        return np.full(m, math.nan), np.full((m, m), math.nan)
    ranks = stats.rankdata(scores, axis=1)
    below = (ranks[:, positive] - stats.rankdata(scores[:, positive], axis=1)) / n_negative
    above = 1 - (ranks[:, ~positive] - stats.rankdata(scores[:, ~positive], axis=1)) / n_positive
    areas = below.mean(1)
    if min(n_positive, n_negative) < 2:
        return areas, np.full((m, m), math.nan)
    covariance = np.cov(below).reshape(m, m) / n_positive + np.cov(above).reshape(m, m) / n_negative
    return areas, covariance


def paired_delong(first: Array, second: Array, positive: Array) -> PairedTest:
    """Return DeLong's test of two models' areas under the ROC curve on the same images.

    `first` and `second` are (n,), or (r, n) where a model has r repeats, whose areas are averaged.
    """
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    areas, covariance = delong(np.concatenate([first, second]), positive)
    contrast = np.repeat([1 / len(first), -1 / len(second)], [len(first), len(second)])
    difference, variance = float(contrast @ areas), float(contrast @ covariance @ contrast)
    error = math.sqrt(max(0.0, variance)) if not math.isnan(variance) else math.nan
    n = len(positive)
    # Two models with equal ranks have a variance of 0 up to rounding, which must not make their difference look sure.
    if error < 1e-9:
        p = 1.0 if abs(difference) < 1e-9 else 0.0
        return PairedTest(difference, (difference, difference), p, n, "DeLong")
    p = two_sided_p(difference / error)
    return PairedTest(difference, normal_interval(difference, error, n, (-1, 1)).ci95, p, n, "DeLong")
