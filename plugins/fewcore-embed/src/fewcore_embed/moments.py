"""Mean and scatter of many rows without a second copy of them: what both kinds of whitening are fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fewcore import Array

CHUNK = 4096


def mean_and_scatter(rows: Callable[[slice], Array], n: int) -> tuple[Array, Array]:
    """Return the mean (e,) and the scatter matrix sum (x - mean)(x - mean)^T (e, e), both float64.

    `rows(part)` gives the rows (m, e) of a slice of the n rows; it is asked twice for each.
    """
    parts = [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    mean = np.sum([rows(part).sum(0, dtype=np.float64) for part in parts], axis=0) / n
    scatter = np.zeros((len(mean), len(mean)))
    for part in parts:
        centred = rows(part) - mean
        scatter += centred.T @ centred
    return mean, scatter
