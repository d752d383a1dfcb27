"""The regression evaluator: truth of readers and classes, tolerance, folds, seeds, the constant, pairs."""

import math

import numpy as np
import pytest

from fewcore import (
    DataError,
    Outcome,
    Predictions,
    Run,
    Target,
    mean_interval,
    paired_comparison,
    share_interval,
)
from fewcore.builtin.regression import Regression

N = 60
NAMES = ("malignancy", "texture")


def ratings():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 6, size=(N, 4, 2)).astype(float)
    values[rng.random(values.shape) < 0.3] = math.nan
    values[0, :, 0] = math.nan  # nobody rated the malignancy of the first
    return values


RATINGS = ratings()
MEAN = np.array([[np.mean([r for r in RATINGS[i, :, a] if r == r] or [math.nan]) for a in range(2)] for i in range(N)])


def outcome(stage="lasso", error=0.8, seed=0, names=NAMES, rows=None, repeats=None, groups=None, **more):
    rng = np.random.default_rng([seed, int(100 * error)])
    columns = [NAMES.index(name) if name in NAMES else 0 for name in names]
    values = np.nan_to_num(MEAN[:, columns], nan=3.0) + error * rng.normal(size=(N, len(names)))
    rows = np.arange(N) if rows is None else rows
    values = more.pop("values", values)
    known = more.pop("truth", {"ratings": Target("ratings", RATINGS, NAMES, (1, 5))})
    truth = {name: Target(t.kind, t.values[rows], t.names, t.scale) for name, t in known.items()}
    return Outcome(
        stage,
        f"{stage}-method",
        Predictions(rows, values=values[rows], value_names=names),
        "test",
        rows,
        rows if groups is None else groups[rows],
        truth,
        repeats={"seed": seed} if repeats is None else repeats,
        **more,
    )


def evaluate(*outcomes, **options):
    return Regression(**options).evaluate(outcomes, Run())


def rows_of(report, metric, attribute="malignancy", stage="lasso"):
    return [r for r in report.rows if (r.metric, r.stage) == (metric, stage) and r.conditions["attribute"] == attribute]


def slow(values, truth, tolerance=1.0):
    apart = [abs(v - t) for v, t in zip(values, truth, strict=True) if t == t]
    return sum(a <= tolerance for a in apart) / len(apart), sum(apart) / len(apart), len(apart)


@pytest.mark.parametrize("tolerance", [1.0, 0.5])
def test_both_metrics_agree_with_the_slow_form(tolerance):
    one = outcome()
    report = evaluate(one, tolerance=tolerance)
    for column, name in enumerate(NAMES):
        share, distance, n = slow(one.predictions.values[:, column], MEAN[:, column], tolerance)
        (within,), (mae,) = rows_of(report, "tolerance_accuracy", name), rows_of(report, "mae", name)
        assert (within.value, mae.value) == (pytest.approx(share), pytest.approx(distance))
        assert within.n == mae.n == n
        assert within.ci95 == share_interval(round(share * n), n).ci95
    assert rows_of(report, "mae")[0].n == N - 1


def test_tolerance_is_inclusive():
    report = evaluate(outcome(values=MEAN + np.where(np.arange(N) % 2, 1.0, -1.0)[:, None]))
    assert rows_of(report, "tolerance_accuracy")[0].value == 1.0
    assert rows_of(report, "mae")[0].value == pytest.approx(1.0)


def test_classes_stand_for_numbers():
    classes = np.arange(N) % 3
    classes[5] = -1
    truth = {"grade": Target("class", classes, ("1", "2", "4"))}
    values = np.array([1.0, 2.0, 4.0])[classes][:, None] + 0.25
    (row,) = rows_of(evaluate(outcome(names=("score",), values=values, truth=truth, target="grade")), "mae", "score")
    assert (row.value, row.n) == (pytest.approx(0.25), N - 1)
    truth = {"grade": Target("class", classes, ("low", "mid", "high"))}
    values = np.maximum(classes, 0)[:, None].astype(float)
    report = evaluate(outcome(names=("grade",), values=values, truth=truth))
    assert rows_of(report, "mae", "grade")[0].value == 0.0


def test_target_can_be_named():
    truth = {
        "readers": Target("ratings", RATINGS, NAMES),
        "again": Target("ratings", 6 - RATINGS, NAMES),
    }
    values = 6 - MEAN
    assert rows_of(evaluate(outcome(values=values, truth=truth), target="again"), "mae")[0].value == pytest.approx(0)
    assert rows_of(evaluate(outcome(values=values, truth=truth)), "mae")[0].value > 0.5


def test_constant_is_the_mean_of_the_other_images():
    report = evaluate(outcome(), outcome("other"))
    (row,) = rows_of(report, "mae", stage="constant")
    truth = MEAN[1:, 0]
    expected = np.mean([abs(truth[i] - np.delete(truth, i).mean()) for i in range(N - 1)])
    assert row.value == pytest.approx(expected)
    assert row.note == "over images; the mean truth of the other groups"


