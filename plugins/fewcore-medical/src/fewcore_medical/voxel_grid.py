"""A volume on a grid of voxels, and what its header must be like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from nibabel import orientations

from fewcore import Array, DataError, Problem

MAX_SIDE = 4096
MAX_VOXELS = 2**28
MAX_SPACING = 100.0


class UnusableVolume(Exception):
    """A file is no volume that can be used; the message says why and holds nothing of the header."""

    def __init__(self, found: str, expected: str = "", suggestion: str = "") -> None:
        super().__init__(found)
        self.found, self.expected, self.suggestion = found, expected, suggestion

    def at(self, where: str) -> DataError:
        """Return the error that says where it was."""
        return DataError(self.problem(where))

    def problem(self, where: str) -> Problem:
        """Return the problem that says where it was."""
        return Problem(where, self.found, self.expected, self.suggestion)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume on a grid.

    `values` are (d, h, w) float32. `affine` (4, 4) takes (column, row, slice, 1) to millimetres left, posterior and
    superior of the scanner's origin, as DICOM counts. `positions` (d,) are the places of the slices along their normal,
    in millimetres, rising; they may be uneven where the reader was told that they may. `has_sides` is false where the file does
    not say which side is left: then left and right of the affine are a guess.
    """

    values: Array
    affine: Array
    positions: Array
    has_sides: bool = True

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns in millimetres, (d, h, w)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return z, y, x

    @property
    def is_axial(self) -> bool:
        """Whether columns, rows and slices run to the left, to the back and to the head, to one part in a thousand."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(directions - np.eye(3)).max() < 1e-3)

    def oriented(self) -> Volume:
        """Return the volume with axes turned and flipped, so that they are as near to left, back and head as may be."""
        library: Any = orientations
        turned = library.io_orientation(self.affine)
        values = library.apply_orientation(self.values.transpose(2, 1, 0), turned).transpose(2, 1, 0)
        affine = self.affine @ library.inv_ornt_aff(turned, self.values.shape[::-1])
        if np.array_equal(turned, [[0, 1], [1, 1], [2, 1]]):
            return self
        depth = float(np.linalg.norm(affine[:3, 2]))
        made = replace(self, values=values, affine=affine)
        return replace(made, positions=_along_normal(affine) + depth * np.arange(values.shape[0]))

    def index_of(self, points: Array) -> Array:
        """Return the (column, row, slice) of points (m, 3) in millimetres."""
        return np.asarray((np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(self.affine).T)[:, :3])

    def place_of(self, indices: Array) -> Array:
        """Return the points in millimetres of (column, row, slice) (m, 3)."""
        return np.asarray((np.column_stack([indices, np.ones(len(indices))]) @ self.affine.T)[:, :3])


def _along_normal(affine: Array) -> float:
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    return float(affine[:3, 3] @ normal)


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse shapes of no volume, or of one that is too large.

    Raises:
        UnusableVolume: not three axes, a side outside of 1 to 4096, or more than 2**28 voxels.

    """
    if len(shape) != 3 or not all(1 <= side <= MAX_SIDE for side in shape):
        raise UnusableVolume(f"{len(shape)} axes, or a side of none or too many voxels", f"three of 1 to {MAX_SIDE}")
    if np.prod([int(side) for side in shape], dtype=object) > MAX_VOXELS:
        raise UnusableVolume(f"more than {MAX_VOXELS:,} voxels", "a volume that fits into memory")


def check_affine(affine: Array) -> None:
    """Refuse an affine (4, 4) that is not finite, or whose voxels have no size.

    Raises:
        UnusableVolume: as said.

    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise UnusableVolume("an affine that is not finite", "finite numbers for place and direction")
    check_spacing(np.linalg.norm(affine[:3, :3], axis=0))
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(directions)) < 0.1:
        raise UnusableVolume("an affine whose axes lie in a plane", "three directions across each other")


def check_spacing(spacing: Array) -> None:
    """Refuse voxels whose sides are not finite, not positive or absurd.

    Raises:
        UnusableVolume: as said.

    """
    if not (np.isfinite(spacing).all() and (spacing > 0).all() and (spacing <= MAX_SPACING).all()):
        raise UnusableVolume("a voxel spacing that is not positive", f"more than 0, at most {MAX_SPACING:g} mm")


def check_values(values: Array) -> Array:
    """Return values as float32.

    Raises:
        UnusableVolume: a value is NaN or infinite.

    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise UnusableVolume("voxels that are NaN or infinite", "finite values", "set them to 0 if they are background")
    return values
