"""Memory: the peak of a stage, of the process on the CPU and of torch's allocator on a GPU; and what is freed is kept."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`: from how many free bytes memory is given back, how many blocks are mapped apart."""


def keep_freed_memory() -> None:
    """Let the C library keep memory that is freed, for the whole process. Elsewhere than with glibc this does nothing.

    A training step frees and asks for the same large blocks again and again. glibc maps each of them anew, and the page
    faults can take as long as the step itself (`tests/benchmarks/memory.py`).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Give back to the system what is freed and kept. Elsewhere than with glibc this does nothing."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Measures the peak since it was made. Linux can start anew; elsewhere it is the peak of the whole process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            # Statistics of a device with a number (`cuda:0`) do not set CUDA up, and fail where nothing has.
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(device)
        give_back_memory()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float:
        """Return the peak in megabytes (10^6 bytes)."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        with contextlib.suppress(OSError):
            for line in STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
