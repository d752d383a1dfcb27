"""Which tasks are alike: the graph from the correlation of the coefficients that each task has on its own.

Source: the recipe of MALSAR's example (J. Zhou, J. Chen, J. Ye, 2012), which S. Hussein et al., IEEE TMI 38, 2019,
arXiv:1801.03230, V-C, describe in words.
"""

from __future__ import annotations

import numpy as np

from fewcore import Array


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
