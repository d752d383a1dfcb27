"""One seed -> independent generators, for every stage its own.

Children are keyed by what a stage is (kind, component, split), never by its name, its place or the order of calls, so
that equal recipes give equal results. Global random state is neither read nor written.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1

Numbers = np.ndarray[Any, np.dtype[Any]]


def child_seed(seed: int, *names: str | int) -> int:
    """Return an integer in [0, 2**63) that depends on all arguments and nothing else."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int) -> np.random.Generator:
    """Return a numpy generator (Philox: counter-based, the same on every platform)."""
    return np.random.Generator(np.random.Philox(key=seed))


def torch_generator(seed: int) -> torch.Generator:
    """Return a torch generator on the CPU, so that CPU and GPU runs start from equal numbers."""
    import torch

    return torch.Generator().manual_seed(seed)


def _mix(x: Numbers) -> Numbers:
    """Return the finaliser of SplitMix64, which scatters (...) uint64 over all 64 bits. Works in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def task_key(seed: int, *names: int) -> int:
    """Return a key of 64 bits for a stream of tasks."""
    state = np.array([seed & MASK], np.uint64)
    for name in names:
        state = _mix(state + np.uint64((name + 1) * GOLDEN & MASK))
    return int(state[0])


def task_uniforms(key: int, tasks: Numbers, n: int) -> Numbers:
    """Return n numbers in [0, 1) for each task, (n, t) float64: a function of key, task and place alone.

    Each task has a SplitMix64 generator of its own, which starts at a hash of its number.
    """
    start = _mix(tasks.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key))
    steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return np.asarray((_mix(steps[:, None] + start) >> np.uint64(11)) * 2.0**-53)


def distinct_integers(uniforms: Numbers, sizes: Numbers) -> Numbers:
    """Return k distinct integers below `sizes`, in an order drawn uniformly, (k, ...) int64.

    A Fisher-Yates shuffle of the first k places of 0, ..., size - 1, for all rows at once and without the array that is
    shuffled: `moved[j]` is what step j put into place `drawn[j]`. `uniforms` is (k, ...), `sizes` (...).
    """
    k = len(uniforms)
    drawn = np.empty(uniforms.shape, np.int64)
    moved = np.empty_like(drawn)
    chosen = np.empty_like(drawn)
    for i in range(k):
        drawn[i] = i + (uniforms[i] * (sizes - i)).astype(np.int64)
        chosen[i] = drawn[i]
        moved[i] = i
        for j in range(i):
            np.copyto(chosen[i], moved[j], where=drawn[j] == drawn[i])
            np.copyto(moved[i], moved[j], where=drawn[j] == i)
    return chosen
