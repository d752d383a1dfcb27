"""From clusters to proportions: the share of positives that each bag should have."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_samples
from sklearn.mixture import GaussianMixture

from fewcore import Array, DataError

Proportions = Literal["soft", "silhouette", "size", "positive-size", "pure"]
TWO_ONLY = ("silhouette", "size", "pure")
ROWS_PER_DIMENSION = 5
REGULAR = 1e-6


def proportions_of(mode: Proportions, vectors: Array, bag: Array, k: int, dimensions: int = 10) -> Array:
    """Return the share of positives p (k,) of each bag, for scaled vectors (n, e) and bags (n,) from 0 to k - 1.

    Which side is positive is arbitrary: it is that of the last bag.

    `soft`: the mean posterior of the positive component of a mixture of two Gaussians, fitted in the first
    `dimensions` principal components. `silhouette`: delta and 1 - delta, delta being the share of a bag's members with
    a negative silhouette. `size`: bag v holds a share n_v / n of its own label, so that of two bags both hold a share
    n_1 / n of positives (eq. 9 of the paper, literally). `positive-size`: bag v holds a share n_v / n of positives.
    `pure`: 0 and 1.

    Raises:
        DataError: `silhouette`, `size` or `pure` for other than two bags.

    """
    if mode in TWO_ONLY and k != 2:
        raise DataError(
            f"proportions: found {k} bags for '{mode}', which says something of two; expected two parts (n_clusters: 2, or "
            "proportions: soft)"
        )
    sizes = np.bincount(bag, minlength=k)
    if mode == "pure":
        return np.array([0.0, 1.0])
    if mode == "size":
        return np.full(2, sizes[1] / len(bag))
    if mode == "positive-size":
        return np.asarray(sizes / len(bag))
    if mode == "silhouette":
        odd = silhouette_samples(vectors, bag) < 0 if len(bag) > 2 else np.zeros(len(bag), bool)
        share = np.bincount(bag, odd, minlength=2) / sizes
        return np.array([share[0], 1 - share[1]])
    posterior = _posterior(vectors, bag, k, dimensions)
    return np.asarray(np.bincount(bag, posterior, minlength=k) / sizes)


def _posterior(vectors: Array, bag: Array, k: int, dimensions: int) -> Array:
    """Return the posterior of the positive component, (n,).

    The mixture starts from the two bags; of more bags, from the two sides of the first principal component.
    """
    n = len(vectors)
    most = max(1, min(dimensions, vectors.shape[1], n // (2 * ROWS_PER_DIMENSION)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # vectors that are all equal have no explained variance
        x = PCA(most, svd_solver="full").fit_transform(vectors)
    x = x / max(float(x.std()), np.finfo(np.float64).tiny)
    side = bag == 1 if k == 2 else x[:, 0] > 0
    if side.all() or not side.any():
        return np.full(n, 0.5)
    weights = np.array([1 - side.mean(), side.mean()])
    centres = np.stack([x[~side].mean(0), x[side].mean(0)])
    scatter = (x - centres[side.astype(int)]).T @ (x - centres[side.astype(int)]) / n + REGULAR * np.eye(most)
    mixture = GaussianMixture(
        2,
        reg_covar=REGULAR,
        weights_init=weights,
        means_init=centres,
        precisions_init=np.stack([np.linalg.inv(scatter)] * 2),
        max_iter=500,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = np.asarray(mixture.fit(x).predict_proba(x)[:, 1])
    last, first = posterior[bag == k - 1].mean(), posterior[bag == 0].mean()
    return posterior if last >= first else 1 - posterior
