"""Ridge regression of one rated attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fewcore import Array, Embeddings, ImageSet, Run, option
from fewcore_graphmtl.linear_ratings import LinearRatings
from fewcore_graphmtl.single_task import fit_one

SHARES = np.logspace(0, -7, 15)
"""Candidates for alpha, as shares of the sum of all squared features."""


def _path(x: Array, y: Array, alphas: Sequence[float]) -> Array:
    """Return the weights for all penalties from one eigendecomposition of the smaller of X^T X and X X^T."""
    wide = x.shape[1] > len(x)
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = np.maximum(values, 0)
    projected = vectors.T @ (y if wide else x.T @ y)
    least = np.finfo(np.float64).eps * max(x.shape) * max(float(values[-1]), 1e-300)
    shrunk = [np.where(values + a > least, projected / np.maximum(values + a, least), 0) for a in alphas]
    made = np.stack(shrunk) @ vectors.T
    return np.asarray(made @ x if wide else made)


def _grid(x: Array, _: Array) -> list[float]:
    most = float((x**2).sum())
    return [share * most for share in SHARES.tolist()]


@dataclass(frozen=True)
class Ridge:
    """Least squares with the sum of squared weights as penalty, for one rated attribute.

    ||Xw - y||^2 + alpha ||w||^2, solved through one eigendecomposition for all penalties (the shortest solution where
    alpha is 0). Features have spread 1 on the training rows; features and scores are centred. An image's score is the
    mean over its readers.

    Source: A. E. Hoerl, R. W. Kennard: Ridge Regression, Technometrics 12, 1970, doi:10.1080/00401706.1970.10488634; as
    a baseline S. Hussein et al., IEEE TMI 38, 2019, arXiv:1801.03230.

    Differs from the paper: the paper names no alpha; it is chosen by cross-validation on the training patients.

    Raises:
        DataError: there are no ratings of the attribute, vectors are not finite, no feature varies, or the encoder has
            no such features.

    """

    deterministic: ClassVar[bool] = True

    attribute: str = option("malignancy", "the rated attribute to predict")
    feature: str = option("", "whose features to learn from, where the encoder makes some for each attribute; its own")
    alpha: float | None = option(None, "weight of the penalty; null chooses it by cross-validation", low=0)
    intercept: Literal["center", "none"] = option("center", "centre features and scores, or take them as they are")
    folds: int = option(5, "folds of cross-validation, where alpha is null", low=2)

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> LinearRatings:
        """Return the predictor."""
        return fit_one(self, images, embeddings, run, _path, _grid, who="ridge")
