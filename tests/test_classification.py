"""The classification evaluator: each metric against scikit-learn or a closed form, intervals, folds, seeds, pairs."""

import math
from dataclasses import replace

import matplotlib.figure
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from fewcore import (
    DataError,
    Outcome,
    Predictions,
    Run,
    Seen,
    Target,
    delong,
    hanley_mcneil,
    holm,
    mcnemar,
    mean_interval,
    paired_delong,
    share_interval,
)
from fewcore.builtin.classification import Classification
from fewcore.builtin.error_ttest import error_ttest
from fewcore.builtin.shown_cases import shown

N = 120
TRUTH = (np.random.default_rng(5).random(N) < 0.4).astype(int)


def outcome(stage="net", skill=1.0, seed=0, truth=TRUTH, k=2, rows=None, repeats=None, groups=None, **more):
    rng = np.random.default_rng([seed, int(100 * skill)])
    scores = rng.normal(size=(len(truth), k)) + skill * (truth[:, None] == np.arange(k))
    rows = np.arange(len(truth)) if rows is None else rows
    conditions = more.pop("conditions", {})
    scores = more.pop("scores", scores)
    names = tuple(more.pop("names", ("benign", "malignant", "normal", "other")[:k]))
    return Outcome(
        stage,
        f"{stage}-method",
        Predictions(rows, scores=scores[rows]),
        more.pop("split", "test"),
        rows,
        rows if groups is None else groups[rows],
        {"class": Target("class", truth[rows], names)},
        "class",
        conditions=conditions,
        repeats={"seed": seed} if repeats is None else repeats,
        seen=Seen(labels={"train": 5}),
        **more,
    )


def evaluate(*outcomes, **options):
    return Classification(**options).evaluate(outcomes, Run())


def value(report, metric, stage="net"):
    (row,) = [row for row in report.rows if row.metric == metric and row.stage == stage]
    return row


@pytest.mark.parametrize("k", [2, 4])
def test_every_metric_agrees_with_scikit_learn(k):
    truth = np.random.default_rng(1).integers(k, size=N)
    one = outcome(truth=truth, k=k)
    report = evaluate(one)
    scores, said = one.predictions.scores, one.predictions.scores.argmax(1)
    assert value(report, "accuracy").value == pytest.approx(reference.accuracy_score(truth, said))
    assert value(report, "balanced_accuracy").value == pytest.approx(reference.balanced_accuracy_score(truth, said))
    f1 = reference.f1_score(truth, said, average=None)
    for name, expected in zip(one.truth["class"].names, f1, strict=True):
        assert value(report, f"f1_{name}").value == pytest.approx(expected)
    if k == 2:
        area = reference.roc_auc_score(truth, scores[:, 1] - scores[:, 0])
        assert value(report, "sensitivity").value == pytest.approx(reference.recall_score(truth, said))
        assert value(report, "specificity").value == pytest.approx(reference.recall_score(truth, said, pos_label=0))
    else:
        area = np.mean([reference.roc_auc_score(truth == c, scores[:, c]) for c in range(k)])
        assert not {"sensitivity", "specificity"} & {row.metric for row in report.rows}
        assert not report.curves
    assert value(report, "auc").value == pytest.approx(area)


def test_rows_say_where_they_come_from():
    row = value(evaluate(outcome(conditions={"labels.share": 0.1})), "accuracy")
    assert (row.method, row.split, row.norm, row.seen) == ("net-method", "test", "none", "labels: 5 training")
    assert (row.conditions, row.repeats, row.n) == ({"labels.share": 0.1}, {"seed": 0}, N)
    assert row.note == "Wilson, over images"


def test_intervals_of_shares_are_wilsons():
    one = outcome()
    right = one.predictions.scores.argmax(1) == TRUTH
    report = evaluate(one)
    assert value(report, "accuracy").ci95 == share_interval(int(right.sum()), N).ci95
    positive = TRUTH == 1
    row = value(report, "sensitivity")
    assert row.ci95 == share_interval(int(right[positive].sum()), int(positive.sum())).ci95
    assert row.n == positive.sum()
    assert value(report, "specificity").n == N - positive.sum()


def test_intervals_of_the_area():
    one = outcome()
    margin = one.predictions.scores[:, 1] - one.predictions.scores[:, 0]
    areas, covariance = delong(margin, TRUTH == 1)
    n1 = int(TRUTH.sum())
    errors = {"delong": math.sqrt(covariance[0, 0]), "hanley-mcneil": hanley_mcneil(areas[0], n1, N - n1)}
    for name, error in errors.items():
        row = value(evaluate(one, errors=name), "auc")
        assert row.ci95 == pytest.approx((areas[0] - 1.959964 * error, areas[0] + 1.959964 * error))
        assert row.note == name
    row = value(evaluate(one), "auc")
    assert row.note == "bootstrap of images"
    assert row.ci95 == pytest.approx((areas[0] - 1.96 * errors["delong"], areas[0] + 1.96 * errors["delong"]), abs=0.02)


