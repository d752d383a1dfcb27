"""LASSO: sparse linear regression of one rated attribute."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lasso_path

from fewcore import Array, Embeddings, ImageSet, NumericalError, Run, option
from fewcore_graphmtl.linear_ratings import LinearRatings
from fewcore_graphmtl.single_task import fit_one

SHARES = np.logspace(-0.1, -3, 20)


PATH_ROUNDS, LAST_ROUNDS = 5000, 100_000
"""Rounds of coordinate descent at each penalty of cross-validation, and at the one that was chosen."""


def _path(x: Array, y: Array, alphas: Sequence[float]) -> Array:
    # In cross-validation an early end at a small penalty only costs that penalty a little.
    rounds = LAST_ROUNDS if len(alphas) == 1 else PATH_ROUNDS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        # Order is cyclic; the seed only keeps scikit-learn from drawing one that it does not use.
        _, coefficients, _ = lasso_path(x, y, alphas=np.asarray(alphas), max_iter=rounds, random_state=0)
    if caught and len(alphas) == 1:
        raise NumericalError(
            f"lasso: found no solution at alpha {alphas[0]:.3g} in {rounds} rounds; expected one (raise alpha, or reduce the "
            "features by whitening)"
        )
    return np.asarray(coefficients.T)


def _grid(x: Array, y: Array) -> list[float]:
    most = float(np.abs(x.T @ y).max()) / len(y)
    return [share * most for share in SHARES.tolist()] if most else [1.0]


@dataclass(frozen=True)
class Lasso:
    """Least squares with the sum of absolute weights as penalty, for one rated attribute.

    1/(2n) ||Xw - y||^2 + alpha ||w||_1 by scikit-learn's coordinate descent. Features have spread 1 on the training
    rows; features and scores are centred. An image's score is the mean over its readers.

    Source: R. Tibshirani: Regression Shrinkage and Selection via the Lasso, JRSS B 58, 1996,
    doi:10.1111/j.2517-6161.1996.tb02080.x; as a baseline S. Hussein et al., IEEE TMI 38, 2019, arXiv:1801.03230, eq. 1.

    Differs from the paper: the paper writes the constrained form and no value of its bound; alpha is chosen by
    cross-validation on the training patients.

    Raises:
        DataError: there are no ratings of the attribute, vectors are not finite, no feature varies, or the encoder has
            no such features.
        NumericalError: coordinate descent does not end at the penalty.

    """

    deterministic: ClassVar[bool] = True

    attribute: str = option("malignancy", "the rated attribute to predict")
    feature: str = option("", "whose features to learn from, where the encoder makes some for each attribute; its own")
    alpha: float | None = option(None, "weight of the penalty; null chooses it by cross-validation", low=0)
    intercept: Literal["center", "none"] = option("center", "centre features and scores, or take them as they are")
    folds: int = option(5, "folds of cross-validation, where alpha is null", low=2)

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> LinearRatings:
        """Return the predictor."""
        return fit_one(self, images, embeddings, run, _path, _grid, who="lasso")
