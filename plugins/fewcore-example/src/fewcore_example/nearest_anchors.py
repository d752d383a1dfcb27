"""Partitions by the nearest of some randomly drawn images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fewcore import Array, DataError, Embeddings, Partitions, Run, option


@dataclass(frozen=True)
class NearestAnchors:
    """Draw some images as anchors; every image goes to the anchor whose vector is nearest (Euclidean distance).

    Each partition has anchors of its own. Of equally near anchors the one drawn first is taken, so where vectors
    coincide a part may be empty.

    Source: the first assignment of k-means as E. W. Forgy starts it: Cluster Analysis of Multivariate Data, Biometrics
    21, 1965, pages 768-769.

    Differs from the paper: the anchors stay where they are; nothing is iterated.

    Raises:
        DataError: there are fewer images than parts, or several vectors an image.

    """

    n_parts: int = option(20, "parts of a partition, which is the number of its anchors", low=2)
    n_partitions: int = option(10, "partitions, each with anchors drawn anew", low=1)

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        """Return partitions (n_partitions, n) of the vectors (n, e); anchors are drawn from `run.rng`."""
        vectors = np.asarray(embeddings.vectors, dtype=np.float64)
        if vectors.ndim != 2:
            raise DataError(f"nearest-anchors: found vectors {vectors.shape}; expected one for each image, (n, e)")
        if len(vectors) < self.n_parts:
            raise DataError(
                f"nearest-anchors: found {len(vectors)} images; expected at least {self.n_parts}, one for each part "
                "(lower n_parts)"
            )
        anchors = [run.rng.permutation(len(vectors))[: self.n_parts] for _ in range(self.n_partitions)]
        drawn = run.track(anchors, name="anchors")
        return Partitions(np.stack([_nearest(vectors, vectors[rows]) for rows in drawn]), embeddings.ids)


def _nearest(vectors: Array, anchors: Array) -> Array:
    """Return the number of the nearest anchor (k, e) of each vector (n, e), (n,) int64."""
    # |x - a|^2 without |x|^2, which is the same for all anchors: one matrix product instead of (n, k, e) differences.
    distances = (anchors**2).sum(1) - 2 * vectors @ anchors.T
    return np.asarray(distances.argmin(1), dtype=np.int64)
