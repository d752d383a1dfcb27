"""Simple features of the shape of a mask, as an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fewcore import Array, Arrays, DataError, ImageSet, Meta, Run, option
from fewcore_medical.shape_features import AREA_NAMES, VOLUME_NAMES, area_features, volume_features


def spacings(images: ImageSet) -> Array:
    """Return the size of each image's voxels in millimetres, (n, 2) or (n, 3); 1 where nothing is known of it."""
    dims = images.images.ndim - 2
    if "spacing" in images.geometry:
        return np.asarray(images.geometry["spacing"], dtype=np.float64)[:, -dims:]
    return np.broadcast_to(np.asarray(images.spec.spacing or (1.0,) * dims, dtype=np.float64), (len(images), dims))


def measured(images: ImageSet, run: Run) -> Array:
    """Return the features of each image, (n, e) float64.

    Raises:
        DataError: images of several channels, or empty ones.

    """
    if images.images.shape[1] != 1:
        raise DataError(f"shape: found images {images.shape}; expected one channel, a mask")
    low, high = images.spec.value_range
    measure = volume_features if images.images.ndim == 5 else area_features
    made = np.zeros((len(images), len(VOLUME_NAMES if images.images.ndim == 5 else AREA_NAMES)))
    empty = 0
    for row, (image, spacing) in enumerate(
        zip(run.track(images.images, name="measure"), spacings(images), strict=True)
    ):
        share = (np.asarray(image[0], dtype=np.float64) - low) / (high - low)
        if share.max() > 0:
            made[row] = measure(share, tuple(spacing.tolist()))
        else:
            empty += 1
    if empty:
        raise DataError(f"shape: found {empty} of {len(images)} images with nothing in them; expected masks")
    return made


class ShapeEncoder:
    """Features of masks of 2 or 3 dimensions."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """What each feature is."""
        return VOLUME_NAMES if self.dimensions == 3 else AREA_NAMES

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n, e) float32.

        Raises:
            DataError: images of another number of dimensions, or no masks.

        """
        if images.images.ndim - 2 != self.dimensions:
            other = 5 - self.dimensions
            raise DataError(
                f"shape: found images {images.shape}; expected {self.dimensions} dimensions (or dimensions: {other})"
            )
        return measured(images, run).astype(np.float32)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the number of dimensions: nothing is learnt."""
        return {}, {"dimensions": self.dimensions}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ShapeEncoder:
        """Build the encoder from `to_arrays`' result."""
        return cls(meta["dimensions"])


@dataclass(frozen=True)
class Shape:
    """How large, long, round and smooth a mask is: ten numbers of a volume, eight of a slice, in millimetres.

    The surface lies where the share falls to half of the image's largest, between the voxels (marching cubes, marching
    squares). Of a volume: log volume, log surface, longest diameter, sphericity pi^(1/3) (6 V)^(2/3) / A, elongation and
    flatness (square roots of the second and third eigenvalue of the covariance over the first), solidity (share of the
    convex hull), extent (share of the box), surface over volume, and roughness (deviation over mean of the surface's
    distance from the centre). Of a slice: log area, log perimeter, longest diameter, circularity 4 pi A / P^2, elongation,
    solidity, extent and roughness. The size of a voxel is `geometry["spacing"]`, else the spec's, else 1.

    Source: definitions as in A. Zwanenburg and others: The Image Biomarker Standardization Initiative, Radiology 295,
    2020, doi:10.1148/radiol.2020191145. Marching cubes: W. E. Lorensen, H. E. Cline, Computer Graphics 21, 1987.

    Differs from the paper: sizes as logarithms; the longest diameter is that between corners of the surface's convex
    hull; roughness is ours.

    Raises:
        DataError: images of several channels, or empty ones.

    """

    dimensions: int = option(3, "3 for volumes, 2 for slices", low=2, high=3)

    deterministic: ClassVar[bool] = True

    def fit(self, run: Run) -> ShapeEncoder:
        """Return the encoder. It sees no images, so it is the same in all folds; features have their own scales."""
        return ShapeEncoder(self.dimensions)
