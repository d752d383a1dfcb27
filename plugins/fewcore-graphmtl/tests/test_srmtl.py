"""`srmtl` against MALSAR's solution, a slow transcription, scikit-learn's Lasso and the conditions of optimality."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from fewcore import DataError
from fewcore_graphmtl import srmtl
from fewcore_graphmtl.fista import look, minimise
from fewcore_graphmtl.graph_sparse import L1, solve
from fewcore_graphmtl.least_squares import TaskSquares, laplacian


def complete(t):
    pairs = [(i, j) for i in range(t) for j in range(i + 1, t)]
    made = np.zeros((t, len(pairs)))
    for e, (i, j) in enumerate(pairs):
        made[i, e], made[j, e] = 1, -1
    return made


def problem(t=4, n=30, d=8, seed=0, uneven=1.0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=d) * (rng.random(d) < 0.5)
    x = [rng.normal(size=(n + i, d)) * np.exp(uneven * rng.normal(size=d)) for i in range(t)]
    return x, [one @ (common + 0.3 * rng.normal(size=d)) + rng.normal(size=len(one)) for one in x]


def slow_objective(x, y, r, rho1, rho2, w, half=0.5):
    """The objective as the paper writes it, term by term."""
    total = 0.0
    for i in range(len(x)):
        total += half * sum((x[i][j] @ w[:, i] - y[i][j]) ** 2 for j in range(len(y[i])))
    for e in range(r.shape[1]):
        a, b = int(np.argmax(r[:, e])), int(np.argmin(r[:, e]))
        total += rho1 * ((w[:, a] - w[:, b]) ** 2).sum()
    return total + rho2 * sum(abs(value) for value in w.ravel())


def slow_srmtl(x, y, r, rho1, rho2, iterations):
    """Accelerated proximal gradient descent with backtracking as MALSAR writes it, with its constants."""
    t, d = len(x), x[0].shape[1]

    def smooth(w):
        loss = sum(0.5 * ((x[i] @ w[:, i] - y[i]) ** 2).sum() for i in range(t)) + rho1 * ((w @ r) ** 2).sum()
        gradient = np.stack([x[i].T @ (x[i] @ w[:, i] - y[i]) for i in range(t)], 1) + 2 * rho1 * w @ r @ r.T
        return loss, gradient

    before = now = np.zeros((d, t))
    t_old, t_now, g = 0.0, 1.0, 1.0
    for _ in range(iterations):
        a = (t_old - 1) / t_now
        v = (1 + a) * now - a * before
        loss, gradient = smooth(v)
        while True:
            z = v - gradient / g
            new = np.sign(z) * np.maximum(np.abs(z) - rho2 / g, 0)
            step = new - v
            bound = loss + (step * gradient).sum() + g / 2 * (step**2).sum()
            if smooth(new)[0] <= bound + 1e-12 * loss:  # without the slack rounding doubles g for ever
                break
            g *= 2
        before, now = now, new
        t_old, t_now = t_now, (1 + (1 + 4 * t_now**2) ** 0.5) / 2
    return now


def check_optimal(x, y, r, rho1, rho2, w, slack):
    """The subgradient contains 0: -rho2 sign(w) where w is not 0, at most rho2 elsewhere."""
    gradient = np.stack([x[i].T @ (x[i] @ w[:, i] - y[i]) for i in range(len(x))], 1) + 2 * rho1 * w @ r @ r.T
    np.testing.assert_allclose(gradient[w != 0], -rho2 * np.sign(w[w != 0]), atol=slack)
    assert np.abs(gradient[w == 0]).max(initial=0) <= rho2 + slack


def reference():
    place = os.environ.get("FEWCORE_DATA", "")
    path = Path(place).parent / "reference" / "srmtl_case.npz"
    if not place or not path.is_file():
        pytest.skip("needs reference/srmtl_case.npz, MALSAR's solution of a problem, beside the folder FEWCORE_DATA")
    return np.load(path)


def test_malsars_objective_is_reached():
    case = reference()
    w, objective = srmtl(list(case["X"]), list(case["y"]), case["R"], float(case["rho1"]), float(case["rho2"]))
    assert objective == pytest.approx(float(case["objective"]), rel=1e-8)
    np.testing.assert_allclose(w, case["W"], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rho1, rho2", [(1, 10), (0.1, 1), (50, 5), (3, 0), (0, 4)])
def test_a_slow_transcription_finds_the_same(seed, rho1, rho2):
    x, y = problem(seed=seed, uneven=0.3)
    r = complete(4)[:, :4]
    w, objective = srmtl(x, y, r, rho1, rho2, tol=1e-12)
    slow = slow_srmtl(x, y, r, rho1, rho2, 600)
    assert objective == pytest.approx(slow_objective(x, y, r, rho1, rho2, w), rel=1e-10)
    assert objective <= slow_objective(x, y, r, rho1, rho2, slow) * (1 + 1e-8)
    np.testing.assert_allclose(w, slow, atol=1e-4)


@pytest.mark.parametrize("rho1, rho2", [(1, 10), (100, 3), (0, 5)])
@pytest.mark.parametrize("n, d", [(40, 10), (20, 150)])
def test_the_conditions_of_optimality_hold(n, d, rho1, rho2):
    x, y = problem(5, n, d)
    r = complete(5)
    w, _ = srmtl(x, y, r, rho1, rho2, tol=1e-12)
    check_optimal(x, y, r, rho1, rho2, w, slack=1e-3 * rho2)


@pytest.mark.parametrize("n, d", [(40, 10), (25, 60)])
def test_without_a_graph_tasks_are_the_lassos_of_scikit_learn(n, d):
    x, y = problem(3, n, d)
    w, _ = srmtl(x, y, complete(3), 0, 6.0, tol=1e-12)
    none, _ = srmtl(x, y, np.zeros((3, 0)), 2.0, 6.0, tol=1e-12)
    np.testing.assert_allclose(w, none, atol=1e-5)
    for i in range(3):
        alone = Lasso(alpha=6.0 / len(y[i]), fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x[i], y[i])
        np.testing.assert_allclose(w[:, i], alone.coef_, atol=1e-5)


def test_a_strong_graph_gives_equal_columns():
    x, y = problem(4, 30, 6)
    w, _ = srmtl(x, y, complete(4), 1e5, 0.0, tol=1e-7)
    together = np.linalg.lstsq(np.concatenate(x), np.concatenate(y))[0]
    np.testing.assert_allclose(w, np.tile(together[:, None], 4), atol=1e-3)


def test_the_papers_scale_has_no_half():
    x, y = problem()
    r = complete(4)
    w, objective = srmtl(x, y, r, 1.0, 10.0, paper_scale=True)
    assert objective == pytest.approx(slow_objective(x, y, r, 1.0, 10.0, w, half=1.0), rel=1e-10)
    halved, half_objective = srmtl(x, y, r, 0.5, 5.0)
    np.testing.assert_allclose(w, halved, atol=1e-8)
    assert objective == pytest.approx(2 * half_objective)


def test_more_features_than_rows_give_what_all_features_at_once_give():
    x, y = problem(3, 20, 200, uneven=0.3)
    graph = laplacian(complete(3), 2.0, 3, "cpu")
    squares = TaskSquares([torch.as_tensor(a) for a in x], [torch.as_tensor(b) for b in y], graph)
    few = solve(squares, 5.0, tol=1e-10, max_iter=20_000)
    whole = minimise(squares, L1(5.0), tol=1e-10, max_iter=20_000)
    assert few.gap <= 1e-10
    assert few.objective == pytest.approx(whole.objective, rel=1e-9)
    assert 0 < int((few.w != 0).sum()) < 0.5 * few.w.numel()


def test_the_gap_bounds_the_distance_to_the_least_objective():
    x, y = problem(uneven=0.3)
    r, rho1, rho2 = complete(4), 1.0, 10.0
    squares = TaskSquares(
        [torch.as_tensor(a) for a in x], [torch.as_tensor(b) for b in y], laplacian(r, rho1, 4, "cpu")
    )
    least = slow_objective(x, y, r, rho1, rho2, slow_srmtl(x, y, r, rho1, rho2, 600))
    rng = np.random.default_rng(1)
    for scale in (0, 0.1, 1):
        w = torch.as_tensor(rng.normal(size=(4, 8)) * scale)
        found = look(squares, L1(rho2), w, squares.hessian(w))
        assert found.objective == pytest.approx(slow_objective(x, y, r, rho1, rho2, w.numpy().T), rel=1e-10)
        assert found.objective * (1 - found.gap) <= least * (1 + 1e-9)


def test_copies_of_a_feature_and_features_of_nothing_do_no_harm():
    x, y = problem(3, 30, 6)
    doubled = [np.concatenate([a, a[:, :2], np.zeros((len(a), 1)), 1e4 * a[:, 2:3]], 1) for a in x]
    w, objective = srmtl(doubled, y, complete(3), 1.0, 2.0)
    assert np.isfinite(w).all()
    assert (w[8] == 0).all()
    assert objective <= srmtl(x, y, complete(3), 1.0, 2.0)[1] * (1 + 1e-9)


def test_one_task_and_a_penalty_that_leaves_nothing():
    x, y = problem(1)
    w, objective = srmtl(x, y, np.zeros((1, 0)), 1.0, 1e9)
    assert (w == 0).all()
    assert objective == pytest.approx(0.5 * (y[0] ** 2).sum())
    assert srmtl(x, [np.zeros_like(y[0])], np.zeros((1, 0)), 1.0, 1.0)[1] == 0


def test_bad_input_is_refused_in_words():
    x, y = problem(2)
    r = complete(2)
    with pytest.raises(DataError, match=r"X and y: found 2 and 1 tasks; expected as many in both, at least one"):
        srmtl(x, y[:1], r, 1, 1)
    with pytest.raises(DataError, match=r"task 1: found X \(31, 8\) and y \(30,\); expected \(n, d\) and \(n,\)"):
        srmtl(x, [y[0], y[1][:-1]], r, 1, 1)
    with pytest.raises(DataError, match=r"task 1: found X \(31, 7\)"):
        srmtl([x[0], x[1][:, :7]], y, r, 1, 1)
    with pytest.raises(DataError, match="task 0: found NaN or infinity in X or y"):
        srmtl([np.where(x[0] > 2, np.nan, x[0]), x[1]], y, r, 1, 1)
    with pytest.raises(DataError, match=r"task 0: found X \(0, 8\)"):
        srmtl([x[0][:0], x[1]], [y[0][:0], y[1]], r, 1, 1)
    with pytest.raises(DataError, match=r"R: found \(3, 3\); expected \(2, edges\)"):
        srmtl(x, y, complete(3), 1, 1)
    with pytest.raises(ValueError, match="rho2: found -1; expected a number of at least 0"):
        srmtl(x, y, r, 1, -1)


def test_too_few_iterations_are_said():
    x, y = problem()
    with pytest.warns(RuntimeWarning, match=r"srmtl: found a relative gap of .* after 1 iterations; expected at most"):
        srmtl(x, y, complete(4), 1.0, 1.0, max_iter=1)


def test_inputs_stay_as_they_are():
    x, y = problem()
    kept = [a.copy() for a in x], [b.copy() for b in y]
    srmtl(x, y, complete(4), 1.0, 1.0)
    for before, after in zip((*kept[0], *kept[1]), (*x, *y), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
@pytest.mark.parametrize("n, d", [(40, 10), (20, 200)])
def test_cuda_agrees_with_the_cpu(n, d):
    x, y = problem(5, n, d)
    on_cpu = srmtl(x, y, complete(5), 1.0, 3.0, tol=1e-11)[1]
    assert srmtl(x, y, complete(5), 1.0, 3.0, tol=1e-11, device="cuda")[1] == pytest.approx(on_cpu, rel=1e-8)
