"""Whitening: the vectors of another embedder, decorrelated and with the same spread in every direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
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
    Run,
    network_for_export,
    option,
)
from fewcore_embed.exported import Steps, tensor
from fewcore_embed.moments import mean_and_scatter

GUARD = 1e-5
SMALLEST_SHARE = 1e-6


class Whitened:
    """An encoder whose vectors are those of `base`, centred and multiplied by a matrix (e', e)."""

    def __init__(self, base: Encoder, mean: Array, matrix: Array) -> None:
        self._base, self._mean, self._matrix = base, mean, matrix

    @property
    def base(self) -> Encoder:
        """The encoder whose vectors are whitened."""
        return self._base

    @property
    def dim(self) -> int:
        """Number of directions with any spread in the training rows."""
        return int(self._matrix.shape[1])

    def transform(self, vectors: Array) -> Array:
        """Return the whitened vectors, (n, e) float32, from the base's (n, e')."""
        return np.asarray((vectors.astype(np.float32) - self._mean) @ self._matrix)

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the whitened vectors of images, (n, e) float32."""
        return self.transform(self._base.embed(images, run))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to whitened vectors, through the base's."""
        mean, matrix = tensor(self._mean), tensor(self._matrix)
        return Steps(network_for_export(self._base, spec), after=lambda vectors: (vectors - mean) @ matrix)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return mean and matrix; the base is referred to as the stage's input."""
        return {"mean": self._mean, "matrix": self._matrix}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Whitened:
        """Build the encoder from `to_arrays`' result and the base of the stage's embeddings."""
        return cls(inputs["embeddings"].encoder, np.asarray(arrays["mean"]), np.asarray(arrays["matrix"]))


@dataclass(frozen=True)
class Whiten:
    """Subtract the training rows' mean, turn to the principal directions, and divide each by its spread.

    The spread is the singular value s of the centred training vectors plus 1e-5 (`scale: authors`), or that divided by
    the root of their number (`scale: unit`, unit variance). Both differ by the same factor in every direction, which
    k-means does not see and a margin does.

    Source: the clustering script of D. Berthelot, C. Raffel, A. Roy, I. Goodfellow: Understanding and Improving
    Interpolation in Autoencoders via an Adversarial Regularizer, ICLR 2019, arXiv:1807.07543.

    Differs from the paper: directions in which the training vectors do not differ (s below 1e-6 of the largest) are left
    out, where the script divides rounding errors by 1e-5.

    Raises:
        DataError: fewer than two vectors; vectors of several targets; NaN or infinity; all vectors equal.

    """

    scale: Literal["authors", "unit"] = option(
        "unit", "what every direction's spread becomes: unit variance, or unit length of the column", paper="authors"
    )

    deterministic: ClassVar[bool] = True

    def fit(self, embeddings: Embeddings, run: Run) -> Whitened:
        """Fit to the stage's vectors (n, e') and return the encoder."""
        vectors = embeddings.vectors
        if vectors.ndim != 2 or len(vectors) < 2:
            raise DataError(f"whiten: found vectors {vectors.shape}; expected (n, e) with at least two rows")
        n = len(vectors)
        mean, scatter = mean_and_scatter(lambda part: vectors[part].astype(np.float64), n)
        if not np.isfinite(scatter).all():
            raise DataError("whiten: found NaN or infinity in the vectors; expected finite numbers (train them anew)")
        squares, directions = np.linalg.eigh(scatter)
        spread = np.sqrt(squares.clip(min=0))[::-1]
        kept = spread > SMALLEST_SHARE * max(spread[0], np.abs(mean).max())
        if not kept.any():
            raise DataError("whiten: found equal vectors throughout; expected some spread (train the embedder longer)")
        matrix = directions[:, ::-1][:, kept] / (spread[kept] + GUARD)
        if self.scale == "unit":
            matrix *= np.sqrt(n)
        return Whitened(embeddings.encoder, mean.astype(np.float32), matrix.astype(np.float32))
