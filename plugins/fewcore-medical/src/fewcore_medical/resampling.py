"""Volumes on an axis-aligned grid brought to a cube of voxels: linear interpolation, then averaging."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fewcore import Array


@dataclass(frozen=True)
class Cube:
    """A cube in space, or a square: `low` is its corner in millimetres along each axis, `side` its edge."""

    low: tuple[float, ...]
    side: float


def axis_weights(places: Array, low: float, side: float, size: int, spacing: float) -> Array:
    """Return the weights (size, m) with which m samples at rising `places` (mm) make `size` voxels from `low` on.

    The values between the samples are interpolated linearly, at points that are at most `spacing` millimetres apart, and
    those within a voxel averaged. Points outside of the samples have no weight: a row sums to the share inside.
    """
    per_voxel = max(1, math.ceil(side / size / spacing - 1e-9))
    step = side / (size * per_voxel)
    points = low + step * (np.arange(size * per_voxel) + 0.5)
    weights = np.zeros((len(points), len(places)))
    rows = np.arange(len(points))
    if len(places) == 1:
        weights[:, 0] = np.abs(points - places[0]) <= spacing / 2
    else:
        left = np.clip(np.searchsorted(places, points, side="right") - 1, 0, len(places) - 2)
        share = (points - places[left]) / (places[left + 1] - places[left])
        inside = (share >= 0) & (share <= 1)
        weights[rows, left] = np.where(inside, 1 - share, 0)
        weights[rows, left + 1] += np.where(inside, share, 0)
    return np.asarray(weights.reshape(size, per_voxel, -1).mean(1))


def resampled(values: Array, places: tuple[Array, ...], cube: Cube, size: int, spacing: float, outside: float) -> Array:
    """Return `values` (m_1, ..., m_a), sampled at `places` along each axis, as (size, ..., size) voxels of the cube.

    `outside` is the value where there are no samples.
    """
    axes = len(places)
    return resized(values, places, cube.low, (cube.side,) * axes, (size,) * axes, spacing, outside)


def resized(
    values: Array,
    places: tuple[Array, ...],
    low: tuple[float, ...],
    sides: tuple[float, ...],
    sizes: tuple[int, ...],
    spacing: float,
    outside: float,
) -> Array:
    """Return `values` as `resampled` does, in a box of any `sides` (mm) from `low` on, as `sizes` voxels."""
    weights = []
    for axis, along in enumerate(places):
        every = axis_weights(along, low[axis], sides[axis], sizes[axis], spacing)
        used = np.flatnonzero(every.any(0))
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        # The rest of a whole scan is never touched.
        values = values[(slice(None),) * axis + (slice(first, last),)]
        weights.append(every[:, first:last])
    result = values.astype(np.float64) - outside
    for axis, along in enumerate(weights):
        result = np.moveaxis(np.tensordot(along, result, axes=(1, axis)), 0, axis)
    return np.asarray(result + outside)
