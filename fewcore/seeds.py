"""One seed -> independent generators, for every stage its own.

Children are keyed by what a stage is (kind, component, split), never by its name, its place or the order of calls, so
that equal recipes give equal results. Global random state is neither read nor written.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


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
