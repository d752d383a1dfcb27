"""Intervals keep their coverage, tests their level, and fast forms agree with slow transcriptions."""

import math

import numpy as np
import pytest
from scipy import stats

from fewcore import statistics as st

N_SIMULATIONS = 2000


def covers(interval, truth):
    return interval[0] <= truth <= interval[1]


def within_95(hits):
    return 0.935 <= np.mean(hits) <= 0.965


def slow_delong(scores, positive):
    """Structural components, pair by pair (DeLong 1988, eq. 3 to 6)."""
    xs, ys = scores[:, positive], scores[:, ~positive]
    m, n1, n0 = len(scores), xs.shape[1], ys.shape[1]
    psi = np.zeros((m, n1, n0))
    for r in range(m):
        for i in range(n1):
            for j in range(n0):
                psi[r, i, j] = 1.0 if xs[r, i] > ys[r, j] else 0.5 if xs[r, i] == ys[r, j] else 0.0
    areas = psi.mean((1, 2))
    v10, v01 = psi.mean(2), psi.mean(1)
    covariance = np.zeros((m, m))
    for r in range(m):
        for s in range(m):
            s10 = ((v10[r] - areas[r]) * (v10[s] - areas[s])).sum() / (n1 - 1)
            s01 = ((v01[r] - areas[r]) * (v01[s] - areas[s])).sum() / (n0 - 1)
            covariance[r, s] = s10 / n1 + s01 / n0
    return areas, covariance


def slow_holm(p):
    out = [0.0] * len(p)
    top, order = 0.0, sorted(range(len(p)), key=lambda i: p[i])
    for rank, i in enumerate(order):
        top = max(top, (len(p) - rank) * p[i])
        out[i] = min(1.0, top)
    return out


@pytest.mark.parametrize("digits", [6, 1])
def test_delong_agrees_with_the_slow_form(digits):
    rng = np.random.default_rng(0)
    positive = rng.random(37) < 0.4
    scores = np.round(rng.normal(size=(3, 37)) + positive, digits)
    areas, covariance = st.delong(scores, positive)
    slow_areas, slow_covariance = slow_delong(scores, positive)
    np.testing.assert_allclose(areas, slow_areas, rtol=1e-12)
    np.testing.assert_allclose(covariance, slow_covariance, rtol=1e-9, atol=1e-15)
    assert st.auc(scores[0], positive) == pytest.approx(areas[0])
    ones = np.ones((1, 37))
    assert st.weighted_auc(scores[0], positive)(ones)[0] == pytest.approx(areas[0])


def test_weighted_auc_counts_rows_as_often_as_their_weight():
    rng = np.random.default_rng(0)
    positive = np.arange(20) % 3 == 0
    scores = np.round(rng.normal(size=20), 1)
    rows = rng.integers(20, size=(5, 20))
    weights = np.stack([np.bincount(r, minlength=20) for r in rows]).astype(float)
    expected = [st.auc(scores[r], positive[r]) for r in rows]
    np.testing.assert_allclose(st.weighted_auc(scores, positive)(weights), expected)
    assert np.isnan(st.weighted_auc(scores, positive)((~positive)[None].astype(float))[0])


def test_areas_of_known_value():
    positive = np.array([False, False, True, True])
    assert st.auc(np.array([0, 1, 2, 3]), positive) == 1.0
    assert st.auc(np.zeros(4), positive) == 0.5
    assert st.auc(np.array([0, 2, 1, 3]), positive) == 0.75
    assert math.isnan(st.auc(np.zeros(4), np.ones(4, bool)))
    areas, covariance = st.delong(np.zeros((2, 2)), np.array([True, False]))
    np.testing.assert_array_equal(areas, [0.5, 0.5])
    assert np.isnan(covariance).all()
    assert np.isnan(st.delong(np.zeros(2), np.ones(2, bool))[0]).all()


@pytest.mark.parametrize(
    "area, error", [(0.83, 0.044), (0.61, 0.057), (0.53, 0.057), (0.80, 0.047), (0.89, 0.037), (0.90, 0.035)]
)
def test_hanley_mcneil_gives_the_errors_in_print(area, error):
    assert round(st.hanley_mcneil(area, 38, 80), 3) == error


def test_hanley_mcneil_needs_both_classes():
    assert math.isnan(st.hanley_mcneil(0.5, 0, 3))


