"""Measures of one mask: the surface between its voxels, its hull, and the spread of its voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage import measure

from fewcore import Array

SKIMAGE: Any = measure
"""Half of its functions have types."""

VOLUME_NAMES = (
    "log-volume",
    "log-surface",
    "diameter",
    "sphericity",
    "elongation",
    "flatness",
    "solidity",
    "extent",
    "surface-to-volume",
    "roughness",
)
AREA_NAMES = (
    "log-area",
    "log-perimeter",
    "diameter",
    "circularity",
    "elongation",
    "solidity",
    "extent",
    "roughness",
)


def volume_features(share: Array, spacing: tuple[float, ...]) -> Array:
    """Return the ten measures of a volume (d, h, w) of shares, not all 0; `spacing` is a voxel's size in mm."""
    level = share.max() / 2
    vertices, faces, _, _ = SKIMAGE.marching_cubes(np.pad(share, 1), level, spacing=spacing)
    surface = float(SKIMAGE.mesh_surface_area(vertices, faces))
    volume = mesh_volume(vertices, faces)
    hull = ConvexHull(vertices)
    box = float(np.ptp(vertices, axis=0).prod())
    largest, middle, least = spread(share >= level, spacing)
    return np.array(
        [
            np.log(volume),
            np.log(surface),
            pdist(vertices[hull.vertices]).max(),
            np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface,
            middle / largest,
            least / largest,
            volume / hull.volume,
            volume / box,
            surface / volume,
            roughness(vertices),
        ]
    )


def area_features(share: Array, spacing: tuple[float, ...]) -> Array:
    """Return the eight measures of a slice (h, w) of shares, not all 0; `spacing` is a pixel's size in mm."""
    level = share.max() / 2
    outlines = [line * np.array(spacing) for line in SKIMAGE.find_contours(np.pad(share, 1), level)]
    points = np.concatenate(outlines)
    perimeter = float(sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in outlines))
    # Holes run the other way around, so their areas subtract.
    area = abs(sum(signed_area(line) for line in outlines))
    hull = ConvexHull(points)
    largest, least = spread(share >= level, spacing)
    return np.array(
        [
            np.log(area),
            np.log(perimeter),
            pdist(points[hull.vertices]).max(),
            4 * np.pi * area / perimeter**2,
            least / largest,
            area / hull.volume,
            area / float(np.ptp(points, axis=0).prod()),
            roughness(points),
        ]
    )


def mesh_volume(vertices: Array, faces: Array) -> float:
    """Return the volume inside a closed mesh: the sum of signed tetrahedra from the origin."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return float(abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6)


def signed_area(line: Array) -> float:
    """Return the area inside a closed line (m, 2), positive or negative by its direction (Gauss's formula)."""
    y, x = line.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def spread(inside: Array, spacing: tuple[float, ...]) -> tuple[float, ...]:
    """Return the deviations along the axes of inertia in mm, the largest first; a voxel alone is a little box."""
    points = np.argwhere(inside) * np.array(spacing)
    # A voxel is not a point: the spread within it keeps a single one from having none.
    covariance = np.cov(points.T, bias=True) + np.diag(np.square(spacing)) / 12
    return tuple(np.sqrt(np.linalg.eigvalsh(covariance)[::-1]).tolist())


def roughness(points: Array) -> float:
    """Return the deviation over the mean of the distances of a surface's points from their centre."""
    distances = np.linalg.norm(points - points.mean(0), axis=1)
    return float(distances.std() / distances.mean())
