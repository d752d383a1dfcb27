"""The evaluator of masks: its rows against sums of pixels, what is empty or unknown, seeds, folds, pairs and tests."""

import math

import numpy as np
import pytest
from masks_made import SIDE, N, discs, outcome, shifted

from fewcore import (
    DataError,
    Predictions,
    Run,
    holm,
    independent_t,
    mean_interval,
    one_way_anova,
    paired_comparison,
    pearson,
)
from fewcore_medical.mask_measures import average_hausdorff, confusion, diagonal, ratio, row_hausdorff, similarity
from fewcore_medical.segmentation import Segmentation

ALL = ("dice", "jaccard", "ssim", "average_hausdorff", "precision", "recall")


def evaluate(*outcomes, **options):
    return Segmentation(**options).evaluate(outcomes, Run())


def one(report, metric, stage="net", **conditions):
    found = [
        row
        for row in report.rows
        if (row.metric, row.stage) == (metric, stage)
        and all({**row.conditions, **row.repeats}.get(k.replace("__", ".")) == v for k, v in conditions.items())
    ]
    assert len(found) == 1, found
    return found[0]


def pixels(made):
    """True and predicted masks of an outcome, (n, h, w) bool, of its first structure."""
    return made.truth["mask"].values[:, 0] > 0.5, made.predictions.masks[:, 0] > 0.5


# ---- rows


def test_means_over_images_with_students_interval():
    made = outcome()
    truth, predicted = pixels(made)
    counts = confusion(predicted, truth)
    expected = {name: ratio(counts, name) for name in ("dice", "jaccard", "precision", "recall")}
    expected |= {"ssim": similarity(predicted, truth, 7), "average_hausdorff": average_hausdorff(predicted, truth)}
    report = evaluate(made)
    assert tuple(row.metric for row in report.rows) == ALL
    for name, values in expected.items():
        row, mean = one(report, name), mean_interval(values)
        assert (row.value, row.n) == (pytest.approx(mean.value), N)
        assert row.ci95 == pytest.approx(mean.ci95)
        assert row.note == "mean over images; over images"
        assert report.arrays[f"net, {name}"] == pytest.approx(values)
    assert report.arrays["net, ids"].tolist() == list(range(N))


def test_pooled_rows_count_the_pixels_of_all_images_together():
    made = outcome()
    truth, predicted = pixels(made)
    tp, fp, fn = (predicted & truth).sum(), (predicted & ~truth).sum(), (~predicted & truth).sum()
    report = evaluate(made, over="pooled")
    expected = {
        "dice": 2 * tp / (2 * tp + fp + fn), "jaccard": tp / (tp + fp + fn),
        "precision": tp / (tp + fp), "recall": tp / (tp + fn),
    }  # fmt: skip
    for name, value in expected.items():
        row = one(report, name)
        assert row.value == pytest.approx(value)
        assert row.ci95[0] < row.value < row.ci95[1]
        assert row.note == "pixels of all images; bootstrap of images"
    dice, jaccard = one(report, "dice").value, one(report, "jaccard").value
    assert jaccard == pytest.approx(dice / (2 - dice))
    assert one(report, "ssim").note.startswith("mean over images")
    assert one(report, "average_hausdorff").note.startswith("mean over images")


def test_large_images_weigh_more_where_pixels_are_pooled():
    truth = np.zeros((2, 1, SIDE, SIDE), np.float32)
    truth[0, 0, :12, :12], truth[1, 0, 0, 0] = 1, 1
    predicted = truth.copy()
    predicted[1, 0] = 0
    predicted[1, 0, 5, 5] = 1
    made = outcome(truth=truth, predicted=predicted)
    assert one(evaluate(made), "dice").value == pytest.approx(0.5)
    assert one(evaluate(made, over="pooled"), "dice").value == pytest.approx(144 / 145)


def test_rows_say_where_they_come_from():
    row = one(evaluate(outcome(conditions={"labels.share": 0.1}, repeats={"seed": 0})), "dice")
    assert (row.method, row.split, row.seen) == ("net-method", "test", "labels: 5 training + 3 validation")
    assert (row.conditions, row.repeats) == ({"labels.share": 0.1}, {"seed": 0})


def test_groups_of_several_images_are_resampled_whole():
    groups = np.arange(N) // 3
    report = evaluate(outcome(groups=groups))
    assert one(report, "dice").note == "mean over images; bootstrap of groups"
    assert one(evaluate(outcome(groups=groups), over="pooled"), "dice").note.endswith("bootstrap of groups")


