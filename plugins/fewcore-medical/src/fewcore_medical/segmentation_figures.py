"""What the evaluator of masks draws: Dice along what is varied and by class, Bland-Altman plots, contours of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fewcore import Array, Figure, box_figure, grouping
from fewcore_medical.contours import contour_figures
from fewcore_medical.judged_masks import JudgedMasks
from fewcore_medical.segmentation_tests import by_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 6
"""Bland-Altman plots that are drawn at most."""


def mask_figures(tested: Sequence[JudgedMasks], shown: Sequence[JudgedMasks]) -> tuple[Figure, ...]:
    """Return all figures, for each structure of its own."""
    made: list[Figure] = []
    for structure in dict.fromkeys(one.structure for one in tested):
        every = [one for one in tested if one.structure == structure]
        chosen = [one for one in shown if one.structure == structure]
        made += [*_dice_boxes(every), *_class_boxes(chosen)]
        made += [bland_altman_figure(one) for one in chosen[:MOST]]
        made += contour_figures(every)
    return tuple(made)


def _titled(title: str, one: JudgedMasks) -> str:
    return f"{title} ({one.structure})" if one.structure else title


def _dice_boxes(judged: Sequence[JudgedMasks]) -> Iterator[Figure]:
    """Yield the Dice of the images of each model, along the number that is varied where there is one."""
    axis = grouping.numeric_axis(one.subject for one in judged)
    dice = {id(one.subject): one.dice[one.counted] for one in judged}
    boxes: dict[tuple[str, str], Array] = {}
    for subject in grouping.in_order((one.subject for one in judged), axis):
        place, name = grouping.placed(subject, axis)
        boxes[(place, name) if axis else (name, "")] = dice[id(subject)]
    if len(boxes) > 1:
        title = _titled(f"Dice along {axis}" if axis else "Dice of each image", judged[0])
        yield box_figure(title, boxes, x_label=axis or "model", y_label="Dice of each image")


def _class_boxes(shown: Sequence[JudgedMasks]) -> Iterator[Figure]:
    """Yield the Dice of the images of each class."""
    boxes: dict[tuple[str, str], Array] = {}
    for one in shown:
        classes = by_class(one)
        boxes |= {(name, _name(one)): classes[name] for name in classes}
    if len({place for place, _ in boxes}) > 1:
        title = _titled("Dice by the class of the image", shown[0])
        yield box_figure(title, boxes, x_label="class", y_label="Dice of each image")


def _name(one: JudgedMasks) -> str:
    others = ", ".join(f"{key} {value}" for key, value in one.subject.others.items())
    return f"{one.subject.model} ({others})" if others else one.subject.model


def agreement(first: Array, second: Array) -> tuple[float, float, float]:
    """Return the bias, mean(second - first), and the lower and upper limit of agreement, bias -+ 1.96 sd.

    The standard deviation has n - 1 in its denominator; of a single pair the limits are NaN.

    Source: J. M. Bland, D. G. Altman: Statistical Methods for Assessing Agreement between Two Methods of Clinical
    Measurement, Lancet 327, 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    apart = np.asarray(second, np.float64) - first
    bias = float(apart.mean())
    spread = float(apart.std(ddof=1)) if len(apart) > 1 else float("nan")
    return bias, bias - 1.96 * spread, bias + 1.96 * spread


def bland_altman_figure(one: JudgedMasks) -> Figure:
    """Return the difference of predicted and true foreground pixels of each image against their mean."""
    truth, predicted = one.true_pixels, one.predicted_pixels.mean(0)
    bias, low, high = agreement(truth, predicted)

    def draw(axes: Axes) -> None:
        axes.plot((truth + predicted) / 2, predicted - truth, ".", color="C0", markersize=4, alpha=0.6)
        axes.axhline(bias, color="black", linewidth=1.2)
        for limit in (low, high):
            if np.isfinite(limit):
                axes.axhline(limit, color="black", linewidth=1.0, linestyle=(0, (5, 3)))
        axes.set(xlabel="mean of true and predicted pixels", ylabel="predicted − true pixels")

    title = _titled(f"Bland-Altman: {_name(one)}", one)
    alt = (
        f"{title}. Foreground pixels of {len(truth)} images, predicted minus true against the mean of both: bias {bias:.1f},"
        f" limits of agreement {low:.1f} to {high:.1f} (bias ± 1.96 standard deviations)."
    )
    legend = (
        ("an image", "C0", "dot"),
        (f"bias {bias:.1f}", "black", "line"),
        (f"± 1.96 sd: {low:.1f} to {high:.1f}", "black", "dashed"),
    )
    return Figure(title, alt, draw, legend)
