"""Measures of masks: each against a slow transcription of its definition, and what is empty."""

import math
import warnings

import numpy as np
import pytest

from fewcore_medical.mask_measures import (
    RATIOS,
    average_hausdorff,
    confusion,
    diagonal,
    pooled_ratio,
    ratio,
    row_hausdorff,
    similarity,
)

EMPTY = np.zeros((12, 10), bool)


def blob(seed, shape=(12, 10), share=0.4):
    """Two overlapping random masks with some structure."""
    rng = np.random.default_rng(seed)
    smooth = rng.random(shape)
    for axis in range(len(shape)):
        smooth = smooth + np.roll(smooth, 1, axis)
    return smooth > np.quantile(smooth, 1 - share)


PREDICTED = np.stack([blob(seed) for seed in range(4)])
TRUTH = np.stack([blob(seed + 10, share=0.3) | blob(seed, share=0.2) for seed in range(4)])


def counted(predicted, truth):
    """True positives, false positives, true negatives, false negatives, pixel by pixel."""
    counts = [0, 0, 0, 0]
    for p, t in zip(predicted.ravel(), truth.ravel(), strict=True):
        counts[0 if p and t else 1 if p else 3 if t else 2] += 1
    return counts


def slow_ratio(predicted, truth, name):
    tp, fp, _, fn = counted(predicted, truth)
    above, below = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "jaccard": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
    }[name]
    return above / below


def edge(mask):
    """The pixels of a mask of which a neighbour (not across a corner), or the outside, is not in the mask."""
    found = []
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                inside = all(0 <= c < side for c, side in zip(other, mask.shape, strict=True))
                if not (inside and mask[tuple(other)]) and tuple(place) not in found:
                    found.append(tuple(int(c) for c in place))
    return found


def slow_hausdorff(predicted, truth):
    a, b = edge(predicted), edge(truth)
    there = [min(math.dist(x, y) for y in b) for x in a]
    back = [min(math.dist(x, y) for y in a) for x in b]
    return (sum(there) / len(there) + sum(back) / len(back)) / 2


def slow_row_hausdorff(predicted, truth):
    """The Hausdorff distance of two sets of points, the rows of the masks being the points."""

    def directed(a, b):
        return max(min(math.sqrt(sum((x - y) ** 2 for x, y in zip(r, s, strict=True))) for s in b) for r in a)

    a, b = predicted.astype(float).tolist(), truth.astype(float).tolist()
    return max(directed(a, b), directed(b, a))


def slow_similarity(predicted, truth, window):
    """SSIM, window by window: sample variances, constants 0.01 and 0.03 for a range of 1."""
    x, y = predicted.astype(float), truth.astype(float)
    c1, c2 = 0.01**2, 0.03**2
    found = []
    for top in range(x.shape[0] - window + 1):
        for left in range(x.shape[1] - window + 1):
            a = x[top : top + window, left : left + window].ravel()
            b = y[top : top + window, left : left + window].ravel()
            covariance = ((a - a.mean()) * (b - b.mean())).sum() / (len(a) - 1)
            above = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
            below = (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var(ddof=1) + b.var(ddof=1) + c2)
            found.append(above / below)
    return sum(found) / len(found)


def test_pixels_are_counted():
    expected = [counted(p, t) for p, t in zip(PREDICTED, TRUTH, strict=True)]
    assert confusion(PREDICTED, TRUTH).tolist() == expected


def test_many_images_are_counted_in_parts(monkeypatch):
    whole = confusion(PREDICTED, TRUTH)
    monkeypatch.setattr("fewcore_medical.mask_measures.CHUNK", 200)
    assert np.array_equal(confusion(PREDICTED, TRUTH), whole)


@pytest.mark.parametrize("name", RATIOS)
def test_ratios_are_as_defined(name):
    expected = [slow_ratio(p, t, name) for p, t in zip(PREDICTED, TRUTH, strict=True)]
    assert ratio(confusion(PREDICTED, TRUTH), name) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", RATIOS)
def test_pooled_ratios_count_the_pixels_of_all_images_as_often_as_they_are_drawn(name):
    statistic = pooled_ratio(confusion(PREDICTED, TRUTH), name)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 0]], float)
    drawn = [0, 0, 2]
    expected = [slow_ratio(PREDICTED, TRUTH, name), slow_ratio(PREDICTED[drawn], TRUTH[drawn], name)]
    assert statistic(weights) == pytest.approx(expected, abs=1e-12)


