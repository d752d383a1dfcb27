"""Where the breasts are in a T1-weighted volume of a patient who lies prone: by the body's outline alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from fewcore import Array
from fewcore_medical.voxel_grid import UnusableVolume

OTSU: Any = threshold_otsu
SIDES = ("right", "left")
COARSE = 2.0
"""Size of the voxels, in millimetres, in which the outline is looked for; larger ones stay as they are."""
SMOOTH = 2.0
"""Standard deviation of the Gaussian before the threshold, in millimetres."""
LEAST_VOLUME = 15.0
"""Smallest breast, in millilitres: less is a fold of skin."""
BAND = 10.0
"""Width of the strip over the breastbone whose skin says where breasts begin, in millimetres."""


@dataclass(frozen=True)
class BreastBox:
    """The box around a breast in millimetres from the middle of the first voxel: corner and sides, z, y, x."""

    low: tuple[float, float, float]
    sides: tuple[float, float, float]


def body(values: Array, spacing: tuple[float, float, float]) -> Array:
    """Return which voxels of a T1 volume (d, h, w) are of the body: bright after smoothing, in one piece, without holes.

    Bright is above Otsu's threshold of log(1 + 10 v / mean), where v is what a voxel has more than the darkest: on this scale
    muscle is nearer to fat, which is brighter than all else, than to air. Holes, such as lungs, are filled slice by slice.

    Source of the threshold: N. Otsu: A Threshold Selection Method from Gray-Level Histograms, IEEE Transactions on Systems,
    Man, and Cybernetics 9, 1979, doi:10.1109/TSMC.1979.4310076.
    """
    smooth = ndimage.gaussian_filter(values.astype(np.float32), [SMOOTH / side for side in spacing])
    smooth -= smooth.min()
    logs = np.log1p(smooth / max(float(np.mean(smooth)), 1e-12) * 10)
    pieces, n = ndimage.label(logs > OTSU(logs.ravel()))
    if n == 0:
        return np.zeros(values.shape, bool)
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    return np.stack([ndimage.binary_fill_holes(cut) for cut in largest])


def breast_boxes(
    values: Array, spacing: tuple[float, float, float], least_depth: float, behind: float
) -> dict[str, BreastBox | UnusableVolume]:
    """Return the boxes around the right and the left breast in a T1 volume (d, h, w), or why there is none.

    The volume's axes run to the head, to the back and to the patient's left. The midline is where, in the middle third of
    the body's width, its front lies farthest back: between the breasts. The breasts begin where the skin over the midline lies,
    in the median over the slices. What of the body stands out before that is, right and left of the midline, a breast each, where its
    largest piece stands out by `least_depth` millimetres at least. A box reaches `behind` millimetres farther back.
    """
    d, h, w = (max(1, round(COARSE / side)) for side in spacing)
    grid = (d * spacing[0], h * spacing[1], w * spacing[2])
    mask = body(values[::d, ::h, ::w], grid)
    found: dict[str, BreastBox | UnusableVolume] = {}
    missing = {side: UnusableVolume(f"no {side} breast that can be found in T1", _expected(side)) for side in SIDES}
    if not mask.any() or mask.all():
        return dict(missing)
    front = np.where(mask.any(1), mask.argmax(1), mask.shape[1])  # (d, w)
    middle = _midline(front, mask)
    strip = front[:, max(0, middle - round(BAND / 2 / grid[2])) : middle + round(BAND / 2 / grid[2]) + 1]
    skin = strip.min(1)
    skin = skin[skin < mask.shape[1]]
    begin = int(np.median(skin)) if len(skin) else 0
    for side, columns in zip(SIDES, (slice(0, middle), slice(middle, None)), strict=True):
        before = np.zeros_like(mask)
        before[:, :begin, columns] = mask[:, :begin, columns]
        found[side] = _box(before, grid, least_depth, behind) or missing[side]
    return found


def _expected(side: str) -> str:
    return f"one that stands out before the breastbone (least_depth), or an empty cell under {side}"


def _midline(front: Array, mask: Array) -> int:
    """Return the column, in the middle third of the body, where the most forward skin of all slices lies farthest back."""
    columns = np.flatnonzero(mask.any((0, 1)))
    low, high = int(columns[0]), int(columns[-1]) + 1
    third = (high - low) // 3
    profile = front.min(0).astype(float)
    here = np.arange(low + third, max(high - third, low + third + 1))
    # Where it is flat, the middle of the flat part counts.
    deepest = here[profile[here] == profile[here].max()]
    return int(np.median(deepest))


def _box(before: Array, grid: tuple[float, ...], least_depth: float, behind: float) -> BreastBox | None:
    """Return the box around the largest piece of a mask (d, h, w), one voxel wider; None where the piece is too small."""
    pieces, n = ndimage.label(before)
    if n == 0:
        return None
    sizes = np.bincount(pieces.ravel())[1:]
    largest = int(sizes.argmax())
    if sizes[largest] * np.prod(grid) / 1000 < LEAST_VOLUME:
        return None
    cut = ndimage.find_objects(pieces)[largest]
    starts, stops = (np.array([getattr(axis, name) for axis in cut]) for name in ("start", "stop"))
    if (stops[1] - starts[1]) * grid[1] < least_depth:
        return None
    steps = np.array(grid)
    # Voxels stand at their middles.
    low, high = (starts - 1.5) * steps, (stops + 0.5) * steps
    high[1] = (stops[1] - 0.5) * steps[1] + behind
    z, y, x = low.tolist()
    d, h, w = (high - low).tolist()
    return BreastBox((z, y, x), (d, h, w))
