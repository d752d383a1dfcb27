"""Pixels as an embedding, normalised and whitened as for single-layer features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from fewcore import Array, Arrays, DataError, ImageSet, ImageSpec, Meta, ResourceError, Run, option
from fewcore_embed.exported import Steps, tensor
from fewcore_embed.moments import CHUNK, mean_and_scatter

MOST_PIXELS = 8192
EMPTY_SHARE = 1e-12


def _normalised(images: ImageSet, part: slice, variance_offset: float) -> Array:
    """Return (m, e) float64: pixels on a scale from 0 to 255, each image less its mean and by its deviation."""
    pixels = images.images[part].reshape(len(images.images[part]), -1).astype(np.float64)
    if images.images.dtype != np.uint8:
        low, high = images.spec.value_range
        pixels = (pixels - low) * (255 / (high - low))
    pixels -= pixels.mean(1, keepdims=True)
    return np.asarray(pixels / np.sqrt(pixels.var(1, keepdims=True) + variance_offset))


class PixelEncoder:
    """Normalised pixels times a whitening matrix (e, e)."""

    def __init__(self, matrix: Array, variance_offset: float) -> None:
        self.matrix, self.variance_offset = matrix, variance_offset

    @property
    def dim(self) -> int:
        """Number of pixels of an image, all channels."""
        return len(self.matrix)

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n, c * h * w) float32.

        Raises:
            DataError: the images have another number of pixels than those of the training.

        """
        if int(np.prod(images.shape)) != self.dim:
            raise DataError(f"pixels: found images {images.shape}; expected {self.dim} numbers each, as in training")
        vectors = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            vectors[part] = _normalised(images, part, self.variance_offset) @ self.matrix
        return vectors

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to normalised and whitened ones."""
        (low, high), matrix = spec.value_range, tensor(self.matrix).double()

        def normalised(pixels: torch.Tensor) -> torch.Tensor:
            flat = (pixels.flatten(1).double() - low) * (255 / (high - low))
            flat = flat - flat.mean(1, keepdim=True)
            return flat / (flat.var(1, correction=0, keepdim=True) + self.variance_offset).sqrt()

        return Steps(nn.Identity(), normalised, lambda flat: (flat @ matrix).float())

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the whitening matrix and the offset."""
        return {"matrix": self.matrix}, {"variance_offset": self.variance_offset}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> PixelEncoder:
        """Build the encoder from `to_arrays`' result."""
        return cls(np.asarray(arrays["matrix"]), meta["variance_offset"])


@dataclass(frozen=True)
class Pixels:
    """Each image less its mean and divided by its deviation, x = (x - mean) / sqrt(var + 10) on pixels from 0 to 255,
    then whitened over the training images without turning (ZCA): W = U diag(1 / sqrt(S + eps)) U^T, with U S U^T their
    covariance. The mean image is not subtracted, which k-means does not see.

    Images of floats are brought from their spec's range to [0, 255] first.

    Source: A. Coates, A. Ng: Learning Feature Representations with K-Means, Neural Networks: Tricks of the Trade, 2012,
    doi:10.1007/978-3-642-35289-8_30; with the numbers of K. Hsu, S. Levine, C. Finn: Unsupervised Learning via
    Meta-Learning, ICLR 2019, arXiv:1810.02334 (pixels).

    Differs from the paper: `zca_eps` is that of the second paper; the first recommends 0.01 to 0.1.

    Raises:
        DataError: fewer than two images; NaN; an empty range of values.
        ResourceError: more than 8192 numbers an image, whose covariance would not fit.

    """

    zca_eps: float = option(1e-5, "added to the covariance's eigenvalues", paper="0.01 to 0.1 in Coates and Ng", low=0)
    variance_offset: float = option(10.0, "added to the variance of an image, on a scale from 0 to 255", low=0)

    deterministic: ClassVar[bool] = True

    def fit(self, images: ImageSet, run: Run) -> PixelEncoder:
        """Fit the whitening to the images."""
        dim, n = int(np.prod(images.shape)), len(images)
        low, high = images.spec.value_range
        if n < 2:
            raise DataError(f"pixels: found {n} images; expected at least two")
        if images.images.dtype != np.uint8 and not low < high:
            raise DataError(f"pixels: found value_range [{low:g}, {high:g}] in the images' spec; expected low < high")
        if dim > MOST_PIXELS:
            raise ResourceError(
                f"pixels: found images {images.shape}, {dim} numbers each; expected at most {MOST_PIXELS} "
                "(set a smaller image size)"
            )
        _, scatter = mean_and_scatter(lambda part: _normalised(images, part, self.variance_offset), n)
        if not np.isfinite(scatter).all():
            raise DataError("pixels: found NaN or infinity in the images; expected finite numbers")
        values, directions = np.linalg.eigh(scatter / (n - 1))
        total = values.clip(min=0) + self.zca_eps
        # Without zca_eps, directions in which the images do not differ are left out instead of blown up.
        factor = np.where(total > EMPTY_SHARE * total.max(), 1 / np.sqrt(total.clip(min=np.finfo(np.float64).tiny)), 0)
        return PixelEncoder((directions * factor) @ directions.T, self.variance_offset)