def test_only_what_is_asked_for_is_measured():
    report = evaluate(outcome(), metrics=("dice",), row_hausdorff=True)
    assert [row.metric for row in report.rows] == ["dice", "row_hausdorff"]
    truth, predicted = pixels(outcome())
    assert one(report, "row_hausdorff").value == pytest.approx(row_hausdorff(predicted, truth).mean())


def test_the_threshold_decides_what_is_foreground():
    truth = discs()[:, None].astype(np.float32)
    made = outcome(predicted=np.where(truth > 0, 0.7, 0.4).astype(np.float32))
    assert one(evaluate(made), "dice").value == 1.0
    assert one(evaluate(made, threshold=0.8), "dice").value == 0.0
    assert one(evaluate(made, threshold=0.3), "recall").value == 1.0
    assert one(evaluate(made, threshold=0.3), "precision").value < 0.5


def test_each_structure_has_rows_of_its_own():
    truth = np.stack([discs(seed=1), discs(seed=2)], 1).astype(np.float32)
    predicted = np.stack([truth[:, 0], shifted(truth[:, 1] > 0, 2)], 1)
    report = evaluate(outcome(truth=truth, predicted=predicted, names=("left", "right")))
    assert one(report, "dice", structure="left").value == 1.0
    assert one(report, "dice", structure="right").value < 0.9
    assert {row.conditions["structure"] for row in report.rows} == {"left", "right"}


def test_volumes_are_measured_too():
    truth = np.repeat(discs(4)[:, None, None], 8, 2).astype(np.float32)
    made = outcome(truth=truth, by=1, classes=np.zeros(4, int))
    report = evaluate(made)
    flat = outcome(truth=truth[:, :, 0], by=1, classes=np.zeros(4, int))
    assert one(report, "dice").value == pytest.approx(one(evaluate(flat), "dice").value)
    assert report.figures


# ---- what is empty or unknown


def test_a_missed_structure_never_improves_a_mean():
    made = outcome()
    predicted = made.predictions.masks.copy()
    worst = np.argmin(ratio(confusion(*pixels(made)[::-1]), "dice"))
    predicted[worst] = 0
    missed = outcome(predicted=predicted)
    for over in ("image", "pooled"):
        before, after = evaluate(made, over=over), evaluate(missed, over=over)
        for metric in ("dice", "jaccard", "recall"):
            assert one(after, metric).value < one(before, metric).value
            assert one(after, metric).n == one(before, metric).n == N
        assert one(after, "average_hausdorff").value > one(before, "average_hausdorff").value
        assert (one(after, "missed").value, one(after, "missed").n) == (1.0, N)
        assert not any(row.metric == "missed" for row in before.rows)
    assert evaluate(missed).arrays["net, average_hausdorff"][worst] == diagonal((SIDE, SIDE))
    assert evaluate(missed).arrays["net, precision"][worst] == 0


def test_a_model_that_predicts_nothing_at_all_has_the_worst_of_everything():
    nothing = outcome(predicted=np.zeros((N, 1, SIDE, SIDE), np.float32))
    for over in ("image", "pooled"):
        report = evaluate(nothing, over=over)
        assert [one(report, m).value for m in ("dice", "jaccard", "precision", "recall")] == [0, 0, 0, 0]
        assert one(report, "average_hausdorff").value == pytest.approx(diagonal((SIDE, SIDE)))
        assert one(report, "missed").value == N


def absent_in_half():
    truth = discs()[:, None].astype(np.float32)
    truth[::2] = 0
    predicted = shifted(truth > 0, 1)
    predicted[0, 0, 3, 3] = 1.0  # one false alarm
    return outcome(truth=truth, predicted=predicted)


