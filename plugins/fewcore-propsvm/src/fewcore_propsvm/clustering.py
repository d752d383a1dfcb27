"""The nearest centroid of a partition's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fewcore import Array, Arrays, Embeddings, Encoder, ImageSet, Meta, Partitions, Predictions, Run, option
from fewcore_propsvm.rows import parted_rows


class Centroids:
    """Scores -|x - centroid|^2, one column for each part."""

    def __init__(self, encoder: Encoder, centroids: Array) -> None:
        self._encoder, self._centroids = encoder, centroids

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k)."""
        vectors = np.asarray(self._encoder.embed(images, run), np.float64)
        columns = [-np.square(vectors - centroid).sum(1) for centroid in self._centroids]
        return Predictions(images.ids, scores=np.stack(columns, 1))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the centroids; the encoder stays where it is."""
        return {"centroids": self._centroids}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Centroids:
        """Build the predictor on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, np.asarray(arrays["centroids"]))


@dataclass(frozen=True)
class Clustering:
    """Each image goes to the part whose mean is nearest; which part is which class, the learner `orient` says.

    Source: the baseline of S. Hussein et al.: Lung and pancreatic tumor characterization in the deep learning era, IEEE
    TMI 2019, arXiv:1801.03230. Differs from the paper: nothing known.

    Raises:
        DataError: NaN in the vectors, or fewer than two parts.

    """

    deterministic: ClassVar[bool] = True

    partition: int = option(0, "which partition's parts are taken", low=0)

    def learn(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> Centroids:
        """Return the predictor of scores (n, k), of vectors (n, e) and a partition (n,) into k parts."""
        found = parted_rows("clustering", embeddings, partitions, self.partition)
        means = [found.vectors[found.part == c].mean(0) for c in range(found.k)]
        return Centroids(embeddings.encoder, np.stack(means))
