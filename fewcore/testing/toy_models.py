"""Tiny models, for components that start from one: a nearest-mean few-shot model and a linear predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewcore.contracts import Array, Arrays, ImageSet, Meta, Predictions, TaskBatch
from fewcore.run import Run
from fewcore.testing.toys import DIM, N_CLASSES, SEED, ToyEncoder


class ToyPredictor:
    """Scores images by their distance to class means in the toy encoder's space. `network` is that encoder's."""

    def __init__(self, encoder: ToyEncoder, means: Array) -> None:
        self.network = encoder.network
        self._encoder = encoder
        self._means = means

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> ToyPredictor:
        """Return a predictor of the six toy classes for images of a shape; its means are arbitrary."""
        return cls(ToyEncoder.of_shape(shape), np.random.Generator(np.random.Philox(SEED)).random((N_CLASSES, DIM)))

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k) float32."""
        vectors = self._encoder.embed(images, run)
        distances = ((vectors[:, None] - self._means) ** 2).sum(-1)
        return Predictions(images.ids, scores=-distances.astype(np.float32))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the means and the encoder's weights."""
        weights, meta = self._encoder.to_arrays()
        return {"means": self._means, **weights}, meta

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ToyPredictor:
        """Build the predictor from `to_arrays`' result."""
        weights = {name: values for name, values in arrays.items() if name != "means"}
        return cls(ToyEncoder.from_arrays(weights, meta, inputs), arrays["means"])


class ToyModel:
    """Each query goes to the class whose mean support vector is nearest."""

    norm = "none"

    def __init__(self, encoder: ToyEncoder) -> None:
        self.network = encoder.network
        self.snapshots: tuple[ToyModel, ...] = ()
        self._encoder = encoder

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> ToyModel:
        """Return a model for images of a shape."""
        return cls(ToyEncoder.of_shape(shape))

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return scores (t, q, k) float32."""
        vectors = self._encoder.embed(images, run)
        one_hot = np.eye(batch.n_way)[batch.support_labels] / batch.n_shot
        means = np.einsum("tsk,tse->tke", one_hot, vectors[batch.support])
        distances = ((vectors[batch.query][:, :, None] - means[:, None]) ** 2).sum(-1)
        return np.asarray(-distances, dtype=np.float32)

    def adapt(self, support: ImageSet, run: Run) -> ToyPredictor:
        """Return a predictor for the classes of a support set."""
        vectors = self._encoder.embed(support, run)
        means = [vectors[support.labels == k].mean(0) for k in range(len(support.class_names))]
        return ToyPredictor(self._encoder, np.stack(means))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the encoder's weights."""
        return self._encoder.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ToyModel:
        """Build the model from `to_arrays`' result."""
        return cls(ToyEncoder.from_arrays(arrays, meta, inputs))