def test_holm_agrees_with_the_slow_form():
    rng = np.random.default_rng(0)
    for m in (1, 2, 7, 30):
        p = np.round(rng.random(m) ** 3, 2)
        np.testing.assert_allclose(st.holm(p), slow_holm(p.tolist()))
    np.testing.assert_array_equal(st.holm(np.array([0.02, math.nan, 0.01])), [0.02, math.nan, 0.02])
    assert st.holm(np.array([])).shape == (0,)


def test_mean_interval_is_students():
    values = np.array([1.0, 4.0, 2.0, np.nan, 7.0])
    found = st.mean_interval(values)
    expected = stats.ttest_1samp(values[~np.isnan(values)], 0).confidence_interval()
    assert found.ci95 == pytest.approx((expected.low, expected.high))
    assert (found.value, found.n) == (3.5, 4)
    assert math.isnan(st.mean_interval(np.array([2.0])).ci95[0])
    assert math.isnan(st.mean_interval(np.array([])).value)


def test_wilson_in_closed_form():
    k, n, z = 3, 20, stats.norm.ppf(0.975)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    assert st.share_interval(k, n).ci95 == pytest.approx((centre - half, centre + half))
    assert math.isnan(st.share_interval(0, 0).value)


def test_normal_interval_is_cut_to_its_bounds():
    found = st.normal_interval(0.95, 0.1, 10, (0, 1))
    assert found.ci95 == pytest.approx((0.95 - 0.195996, 1.0), abs=1e-5)
    assert math.isnan(st.normal_interval(0.95, math.nan, 10).ci95[0])


def test_coverage_of_the_t_interval_and_of_wilson():
    rng = np.random.default_rng(0)
    assert within_95([covers(st.mean_interval(rng.normal(3, 2, 12)).ci95, 3) for _ in range(N_SIMULATIONS)])
    hits = [covers(st.share_interval(rng.binomial(200, 0.3), 200).ci95, 0.3) for _ in range(N_SIMULATIONS)]
    assert within_95(hits)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_coverage_of_the_group_bootstrap(method):
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(80), 3)

    def one():
        values = np.repeat(rng.normal(size=80), 3) + 0.3 * rng.normal(size=240)
        mean = lambda w: w @ values / w.sum(1)  # noqa: E731
        return covers(st.group_bootstrap(mean, groups, rng, n_resamples=300, method=method).ci95, 0)

    assert within_95([one() for _ in range(N_SIMULATIONS)])


def test_coverage_of_delong_and_level_of_the_paired_test():
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    positive = np.arange(160) < 80
    hits, rejected = [], []
    for _ in range(N_SIMULATIONS):
        shared = positive + 0.6 * rng.normal(size=160)
        scores = shared + 0.8 * rng.normal(size=(2, 160))
        areas, covariance = st.delong(scores, positive)
        hits.append(covers(st.normal_interval(areas[0], math.sqrt(covariance[0, 0]), 160).ci95, truth))
        rejected.append(st.paired_delong(scores[0], scores[1], positive).p < 0.05)
    assert within_95(hits)
    assert 0.04 <= np.mean(rejected) <= 0.06


def test_coverage_of_hanley_mcneil_in_its_own_model():
    rng = np.random.default_rng(0)
    positive = np.arange(160) < 80
    hits = []
    for _ in range(N_SIMULATIONS):
        area = st.auc(rng.exponential(np.where(positive, 3.0, 1.0)), positive)
        hits.append(covers(st.normal_interval(area, st.hanley_mcneil(area, 80, 80), 160).ci95, 0.75))
    assert within_95(hits)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_level_of_the_paired_tests(test):
    rng = np.random.default_rng(0)
    p = []
    for _ in range(N_SIMULATIONS):
        shared = rng.normal(size=40)
        p.append(st.paired_comparison(shared + rng.normal(size=40), shared + rng.normal(size=40), test=test).p)
    assert 0.04 <= np.mean(np.array(p) < 0.05) <= 0.06