def test_groups_are_resampled_whole():
    groups = np.arange(N) // 4
    truth = np.repeat(np.arange(N // 4) % 2, 4)
    scores = np.repeat(np.random.default_rng(0).normal(size=(N // 4, 2)), 4, 0)  # four equal images a patient
    wide = value(evaluate(outcome(truth=truth, groups=groups, scores=scores)), "accuracy")
    narrow = value(evaluate(outcome(truth=truth, scores=scores)), "accuracy")
    assert wide.note == "bootstrap of groups"
    ratio = (wide.ci95[1] - wide.ci95[0]) / (narrow.ci95[1] - narrow.ci95[0])
    assert 1.7 < ratio < 2.3  # the square root of 4
    note = value(evaluate(outcome(truth=truth, groups=groups), errors="delong"), "auc").note
    assert note == "delong, images taken as independent"


def test_unknown_truth_is_left_out():
    truth = TRUTH.copy()
    truth[::3] = -1
    known = np.flatnonzero(truth >= 0)
    whole = value(evaluate(outcome(truth=TRUTH, rows=known)), "auc")
    some = outcome(truth=TRUTH)
    some = outcome(truth=truth, scores=some.predictions.scores)
    assert value(evaluate(some), "auc").value == pytest.approx(whole.value)
    assert value(evaluate(some), "accuracy").n == len(known)


def test_majority_bounds_every_constant():
    report = evaluate(outcome("net"), outcome("other", 0.5), outcome("net", split="validation"))
    rows = [row for row in report.rows if row.stage == "majority"]
    assert [row.split for row in rows] == ["test", "validation"]
    assert rows[0].value == pytest.approx(max(TRUTH.mean(), 1 - TRUTH.mean()))
    constant = np.tile([1.0, 0.0], (N, 1))
    assert value(evaluate(outcome(scores=constant)), "accuracy").value <= rows[0].value
    assert value(evaluate(outcome(scores=constant)), "auc").value == 0.5


def test_majority_has_the_interval_of_a_constant_model_where_groups_hold_several_images():
    commonest = np.eye(2)[[int(TRUTH.mean() > 0.5)] * N]
    report = evaluate(outcome(scores=commonest, groups=np.arange(N) // 4))
    (row,) = [row for row in report.rows if row.stage == "majority"]
    constant = value(report, "accuracy")
    assert (row.value, row.ci95) == (constant.value, constant.ci95)


def folds(stage="net", skill=1.0, seeds=(0,), n=4, truth=TRUTH):
    parts = np.array_split(np.random.default_rng(0).permutation(N), n)
    return [
        outcome(stage, skill, s, truth=truth, rows=rows, repeats={"seed": s, "fold": f})
        for s in seeds
        for f, rows in enumerate(parts)
    ]


def test_folds_are_pooled():
    pooled, whole = evaluate(*folds()), evaluate(outcome())
    for metric in ("accuracy", "auc", "f1_benign", "balanced_accuracy"):
        assert value(pooled, metric).value == pytest.approx(value(whole, metric).value)
    assert value(pooled, "accuracy").repeats == {"seed": 0, "fold": "all 4"}
    assert value(pooled, "accuracy").n == N


def test_folds_are_averaged():
    report = evaluate(*folds(), over="fold")
    each = [value(evaluate(o), "auc").value for o in folds()]
    row = value(report, "auc")
    assert row.ci95 == pytest.approx(mean_interval(np.array(each)).ci95)
    assert (row.value, row.n, row.note) == (pytest.approx(np.mean(each)), 4, "over folds")
    found = evaluate(*folds(), *folds("other", 0.5), over="fold").comparisons
    assert [(c.metric, c.test, c.n) for c in found] == [("accuracy", "paired t", 4), ("auc", "paired t", 4)]


def test_folds_that_share_an_image_are_refused():
    a, b = outcome(rows=np.arange(60), repeats={"fold": 0}), outcome(rows=np.arange(59, N), repeats={"fold": 1})
    with pytest.raises(DataError) as error:
        evaluate(a, b)
    assert str(error.value) == (
        "net: found an image in two of the folds [0, 1]; expected each image once (pool folds that do not overlap, or "
        "average them with over: fold)"
    )


def test_seeds_are_averaged():
    rows = [r for r in evaluate(*[outcome(seed=s) for s in range(3)]).rows if r.metric == "auc"]
    assert [row.repeats["seed"] for row in rows] == [0, 1, 2, "mean of 3"]
    assert rows[3].value == pytest.approx(np.mean([row.value for row in rows[:3]]))
    sd = np.std([row.value for row in rows[:3]], ddof=1)
    assert rows[3].note == f"bootstrap of images; sd between repeats {sd:.3g}"
    by_delong = [r for r in evaluate(*[outcome(seed=s) for s in range(3)], errors="delong").rows if r.metric == "auc"]
    assert by_delong[3].ci95 == pytest.approx(rows[3].ci95, abs=0.02)
    both = [r for r in evaluate(*folds(seeds=(0, 1))).rows if r.metric == "auc"]
    assert [row.repeats for row in both] == [
        {"seed": 0, "fold": "all 4"},
        {"seed": 1, "fold": "all 4"},
        {"seed": "mean of 2", "fold": "all 4"},
    ]


def test_comparisons():
    a, b, c = outcome("a", 1.5), outcome("b", 1.0), outcome("c", 0.2)
    found = evaluate(a, b, c).comparisons
    assert [(x.metric, x.first, x.second, x.test) for x in found[:3]] == [
        ("accuracy", "a", "b", "McNemar exact"),
        ("auc", "a", "b", "DeLong"),
        ("accuracy", "a", "c", "McNemar exact"),
    ]
    right = [o.predictions.scores.argmax(1) == TRUTH for o in (a, b)]
    margin = [o.predictions.scores[:, 1] - o.predictions.scores[:, 0] for o in (a, b)]
    assert found[0].p == mcnemar(*right).p
    assert found[1].p == pytest.approx(paired_delong(*margin, TRUTH == 1).p)
    np.testing.assert_allclose([x.p_holm for x in found], holm(np.array([x.p for x in found])))
    assert len(found) == 6


def test_comparisons_of_groups_seeds_and_many_classes_are_bootstrapped():
    groups = np.arange(N) // 3
    found = evaluate(outcome("a", 1.5, groups=groups), outcome("b", groups=groups)).comparisons
    assert {c.test for c in found} == {"paired bootstrap of groups"}
    assert found[0].n == N // 3
    seeds = evaluate(outcome("a", 1.5), outcome("a", 1.5, seed=1), outcome("b")).comparisons
    assert [c.test for c in seeds] == ["paired bootstrap", "DeLong"]
    truth = np.arange(N) % 3
    many = evaluate(outcome("a", truth=truth, k=3), outcome("b", 2.0, truth=truth, k=3)).comparisons
    assert [c.test for c in many] == ["McNemar exact", "paired bootstrap"]
    assert found[0].ci95[0] <= found[0].difference <= found[0].ci95[1]


def test_other_images_are_not_compared():
    assert not evaluate(outcome("a"), outcome("b", rows=np.arange(50))).comparisons


def test_roc_curves():
    curve = evaluate(outcome()).curves["roc of net, seed 0"]
    area = np.trapezoid(curve["y"], curve["x"])
    assert area == pytest.approx(value(evaluate(outcome()), "auc").value)
    assert (curve["x_label"], curve["y_label"]) == ("false positive rate", "true positive rate (sensitivity)")


def test_arrays_hold_what_each_image_got_right():
    arrays = evaluate(outcome()).arrays
    assert arrays["net, seed 0, right"].mean() == value(evaluate(outcome()), "accuracy").value
    np.testing.assert_array_equal(arrays["net, seed 0, ids"], np.arange(N))


def test_metrics_are_chosen():
    assert {row.metric for row in evaluate(outcome(), metrics=("auc",)).rows if row.stage == "net"} == {"auc"}


def test_one_class_alone_has_no_area():
    report = evaluate(outcome(truth=np.zeros(20, int)))
    assert math.isnan(value(report, "auc").value)
    assert math.isnan(value(report, "sensitivity").value)
    assert value(report, "specificity").value >= 0
    assert not report.curves


def test_models_without_scores_or_truth_are_named():
    two = np.arange(2)
    masks = Outcome("unet", "u-net", Predictions(two, masks=np.zeros((2, 1, 2, 2))), "test", two, two)
    unknown = outcome("blind", truth=np.full(4, -1))
    assert evaluate(masks, unknown, outcome()).left_out == ("unet", "blind")


def test_wrong_scores_are_refused():
    with pytest.raises(DataError) as error:
        evaluate(outcome(scores=np.zeros((N, 3))))
    assert str(error.value) == "net: found scores (120, 3); expected (n, 2), a column for each class of 'class'"
    with pytest.raises(DataError) as error:
        evaluate(outcome(scores=np.full((N, 2), np.nan)))
    assert str(error.value) == "net: found NaN among the scores of images; expected numbers"


def test_order_of_outcomes_and_seed_of_the_run_decide_little():
    a, b = outcome("a", groups=np.arange(N) // 2), outcome("b", groups=np.arange(N) // 2)
    one, other = evaluate(a, b), evaluate(b, a)
    rows = {(r.stage, r.metric): r.ci95 for r in one.rows}
    assert rows == {(r.stage, r.metric): r.ci95 for r in other.rows}


def test_the_published_t_test_is_reproduced_and_flagged():
    """The paper's claims: p <= 0.001 against 0.85 and less, p > 0.05 between 0.89 and 0.90, with 38 of 118 positive."""

    def p_of(first, second):
        return error_ttest("a - b", (first, second), (error_of(first), error_of(second)), 118, {}).p

    def error_of(area):
        return hanley_mcneil(area, 38, 80)

    assert p_of(0.89, 0.90) == pytest.approx(0.056, abs=0.001)
    assert p_of(0.88, 0.85) == pytest.approx(3e-8, rel=0.5)
    # The formula of the unpaired test, with the errors as they are printed in the place of deviations.
    a, b = 0.88, 0.84
    t = (a - b) / math.sqrt((0.04**2 + 0.04**2) / 118)
    found = error_ttest("a - b", (a, b), (error_of(a), error_of(b)), 118, {})
    assert found.statistic == pytest.approx(t)
    assert found.p == pytest.approx(2 * stats.t.sf(t, 234))
    assert math.isnan(error_ttest("a - b", (1.0, 0.8), (0.0, 0.1), 20, {}).p)


def test_the_published_t_test_is_an_option_and_enters_no_correction():
    models = [outcome("net", 1.2), outcome("other", 0.4)]
    plain, more = evaluate(*models, metrics=("auc",)), evaluate(*models, metrics=("auc",), paper_ttest=True)
    assert not plain.tests
    assert more.comparisons == plain.comparisons
    (test,) = more.tests
    assert (test.about, test.metric) == ("net − other", "auc")
    assert "far too small" in test.note
    assert math.isnan(test.p_holm)
    assert test.p < plain.comparisons[0].p
    assert test.effect == pytest.approx(plain.comparisons[0].difference)


def test_right_and_wrong_cases_of_the_best_model_are_shown():
    rng = np.random.default_rng(0)
    volumes = rng.integers(0, 100, (N, 1, 5, 8, 6), dtype=np.uint8)
    volumes[:, :, 3, 2:5, 2:5] = 255
    finding = Target("class", TRUTH * 2 + (1 - TRUTH) * (np.arange(N) % 2), ("none", "benign", "malignant"))
    models = []
    for stage, skill in (("weak", 0.1), ("strong", 1.5)):
        one = outcome(stage, skill, images=volumes)
        models.append(replace(one, truth={**one.truth, "finding": finding}))
    (figure,) = evaluate(*models, metrics=("auc",), examples=2).figures
    assert figure.title == "Cases of strong (seed 0), right and wrong, drawn by lot"
    assert "brightest slice" in figure.alt
    for part in (
        "benign, right: benign 0.",
        "benign, wrong: malignant 0.",
        "malignant, wrong: benign 0.",
        "finding none",
    ):
        assert part in figure.alt
    axes = matplotlib.figure.Figure().add_subplot()
    figure.draw(axes)
    canvas = axes.images[0].get_array()
    assert canvas.shape == (4 * (8 + 3), 2 * (6 + 3), 4)
    np.testing.assert_array_equal(shown(volumes[7])[2:5, 2:5], 255)
    assert not evaluate(*models, metrics=("auc",), examples=0).figures
    assert not evaluate(outcome(), metrics=("auc",)).figures  # there are no images


def test_pictures_are_thinned_out_and_keep_their_colours():
    assert shown(np.zeros((3, 200, 300), np.uint8)).shape == (50, 75, 3)
    coloured = np.stack([np.full((4, 4), v, np.uint8) for v in (0, 100, 200)])
    assert (np.diff(shown(coloured)[0, 0].astype(int)) > 0).all()


def test_the_row_of_the_majority_stands_where_accuracy_is_asked_for():
    assert not [row for row in evaluate(outcome(), metrics=("auc",)).rows if row.stage == "majority"]
