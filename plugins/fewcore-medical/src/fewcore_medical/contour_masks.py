"""Masks of nodules from the outlines that radiologists drew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fewcore import Array
from fewcore_medical.lidc_scans import Contour, Reading, UnusableAnnotation, stacked_points
from fewcore_medical.resampling import Cube, resampled

FINE = 24
"""Voxels a side in which a nodule's volume is measured."""
WITHIN = 2
"""Points along each side of a voxel of which is asked whether they lie inside of a nodule."""
MOST_OFF = 0.1
"""How far a contour may lie from its slice, in millimetres."""


@dataclass(frozen=True, eq=False)
class NoduleMask:
    """The share of readers who count a voxel to the nodule, (k, h, w) in [0, 1], with the places of its voxels (mm).

    `places` are those of the slices (k,), rows (h,) and columns (w,); the outermost ones are empty. `centre` is the
    middle and `diameter` the longest side of the box around all outlines, in millimetres.
    """

    values: Array
    places: tuple[Array, Array, Array]
    centre: tuple[float, float, float]
    diameter: float

    def cube(self, margin: float, least: float) -> Cube:
        """Return the cube around the centre, `margin` times the diameter wide, at least `least` millimetres."""
        side = max(margin * self.diameter, least)
        return Cube(tuple(c - side / 2 for c in self.centre), side)

    def filled_cube(self, fill: float) -> Cube:
        """Return the cube around the middle of the nodule's inside, as `solid` has it, of which that fills a share."""
        whole = self.cube(1.1, 0)
        inside = self.solid(whole, FINE)
        side = whole.side * float(np.cbrt(inside.mean() / fill))
        step = whole.side / FINE
        middles = (np.argwhere(inside) + 0.5) * step + np.array(whole.low)
        centre = np.average(middles, axis=0, weights=inside[inside > 0])
        return Cube(tuple((centre - side / 2).tolist()), side)

    def solid(self, cube: Cube, size: int) -> Array:
        """Return how much of each voxel of a cube lies inside of the nodule, (size, size, size) in [0, 1].

        Inside, at least half as many readers agree as do where most agree. The share of readers is interpolated between
        the scan's voxels at WITHIN points along each side of a voxel: edges are as sharp in small nodules as in large ones.
        """
        points = resampled(self.values, self.places, cube, WITHIN * size, np.inf, 0.0)
        # Of four readers two are half, whatever rounding makes of it.
        inside = points > self.values.max() / 2 - 1e-6
        return np.asarray(inside.reshape(size, WITHIN, size, WITHIN, size, WITHIN).mean((1, 3, 5)))

    @property
    def largest_slice(self) -> int:
        """The index of the slice with the largest cross-section."""
        return int(self.values.sum((1, 2)).argmax())


def filled(points: Array, shape: tuple[int, int], *, outline: bool = False) -> Array:
    """Return the pixels inside a closed outline of points (m, 2) x, y, as (h, w) bool.

    The outline itself does not count, unless `outline`: LIDC's readers drew the first pixels outside of a nodule.
    """
    canvas = Image.new("L", (shape[1], shape[0]))
    draw = ImageDraw.Draw(canvas)
    corners: list[int] = points.ravel().tolist()
    if len(points) > 2:
        draw.polygon(corners, fill=1, outline=int(outline))
    elif outline:
        draw.line(corners * (3 - len(points)), fill=1)
    return np.asarray(canvas, dtype=bool)


def reading_mask(reading: Reading, slices: Array, corner: tuple[int, int], shape: tuple[int, int, int]) -> Array:
    """Return what one reader outlined, (k, h, w) bool; `slices` numbers each contour's slice, `corner` is x, y.

    Contours that exclude are taken away from the others. Where a reader's outlines are so small that nothing is
    inside any, they count themselves.
    """
    for outline in (False, True):
        mask, holes = np.zeros((2, *shape), dtype=bool)
        for contour, index in zip(reading.contours, slices, strict=True):
            target = mask if contour.inclusion else holes
            target[index] |= filled(contour.points - np.array(corner), shape[1:], outline=outline and contour.inclusion)
        mask &= ~holes
        if mask.any():
            break
    return mask


def nodule_mask(readings: tuple[Reading, ...], spacing: float, positions: Array) -> NoduleMask:
    """Return the mean mask of several readings of one nodule.

    `spacing` is the size of a pixel and `positions` are the places of the scan's slices in millimetres, rising; where
    they are empty, those of the contours are taken.

    Raises:
        UnusableAnnotation: a contour lies between the slices of the scan, or no reader included anything.

    """
    contours = [contour for reading in readings for contour in reading.contours]
    included = [contour for contour in contours if contour.inclusion]
    if not included:
        raise UnusableAnnotation("a nodule without a contour that includes")
    slices = _slices(contours, positions)
    points = np.concatenate([contour.points for contour in contours])
    corner, far = points.min(0) - 1, points.max(0) + 1
    width, height = (far - corner + 1).tolist()
    shape = (len(slices), height, width)
    total = np.zeros(shape, dtype=np.float32)
    for reading in readings:
        indices = _nearest(np.array([contour.z for contour in reading.contours]), slices)
        total += reading_mask(reading, indices, (int(corner[0]), int(corner[1])), shape)
    columns = spacing * np.arange(corner[0], far[0] + 1)
    rows = spacing * np.arange(corner[1], far[1] + 1)
    box = stacked_points(included, spacing)
    low, high = box.min(0), box.max(0)
    x, y, z = ((low + high) / 2).tolist()
    return NoduleMask(total / len(readings), (slices, rows, columns), (z, y, x), float((high - low).max()))


def _nearest(values: Array, places: Array) -> Array:
    return np.asarray(np.abs(values[:, None] - places[None]).argmin(1))


def _slices(contours: list[Contour], positions: Array) -> Array:
    """Return the places of the slices that hold the contours, and of one empty slice on either side."""
    drawn = np.unique([contour.z for contour in contours])
    places = positions if len(positions) else drawn
    gap = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
    nearest = _nearest(drawn, places)
    if np.abs(places[nearest] - drawn).max() > MOST_OFF:
        raise UnusableAnnotation("a contour that lies between the slices of its scan")
    inner = places[nearest[0] : nearest[-1] + 1]
    return np.concatenate([[inner[0] - gap], inner, [inner[-1] + gap]])
