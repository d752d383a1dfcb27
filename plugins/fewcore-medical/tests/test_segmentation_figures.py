"""The figures of masks: what they say, what they draw, and that they reach the page."""

import math
import re

import numpy as np
import pytest
from masks_made import SIDE, N, discs, outcome, shifted
from matplotlib.figure import Figure as Canvas

from fewcore import Run
from fewcore_medical.contours import LARGEST, background, middle, outlines
from fewcore_medical.segmentation import SHOWN, Segmentation
from fewcore_medical.segmentation_figures import agreement

IMAGES = np.random.default_rng(0).integers(0, 256, (N, 1, SIDE, SIDE), dtype=np.uint8)


def matrix(**more):
    return [
        outcome("model", by, conditions={"labels.share": share, "stages.model": name}, images=IMAGES, **more)
        for share in (0.1, 0.5)
        for name, by in (("s4mtl", 0), ("u-net", 2))
    ]


def figures(outcomes, **options):
    return {
        figure.title: figure
        for figure in Segmentation(metrics=("dice",), **options).evaluate(tuple(outcomes), Run()).figures
    }


def drawn(figure):
    axes = Canvas(figsize=figure.size).add_subplot()
    figure.draw(axes)
    return axes


def test_a_table_over_shares_has_all_figures():
    titles = list(figures(matrix()))
    assert titles[:4] == [
        "Dice along labels.share",
        "Dice by the class of the image",
        "Bland-Altman: s4mtl (labels.share 0.5)",
        "Bland-Altman: u-net (labels.share 0.5)",
    ]
    assert len(titles) == 4 + SHOWN
    assert all(title.startswith("Contours on test image") for title in titles[4:])


def test_boxes_stand_along_the_share_with_a_colour_a_model():
    figure = figures(matrix())["Dice along labels.share"]
    assert [name for name, _, _ in figure.legend] == ["s4mtl", "u-net"]
    assert "Medians: s4mtl 1.00 at 0.1, 1.00 at 0.5; u-net" in figure.alt
    axes = drawn(figure)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.5"]
    assert len(axes.patches) == 4


def test_without_a_number_that_varies_each_model_has_a_box():
    figure = figures([outcome("a", 0), outcome("b", 1)])["Dice of each image"]
    assert "1.00 at a" in figure.alt
    assert figure.legend == ()


def test_boxes_by_class_show_the_last_cell_of_each_model_or_the_reference():
    figure = figures(matrix())["Dice by the class of the image"]
    assert [name for name, _, _ in figure.legend] == ["s4mtl (labels.share 0.5)", "u-net (labels.share 0.5)"]
    reference = ("stages.model=u-net", "labels.share=0.1")
    figure = figures(matrix(), reference=reference)["Dice by the class of the image"]
    assert {name for name, _, _ in figure.legend} == {"s4mtl (labels.share 0.5)", "u-net (labels.share 0.1)"}
    assert all(name in figure.alt for name in ("normal", "tuberculosis", "nodule"))


def test_limits_of_agreement_are_as_defined():
    first, second = np.array([10.0, 12.0, 9.0, 30.0]), np.array([11.0, 15.0, 9.0, 28.0])
    apart = [1.0, 3.0, 0.0, -2.0]
    bias = sum(apart) / 4
    sd = math.sqrt(sum((d - bias) ** 2 for d in apart) / 3)
    assert agreement(first, second) == pytest.approx((bias, bias - 1.96 * sd, bias + 1.96 * sd))
    assert math.isnan(agreement(first[:1], second[:1])[1])


def test_a_bland_altman_plot_shows_each_image_the_bias_and_its_limits():
    made = outcome("net", 3, images=IMAGES)
    figure = figures([made])["Bland-Altman: net"]
    truth = made.truth["mask"].values[:, 0].reshape(N, -1).sum(1)
    predicted = (made.predictions.masks[:, 0] > 0.5).reshape(N, -1).sum(1)
    bias, low, high = agreement(truth, predicted)
    assert f"bias {bias:.1f}, limits of agreement {low:.1f} to {high:.1f}" in figure.alt
    dots, middle_line, *limits = drawn(figure).lines
    assert dots.get_xdata() == pytest.approx((truth + predicted) / 2)
    assert dots.get_ydata() == pytest.approx(predicted - truth)
    assert middle_line.get_ydata()[0] == pytest.approx(bias)
    assert [line.get_ydata()[0] for line in limits] == pytest.approx([low, high])


def test_contours_have_a_row_a_model_and_a_column_a_share():
    found = [f for title, f in figures(matrix()).items() if title.startswith("Contours")]
    assert {re.search(r"image \d, (\w+)", f.title)[1] for f in found} == {"normal", "tuberculosis", "nodule"}
    figure = found[0]
    assert "s4mtl at 0.1 1.00" in figure.alt
    assert figure.legend == (("truth", "C2", "line"), ("prediction", "C1", "line"))
    axes = drawn(figure)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.5"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["s4mtl", "u-net"]
    assert len(axes.lines) >= 2 * 4  # truth and prediction in each tile
    assert axes.images[0].get_array().shape == (2 * (SIDE + 4), 2 * (SIDE + 4), 4)


def test_without_a_number_that_varies_models_stand_side_by_side():
    found = figures([outcome("a", 0, images=IMAGES), outcome("b", 1, images=IMAGES)])
    figure = next(f for title, f in found.items() if title.startswith("Contours"))
    assert [tick.get_text() for tick in drawn(figure).get_xticklabels()] == ["a", "b"]


def test_an_outline_runs_between_the_pixels_and_closes_at_the_edge():
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:4] = True
    (line,) = outlines(mask)
    assert line.min(0) == pytest.approx([0.5, 1.5])
    assert line.max(0) == pytest.approx([2.5, 3.5])
    (line,) = outlines(np.ones((3, 3), bool))
    assert np.array_equal(line[0], line[-1])
    assert outlines(np.zeros((3, 3), bool)) == []


def test_the_image_lies_under_the_contours_where_it_fits_and_grey_where_not():
    truth = discs()[0]
    assert background(IMAGES, 3, truth, slice(None)).shape == truth.shape
    assert len(np.unique(background(IMAGES, 3, truth, slice(None)))) > 50
    for images in (None, IMAGES[:, :, :8], IMAGES[:2]):
        assert np.unique(background(images, 3, truth, slice(None))).tolist() == [128]
    constant = np.zeros_like(IMAGES)
    assert np.unique(background(constant, 0, truth, slice(None))).tolist() == [0]


def test_of_a_volume_the_slice_with_most_of_the_structure_is_shown():
    truth = np.zeros((5, 8, 8), bool)
    truth[1, 2, 2], truth[3, 2:6, 2:6] = True, True
    assert middle(truth) == 3
    assert middle(truth[3]) == slice(None)


def test_large_images_are_thinned_out():
    side = 2 * LARGEST
    truth = np.zeros((3, 1, side, side), np.float32)
    truth[:, :, 50:200, 60:220] = 1
    made = outcome("net", truth=truth, predicted=shifted(truth > 0, 9), classes=np.zeros(3, int))
    found = figures([made])
    figure = next(f for title, f in found.items() if title.startswith("Contours"))
    axes = drawn(figure)
    assert axes.images[0].get_array().shape[0] == LARGEST + 4
    assert max(line.get_xdata().max() for line in axes.lines) <= LARGEST


def test_a_structure_that_is_nowhere_has_no_contours():
    truth = np.zeros((N, 1, SIDE, SIDE), np.float32)
    found = figures([outcome("net", truth=truth, predicted=truth)])
    assert not any(title.startswith("Contours") for title in found)
