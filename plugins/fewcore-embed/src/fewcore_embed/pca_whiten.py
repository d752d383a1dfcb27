"""PCA-whitening: the widest principal directions of another embedder's vectors, each with unit variance."""

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
    Run,
    network_for_export,
    option,
)
from fewcore_embed.exported import Steps, tensor
from fewcore_embed.principal import Principal, principal, unit_rows

CPU = torch.device("cpu")


class PcaWhitened:
    """An encoder whose vectors are those of `base` in whitened principal directions, (n, d)."""

    def __init__(self, base: Encoder, axes: Principal, *, unit_length: bool) -> None:
        self._base, self._axes, self._unit_length = base, axes, unit_length

    @property
    def base(self) -> Encoder:
        """The encoder whose vectors are whitened."""
        return self._base

    @property
    def dim(self) -> int:
        """Number of directions that are kept."""
        return int(self._axes.matrix.shape[1])

    def transform(self, vectors: Array) -> Array:
        """Return the whitened vectors, (n, d) float32, from the base's (n, e)."""
        return np.asarray(self._axes.project(vectors, CPU, unit_length=self._unit_length).numpy())

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the whitened vectors of images, (n, d) float32."""
        return self.transform(self._base.embed(images, run))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to whitened vectors, through the base's."""
        mean, matrix = tensor(self._axes.mean), tensor(self._axes.matrix)

        def whitened(vectors: torch.Tensor) -> torch.Tensor:
            found = (vectors - mean) @ matrix
            return unit_rows(found) if self._unit_length else found

        return Steps(network_for_export(self._base, spec), after=whitened)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return mean and matrix; the base is referred to as the stage's input."""
        return {"mean": self._axes.mean, "matrix": self._axes.matrix}, {"unit_length": self._unit_length}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> PcaWhitened:
        """Build the encoder from `to_arrays`' result and the base of the stage's embeddings."""
        axes = Principal(np.array(arrays["mean"]), np.array(arrays["matrix"]))
        return cls(inputs["embeddings"].encoder, axes, unit_length=meta["unit_length"])


@dataclass(frozen=True)
class PcaWhiten:
    """Subtract the mean of the stage's rows, keep the `dim` principal directions of largest variance, and divide each by
    its standard deviation. With `unit_length` every vector is then divided by its length: what k-means sees in
    DeepCluster.

    Fitted to the training rows; with `split: test` to the test rows together, which the report marks as transductive.

    Source: M. Caron, P. Bojanowski, A. Joulin, M. Douze: Deep Clustering for Unsupervised Learning of Visual Features,
    ECCV 2018, arXiv:1807.05520. K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334, whose baselines on DeepCluster features are fitted to the whole of the meta-test rows.

    Differs from the paper: variances are those of a sample (n - 1), as in scikit-learn. Where fewer than `dim` directions
    have spread (at most e, and one less than there are vectors) these are kept.

    Raises:
        DataError: fewer than two vectors; vectors of several targets; NaN or infinity; all vectors equal.

    """

    dim: int = option(256, "principal directions that are kept", paper="256", low=1)
    unit_length: bool = option(False, "divide each vector by its length", paper="true")

    deterministic: ClassVar[bool] = True

    def fit(self, embeddings: Embeddings, run: Run) -> PcaWhitened:
        """Fit to the stage's vectors (n, e) and return the encoder."""
        if embeddings.vectors.ndim != 2:
            found = embeddings.vectors.shape
            raise DataError(f"pca-whiten: found vectors {found}; expected (n, e), one vector an image")
        axes = principal(embeddings.vectors, self.dim, run.device, "pca-whiten")
        return PcaWhitened(embeddings.encoder, axes, unit_length=self.unit_length)
