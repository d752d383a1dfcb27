"""Cluster matching: clusters get the names of the support images that fall into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from fewcore import (
    Array,
    Arrays,
    DataError,
    Embeddings,
    Encoder,
    ImageSet,
    ImageSpec,
    Meta,
    Partitions,
    Predictions,
    Run,
    TaskBatch,
    network_for_export,
)
from fewcore_meta.exported import Scores, distances, tensor
from fewcore_meta.task_vectors import chunked, embedded, labelled_support, scores_array

MAX_ELEMENTS = 2**23


def _to_centroids(vectors: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distance of vectors (n, e) to centroids (c, e): (n, c) float64."""
    return torch.cdist(vectors.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _centroid_labels(hits: torch.Tensor, labels: torch.Tensor, n_clusters: int, n_way: int) -> torch.Tensor:
    """Return the label of each cluster in each task, (t, c), -1 where no support image hits it.

    `hits` (t, s) is the cluster of each support image. A cluster takes the commonest label, the smallest of several.
    """
    votes = torch.zeros(len(hits), n_clusters * n_way, dtype=torch.long, device=hits.device)
    votes.scatter_add_(1, hits * n_way + labels, torch.ones_like(hits))
    most, label = votes.reshape(len(hits), n_clusters, n_way).max(-1)
    return label.masked_fill(most == 0, -1)


def _scores(distances: torch.Tensor, labels: torch.Tensor, beyond: torch.Tensor, n_way: int) -> torch.Tensor:
    """Return minus the distance to each class's nearest labelled centroid, (t, q, k).

    `distances` (t, q, m) are those of the queries to labelled centroids, `labels` (t, m) say of which class each is. A
    class without a centroid is as far as `beyond` (t, q), which is farther than any centroid.
    """
    nearest = beyond[..., None].repeat(1, 1, n_way)
    return -nearest.scatter_reduce(-1, labels[:, None].expand_as(distances), distances, "amin")


def _beyond(distances: torch.Tensor) -> torch.Tensor:
    """Return for each vector a distance farther than any of its `distances` (n, c): (n,)."""
    return 1 + 2 * distances.amax(-1)


class ClusterMatchingPredictor:
    """Centroids (c, e), and for each the label that the support set gave it, -1 for none."""

    def __init__(self, encoder: Encoder, centroids: Array, centroid_labels: Array, n_way: int) -> None:
        self._encoder = encoder
        self._centroids = centroids
        self._centroid_labels = centroid_labels
        self._n_way = n_way

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return minus the distance to the nearest labelled centroid of each class, (n, k)."""
        centroids = torch.from_numpy(np.array(self._centroids)).to(run.device)
        labels = torch.from_numpy(np.array(self._centroid_labels)).to(run.device)
        named = labels >= 0

        def score(query: torch.Tensor) -> torch.Tensor:
            distances = _to_centroids(query[0], centroids)
            return _scores(distances[None, :, named], labels[None, named], _beyond(distances)[None], self._n_way)

        vectors = embedded(self._encoder, images, run).to(run.device)
        return Predictions(images.ids, scores=chunked(vectors, score))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to scores, through the encoder's."""
        centroids, labels = tensor(self._centroids).double(), tensor(self._centroid_labels).long()
        named = torch.nonzero(labels >= 0).flatten()

        def score(vectors: torch.Tensor) -> torch.Tensor:
            far = distances(vectors.double(), centroids)
            return _scores(far[None, :, named], labels[None, named], _beyond(far)[None], self._n_way)[0]

        return Scores(network_for_export(self._encoder, spec), score)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the centroids and their labels."""
        return {"centroids": self._centroids, "labels": self._centroid_labels}, {"n_way": self._n_way}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]
    ) -> ClusterMatchingPredictor:
        """Build the predictor from `to_arrays`' result."""
        return cls(inputs["embeddings"].encoder, arrays["centroids"], arrays["labels"], meta["n_way"])


class ClusterMatchingModel:
    """The centroids (c, e) of the clusters. `norm` is `none`: nothing is normalised."""

    norm = "none"

    def __init__(self, encoder: Encoder, centroids: Array) -> None:
        self._encoder = encoder
        self.centroids = centroids

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return minus the distances to each class's nearest labelled centroid, (t, q, k) float32."""
        centroids = torch.from_numpy(np.array(self.centroids)).to(run.device)
        vectors = embedded(self._encoder, images, run)
        used = np.unique(np.concatenate([batch.support.ravel(), np.maximum(batch.query, 0).ravel()]))
        place = np.zeros(len(vectors), dtype=np.int64)
        place[used] = np.arange(len(used))
        distances = _to_centroids(vectors[torch.from_numpy(used)].to(run.device), centroids)
        support = torch.from_numpy(place[batch.support]).to(run.device)
        query = torch.from_numpy(place[np.maximum(batch.query, 0)]).to(run.device)
        labels = torch.from_numpy(np.array(batch.support_labels)).long().to(run.device)
        hits = distances.argmin(-1)[support]
        named = _centroid_labels(hits, labels, len(centroids), batch.n_way)
        beyond = _beyond(distances)
        # Only centroids that a support image hit have a label: as many distances as support images suffice.
        size = max(1, MAX_ELEMENTS // max(1, query.shape[1] * support.shape[1]))
        made = []
        for start in range(0, len(batch), size):
            cut = slice(start, start + size)
            to_hits = distances[query[cut][:, :, None], hits[cut][:, None]]
            made.append(_scores(to_hits, named[cut].gather(1, hits[cut]), beyond[query[cut]], batch.n_way))
        return scores_array(torch.cat(made), torch.from_numpy(batch.query_known).to(run.device))

    def adapt(self, support: ImageSet, run: Run) -> ClusterMatchingPredictor:
        """Return a predictor for the classes of a labelled support set.

        Raises:
            DataError: there are fewer than two classes, or a class has no image.

        """
        found = labelled_support(support)
        centroids = torch.from_numpy(np.array(self.centroids)).to(run.device)
        vectors = embedded(self._encoder, support, run)[torch.from_numpy(found.rows)].to(run.device)
        hits = _to_centroids(vectors, centroids).argmin(-1)[None]
        labels = torch.from_numpy(found.labels).long().to(run.device)[None]
        named = _centroid_labels(hits, labels, len(centroids), found.n_way)[0].cpu().numpy()
        return ClusterMatchingPredictor(self._encoder, self.centroids, named, found.n_way)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the centroids."""
        return {"centroids": self.centroids}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ClusterMatchingModel:
        """Build the model from `to_arrays`' result."""
        return cls(inputs["embeddings"].encoder, arrays["centroids"])


@dataclass(frozen=True)
class ClusterMatching:
    """Clusters of the training vectors get the names of the support images that fall into them.

    The centroids of the first partition are its parts' means. Each support image falls to its nearest centroid; a
    centroid takes the commonest label of those that fell to it, the smallest of several. A query takes the label of its
    nearest labelled centroid, the smallest where two are equally near. A class whose images were all outvoted has no
    centroid, and scores below every class that has one.

    Source: the baseline of K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334, section 4.

    Differs from the paper: nothing known, where the partition is k-means on unscaled vectors, the first that `kmeans`
    makes. The rule for ties is that of its code.
    """

    deterministic: ClassVar[bool] = True

    def meta_train(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> ClusterMatchingModel:
        """Return the model: the centroids of the first partition.

        Raises:
            DataError: partition and vectors are of other rows, or there are several vectors an image.

        """
        vectors = embeddings.vectors
        if not np.array_equal(partitions.ids, embeddings.ids):
            raise DataError(
                f"partitions: found the ids of {len(partitions.ids)} other rows; expected those of the "
                f"{len(embeddings.ids)} embeddings (make both from the same images)"
            )
        if vectors.ndim != 2:
            raise DataError(f"embeddings: found shape {vectors.shape}; expected one vector an image, (n, e)")
        parts = np.asarray(partitions.parts[0], dtype=np.int64)
        inside = parts >= 0
        counts = np.bincount(parts[inside])
        sums = np.zeros((len(counts), vectors.shape[1]))
        np.add.at(sums, parts[inside], np.asarray(vectors)[inside])
        hit = counts > 0
        return ClusterMatchingModel(embeddings.encoder, (sums[hit] / counts[hit, None]).astype(np.float32))
