"""Embedders of every sort: random, post-processing, with clusters, a network, without images, with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from matplotlib.axes import Axes
from sklearn.cluster import KMeans as SklearnKMeans

from fewcore import Array, Arrays, Backbone, Embeddings, Encoder, ImageSet, Meta, Run, option
from toys.nets import ToyNet, blind, body_of, flat, net_of, ridge


class Linear:
    """Vectors are a linear function of the pixels; `assign` gives the nearest centre where there are centres."""

    def __init__(self, body: Array, centres: Array | None = None) -> None:
        self.body = body
        self.dim = int(body.shape[1])
        self.network: ToyNet = net_of(body)
        self.centres = centres
        if centres is not None:
            self.assign = self._assign

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n, e) float32."""
        blind(images)
        return np.asarray(flat(images) @ self.body, dtype=np.float32)

    def _assign(self, vectors: Array) -> Array:
        return np.asarray(((vectors[:, None] - self.centres) ** 2).sum(-1).argmin(1))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights and the centres."""
        return {"body": self.body, **({} if self.centres is None else {"centres": self.centres})}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Linear:
        """Build the encoder."""
        return cls(arrays["body"], arrays.get("centres"))


@dataclass(frozen=True)
class Acai:
    """A random linear map."""

    dim: int = option(8, "length of a vector", low=1)

    def fit(self, images: ImageSet, run: Run) -> Linear:
        """Return the encoder."""
        blind(images)
        return Linear(run.rng.normal(size=(flat(images).shape[1], self.dim)).astype(np.float32))


class Whitened:
    """A base encoder's vectors, centred and turned."""

    def __init__(self, base: Encoder, mean: Array, turn: Array, unit_length: bool) -> None:
        self.base = base
        self.dim = int(turn.shape[1])
        self._parts = (mean, turn, unit_length)

    def transform(self, vectors: Array) -> Array:
        """Return (n, e) float32."""
        mean, turn, unit_length = self._parts
        made = (vectors - mean) @ turn
        if unit_length:
            made = made / np.linalg.norm(made, axis=1, keepdims=True)
        return np.asarray(made, dtype=np.float32)

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n, e) float32."""
        return self.transform(self.base.embed(images, run))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return mean and turn; the base stays where it is."""
        return {"mean": self._parts[0], "turn": self._parts[1]}, {"unit_length": self._parts[2]}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Whitened:
        """Build the encoder on the base that the stage was given."""
        return cls(inputs["embeddings"].encoder, arrays["mean"], arrays["turn"], meta["unit_length"])


@dataclass(frozen=True)
class Whiten:
    """Whitens vectors by their principal axes."""

    dim: int = option(0, "axes to keep; 0 keeps all", low=0)
    unit_length: bool = option(False, "divide each vector by its length")

    deterministic: ClassVar[bool] = True

    def fit(self, embeddings: Embeddings, run: Run) -> Whitened:
        """Return the encoder, composed with the one that made the vectors."""
        vectors = embeddings.vectors.astype(np.float64)
        mean = vectors.mean(0)
        _, s, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        keep = self.dim or len(s)
        turn = axes[:keep].T / (s[:keep] + 1e-6) * len(vectors) ** 0.5
        return Whitened(embeddings.encoder, mean, turn, self.unit_length)


@dataclass(frozen=True)
class DeepCluster:
    """A drawn network and the clusters of its vectors."""

    n_clusters: int = option(5, "clusters", low=2)
    choose: Literal["silhouette", "nmi"] = option("silhouette", "how the epoch is chosen")

    def fit(self, images: ImageSet, backbone: Backbone, run: Run) -> Linear:
        """Return the encoder with its centres."""
        blind(images)
        body = body_of(backbone.build(images.shape, 0, run.generator))
        seed = int(run.rng.integers(2**31))
        found = SklearnKMeans(self.n_clusters, n_init=1, random_state=seed).fit(flat(images) @ body)
        return Linear(body, found.cluster_centers_.astype(np.float32))


@dataclass(frozen=True)
class Vae:
    """A drawn network whose weights can be a start."""

    def fit(self, images: ImageSet, backbone: Backbone, run: Run) -> Linear:
        """Return the encoder."""
        blind(images)
        return Linear(body_of(backbone.build(images.shape, 0, run.generator)))


class FixedFilters(Linear):
    """Filters for images of one slice; they do not fit volumes."""

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n, e) float32."""
        assert images.images.ndim == 4, "GIST is computed of slices"
        return super().embed(images, run)

    def draw(self, axes: Axes) -> str:
        """Draw the filters as a picture."""
        axes.imshow(self.body, cmap="gray")
        return f"{self.dim} filters"

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> FixedFilters:
        """Build the encoder."""
        return cls(arrays["body"])


@dataclass(frozen=True)
class Gist:
    """Fixed filters: the same whatever the rows are."""

    deterministic: ClassVar[bool] = True

    def fit(self, run: Run) -> FixedFilters:
        """Return the encoder."""
        return FixedFilters(np.random.default_rng(9).normal(size=(16, 12)).astype(np.float32))


class PerAttribute:
    """Vectors (n, m, e): features of their own for each of m ratings."""

    def __init__(self, bodies: Array) -> None:
        self._bodies = bodies
        self.dim = int(bodies.shape[2])

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n, m, e) float32."""
        blind(images)
        return np.einsum("nd,mde->nme", flat(images), self._bodies).astype(np.float32)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights."""
        return {"bodies": self._bodies}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> PerAttribute:
        """Build the encoder."""
        return cls(arrays["bodies"])


@dataclass(frozen=True)
class C3d:
    """Features tuned to each rating."""

    tune: Literal["per-attribute"] = option("per-attribute", "what the features are tuned to")
    dim: int = option(6, "length of a vector", low=1)

    def fit(self, images: ImageSet, run: Run) -> PerAttribute:
        """Return the encoder."""
        assert "ratings" in images.targets
        known = images.targets["ratings"].known
        ratings = np.nanmean(images.targets["ratings"].values[known], 1)
        pixels = flat(images)
        bodies = run.rng.normal(size=(ratings.shape[1], pixels.shape[1], self.dim))
        bodies[:, :, 0] = ridge(pixels[known], ratings)[:-1].T
        return PerAttribute(bodies.astype(np.float32))
