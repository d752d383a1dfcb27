"""Learners on vectors: ratings from features of their own, proportions, clusters, and the one that orients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fewcore import Array, Arrays, Embeddings, Encoder, ImageSet, Meta, Partitions, Predictions, Run, option
from toys.learners import known
from toys.nets import applied, blind, one_hot, ridge


class Ratings:
    """A linear map for each rating, of vectors (n, e) or of its own among (n, m, e)."""

    def __init__(self, encoder: Encoder, weights: Array, which: Array, names: tuple[str, ...]) -> None:
        self._encoder, self._weights, self._which, self._names = encoder, weights, which, names

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return values (n, m)."""
        blind(images)
        x = self._encoder.embed(images, run)
        own = [x[:, m] if x.ndim == 3 else x for m in self._which]
        values = np.stack([applied(v, w) for v, w in zip(own, self._weights, strict=True)], 1)
        return Predictions(images.ids, values=values, value_names=self._names)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights."""
        return {"weights": self._weights, "which": self._which}, {"names": list(self._names)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Ratings:
        """Build the predictor on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, arrays["weights"], arrays["which"], tuple(meta["names"]))


def _fitted(images: ImageSet, embeddings: Embeddings, names: tuple[str, ...], trust: bool) -> Ratings:
    """Return a map for each named rating, from the images that readers rated."""
    assert np.array_equal(images.ids, embeddings.ids)
    target = images.targets["ratings"]
    rows = np.flatnonzero(target.known)
    ratings = np.nanmean(target.values[rows], 1)
    spread = np.nanstd(target.values[rows], 1) if trust else np.zeros_like(ratings)
    which = np.array([target.names.index(name) for name in names])
    x = embeddings.vectors[rows]
    learnt = []
    for m in which:
        w = 1 / (1 + spread[:, m])
        own = x[:, m] if x.ndim == 3 else x
        learnt.append(ridge(own * w[:, None], ratings[:, m] * w))
    return Ratings(embeddings.encoder, np.stack(learnt), which, names)


@dataclass(frozen=True)
class Lasso:
    """One rating."""

    feature: str = option("malignancy", "the rating to learn")

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> Ratings:
        """Return the predictor."""
        return _fitted(images, embeddings, (self.feature,), False)


@dataclass(frozen=True)
class GraphMtl:
    """All ratings; readers that disagree count less."""

    inconsistency: Literal["none", "inverse-weight"] = option("none", "what disagreement does")

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> Ratings:
        """Return the predictor."""
        return _fitted(images, embeddings, images.targets["ratings"].names, self.inconsistency != "none")


class Sides:
    """Two scores from vectors; which side is which, nobody has said."""

    def __init__(self, encoder: Encoder, weights: Array) -> None:
        self._encoder, self._weights = encoder, weights

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, 2)."""
        blind(images)
        return Predictions(images.ids, scores=applied(self._encoder.embed(images, run), self._weights))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights."""
        return {"weights": self._weights}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Sides:
        """Build the predictor on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, arrays["weights"])


@dataclass(frozen=True)
class ProportionSVM:
    """A line between two bags."""

    proportions: Literal["soft", "hard"] = option("soft", "what is known of a bag")

    deterministic: ClassVar[bool] = True

    def learn(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> Sides:
        """Return the predictor."""
        assert np.array_equal(partitions.ids, embeddings.ids)
        target = one_hot(partitions.parts[0].astype(np.int64), 2)
        return Sides(embeddings.encoder, ridge(embeddings.vectors, target))


@dataclass(frozen=True)
class Clustering:
    """The nearer of two cluster means."""

    deterministic: ClassVar[bool] = True

    def learn(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> Sides:
        """Return the predictor."""
        assert np.array_equal(partitions.ids, embeddings.ids)
        means = np.stack([embeddings.vectors[partitions.parts[0] == k].mean(0) for k in (0, 1)])
        return Sides(embeddings.encoder, np.concatenate([2 * means.T, -(means**2).sum(1)[None]]))


class Oriented:
    """Another predictor's two scores, in the order in which they agree with the labels."""

    def __init__(self, start: Any, swap: bool) -> None:
        self._start, self._swap = start, swap

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, 2)."""
        blind(images)
        found = self._start.predict(images, run).scores
        return Predictions(images.ids, scores=found[:, ::-1].copy() if self._swap else found)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return which way round; the start stays where it is."""
        return {}, {"swap": self._swap}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Oriented:
        """Build the predictor on the one that the stage was given."""
        return cls(inputs["start"], meta["swap"])


@dataclass(frozen=True)
class Orient:
    """Says which side is which, by the training labels."""

    deterministic: ClassVar[bool] = True

    def learn(self, start: Any, images: ImageSet, run: Run) -> Oriented:
        """Return the predictor."""
        rows = known(images)
        scores = start.predict(_hidden(images), run).scores
        return Oriented(start, bool((scores.argmax(1) == images.labels)[rows].mean() < 0.5))


def _hidden(images: ImageSet) -> ImageSet:
    return ImageSet(images.images, images.ids, images.groups, images.spec, source=images.source)


class Constant:
    """The same scores for all."""

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, 2)."""
        blind(images)
        return Predictions(images.ids, scores=np.tile(np.float32([1, 0]), (len(images), 1)))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return nothing."""
        return {}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Constant:
        """Build the predictor."""
        return cls()


@dataclass(frozen=True)
class Shaky:
    """Fails where it is told to."""

    fails: Literal["no", "bug", "nan"] = option("no", "how it fails")

    deterministic: ClassVar[bool] = True

    def learn(self, images: ImageSet, run: Run) -> Constant:
        """Return the predictor.

        Raises:
            ZeroDivisionError: it was told to.

        """
        run.log(loss=float("nan") if self.fails == "nan" else 1.0)
        if self.fails == "bug":
            raise ZeroDivisionError("told to")
        return Constant()
