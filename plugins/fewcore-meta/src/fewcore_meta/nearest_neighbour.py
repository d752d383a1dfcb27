"""The nearest labelled vector of each class: how much an embedding tells without any training on top."""

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
    Predictions,
    Run,
    network_for_export,
    option,
)
from fewcore_meta.exported import Scores, distances, tensor

VALUES_AT_ONCE = 2**24
"""Distances that are computed together: 64 MB of float32."""


class NearestNeighbourPredictor:
    """Scores by the distance to the labelled vectors (m, e) of each class; `labels` (m,)."""

    def __init__(self, encoder: Encoder, vectors: Array, labels: Array, n_neighbours: int) -> None:
        self._encoder, self.vectors, self.labels, self.n_neighbours = encoder, vectors, labels, n_neighbours

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k): minus the mean distance to the nearest vectors of each class."""
        vectors = torch.from_numpy(np.asarray(self._encoder.embed(images, run), np.float32)).to(run.device)
        mine = torch.from_numpy(np.array(self.vectors)).to(run.device)
        rows = [torch.from_numpy(np.flatnonzero(self.labels == k)).to(run.device) for k in range(self.labels.max() + 1)]
        parts = []
        for some in torch.split(vectors, max(1, VALUES_AT_ONCE // len(mine))):
            distances = torch.cdist(some, mine, compute_mode="donot_use_mm_for_euclid_dist")
            nearest = [
                distances[:, own].topk(min(self.n_neighbours, len(own)), largest=False).values.mean(1) for own in rows
            ]
            parts.append(-torch.stack(nearest, 1).cpu())
        return Predictions(images.ids, np.asarray(torch.cat(parts).numpy()))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to scores, through the encoder's."""
        mine, labels = tensor(self.vectors).float(), tensor(self.labels)
        rows = [torch.nonzero(labels == k).flatten() for k in range(int(labels.max()) + 1)]

        def score(vectors: torch.Tensor) -> torch.Tensor:
            apart = distances(vectors.float(), mine)
            nearest = [apart[:, own].topk(min(self.n_neighbours, len(own)), largest=False).values for own in rows]
            return -torch.stack([some.mean(1) for some in nearest], 1)

        return Scores(network_for_export(self._encoder, spec), score)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the labelled vectors."""
        return {"vectors": self.vectors, "labels": self.labels}, {"n_neighbours": self.n_neighbours}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]
    ) -> NearestNeighbourPredictor:
        """Build the predictor on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, arrays["vectors"], arrays["labels"], meta["n_neighbours"])


@dataclass(frozen=True)
class NearestNeighbour:
    """Each image goes to the class of the labelled vector that is nearest to its own.

    The score of a class is minus the distance to its nearest labelled vector (or the mean distance to its `n_neighbours`
    nearest), so that images can be ranked: of two classes the difference of the scores gives the area under the ROC
    curve, where a bare vote would give the mean of sensitivity and specificity.

    Source: the baseline `nearest neighbour` of G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro:
    Unsupervised Task Design to Meta-Train Medical Image Classifiers, ISBI 2020, arXiv:1907.07816.

    Differs from the paper: it does not say how its neighbours give a score.

    Raises:
        DataError: a class has no labelled image, or the vectors are of several targets or not finite.

    """

    deterministic: ClassVar[bool] = True

    n_neighbours: int = option(1, "labelled vectors of a class that count", paper="1", low=1)

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> NearestNeighbourPredictor:
        """Return the predictor; it keeps the labelled vectors."""
        rows = np.flatnonzero(images.labels >= 0)
        missing = sorted(set(range(len(images.class_names))) - set(images.labels[rows].tolist()))
        if missing:
            names = ", ".join(images.class_names[k] for k in missing)
            raise DataError(
                f"nearest-neighbour: found no labelled image of {names}; expected one of each class at least"
            )
        if embeddings.vectors.ndim != 2 or not np.isfinite(embeddings.vectors).all():
            raise DataError(
                f"nearest-neighbour: found vectors {embeddings.vectors.shape}, finite in "
                f"{np.isfinite(embeddings.vectors).mean():.1%}; expected (n, e), all finite"
            )
        vectors = np.ascontiguousarray(embeddings.vectors[rows], np.float32)
        return NearestNeighbourPredictor(embeddings.encoder, vectors, images.labels[rows], self.n_neighbours)
