"""DeepCluster's pseudo-labels: k-means of an epoch's features, and how images are drawn evenly from its clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fewcore import Array, Arrays, DataError
from fewcore_embed.principal import Principal, on_device, principal, unit_rows

CPU_BLOCK = 2**20
GPU_BLOCK = 2**26


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of features (n, e): what features are turned into first, the centres (k, d) and the labels (n,) int64.

    `axes` is None where features are only divided by their length.
    """

    axes: Principal | None
    centres: Array
    labels: Array

    def assign(self, features: Array) -> Array:
        """Return the cluster of each of other features (m, e): the nearest centre, (m,) int64."""
        points = clustered_points(self.axes, features, torch.device("cpu"))
        return np.asarray(nearest(points, torch.tensor(self.centres))[0].numpy())

    def to_arrays(self) -> Arrays:
        """Return all of it as named arrays."""
        axes = {} if self.axes is None else {"mean": self.axes.mean, "matrix": self.axes.matrix}
        return {**axes, "centres": self.centres, "labels": self.labels}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Clusters:
        """Build the clusters from `to_arrays`' result."""
        axes = Principal(np.array(arrays["mean"]), np.array(arrays["matrix"])) if "mean" in arrays else None
        return cls(axes, np.array(arrays["centres"]), np.array(arrays["labels"]))


def clustered_points(axes: Principal | None, features: Array, device: torch.device) -> torch.Tensor:
    """Return what k-means sees of features (n, e): whitened and of unit length, (n, d) float32 on the device."""
    if axes is None:
        return unit_rows(on_device(features, device).float())
    return axes.project(features, device, unit_length=True)


def cluster_features(
    features: Array,
    n_clusters: int,
    pca_dim: int | None,
    iterations: int,
    n_init: int,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Clusters, torch.Tensor]:
    """Return the tightest of `n_init` clusterings of features (n, e), and the points (n, d) that were clustered.

    Each starts from rows drawn by `rng`. Without `pca_dim` features are divided by their length alone.

    Raises:
        DataError: all features are equal.

    """
    axes = None if pca_dim is None else principal(features, pca_dim, device, "deepcluster (features)")
    points = clustered_points(axes, features, device)
    tries = []
    for _ in range(n_init):
        first = torch.from_numpy(rng.choice(len(points), n_clusters, replace=False)).to(device)
        tries.append(lloyd(points, points[first], iterations))
    labels, centres, _ = min(tries, key=lambda found: found[2])
    return Clusters(axes, centres.cpu().numpy(), labels.cpu().numpy()), points


def lloyd(points: torch.Tensor, centres: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return labels (n,), centres (k, d) and inertia after Lloyd's iterations from the given centres.

    Every point's label is that of the nearest of the centres that are returned. It ends early where no label changes.
    A cluster that loses all its points gets the point that lies farthest from its own centre. On the CPU the order of
    additions is fixed, so that equal points give equal bits.
    """
    labels, squares = nearest(points, centres)
    for _ in range(iterations):
        counts = torch.bincount(labels, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres = centres.index_copy(0, empty, points[squares.topk(len(empty)).indices])
        before = labels
        labels, squares = nearest(points, centres)
        if not len(empty) and torch.equal(before, labels):
            break
    return labels, centres, float(squares.sum(dtype=torch.float64))


def nearest(points: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest centre (n,) of each point, and the squared distance (n,) to it."""
    block = max(1, (CPU_BLOCK if points.device.type == "cpu" else GPU_BLOCK) // len(centres))
    lengths, turned = centres.square().sum(1), centres.T
    labels, squares = [], []
    for part in torch.split(points, block):
        low, label = torch.addmm(lengths, part, turned, alpha=-2).min(1)
        labels.append(label)
        squares.append((low + part.square().sum(1)).clamp(min=0))
    return torch.cat(labels), torch.cat(squares)


def even_draws(labels: Array, rng: np.random.Generator) -> Array:
    """Return n rows drawn evenly from the clusters of labels (n,), shuffled: the images of one epoch.

    Of each of m clusters that are not empty floor(n / m) + 1 members are drawn, with replacement only where the cluster
    has no more; of the shuffled draws the first n are kept.
    """
    n, order = len(labels), np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1))
    share = n // len(starts) + 1
    drawn = [rng.choice(members, share, replace=len(members) <= share) for members in np.split(order, starts[1:])]
    return np.asarray(rng.permutation(np.concatenate(drawn))[:n])


def without_gaps(labels: Array) -> tuple[Array, int]:
    """Return the labels (n,) counted over clusters that are not empty, and the number of these.

    Raises:
        DataError: there is only one.

    """
    kept, counted = np.unique(labels, return_inverse=True)
    if len(kept) < 2:
        raise DataError(
            "deepcluster: found all images in one cluster; expected at least two (are the images different?)"
        )
    return counted.astype(np.int64), len(kept)
