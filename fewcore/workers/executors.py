"""Where workers run: in processes of this machine, unless a plugin offers another place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fewcore.errors import ResourceError

LAST_WORDS = 2000
"""So many bytes of what a worker said at its end are looked at."""


class Job(Protocol):
    """A worker that was started, or waits in a queue."""

    def ended(self) -> str:
        """Return how the worker ended, such as `was killed by SIGKILL`, or '' where it has not. Called often: be quick."""
        ...

    def end(self) -> None:
        """End the worker at once, and leave nothing behind that runs."""
        ...


class Executor(Protocol):
    """Starts workers."""

    @property
    def n_threads(self) -> int:
        """CPU threads of a worker unless --threads says."""
        ...

    def start(self, folder: Path) -> Job:
        """Start `python -m fewcore.workers.worker FOLDER` somewhere.

        Raises:
            FewcoreError: no worker can be started, and why.

        """
        ...


class _Process:
    """A worker in a process of this machine."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said.txt"
        with self._said.open("wb") as said:
            # -P: a file torch.py in the working folder must not be taken for the library.
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
                [sys.executable, "-P", "-m", "fewcore.workers.worker", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def ended(self) -> str:
        """Return how the process ended."""
        code = self._process.poll()
        if code is None:
            return ""
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"was killed by {known.get(-code, f'signal {-code}')}"
        return f"ended with code {code}{last_words(self._said)}"

    def end(self) -> None:
        """Kill the process, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Processes:
    """Workers in `n_jobs` processes of this machine, among which its cores are shared out."""

    n_jobs: int = 1

    @property
    def n_threads(self) -> int:
        """Cores of this machine for each worker, rounded down, at least one."""
        return max(1, n_cores() // self.n_jobs)

    def start(self, folder: Path) -> Job:
        """Start a process.

        Raises:
            ResourceError: the machine has no room for one more.

        """
        try:
            return _Process(folder)
        except OSError as error:
            raise ResourceError(
                f"a worker cannot be started: {error}; expected room for one (type --jobs 1)"
            ) from error


def dealt_device(name: str, number: int) -> str:
    """Return the device of worker `number`, counted from 0: GPUs are dealt out where there are several and none is named."""
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % n_gpus}" if n_gpus > 1 and name in ("auto", "cuda") else name


def n_cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def last_words(path: Path) -> str:
    """Return the last line of a text that a worker left behind, as `: ...`, or '' where there is none."""
    try:
        text = path.read_bytes()[-LAST_WORDS:].decode(errors="replace").strip()
    except OSError:
        return ""
    return f": {text.splitlines()[-1]}" if text else ""
