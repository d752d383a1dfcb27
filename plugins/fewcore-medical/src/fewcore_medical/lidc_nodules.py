"""Annotations of several readers grouped into nodules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from fewcore import Array, Target
from fewcore_medical.lidc_scans import ATTRIBUTES, MALIGNANCY, SCALES, Reading, Scan

SHRINK = 0.9
LEAST_TOLERANCE = 0.1
MOST_READERS = 4
"""Readers of a scan."""
MIDDLE = 3.0
"""The malignancy that is neither benign nor malignant."""


@dataclass(frozen=True, eq=False)
class Nodule:
    """A nodule: its scan, the readings of it, and their mean malignancy (NaN where nobody rated it)."""

    scan: Scan
    readings: tuple[Reading, ...]

    @property
    def malignancy(self) -> float:
        """Mean over the readers who said it."""
        said = np.array([reading.ratings[MALIGNANCY] for reading in self.readings])
        return float(np.mean(said[~np.isnan(said)])) if not np.isnan(said).all() else float("nan")


def contour_distances(readings: tuple[Reading, ...], spacing: float, reach: float) -> Array:
    """Return (r, r): the least distance in millimetres between points of two readings' contours, infinity beyond `reach`."""
    points = [reading.points(spacing) for reading in readings]
    low = np.array([p.min(0) for p in points])
    high = np.array([p.max(0) for p in points])
    distances = np.full((len(points), len(points)), np.inf)
    np.fill_diagonal(distances, 0.0)
    # Boxes that are apart by more than the reach need no search; that is nearly all pairs.
    gaps = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(2)
    trees: dict[int, cKDTree] = {}
    for i, j in np.argwhere(np.triu(gaps <= reach, 1)).tolist():
        if i not in trees:
            trees[i] = cKDTree(points[i])
        found = trees[i].query(points[j], distance_upper_bound=reach * (1 + 1e-9))[0].min()
        distances[i, j] = distances[j, i] = found
    return distances


def group_readings(scan: Scan, spacing: float, tolerance: float) -> list[tuple[Reading, ...]]:
    """Return the readings of a scan grouped into nodules, in the order of each group's first reading.

    Readings belong together whose contours come as near as `tolerance` millimetres, or that are linked by such ones.
    While a group has more than four members, the tolerance is multiplied by 0.9, down to 0.1 mm: what still hangs
    together then touches, and stays one group of more than four.
    """
    distances = contour_distances(scan.readings, spacing, tolerance)
    while True:
        _, labels = connected_components(csr_array(distances <= tolerance), directed=False)
        tolerance *= SHRINK
        if np.bincount(labels).max() <= MOST_READERS or tolerance < LEAST_TOLERANCE:
            break
    firsts = np.unique(labels, return_index=True)[1]
    return [tuple(scan.readings[i] for i in np.flatnonzero(labels == labels[first])) for first in np.sort(firsts)]


def targets(nodules: list[Nodule]) -> dict[str, Target]:
    """Return what the radiologists said: the ratings and the class of each nodule."""
    most = max(MOST_READERS, *(len(nodule.readings) for nodule in nodules))
    ratings = np.full((len(nodules), most, len(ATTRIBUTES)), np.nan, np.float32)
    for row, nodule in enumerate(nodules):
        ratings[row, : len(nodule.readings)] = [reading.ratings for reading in nodule.readings]
    means = np.array([nodule.malignancy for nodule in nodules])
    classes = np.where(means < MIDDLE, 0, np.where(means > MIDDLE, 1, -1))
    return {
        "malignant": Target("class", classes, ("benign", "malignant")),
        "ratings": Target("ratings", ratings, ATTRIBUTES, SCALES),
    }
