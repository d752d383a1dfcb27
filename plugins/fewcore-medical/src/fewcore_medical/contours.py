"""Figures of some images with the contours of the true and the predicted masks, a row a model, a column a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage import measure

from fewcore import Array, Figure, grouping
from fewcore_medical.judged_masks import JudgedMasks
from fewcore_medical.mask_measures import confusion, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SKIMAGE: Any = measure
"""Half of its functions have types."""

GAP = 4
"""Pixels between two tiles."""

FEWER_GREYS = np.uint8(0xF8)
"""32 greys are enough to see what lies under a contour, and a page of them is smaller by a third."""

LARGEST = 160
"""Pixels of a side beyond which an image is thinned out: the page holds the pixels."""

TRUTH, PREDICTION = "C2", "C1"

Tile = tuple[Array, Array]
"""The true and the predicted mask of an image, (h, w) bool."""


def contour_figures(judged: Sequence[JudgedMasks]) -> list[Figure]:
    """Return a figure for each image of which masks were kept: what every model predicted of it."""
    ids = list(dict.fromkeys(i for one in judged for i in one.samples))
    axis = grouping.numeric_axis(one.subject for one in judged)
    ordered = {id(s): place for place, s in enumerate(grouping.in_order((one.subject for one in judged), axis))}
    judged = sorted(judged, key=lambda one: ordered[id(one.subject)])
    return [_figure(judged, axis, number, i) for number, i in enumerate(ids, 1)]


def _figure(judged: Sequence[JudgedMasks], axis: str, number: int, i: int) -> Figure:
    own = [one for one in judged if i in one.samples]
    first = own[0]
    row = int(np.flatnonzero(first.ids == i)[0])
    cut = middle(first.samples[i][0])
    tiles: dict[tuple[str, str], Tile] = {}
    told = []
    for one in own:
        place, name = grouping.placed(one.subject, axis)
        key = (name, place) if axis else ("", name)
        truth, predicted = one.samples[i]
        tiles[key] = (truth[cut], predicted[cut])
        dice = float(ratio(confusion(predicted[None], truth[None]), "dice")[0])
        told.append(f"{name}{f' at {place}' if axis else ''} {dice:.2f}")
    ground = background(first.subject.first.images, i, first.samples[i][0], cut)
    rows, columns = (list(dict.fromkeys(key[side] for key in tiles)) for side in (0, 1))

    def draw(axes: Axes) -> None:
        _paint(axes, ground, tiles, rows, columns)

    known = first.classes[row] >= 0 and first.class_names
    about = f", {first.class_names[first.classes[row]]}" if known else ""
    structure = f", {first.structure}" if first.structure else ""
    title = f"Contours on test image {number}{about}{structure}, drawn by lot"
    alt = f"{title}: the true mask and what each model predicted{f', along {axis}' if axis else ''}. Dice: {'; '.join(told)}."
    legend = (("truth", TRUTH, "line"), ("prediction", PREDICTION, "line"))
    tall = ground.shape[0] / ground.shape[1]
    size = (min(9.0, 1.3 + 1.1 * len(columns)), min(9.0, 0.6 + 1.1 * tall * len(rows)))
    return Figure(title, alt, draw, legend, size)


def middle(truth: Array) -> Any:
    """Return the index of what is shown of a mask: all of (h, w), of (d, h, w) the slice with most of the structure."""
    return slice(None) if truth.ndim == 2 else int(truth.reshape(len(truth), -1).sum(1).argmax())


def background(images: Array | None, i: int, truth: Array, cut: Any) -> Array:
    """Return what lies under the contours, (h, w) uint8: the first channel of the image where it fits, else grey."""
    if images is not None and i < len(images) and images.shape[2:] == truth.shape:
        pixels = np.asarray(images[i][0], np.float64)[cut]
        low, high = np.percentile(pixels, (0.5, 99.5))
        return np.asarray(np.clip(255 * (pixels - low) / ((high - low) or 1.0), 0, 255).astype(np.uint8))
    return np.full(truth[cut].shape, 128, np.uint8)


def _paint(axes: Axes, ground: Array, tiles: dict[tuple[str, str], Tile], rows: list[str], columns: list[str]) -> None:
    step = -(-max(ground.shape) // LARGEST)
    tile = ground[::step, ::step] & FEWER_GREYS
    high, wide = tile.shape
    canvas = np.zeros((len(rows) * (high + GAP), len(columns) * (wide + GAP), 4), np.uint8)
    for (name, place), (truth, predicted) in tiles.items():
        top, left = rows.index(name) * (high + GAP), columns.index(place) * (wide + GAP)
        canvas[top : top + high, left : left + wide] = np.stack([tile, tile, tile, np.full_like(tile, 255)], -1)
        for mask, colour in ((truth, TRUTH), (predicted, PREDICTION)):
            for line in outlines(mask):
                axes.plot(line[:, 1] / step + left, line[:, 0] / step + top, color=colour, linewidth=1.0)
    axes.imshow(canvas, interpolation="none")
    axes.set(xlim=(-0.5, canvas.shape[1] - 0.5), ylim=(canvas.shape[0] - 0.5, -0.5))
    axes.set_xticks([(wide + GAP) * c + wide / 2 for c in range(len(columns))], columns)
    axes.set_yticks([(high + GAP) * r + high / 2 for r in range(len(rows))], rows)
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def outlines(mask: Array) -> list[Array]:
    """Return the lines (points, 2) that part the pixels of a mask (h, w) from the others, closed at the image's edge."""
    padded = np.pad(mask.astype(np.float64), 1)
    return [np.asarray(line) - 1 for line in SKIMAGE.find_contours(padded, 0.5)]
