"""Learners that see labels: from a start, from the nearest vector, of several targets at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes

from fewcore import Array, Arrays, Embeddings, Encoder, ImageSet, Meta, Predictions, Run, option
from toys.nets import applied, blind, body_of, flat, net_of, one_hot, ridge


def known(images: ImageSet) -> Array:
    """Return the rows whose class is known."""
    return np.flatnonzero(images.labels >= 0)


class Tuned:
    """Scores from a network's features."""

    def __init__(self, body: Array, weights: Array) -> None:
        self.network = net_of(body)
        self._arrays = {"body": body, "weights": weights}

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k)."""
        blind(images)
        return Predictions(images.ids, scores=applied(flat(images) @ self._arrays["body"], self._arrays["weights"]))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return body and head."""
        return self._arrays, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Tuned:
        """Build the predictor."""
        return cls(arrays["body"], arrays["weights"])


def _bodies(start: Any, shape: tuple[int, ...], generator: torch.Generator) -> list[Array]:
    """Return the body of each network from which training can start: a model's snapshots among them."""
    if hasattr(start, "build"):
        return [body_of(start.build(shape, 0, generator))]
    return [body_of(one.network) for one in (*getattr(start, "snapshots", ()), start)]


@dataclass(frozen=True)
class FineTune:
    """A head on the features of the start that does best on the validation rows."""

    strength: float = option(1.0, "one over the penalty", low=0)

    def learn(self, start: Any, images: ImageSet, validation: ImageSet | None, run: Run) -> Tuned:
        """Return the predictor."""
        rows, k = known(images), len(images.class_names)
        best: tuple[float, Tuned] | None = None
        for body in _bodies(start, images.shape, run.generator):
            head = ridge((flat(images) @ body)[rows], one_hot(images.labels[rows], k), 1 / self.strength)
            right = 0.0
            if validation is not None:
                right = float((applied(flat(validation) @ body, head).argmax(1) == validation.labels).mean())
            if best is None or right > best[0]:
                best = (right, Tuned(body, head))
        assert best is not None
        return best[1]


@dataclass(frozen=True)
class Mil:
    """The same for bags: the images of a group."""

    def learn(self, start: Any, images: ImageSet, run: Run) -> Tuned:
        """Return the predictor."""
        body = body_of(start.network)
        vectors = flat(images) @ body
        bags = np.unique(images.groups)
        means = np.stack([vectors[images.groups == bag].mean(0) for bag in bags])
        labels = np.array([images.labels[images.groups == bag].max() for bag in bags])
        return Tuned(body, ridge(means, one_hot(labels, len(images.class_names))))


class NearestLabels:
    """Scores by the nearest labelled vector of each class."""

    def __init__(self, encoder: Encoder, vectors: Array, labels: Array) -> None:
        self._encoder, self._arrays = encoder, {"vectors": vectors, "labels": labels}

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k)."""
        blind(images)
        mine, labels = self._arrays["vectors"], self._arrays["labels"]
        distances = ((self._encoder.embed(images, run)[:, None] - mine) ** 2).sum(-1)
        scores = np.stack([-distances[:, labels == k].min(1) for k in range(labels.max() + 1)], 1)
        return Predictions(images.ids, scores=scores.astype(np.float32))

    def draw(self, axes: Axes) -> str:
        """Draw how many labelled vectors each class has."""
        axes.bar(*np.unique(self._arrays["labels"], return_counts=True))
        return f"{len(self._arrays['labels'])} labelled vectors"

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the labelled vectors."""
        return self._arrays, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> NearestLabels:
        """Build the predictor on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, arrays["vectors"], arrays["labels"])


@dataclass(frozen=True)
class NearestNeighbour:
    """The nearest labelled image."""

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> NearestLabels:
        """Return the predictor."""
        assert np.array_equal(images.ids, embeddings.ids)
        rows = known(images)
        return NearestLabels(embeddings.encoder, embeddings.vectors[rows], images.labels[rows])


class Outputs:
    """Linear maps of the pixels to scores and masks."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return what there are weights for."""
        blind(images)
        made = {name: applied(flat(images), weights) for name, weights in self._arrays.items()}
        if "masks" in made:
            made["masks"] = np.clip(made["masks"], 0, 1).reshape(len(images), *images.shape)
        return Predictions(images.ids, **made)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights."""
        return self._arrays, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Outputs:
        """Build the predictor."""
        return cls(dict(arrays))


def _several(images: ImageSet, validation: ImageSet, alpha: float, makes: tuple[str, ...]) -> Outputs:
    """Return a predictor of scores and masks from the rows whose targets are known."""
    assert (validation.labels >= 0).all()
    rows = known(images)
    unknown = np.setdiff1d(np.arange(len(images)), rows)
    masks = images.targets["masks"].values.reshape(len(images), -1)
    assert np.isnan(masks[unknown]).all(), "a mask is shown where the class is hidden"
    x = flat(images)
    arrays: Arrays = {}
    if "scores" in makes:
        k = len(images.class_names)
        arrays["scores"] = ridge(x[rows], one_hot(images.labels[rows], k), alpha)
    if "masks" in makes:
        arrays["masks"] = ridge(x[rows], masks[rows], alpha)
    return Outputs(arrays)


@dataclass(frozen=True)
class S4mtl:
    """Masks and classes at once."""

    alpha: float = option(1.0, "weight of what is not labelled", low=0)

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> Outputs:
        """Return the predictor."""
        return _several(images, validation, self.alpha, ("scores", "masks"))


@dataclass(frozen=True)
class Unet:
    """Masks alone."""

    alpha: float = option(1.0, "penalty", low=0)

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> Outputs:
        """Return the predictor."""
        return _several(images, validation, self.alpha, ("masks",))


@dataclass(frozen=True)
class ConvNet:
    """Classes alone."""

    alpha: float = option(1.0, "penalty", low=0)

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> Outputs:
        """Return the predictor."""
        return _several(images, validation, self.alpha, ("scores",))
