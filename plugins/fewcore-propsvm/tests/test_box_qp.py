"""The active set against a general solver, and in the corners where such solvers stall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fewcore_propsvm.box_qp import BoxSolver


def problem(n=12, rank=12, seed=0):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, rank))
    low, high = -rng.random(n), rng.random(n)
    return (
        torch.from_numpy(factor @ factor.T),
        torch.from_numpy(rng.normal(size=n) * 3),
        *map(torch.from_numpy, (low, high)),
    )


def value(matrix, linear, x):
    return float(x @ matrix @ x / 2 - linear @ x)


def slow(matrix, linear, low, high, zero_sum):
    """The same by sequential quadratic programming."""
    q, p = matrix.numpy(), linear.numpy()
    constraints = [{"type": "eq", "fun": lambda x: x.sum(), "jac": np.ones_like}] if zero_sum else []
    start = np.clip(np.zeros(len(p)), low.numpy(), high.numpy())
    bounds = list(zip(low.tolist(), high.tolist(), strict=True))
    found = minimize(
        lambda x: (x @ q @ x / 2 - p @ x, q @ x - p),
        start,
        jac=True,
        bounds=bounds,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return torch.from_numpy(found.x)


def assert_optimal(matrix, linear, low, high, found, zero_sum, tolerance=1e-8):
    """Karush-Kuhn-Tucker conditions, literally."""
    x, slope = found.x, matrix @ found.x - linear + found.multiplier
    assert bool(((x >= low) & (x <= high)).all())
    inside = (x > low) & (x < high)
    assert float(slope[inside].abs().sum()) < tolerance * len(x)
    assert bool((slope[(x <= low) & (low < high)] >= -tolerance).all())
    assert bool((slope[(x >= high) & (low < high)] <= tolerance).all())
    assert abs(float(x.sum())) < tolerance if zero_sum else found.multiplier == 0


@pytest.mark.parametrize("zero_sum", [False, True])
@pytest.mark.parametrize(("seed", "rank"), [(0, 12), (1, 12), (2, 4), (3, 1), (4, 20)])
def test_agrees_with_a_general_solver(seed, rank, zero_sum):
    given = problem(rank=rank, seed=seed)
    found = BoxSolver(given[0], zero_sum=zero_sum).solve(*given[1:], torch.zeros(12, dtype=torch.float64))
    assert_optimal(*given, found, zero_sum)
    expected = slow(*given, zero_sum)
    assert value(*given[:2], found.x) == pytest.approx(value(*given[:2], expected), abs=1e-7)


def test_any_start_gives_the_same():
    matrix, linear, low, high = problem(40, 40, seed=5)
    solver = BoxSolver(matrix, zero_sum=True)
    found = [solver.solve(linear, low, high, start, 3.0).x for start in (low, high, linear, 0 * low)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-9)


def test_what_is_kept_from_the_last_problem_changes_nothing():
    matrix, linear, low, high = problem(40, 40, seed=6)
    kept = BoxSolver(matrix)
    x = torch.zeros(40, dtype=torch.float64)
    for step in range(6):
        x = kept.solve(linear + step, low / (step + 1), high, x).x
    alone = BoxSolver(matrix).solve(linear + 5, low / 6, high, 0 * x).x
    torch.testing.assert_close(x, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("zero_sum", [False, True])
def test_equal_rows_constant_and_fixed_variables(zero_sum):
    rng = np.random.default_rng(7)
    rows = np.repeat(rng.normal(size=(5, 3)), 4, 0)
    matrix = torch.from_numpy(rows @ rows.T)
    linear = torch.from_numpy(np.sign(rng.normal(size=20)))
    low, high = torch.full((20,), -1.0, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    low[3] = high[3] = 0.5
    found = BoxSolver(matrix, zero_sum=zero_sum).solve(linear, low, high, 0 * low)
    assert_optimal(matrix, linear, low, high, found, zero_sum)
    flat = BoxSolver(torch.zeros(20, 20, dtype=torch.float64)).solve(linear, low, high, 0 * low)
    free = low < high
    torch.testing.assert_close(flat.x[free], linear[free])


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    given = problem(200, 150, seed=8)
    found = [
        BoxSolver(given[0].to(device), zero_sum=True).solve(*(t.to(device) for t in given[1:]), given[1].to(device) * 0)
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(found[0].x, found[1].x.cpu(), rtol=0, atol=1e-8)
