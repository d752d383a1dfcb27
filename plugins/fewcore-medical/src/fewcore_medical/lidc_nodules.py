"""Annotations of several readers grouped into nodules."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from fewcore import Array
from fewcore_medical.lidc_scans import Reading, Scan

SHRINK = 0.9
LEAST_TOLERANCE = 0.1
MOST_READERS = 4
"""Readers of a scan."""


def contour_distances(readings: tuple[Reading, ...], spacing: float, reach: float) -> Array:
    """Return (r, r): the least distance in millimetres between points of two readings' contours, infinity beyond `reach`."""
    points = [reading.points(spacing) for reading in readings]
    low = np.array([p.min(0) for p in points])
    high = np.array([p.max(0) for p in points])
    trees = [cKDTree(p) for p in points]
    distances = np.full((len(points), len(points)), np.inf)
    np.fill_diagonal(distances, 0.0)
    # Boxes that are apart by more than the reach need no search; that is nearly all pairs.
    gaps = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(2)
    for i, j in np.argwhere(np.triu(gaps <= reach, 1)):
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
