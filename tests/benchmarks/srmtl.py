"""Graph-regularised sparse multi-task regression: seconds to a relative objective gap, ours beside MALSAR's algorithm.

`python tests/benchmarks/srmtl.py --json`, on as many threads as OMP_NUM_THREADS says. Two problems of 139 tasks, 28 features
and 15,000 samples (`even`: normal features of unequal scale; `school`: indicators, constants and copies, as in the School data of
MALSAR), and one of 7 tasks, 4096 features and 1144 samples (`wide`: rectified, correlated features). The peer is a plain
transcription in numpy of what MALSAR does: FISTA with backtracking from 1, W R formed anew, X multiplied at every look. Both
are judged by the least objective that ours reaches at a certified gap of 1e-10; the peer ends after `--peer-seconds`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time

import numpy as np
import torch
from threadpoolctl import threadpool_info

from fewcore import numpy_generator
from fewcore_graphmtl import srmtl

RHO1, RHO2, TARGET = 1.0, 10.0, 1e-6
Problem = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


def graph(t: int, share: float, rng: np.random.Generator) -> np.ndarray:
    pairs = [pair for pair in itertools.combinations(range(t), 2) if rng.random() < share]
    made = np.zeros((t, len(pairs)))
    for edge, (i, j) in enumerate(pairs):
        made[i, edge], made[j, edge] = 1, -1
    return made


def even(rng: np.random.Generator, t: int = 139, n: int = 15_000, d: int = 28) -> Problem:
    sizes = 22 + rng.multinomial(n - 22 * t, np.ones(t) / t)
    common = 3 * rng.normal(size=d) * (rng.random(d) < 0.5)
    x = [rng.normal(size=(size, d)) * np.exp(0.5 * rng.normal(size=d)) for size in sizes]
    return x, [a @ (common + 0.5 * rng.normal(size=d)) + 5 * rng.normal(size=len(a)) for a in x], graph(t, 0.05, rng)


def school(rng: np.random.Generator, t: int = 139, n: int = 15_000) -> Problem:
    sizes = 22 + rng.multinomial(n - 22 * t, np.ones(t) / t)
    common = 3 * rng.normal(size=28)
    x, y = [], []
    for size in sizes:
        indicators = [np.eye(k)[rng.integers(0, k, size)] for k in (3, 3, 13)]
        constants = np.tile(rng.random(7) * [50, 30, 1, 1, 1, 1, 1], (size, 1))
        a = np.concatenate([*indicators, rng.integers(0, 2, (size, 1)), constants, np.ones((size, 1))], 1).astype(float)
        x.append(a)
        y.append(a @ (common + rng.normal(size=28)) + 10 * rng.normal(size=size) + 20)
    return x, y, graph(t, 0.05, rng)


def wide(rng: np.random.Generator, t: int = 7, n: int = 1144, d: int = 4096) -> Problem:
    hidden = rng.normal(size=(n, 40))
    x, y = [], []
    for _ in range(t):
        a = np.maximum(hidden @ rng.normal(size=(40, d)) / 6 + 0.3 * rng.normal(size=(n, d)), 0)
        x.append((a - a.mean(0)) / a.std(0))
        score = 0.15 * hidden @ rng.normal(size=40) + 0.4 * rng.normal(size=n)
        y.append(score - score.mean())
    return x, y, graph(t, 1.0, rng)


def plain(problem: Problem, least: float, seconds: float) -> tuple[float, float, int]:
    """Run MALSAR's algorithm until the target or the time is reached; returns seconds, relative gap and iterations."""
    x, y, r = problem

    def smooth(w: np.ndarray) -> float:
        loss = sum(0.5 * float(((a @ w[:, i] - b) ** 2).sum()) for i, (a, b) in enumerate(zip(x, y, strict=True)))
        return loss + RHO1 * float(((w @ r) ** 2).sum())

    def gradient(w: np.ndarray) -> np.ndarray:
        columns = [a.T @ (a @ w[:, i] - b) for i, (a, b) in enumerate(zip(x, y, strict=True))]
        return np.stack(columns, 1) + 2 * RHO1 * (w @ r) @ r.T

    before = now = np.zeros((x[0].shape[1], len(x)))
    t_old, t_now, g, iteration, gap = 0.0, 1.0, 1.0, 0, np.inf
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and gap > TARGET:
        a = (t_old - 1) / t_now
        v = (1 + a) * now - a * before
        loss, slope = smooth(v), gradient(v)
        while True:
            z = v - slope / g
            new = np.sign(z) * np.maximum(np.abs(z) - RHO2 / g, 0)
            step = new - v
            after = smooth(new)
            if after <= (loss + (step * slope).sum() + g / 2 * (step**2).sum()) * (1 + 1e-12):
                break
            g *= 2
        before, now = now, new
        t_old, t_now = t_now, (1 + (1 + 4 * t_now**2) ** 0.5) / 2
        gap = min(gap, (after + RHO2 * np.abs(now).sum()) / least - 1)
        iteration += 1
    return time.perf_counter() - began, float(gap), iteration


def compare(problem: Problem, peer_seconds: float, device: str) -> dict[str, object]:
    x, y, r = problem
    _, least = srmtl(x, y, r, RHO1, RHO2, tol=1e-10, max_iter=200_000, device=device)
    clocks = time.perf_counter(), time.process_time()
    _, objective = srmtl(x, y, r, RHO1, RHO2, tol=TARGET, max_iter=200_000, device=device)
    ours, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    before = time.process_time()
    peer, gap, iterations = plain(problem, least, peer_seconds)
    peer_cpu = time.process_time() - before
    return {
        "tasks": len(x),
        "features": x[0].shape[1],
        "samples": sum(len(a) for a in x),
        "edges": r.shape[1],
        "objective": round(least, 6),
        "ours_s": round(ours, 3),
        "ours_cpu_s": round(cpu, 3),
        "ours_relative_gap": float(f"{max(0.0, objective / least - 1):.2g}"),
        "plain_s": round(peer, 2),
        "plain_cpu_s": round(peer_cpu, 2),
        "plain_relative_gap": float(f"{gap:.2g}"),
        "plain_iterations": iterations,
        "plain_reached_the_target": gap <= TARGET,
        "ratio" if gap <= TARGET else "ratio_at_least": round(peer / ours, 1),
        "ratio_cpu" if gap <= TARGET else "ratio_cpu_at_least": round(peer_cpu / cpu, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=["even", "school", "wide"], choices=["even", "school", "wide"])
    parser.add_argument("--peer-seconds", type=float, default=30.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    threads = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    machine = platform.processor() or platform.machine()
    found: dict[str, object] = {"machine": machine, "threads": threads, "torch": torch.__version__}
    for name in options.problems:
        problem = {"even": even, "school": school, "wide": wide}[name](numpy_generator(0))
        found[name] = compare(problem, options.peer_seconds, options.device)
        if not options.json:
            print(name, *(f"{key}={value}" for key, value in found[name].items()))
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
