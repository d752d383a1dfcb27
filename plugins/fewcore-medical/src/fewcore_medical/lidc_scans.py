"""What the radiologists of LIDC-IDRI said of a scan, whatever file it was read from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fewcore import Array

ATTRIBUTES = ("malignancy", "calcification", "lobulation", "spiculation", "sphericity", "margin", "texture")
"""The rated attributes, in the order of the tasks of the paper."""
SCALES = ((1.0, 5.0), (1.0, 6.0), *(((1.0, 5.0),) * 5))
"""The lowest and highest rating of each; calcification has a sixth, 'absent'."""
MALIGNANCY = ATTRIBUTES.index("malignancy")
MAX_COORDINATE = 4096
MAX_POINTS = 100_000


class UnusableAnnotation(Exception):
    """An annotation is not as it should be; the message says how, with no value that could name a patient."""


@dataclass(frozen=True, eq=False)
class Contour:
    """The outline that a reader drew in one slice: the first pixels outside of the nodule, or of a hole in it.

    `z` is the slice's place in millimetres, `points` (m, 2) are columns and rows in pixels, in the order drawn.
    """

    z: float
    inclusion: bool
    points: Array


def stacked_points(contours: Sequence[Contour], spacing: float) -> Array:
    """Return all points of contours, (m, 3) x, y, z in millimetres."""
    points = np.concatenate([contour.points for contour in contours])
    heights = np.repeat([contour.z for contour in contours], [len(contour.points) for contour in contours])
    return np.column_stack([spacing * points, heights])


@dataclass(frozen=True, eq=False)
class Reading:
    """One reader's annotation of one nodule: `ratings` (7,) by `ATTRIBUTES`, NaN where unknown, and the contours."""

    ratings: Array
    contours: tuple[Contour, ...]

    def points(self, spacing: float) -> Array:
        """Return all points of the contours, (m, 3) x, y, z in millimetres."""
        return stacked_points(self.contours, spacing)


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT scan and all that was said of it.

    `series` and `patient` identify people's data: they are not printed. `spacing` is the size of a pixel in millimetres
    (NaN where the file does not say), `positions` (k,) the rising places of the slices in millimetres, empty where unknown.
    """

    series: str = field(repr=False)
    patient: str = field(repr=False)
    spacing: float
    positions: Array
    readings: tuple[Reading, ...]


def checked_ratings(said: Sequence[object]) -> Array:
    """Return ratings (7,) as floats, NaN for what is missing or 0.

    Raises:
        UnusableAnnotation: a rating is no whole number of its scale.

    """
    ratings = np.full(len(ATTRIBUTES), np.nan)
    for i, (value, (low, high)) in enumerate(zip(said, SCALES, strict=True)):
        if value in (None, "", 0, "0"):
            continue
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not (low <= number <= high and number == int(number)):
            expected = f"a whole number from {low:.0f} to {high:.0f}"
            raise UnusableAnnotation(f"a rating of {ATTRIBUTES[i]} that is not {expected}")
        ratings[i] = number
    return ratings


def checked_contour(z: object, inclusion: bool, points: Array) -> Contour:
    """Return a contour of points (m, 2) that are whole numbers.

    Raises:
        UnusableAnnotation: the place of the slice is no finite number, or there are no points, too many, or far off.

    """
    try:
        place = float(str(z))
    except ValueError:
        place = math.nan
    if not math.isfinite(place):
        raise UnusableAnnotation("a contour whose slice has no finite position")
    if points.ndim != 2 or points.shape[1:] != (2,) or not 0 < len(points) <= MAX_POINTS:
        raise UnusableAnnotation(f"a contour without points, or with more than {MAX_POINTS:,}")
    if points.min() < 0 or points.max() > MAX_COORDINATE:
        raise UnusableAnnotation(f"a contour with coordinates that are not in [0, {MAX_COORDINATE}]")
    return Contour(place, inclusion, points)
