"""Vectors and parts as learners need them: checked, of known rows, standardised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import StandardScaler

from fewcore import Array, Arrays, DataError, Embeddings, ImageSet, Partitions


def checked_vectors(name: str, embeddings: Embeddings) -> Array:
    """Return the vectors (n, e) float64.

    Raises:
        DataError: vectors of several targets, NaN or infinity.

    """
    vectors = embeddings.vectors
    if vectors.ndim != 2:
        raise DataError(f"{name}: found vectors {vectors.shape}; expected (n, e), one vector an image")
    bad = ~np.isfinite(vectors).all(1)
    if bad.any():
        raise DataError(
            f"{name}: found NaN or infinity in {int(bad.sum())} of {len(vectors)} vectors, first in row "
            f"{int(bad.argmax())}; expected finite numbers (look at the embedder's learning curve)"
        )
    return np.asarray(vectors, np.float64)


@dataclass(frozen=True, eq=False)
class Parted:
    """Rows that are in a part: vectors (m, e) float64, and their part (m,), numbered anew from 0 to k - 1."""

    vectors: Array
    part: Array
    k: int


def parted_rows(name: str, embeddings: Embeddings, partitions: Partitions, number: int) -> Parted:
    """Return the rows in a part of a partition; parts without rows are left out of the numbering.

    Raises:
        DataError: ids disagree, there is no such partition, or it has fewer than two parts with rows.

    """
    vectors = checked_vectors(name, embeddings)
    if not np.array_equal(embeddings.ids, partitions.ids):
        raise DataError(
            f"{name}: found embeddings and partitions of different rows; expected the same rows in one order"
        )
    if number >= len(partitions):
        raise DataError(
            f"{name}: found {len(partitions)} partitions; expected more than {number} (lower the option partition)"
        )
    parts = np.asarray(partitions.parts[number], np.int64)
    rows = np.flatnonzero(parts >= 0)
    found, part = np.unique(parts[rows], return_inverse=True)
    if len(found) < 2:
        raise DataError(
            f"{name}: found {len(found)} part with images in partition {number}; expected at least two (raise "
            "n_clusters of the partitioner)"
        )
    return Parted(vectors[rows], part, len(found))


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows whose class is known: vectors (m, e) float64, and their class (m,) from 0 to k - 1."""

    vectors: Array
    labels: Array
    k: int


def labelled_rows(name: str, images: ImageSet, embeddings: Embeddings) -> Labelled:
    """Return the rows whose class is known.

    Raises:
        DataError: ids disagree, or fewer than two classes have a known image.

    """
    vectors = checked_vectors(name, embeddings)
    if not np.array_equal(embeddings.ids, images.ids):
        raise DataError(f"{name}: found embeddings and images of different rows; expected the same rows in one order")
    labels = np.asarray(images.labels)
    rows = np.flatnonzero(labels >= 0)
    present = np.unique(labels[rows])
    if len(present) < 2:
        which = ", ".join(f"'{images.class_names[c]}'" for c in present) or "none"
        raise DataError(
            f"{name}: found training images of one class ({which}) among {len(rows)} with a known class; expected at "
            "least two classes (use fewer folds, or label more images)"
        )
    return Labelled(vectors[rows], labels[rows].astype(np.int64), len(images.class_names))


@dataclass(frozen=True, eq=False)
class Scaling:
    """(x - mean) / scale, feature by feature; (e,) each."""

    mean: Array
    scale: Array

    @property
    def arrays(self) -> Arrays:
        """Mean and scale by name, to be stored."""
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def of(cls, vectors: Array, standardise: bool) -> Scaling:
        """Return the scaling that gives vectors (n, e) mean 0 and deviation 1, features without deviation 0; or none."""
        if not standardise:
            return cls(np.zeros(vectors.shape[1]), np.ones(vectors.shape[1]))
        scaler = StandardScaler().fit(vectors)
        return cls(np.asarray(scaler.mean_), np.asarray(scaler.scale_))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Scaling:
        """Build the scaling from its arrays."""
        return cls(np.asarray(arrays["mean"]), np.asarray(arrays["scale"]))

    def __call__(self, vectors: Array) -> Array:
        """Return scaled vectors (n, e) float64."""
        return np.asarray((np.asarray(vectors, np.float64) - self.mean) / self.scale)
