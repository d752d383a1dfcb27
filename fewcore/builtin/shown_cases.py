"""A figure of right and wrong cases of one model: an image or the brightest slice of a volume for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewcore import Array, Figure, Outcome, numpy_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 3
"""Pixels between two tiles."""
LARGEST = 96
"""Pixels of a side beyond which an image is thinned out: the page holds the pixels."""
MOST_CLASSES = 4
PAPER = 255


@dataclass(frozen=True, eq=False)
class Judged:
    """The images of a model whose class is known: their ids, true and predicted classes (n,), and how sure it was, (n,)."""

    outcome: Outcome
    ids: Array
    truth: Array
    said: Array
    sure: Array
    names: tuple[str, ...]


def case_figures(judged: Judged, n_each: int, seed: int) -> tuple[Figure, ...]:
    """Return a figure with `n_each` cases of each class that the model got right, and as many that it got wrong.

    Nothing where the images are not there. The cases are drawn by lot.
    """
    images = judged.outcome.images
    if not n_each or images is None:
        return ()
    rows: list[tuple[str, list[int]]] = []
    rng = numpy_generator(seed)
    for k, name in enumerate(judged.names[:MOST_CLASSES]):
        for right in (True, False):
            found = np.flatnonzero((judged.truth == k) & ((judged.said == k) == right))
            rows.append((f"{name}, {'right' if right else 'wrong'}", rng.permutation(found)[:n_each].tolist()))
    rows = [(name, members) for name, members in rows if members]
    if not rows:
        return ()
    tiles = [[shown(np.asarray(images[int(judged.ids[i])])) for i in members] for _, members in rows]
    cell = {**judged.outcome.conditions, **judged.outcome.repeats}
    which = f" ({', '.join(f'{axis} {value}' for axis, value in cell.items())})" if cell else ""
    title = f"Cases of {judged.outcome.stage}{which}, right and wrong, drawn by lot"
    told = "; ".join(f"{name}: {', '.join(_told(judged, i) for i in members)}" for name, members in rows)
    size = (min(9.0, 1.6 + 1.1 * n_each), min(9.0, 0.5 + 1.1 * len(rows)))
    slices = " Of a volume its brightest slice is shown." if images.ndim == 5 else ""

    def draw(axes: Axes) -> None:
        _paint(axes, tiles, [name for name, _ in rows])

    return (Figure(title, f"{title}, each with what was predicted and how likely.{slices} {told}.", draw, (), size),)


def _told(judged: Judged, i: int) -> str:
    """Return what was predicted of an image, and what other classes are known of it: `yes 0.83 (finding benign)`."""
    outcome = judged.outcome
    at = int(np.flatnonzero(outcome.ids == judged.ids[i])[0])
    others = [
        f"{name} {target.names[int(target.values[at])]}"
        for name, target in outcome.truth.items()
        if target.kind == "class" and name != outcome.target and target.values[at] >= 0
    ]
    known = f" ({', '.join(others)})" if others else ""
    return f"{judged.names[int(judged.said[i])]} {judged.sure[i]:.2f}{known}"


def shown(image: Array) -> Array:
    """Return a picture (h, w, 3) uint8 of an image (c, h, w), or of the slice of (c, d, h, w) with the brightest voxels."""
    pixels = image.astype(np.float64)
    if pixels.ndim == 4:
        depth = pixels.shape[1]
        bright = np.percentile(pixels.transpose(1, 0, 2, 3).reshape(depth, -1), 99, axis=1)
        pixels = pixels[:, int(bright.argmax())]
    low, high = np.percentile(pixels, (0.5, 99.5))
    scaled = np.clip(255 * (pixels - low) / ((high - low) or 1.0), 0, 255).astype(np.uint8)
    step = -(-max(scaled.shape[1:]) // LARGEST)
    coloured = scaled if len(scaled) == 3 else np.repeat(scaled[:1], 3, 0)
    return np.asarray(coloured[:, ::step, ::step].transpose(1, 2, 0))


def _paint(axes: Axes, tiles: Sequence[Sequence[Array]], names: Sequence[str]) -> None:
    high, wide, _ = tiles[0][0].shape
    columns = max(len(row) for row in tiles)
    canvas = np.zeros((len(tiles) * (high + GAP), columns * (wide + GAP), 4), np.uint8)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            top, left = r * (high + GAP), c * (wide + GAP)
            canvas[top : top + high, left : left + wide, :3] = tile
            canvas[top : top + high, left : left + wide, 3] = PAPER
    axes.imshow(canvas, interpolation="none")
    axes.set_yticks([(high + GAP) * r + high / 2 for r in range(len(tiles))], names)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