def folds(stage="lasso", error=0.8, seeds=(0,), n=5):
    parts = np.array_split(np.random.default_rng(0).permutation(N), n)
    return [
        outcome(stage, error, s, rows=rows, repeats={"seed": s, "fold": f})
        for s in seeds
        for f, rows in enumerate(parts)
    ]


def test_constant_is_the_mean_of_the_other_folds():
    (row,) = rows_of(evaluate(*folds(), over="fold"), "mae", "texture", "constant")
    parts = [o.ids for o in folds()]
    each = []
    for part in parts:
        inside = np.isin(np.arange(N), part)
        each.append(np.nanmean(np.abs(MEAN[inside, 1] - np.nanmean(MEAN[~inside, 1]))))
    assert row.value == pytest.approx(np.mean(each))
    assert (row.n, row.note) == (5, "over folds; the mean truth of the other folds")


def test_folds_pooled_and_averaged():
    whole = rows_of(evaluate(outcome()), "mae")[0]
    pooled = rows_of(evaluate(*folds()), "mae")[0]
    assert (pooled.value, pooled.n) == (pytest.approx(whole.value), whole.n)
    assert pooled.repeats == {"seed": 0, "fold": "all 5"}
    averaged = rows_of(evaluate(*folds(), over="fold"), "mae")[0]
    each = np.array([rows_of(evaluate(o), "mae")[0].value for o in folds()])
    assert averaged.ci95 == pytest.approx(mean_interval(each).ci95)
    assert (averaged.n, averaged.note) == (5, "over folds")


def test_seeds_are_averaged_image_by_image():
    three = [outcome(seed=s) for s in range(3)]
    rows = rows_of(evaluate(*three), "mae")
    assert [row.repeats["seed"] for row in rows] == [0, 1, 2, "mean of 3"]
    table = np.abs(np.stack([o.predictions.values[1:, 0] for o in three]) - MEAN[1:, 0])
    assert rows[3].ci95 == pytest.approx(mean_interval(table.mean(0)).ci95)
    assert "sd between repeats" in rows[3].note


def test_a_seed_without_all_its_folds_is_left_out():
    rows = rows_of(evaluate(*folds(seeds=(0, 1))[:-1]), "mae")
    assert [row.repeats["seed"] for row in rows] == [0]


def test_comparisons():
    a, b = outcome("a", 0.5), outcome("b", 1.5, names=("malignancy",))
    found = evaluate(a, b).comparisons
    assert [(c.metric, c.conditions["attribute"]) for c in found] == [
        ("tolerance_accuracy", "malignancy"),
        ("mae", "malignancy"),
    ]
    differences = [np.abs(o.predictions.values[1:, 0] - MEAN[1:, 0]) for o in (a, b)]
    assert found[1].p == pytest.approx(paired_comparison(*differences).p)
    assert found[1].difference < 0
    assert found[1].p_holm >= found[1].p
    over = evaluate(*folds("a", 0.5), *folds("b", 1.5), over="fold").comparisons
    assert {(c.test, c.n) for c in over} == {("paired t", 5)}
    groups = np.arange(N) // 3
    grouped = evaluate(outcome("a", groups=groups), outcome("b", 1.5, groups=groups))
    assert {c.test for c in grouped.comparisons} == {"paired bootstrap of groups"}
    assert rows_of(grouped, "mae", stage="a")[0].note == "bootstrap of groups"


def test_models_without_numbers_or_truth_are_named():
    two = np.arange(2)
    scores = Outcome("net", "net", Predictions(two, scores=np.zeros((2, 2))), "test", two, two)
    stray = outcome("stray", names=("weight",))
    assert evaluate(scores, stray, outcome()).left_out == ("net", "stray")


def test_wrong_values_are_refused():
    values = np.zeros((N, 2))
    values[0, 0] = math.nan  # of unknown truth, so it does not matter
    assert rows_of(evaluate(outcome(values=values)), "mae")
    values[1, 0] = math.nan
    with pytest.raises(DataError) as error:
        evaluate(outcome(values=values))
    assert str(error.value) == "lasso: found NaN or infinity among values 'malignancy'; expected numbers"
    with pytest.raises(DataError) as error:
        evaluate(outcome(seed=0), outcome(seed=1, rows=np.arange(20)))
    assert str(error.value) == "lasso: found other images in each seed; expected the same in all"


def test_arrays_hold_each_difference():
    arrays = evaluate(outcome()).arrays
    assert len(arrays["lasso, attribute malignancy, seed 0, difference"]) == N - 1
    np.testing.assert_array_equal(arrays["lasso, attribute malignancy, seed 0, ids"], np.arange(1, N))