def test_pooled_jaccard_and_dice_say_the_same():
    counts = confusion(PREDICTED, TRUTH)
    one = np.ones((1, 4))
    dice, jaccard = (pooled_ratio(counts, name)(one)[0] for name in ("dice", "jaccard"))
    assert jaccard == pytest.approx(dice / (2 - dice))


@pytest.mark.parametrize(
    "predicted, truth, expected",
    [
        (EMPTY, EMPTY, {"dice": 1, "jaccard": 1, "precision": 1, "recall": 1}),
        (EMPTY, TRUTH[0], {"dice": 0, "jaccard": 0, "precision": 0, "recall": 0}),
        (PREDICTED[0], EMPTY, {"dice": 0, "jaccard": 0, "precision": 0, "recall": 0}),
    ],
    ids=["both empty", "missed", "false alarm"],
)
def test_ratios_of_what_is_empty(predicted, truth, expected):
    counts = confusion(predicted[None], truth[None])
    assert {name: ratio(counts, name)[0] for name in RATIOS} == expected
    assert {name: pooled_ratio(counts, name)(np.ones((1, 1)))[0] for name in RATIOS} == expected


@pytest.mark.parametrize("shape", [(12, 10), (5, 6, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_average_hausdorff_is_as_defined(shape, seed):
    p, t = blob(seed, shape), blob(seed + 20, shape, 0.25)
    assert average_hausdorff(p[None], t[None]) == pytest.approx([slow_hausdorff(p, t)], abs=1e-5)


def test_average_hausdorff_is_the_mean_of_both_directions_not_of_all_edge_pixels():
    p, t = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    p[4, 4] = True
    t[4, :] = True
    back = sum(abs(4 - i) for i in range(9)) / 9
    assert average_hausdorff(p[None], t[None]) == pytest.approx([back / 2], abs=1e-6)


def test_distances_of_what_is_empty():
    both = average_hausdorff(np.stack([EMPTY, EMPTY, PREDICTED[0]]), np.stack([EMPTY, TRUTH[0], EMPTY]))
    assert both.tolist() == [0.0, diagonal(EMPTY.shape), diagonal(EMPTY.shape)]
    assert diagonal((3, 4)) == 5.0


def test_no_distance_exceeds_that_of_a_missed_structure():
    p, t = EMPTY.copy(), EMPTY.copy()
    p[0, 0], t[-1, -1] = True, True
    assert average_hausdorff(p[None], t[None])[0] < average_hausdorff(EMPTY[None], t[None])[0]


@pytest.mark.parametrize("seed", range(3))
def test_distance_of_rows_is_as_defined(seed):
    p, t = blob(seed), blob(seed + 20, share=0.25)
    assert row_hausdorff(p[None], t[None]) == pytest.approx([slow_row_hausdorff(p, t)])


def test_distance_of_rows_is_no_distance_in_the_image():
    p, t = np.zeros((2, 20, 20), bool)
    p[2, 3:9], t[17, 3:9] = True, True
    assert row_hausdorff(p[None], t[None]).tolist() == [0.0]
    assert average_hausdorff(p[None], t[None])[0] == pytest.approx(15)


@pytest.mark.parametrize("window", [3, 7])
@pytest.mark.parametrize("seed", range(2))
def test_similarity_is_as_defined(window, seed):
    p, t = PREDICTED[seed], TRUTH[seed]
    assert similarity(p[None], t[None], window) == pytest.approx([slow_similarity(p, t, window)], abs=1e-9)


def test_equal_masks_are_as_near_as_can_be_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ratio(confusion(TRUTH, TRUTH), "dice").tolist() == [1.0] * 4
        assert average_hausdorff(TRUTH, TRUTH).tolist() == [0.0] * 4
        assert similarity(TRUTH, TRUTH, 7) == pytest.approx([1.0] * 4)
        assert row_hausdorff(TRUTH, TRUTH).tolist() == [0.0] * 4


def test_no_image_has_no_measure():
    none = np.zeros((0, 8, 8), bool)
    assert confusion(none, none).shape == (0, 4)
    assert (
        average_hausdorff(none, none).shape
        == similarity(none, none, 7).shape
        == row_hausdorff(none, none).shape
        == (0,)
    )
