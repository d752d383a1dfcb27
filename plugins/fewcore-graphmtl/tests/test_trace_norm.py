"""`trace_norm_mtl` against MALSAR's solution, the conditions of optimality and limits known in closed form."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewcore_graphmtl import trace_norm_mtl
from fewcore_graphmtl.trace_norm import TraceNorm


def problem(t=5, n=40, d=12, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(d, 2)) @ rng.normal(size=(2, t))
    x = [rng.normal(size=(n + i, d)) for i in range(t)]
    return x, [one @ shared[:, i] + rng.normal(size=len(one)) for i, one in enumerate(x)]


def slow_objective(x, y, rho, w, half=0.5):
    loss = sum(half * ((x[i] @ w[:, i] - y[i]) ** 2).sum() for i in range(len(x)))
    return loss + rho * np.sqrt(np.maximum(np.linalg.eigvalsh(w.T @ w), 0)).sum()


def test_malsars_objective_is_reached():
    place = os.environ.get("FEWCORE_DATA", "")
    path = Path(place).parent / "reference" / "srmtl_case.npz"
    if not place or not path.is_file():
        pytest.skip("needs reference/srmtl_case.npz, MALSAR's solution of a problem, beside the folder FEWCORE_DATA")
    case = np.load(path)
    w, objective = trace_norm_mtl(list(case["X"]), list(case["y"]), float(case["trace_rho"]))
    assert objective == pytest.approx(float(case["objective_trace"]), rel=1e-8)
    np.testing.assert_allclose(w, case["W_trace"], atol=1e-4)


@pytest.mark.parametrize("rho", [3.0, 20.0])
@pytest.mark.parametrize("n, d", [(40, 12), (15, 60)])
def test_the_conditions_of_optimality_hold(n, d, rho):
    x, y = problem(5, n, d)
    w, objective = trace_norm_mtl(x, y, rho, tol=1e-12)
    assert objective == pytest.approx(slow_objective(x, y, rho, w), rel=1e-6)
    gradient = np.stack([x[i].T @ (x[i] @ w[:, i] - y[i]) for i in range(len(x))], 1)
    u, s, v = np.linalg.svd(w, full_matrices=False)
    rank = int((s > 1e-6 * s[0]).sum())
    u, v = u[:, :rank], v[:rank]
    np.testing.assert_allclose(u.T @ gradient, -rho * v, atol=1e-3 * rho)
    np.testing.assert_allclose(gradient @ v.T, -rho * u, atol=1e-3 * rho)
    assert np.linalg.norm(gradient, 2) <= rho * (1 + 1e-3)


def test_the_prox_is_the_least_of_its_definition():
    rng = np.random.default_rng(0)
    w = torch.as_tensor(rng.normal(size=(4, 6)))
    penalty = TraceNorm(0.7)
    best = penalty.prox(w, torch.full((1, 1), 0.9, dtype=torch.float64))

    def value(v):
        return float(0.5 * (v - w).square().sum() + 0.9 * 0.7 * penalty.norm(v))

    for _ in range(50):
        assert value(best) <= value(best + 0.05 * torch.as_tensor(rng.normal(size=(4, 6))))


def test_no_penalty_gives_least_squares_and_a_large_one_nothing():
    x, y = problem()
    w, _ = trace_norm_mtl(x, y, 0.0, tol=1e-10)
    for i in range(5):
        np.testing.assert_allclose(w[:, i], np.linalg.lstsq(x[i], y[i])[0], atol=1e-6)
    slope = np.stack([a.T @ b for a, b in zip(x, y, strict=True)], 1)
    assert (trace_norm_mtl(x, y, 1.001 * np.linalg.norm(slope, 2))[0] == 0).all()
    assert np.linalg.matrix_rank(trace_norm_mtl(x, y, 0.9 * np.linalg.norm(slope, 2))[0], rtol=1e-9) == 1


def test_the_papers_scale_has_no_half():
    x, y = problem()
    w, objective = trace_norm_mtl(x, y, 10.0, paper_scale=True)
    assert objective == pytest.approx(slow_objective(x, y, 10.0, w, half=1.0), rel=1e-6)
    assert objective == pytest.approx(2 * trace_norm_mtl(x, y, 5.0)[1])


def test_a_negative_penalty_is_refused():
    x, y = problem()
    with pytest.raises(ValueError, match=r"rho: found -1\.0; expected a number of at least 0"):
        trace_norm_mtl(x, y, -1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    x, y = problem()
    on_cpu = trace_norm_mtl(x, y, 5.0, tol=1e-11)[1]
    assert trace_norm_mtl(x, y, 5.0, tol=1e-11, device="cuda")[1] == pytest.approx(on_cpu, rel=1e-8)