def test_images_without_the_structure_are_judged_or_left_out_as_the_option_says():
    made = absent_in_half()
    judged, left = evaluate(made), evaluate(made, absent="leave-out")
    dice = judged.arrays["net, dice"]
    assert (dice[0], dice[2]) == (0.0, 1.0)
    distance = judged.arrays["net, average_hausdorff"]
    assert (distance[0], distance[2]) == (diagonal((SIDE, SIDE)), 0.0)
    assert (one(judged, "dice").n, one(left, "dice").n) == (N, N // 2)
    assert one(judged, "dice").value == pytest.approx(dice.mean())
    assert one(left, "dice").value == pytest.approx(dice[1::2].mean())
    for report in (judged, left):
        assert one(report, "false_alarms").value == 1.0
        assert one(report, "false_alarms").note == "predictions for 9 images that lack the structure"
    pooled = [one(evaluate(made, over="pooled", absent=absent), "dice").value for absent in ("judge", "leave-out")]
    assert pooled[0] == pooled[1]


def test_a_false_alarm_costs_a_pair_as_it_costs_the_mean():
    made, quiet = absent_in_half(), absent_in_half()
    calm = quiet.predictions.masks.copy()
    calm[0] = 0
    calm = outcome("calm", truth=quiet.truth["mask"].values, predicted=calm)
    (first, _) = evaluate(made, calm).comparisons
    assert first.n == N
    assert first.difference == pytest.approx(-1 / N)


def test_unknown_truth_is_left_out_and_counted():
    truth = discs()[:, None].astype(np.float32)
    truth[3], truth[7] = np.nan, np.nan
    predicted = shifted(discs()[:, None], 1)
    report = evaluate(outcome(truth=truth, predicted=predicted))
    rows = [i for i in range(N) if i not in (3, 7)]
    whole = ratio(confusion(predicted[:, 0] > 0.5, discs()), "dice")
    row = one(report, "dice")
    assert (row.value, row.n) == (pytest.approx(whole[rows].mean()), N - 2)
    assert row.note.endswith("2 images of unknown truth left out")
    assert report.arrays["net, ids"].tolist() == rows


def test_a_mask_that_is_unknown_in_part_is_unknown():
    truth = discs()[:, None].astype(np.float32)
    truth[3, 0, 0, 0] = np.nan
    assert one(evaluate(outcome(truth=truth, predicted=shifted(discs()[:, None], 1))), "dice").n == N - 1


def test_a_model_whose_truth_nobody_knows_is_named():
    unknown = outcome(truth=np.full((N, 1, SIDE, SIDE), np.nan, np.float32), predicted=shifted(discs()[:, None], 1))
    report = evaluate(unknown)
    assert (report.rows, report.left_out) == ((), ("net",))


def test_a_model_without_masks_among_others_has_no_rows():
    classes = outcome("conv-net")
    scores = Predictions(classes.ids, scores=np.ones((N, 3), np.float32))
    lacking = outcome("conv-net")
    object.__setattr__(lacking, "predictions", scores)
    report = evaluate(outcome("u-net"), lacking)
    assert {row.stage for row in report.rows} == {"u-net"}
    assert report.left_out == ("conv-net",)
    assert report.comparisons == ()


def test_nothing_to_judge_is_no_error():
    assert evaluate().rows == ()


# ---- bad input


def test_masks_of_another_shape_are_refused():
    made = outcome(predicted=np.zeros((N, 1, 8, 8), np.float32))
    with pytest.raises(DataError, match=r"net: found predicted masks \(18, 1, 8, 8\); expected \(18, 1, 16, 16\)"):
        evaluate(made)
    with pytest.raises(DataError, match=r"\(18, 2, 16, 16\); expected \(18, 1, 16, 16\)"):
        evaluate(outcome(predicted=np.zeros((N, 2, SIDE, SIDE), np.float32)))


@pytest.mark.parametrize("bad", [np.nan, -3.0, 1.5])
def test_masks_that_are_no_probabilities_are_refused(bad):
    predicted = shifted(discs()[:, None], 1)
    predicted[2, 0, 1, 1] = bad
    with pytest.raises(DataError, match=r"net: found predicted masks between .* expected probabilities in \[0, 1\]"):
        evaluate(outcome(predicted=predicted))


def test_images_smaller_than_the_window_are_refused_with_what_to_type():
    truth = np.ones((4, 1, 4, 4), np.float32)
    made = outcome(truth=truth, predicted=truth, classes=np.zeros(4, int))
    with pytest.raises(DataError, match=r"masks of 4 x 4 pixels; expected at least 7 .*type ssim_window: 3, or leave"):
        evaluate(made)
    assert one(evaluate(made, ssim_window=3), "ssim").value == pytest.approx(1)


def test_the_truth_is_found_by_name():
    made = outcome()
    other = {"class": made.truth["class"], "heart": made.truth["mask"], "lungs": made.truth["mask"]}
    object.__setattr__(made, "truth", other)
    with pytest.raises(DataError, match=r"found the masks heart, lungs; expected one to judge by .type target: heart"):
        evaluate(made)
    with pytest.raises(DataError, match="found no masks named 'liver'; expected one of heart, lungs"):
        evaluate(made, target="liver")
    assert evaluate(made, target="lungs").rows


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ssim_window": 4}, "ssim_window: found 4; expected an odd number"),
        ({"metrics": ()}, "metrics: found none"),
        ({"reference": ("s4mtl",)}, "reference: found 's4mtl'; expected NAME=VALUE"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Segmentation(**options)


def test_a_reference_that_is_not_there_is_refused_with_those_that_are():
    made = [outcome("u-net", conditions={"labels.share": share}) for share in (0.1, 0.5)]
    with pytest.raises(DataError, match=r"found 0 models with stage=v-net; expected one of: stage=u-net"):
        evaluate(*made, reference=("stage=v-net",))
    with pytest.raises(DataError, match="found 2 models with stage=u-net"):
        evaluate(*made, reference=("stage=u-net",))


# ---- seeds, folds, pairs


def test_seeds_have_rows_and_a_mean_image_by_image():
    made = [outcome(by=by, repeats={"seed": seed}) for seed, by in enumerate((0, 1, 2))]
    report = evaluate(*made)
    values = [one(report, "dice", seed=seed).value for seed in range(3)]
    mean = one(report, "dice", seed="mean of 3")
    assert mean.value == pytest.approx(np.mean(values))
    assert f"sd between repeats {np.std(values, ddof=1):.3g}" in mean.note
    pooled = evaluate(*made, over="pooled")
    assert one(pooled, "dice", seed="mean of 3").value == pytest.approx(
        np.mean([one(pooled, "dice", seed=seed).value for seed in range(3)])
    )


def test_folds_are_taken_together():
    whole, truth = outcome(), discs()[:, None].astype(np.float32)
    folds = [
        outcome(ids=rows, truth=truth[rows], repeats={"fold": i}, classes=rows % 3)
        for i, rows in enumerate((np.arange(0, N, 2), np.arange(1, N, 2)))
    ]
    for over in ("image", "pooled"):
        assert one(evaluate(*folds, over=over), "dice").value == pytest.approx(
            one(evaluate(whole, over=over), "dice").value
        )
    assert one(evaluate(*folds), "dice").repeats == {"fold": "all 2"}


def test_seeds_of_other_images_are_refused():
    truth = discs()[:, None].astype(np.float32)
    made = [outcome(repeats={"seed": 0}), outcome(repeats={"seed": 1}, ids=np.arange(N) + 1, truth=truth)]
    with pytest.raises(DataError, match="found other images in each seed"):
        evaluate(*made)


def matrix(shares=(0.1, 0.5), models=(("s4mtl", 0), ("u-net", 2), ("u-mtl", 1))):
    return [
        outcome("model", by, conditions={"labels.share": share, "stages.model": name}, truth=None)
        for share in shares
        for name, by in models
    ]


def test_every_two_models_are_paired_at_equal_conditions_by_two_tests():
    report = evaluate(*matrix(), metrics=("dice",))
    assert {c.test for c in report.comparisons} == {"paired t", "Wilcoxon signed-rank"}
    assert len(report.comparisons) == 2 * 2 * 3
    assert {(c.first, c.second) for c in report.comparisons} == {
        ("model [s4mtl]", "model [u-net]"), ("model [s4mtl]", "model [u-mtl]"), ("model [u-net]", "model [u-mtl]")
    }  # fmt: skip
    dice = {by: ratio(confusion(*pixels(outcome(by=by))[::-1]), "dice") for by in (0, 2)}
    pair = [c for c in report.comparisons if (c.first, c.second) == ("model [s4mtl]", "model [u-net]")]
    for found in pair:
        test = paired_comparison(dice[0], dice[2], test="t" if found.test == "paired t" else "wilcoxon")
        assert (found.difference, found.p, found.ci95) == (
            pytest.approx(test.difference),
            pytest.approx(test.p),
            test.ci95,
        )
    expected = holm(np.array([c.p for c in report.comparisons]))
    assert [c.p_holm for c in report.comparisons] == pytest.approx(expected.tolist())


def test_pairs_of_pooled_rows_say_that_they_are_of_images():
    assert {c.metric for c in evaluate(*matrix(), metrics=("dice",)).comparisons} == {"dice"}
    assert {c.metric for c in evaluate(*matrix(), metrics=("dice",), over="pooled").comparisons} == {"dice_per_image"}


def test_groups_are_the_pairs_where_they_hold_several_images():
    made = [outcome(stage, by, groups=np.arange(N) // 3) for stage, by in (("a", 0), ("b", 1))]
    assert {c.n for c in evaluate(*made).comparisons} == {N // 3}


def test_the_reference_meets_every_other_model_at_any_conditions():
    report = evaluate(*matrix(), metrics=("dice",), reference=("stages.model=s4mtl", "labels.share=0.5"))
    against = [c for c in report.comparisons if "reference" in c.conditions]
    assert len(against) == 2 * 3  # all three at 0.1; at 0.5 the pairs are there already
    assert {c.first for c in against} == {"model [s4mtl]"}
    assert {c.conditions["against"] for c in against} == {"labels.share 0.1"}
    assert len(report.comparisons) == 2 * (6 + 3)


def test_validation_rows_are_measured_but_not_paired():
    made = [outcome(stage, by, split="validation") for stage, by in (("a", 0), ("b", 1))]
    report = evaluate(*made, reference=("stage=a",))
    assert len(report.rows) == 12
    assert (report.comparisons, report.tests, report.figures) == ((), (), ())


# ---- tests that pair no models


def dice_of(by):
    return ratio(confusion(*pixels(outcome(by=by))[::-1]), "dice")


def test_analysis_of_variance_is_over_the_models_at_equal_conditions():
    report = evaluate(*matrix(), metrics=("dice",), reference=("stages.model=s4mtl", "labels.share=0.5"))
    found = [t for t in report.tests if t.test == "one-way ANOVA" and "independent" in t.note]
    assert [(t.about, dict(t.conditions)) for t in found] == [
        ("s4mtl, u-net, u-mtl", {"labels.share": 0.1}),
        ("s4mtl, u-net, u-mtl", {"labels.share": 0.5}),
        ("all models at all conditions", {}),
    ]
    expected = one_way_anova([dice_of(by) for by in (0, 2, 1)])
    assert found[0].statistic == pytest.approx(expected.statistic)
    assert found[0].p == pytest.approx(expected.p)
    assert found[2].n == 6 * N
    assert [t.p_holm for t in report.tests] == pytest.approx(holm(np.array([t.p for t in report.tests])), nan_ok=True)


def test_classes_are_compared_within_what_is_shown():
    report = evaluate(*matrix(), metrics=("dice",), reference=("stages.model=u-net", "labels.share=0.1"))
    mine = [t for t in report.tests if t.about.startswith("u-net: ") and t.metric == "dice_per_image"]
    assert {t.conditions["labels.share"] for t in mine} == {0.1}  # the reference
    assert {t.conditions["labels.share"] for t in report.tests if t.about.startswith("u-mtl: ")} == {
        0.5
    }  # the last cell
    dice, classes = dice_of(2), np.arange(N) % 3
    by_name = {t.about: t for t in mine}
    assert list(by_name) == [
        "u-net: normal, tuberculosis, nodule",
        "u-net: normal − tuberculosis", "u-net: normal − nodule", "u-net: tuberculosis − nodule",
        "u-net: normal or not", "u-net: tuberculosis or not", "u-net: nodule or not",
    ]  # fmt: skip
    split = [dice[classes == c] for c in range(3)]
    assert by_name["u-net: normal, tuberculosis, nodule"].p == pytest.approx(one_way_anova(split).p)
    welch = independent_t(split[0], split[2])
    assert by_name["u-net: normal − nodule"].effect == pytest.approx(welch.effect)
    assert by_name["u-net: normal − nodule"].ci95 == pytest.approx(welch.ci95)
    assert by_name["u-net: nodule or not"].statistic == pytest.approx(pearson(classes == 2, dice).statistic)


def test_of_two_classes_one_correlation_says_it_all():
    report = evaluate(outcome(by=2, classes=np.arange(N) % 2))
    assert [t.about for t in report.tests if t.test == "Pearson"] == [
        "net: normal or not", "net: true and predicted pixels"
    ]  # fmt: skip


def test_true_and_predicted_pixels_are_correlated():
    made = outcome(by=1)
    truth, predicted = (masks.reshape(N, -1).sum(1) for masks in pixels(made))
    (found,) = [t for t in evaluate(made).tests if t.metric == "foreground_pixels"]
    assert found.statistic == pytest.approx(pearson(truth, predicted).statistic)


def test_images_of_unknown_class_are_in_no_class_and_no_class_is_no_test():
    report = evaluate(outcome(by=2, classes=np.full(N, -1)))
    assert [t.about for t in report.tests] == ["net: true and predicted pixels"]
    assert one(report, "dice").n == N


def test_equal_runs_give_equal_reports():
    first, second = (evaluate(*matrix(), metrics=("dice",), over="pooled") for _ in range(2))
    assert [repr(r) for r in first.rows] == [repr(r) for r in second.rows]
    assert [f.alt for f in first.figures] == [f.alt for f in second.figures]


def test_no_number_of_a_report_is_nan_where_there_is_something_to_measure():
    report = evaluate(absent_in_half(), absent_in_half().with_conditions(share=1))
    assert all(math.isfinite(row.value) for row in report.rows)