def test_level_of_the_bootstrap_comparison():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(80), 2)
    p = []
    for _ in range(N_SIMULATIONS):
        values = np.repeat(rng.normal(size=80), 2) + 0.5 * rng.normal(size=160)
        p.append(st.bootstrap_comparison(lambda w, v=values: w @ v / w.sum(1), groups, rng, n_resamples=300).p)
    assert 0.04 <= np.mean(np.array(p) < 0.05) <= 0.06


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    for method, name in (("bca", "BCa"), ("percentile", "percentile")):
        ours = st.group_bootstrap(
            lambda w: w @ values / w.sum(1), np.arange(60), np.random.default_rng(0), n_resamples=20_000, method=method
        )
        theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=name).confidence_interval
        assert ours.ci95 == pytest.approx((theirs.low, theirs.high), abs=0.02)
        assert (ours.value, ours.n) == (pytest.approx(values.mean()), 60)


def test_bootstrap_resamples_whole_groups():
    groups = np.array([7, 7, 7, 3, 3, 9])
    for weights in st._resamples(np.unique(groups, return_inverse=True)[1], np.random.default_rng(0), 50):
        assert (weights[:, 0] == weights[:, 1]).all()
        assert (weights[:, 3] == weights[:, 4]).all()
        np.testing.assert_array_equal(weights[:, [0, 3, 5]].sum(1), 3)


def test_bootstrap_at_its_edges():
    rng = np.random.default_rng(0)
    alone = st.group_bootstrap(lambda w: w.sum(1), np.zeros(5, int), rng)
    assert (alone.value, alone.n) == (5.0, 1)
    assert math.isnan(alone.ci95[0])
    constant = st.group_bootstrap(lambda w: np.full(len(w), 2.0), np.arange(5), rng)
    assert constant.ci95 == (2.0, 2.0)
    undefined = st.group_bootstrap(lambda w: np.full(len(w), math.nan), np.arange(5), rng)
    assert math.isnan(undefined.ci95[0])
    assert math.isnan(st.group_bootstrap(lambda w: w.sum(1), np.empty(0, int), rng).value)
    lonely = st.bootstrap_comparison(lambda w: w.sum(1), np.zeros(5, int), rng)
    assert math.isnan(lonely.p)


def test_paired_comparison_agrees_with_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=30), rng.normal(0.4, 1, size=30)
    found = st.paired_comparison(first, second)
    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx((first - second).mean())
    assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()))
    assert st.paired_comparison(second, first).p == pytest.approx(found.p)
    rank = st.paired_comparison(first, second, test="wilcoxon")
    assert rank.p == pytest.approx(stats.wilcoxon(first - second, zero_method="pratt").pvalue)
    assert (found.test, rank.test) == ("paired t", "Wilcoxon signed-rank")


def test_paired_comparison_by_group_and_at_its_edges():
    values = np.array([1.0, 3.0, 5.0, np.nan])
    grouped = st.paired_comparison(values, np.zeros(4), groups=np.array([1, 1, 2, 2]))
    assert (grouped.n, grouped.difference) == (2, 3.5)
    assert st.paired_comparison(values, values).p == 1.0
    assert st.paired_comparison(values + 1, values).p == 0.0
    assert math.isnan(st.paired_comparison(np.ones(1), np.zeros(1)).p)
    assert math.isnan(st.paired_comparison(np.ones(1), np.full(1, np.nan)).difference)


def test_mcnemar_is_the_sign_test_of_what_differs():
    first = np.array([1] * 10 + [0] * 2 + [1] * 20, bool)
    second = np.array([0] * 10 + [1] * 2 + [1] * 20, bool)
    found = st.mcnemar(first, second)
    assert found.p == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert found.difference == pytest.approx(8 / 32)
    assert st.mcnemar(first, first).p == 1.0


def test_delong_at_its_edges():
    positive = np.arange(20) < 8
    scores = np.random.default_rng(0).normal(size=20)
    assert st.paired_delong(scores, 3 * scores + 1, positive).p == 1.0
    perfect = positive.astype(float)
    assert st.paired_delong(perfect, 1 - perfect, positive).p == 0.0
    assert math.isnan(st.paired_delong(scores[:2], scores[:2], np.array([True, False])).p)


def test_repeats_are_averaged_in_the_paired_delong():
    rng = np.random.default_rng(0)
    positive = np.arange(60) < 25
    first, second = rng.normal(size=(3, 60)) + positive, rng.normal(size=(2, 60)) + positive
    found = st.paired_delong(first, second, positive)
    areas = [np.mean([st.auc(s, positive) for s in scores]) for scores in (first, second)]
    assert found.difference == pytest.approx(areas[0] - areas[1])
    doubled = st.paired_delong(np.repeat(first, 2, 0), second, positive)
    assert doubled.p == pytest.approx(found.p)
