"""The graph of tasks and the readers' disagreement, against literal transcriptions and the values of the paper's formula."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from fewcore import NumericalError
from fewcore_graphmtl import srmtl, structure_matrix
from fewcore_graphmtl.inconsistency import inconsistency
from fewcore_graphmtl.structure import coefficient_correlation, graph_edges, own_coefficients


def test_correlation_is_that_of_centred_normalised_columns():
    w = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_allclose(coefficient_correlation(w), np.corrcoef(w.T), atol=1e-12)


def test_a_task_without_coefficients_is_like_no_other():
    w = np.random.default_rng(0).normal(size=(20, 3))
    w[:, 1] = 0
    found = coefficient_correlation(w)
    assert (found[1] == 0).all()
    assert (found[:, 1] == 0).all()
    assert (coefficient_correlation(np.zeros((5, 2))) == 0).all()


@pytest.mark.parametrize("n, d", [(40, 8), (20, 50)])
def test_the_coefficients_of_each_task_are_its_lasso(n, d):
    rng = np.random.default_rng(0)
    x, y = [rng.normal(size=(n, d)) for _ in range(3)], [rng.normal(size=n) for _ in range(3)]
    found, reached = own_coefficients(zip(x, y, strict=True), 0.5)
    assert reached == pytest.approx(0.5)
    np.testing.assert_allclose(found, srmtl(x, y, np.zeros((3, 0)), 0.0, 0.5, tol=1e-11)[0], atol=1e-4)


def test_a_task_whose_scores_are_all_alike_has_no_coefficients():
    x = np.random.default_rng(0).normal(size=(9, 4))
    assert (own_coefficients([(x, np.zeros(9)), (np.zeros((9, 4)), np.ones(9))], 0.01)[0] == 0).all()


def test_edges_are_signed_and_drawn_once():
    correlation = np.array([[1, 0.9, -0.95], [0.9, 1, 0.85], [-0.95, 0.85, 1]])
    edges = graph_edges(correlation, 0.85)
    np.testing.assert_array_equal(edges, [[0, 1]])
    np.testing.assert_array_equal(structure_matrix(edges, 3), [[1], [-1], [0]])
    assert structure_matrix(graph_edges(correlation, 0.99), 3).shape == (3, 0)


def test_spread_along_the_graph_is_the_sum_over_its_edges():
    rng = np.random.default_rng(0)
    w, edges = rng.normal(size=(6, 4)), np.array([[0, 1], [0, 3], [2, 3]])
    r = structure_matrix(edges, 4)
    slow = sum(((w[:, a] - w[:, b]) ** 2).sum() for a, b in edges)
    assert ((w @ r) ** 2).sum() == pytest.approx(slow)
    assert np.trace(w @ r @ r.T @ w.T) == pytest.approx(slow)


# exp(readers * population standard deviation / 2)
@pytest.mark.parametrize(
    "scores, expected",
    [
        ([3, 3, 3], 1.0),
        ([3, 3, 4], 2.03),
        ([2, 3, 4], 3.40),
        ([1, 3, 5], 11.6),
        ([2, 3, 3, 4], 4.11),
        ([1, 1, 5, 5], 54.6),
    ],
)
def test_inconsistency_is_the_papers(scores, expected):
    mean = sum(scores) / len(scores)
    std = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    slow = 1 / math.exp(-sum((s - mean) ** 2 for s in scores) / (2 * std)) if std else 1.0
    found = inconsistency(np.array([[*scores, np.nan], [5, np.nan, *[np.nan] * (len(scores) - 1)]], float))
    assert found[0] == pytest.approx(slow)
    assert found[0] == pytest.approx(expected, rel=5e-3)
    assert found[1] == 1


def test_nobody_disagrees_where_nobody_spoke():
    np.testing.assert_array_equal(inconsistency(np.full((2, 3), np.nan)), [1, 1])


def test_a_scale_that_is_too_wide_is_refused():
    with pytest.raises(NumericalError, match="expected ratings on a scale such as 1 to 5"):
        inconsistency(np.array([[0.0, 4000.0]]))


def test_the_announcement_and_the_package_import_nothing_heavy():
    code = "import fewcore_graphmtl, fewcore_graphmtl.plugin, sys; print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
