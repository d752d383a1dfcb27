"""Which tasks are alike: the graph from the correlation of the coefficients that each task has on its own.

Source: the recipe of MALSAR's example (J. Zhou, J. Chen, J. Ye, 2012), which S. Hussein et al., IEEE TMI 38, 2019,
arXiv:1801.03230, V-C, describe in words.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path

from fewcore import Array


def own_coefficients(problems: Iterable[tuple[Array, Array]], penalty: float) -> tuple[Array, float]:
    """Return the coefficients W (d, t) that each task has alone, and the largest penalty at which one had to stop.

    They minimise 1/2 ||Xw - y||^2 + penalty * ||w||_1 for X (n, d) and y (n,) of each task. The penalty is so small that
    descent would end far from the answer; LARS follows the answers from the largest penalty down, and is exact.
    """
    columns, reached = [], penalty
    for x, y in problems:
        if not (x.T @ y).any():
            columns.append(np.zeros(x.shape[1]))
            continue
        narrow = x.shape[1] <= len(x)
        given = {"Gram": x.T @ x, "Xy": x.T @ y} if narrow else {"Gram": None}
        with warnings.catch_warnings():
            # It stops early where features are too nearly copies; the penalty that was reached says so.
            warnings.simplefilter("ignore", ConvergenceWarning)
            least, _, found = lars_path(
                x, y, method="lasso", alpha_min=penalty / len(y), max_iter=8 * max(x.shape), return_path=False, **given
            )
        columns.append(found)
        reached = max(reached, float(np.max(least)) * len(y))
    return np.stack(columns, 1), reached


def coefficient_correlation(w: Array) -> Array:
    """Return the correlation (t, t) between the columns of W (d, t), 0 where a column is constant.

    Columns are centred and divided by their length first.
    """
    centred = w - w.mean(0)
    length = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12 * np.abs(w).max(initial=0))
    return np.asarray(np.clip(unit.T @ unit, -1, 1))


def graph_edges(correlation: Array, threshold: float) -> Array:
    """Return the pairs (edges, 2), first less than second, whose correlation (signed) exceeds the threshold."""
    return np.argwhere(np.triu(correlation > threshold, 1))


def structure_matrix(edges: Array, n_tasks: int) -> Array:
    """Return R (t, edges): for each edge 1 at its first task and -1 at its second."""
    made = np.zeros((n_tasks, len(edges)))
    number = np.arange(len(edges))
    made[edges[:, 0], number] = 1
    made[edges[:, 1], number] = -1
    return made
