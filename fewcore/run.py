"""`Run`: what a component may use beside its inputs - device, generators, loops that resume, logging, progress."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from fewcore import checkpoint
from fewcore.contracts import Array
from fewcore.errors import Interrupted, NumericalError, PipelineError
from fewcore.ranks import Ranks
from fewcore.seeds import numpy_generator, torch_generator

T = TypeVar("T")
RECORDS_PER_LOOP = 200
LARGE_ARRAY = 2**30
"""Bytes above which an array is a file."""


class ProgressSink(Protocol):
    """Where progress is shown."""

    def update(self, name: str, done: int, total: int, values: dict[str, float]) -> None:
        """Show that `done` of `total` steps of `name` are done, with the values logged last."""
        ...

    def record(self, entry: dict[str, Any]) -> None:
        """Keep a point of a learning curve: stage, step and values."""
        ...


def _never() -> bool:
    return False


def loop_label(stage: str, loop: str) -> str:
    """Return the name of a loop for people: the stage, and the loop where it is not the stage's own."""
    return stage if loop == "train" or stage.endswith(f": {loop}") else f"{stage}: {loop}"


def device_named(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        PipelineError: there is no such device here.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or (index and not index.isdigit()):
        raise PipelineError(f"--device: found '{name}'; expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        expected = f"one of the {count} CUDA devices here" if count else "cpu, for there is no CUDA device here"
        raise PipelineError(f"--device: found '{name}'; expected {expected} (type --device cpu)")
    return torch.device(name)


class Run:
    """The running of one stage. `Run()` suffices in a notebook or a test.

    `device` is where to compute. `rng` (numpy) and `generator` (torch, on the CPU) are the only sources of randomness.
    `records` holds what was logged, for the learning curves. `ranks` are the processes that train together: one, unless
    torchrun started more and the component says `shares_tasks = True`.
    """

    def __init__(
        self,
        seed: int = 0,
        device: str | torch.device = "cpu",
        *,
        name: str = "run",
        checkpoints: Path | None = None,
        checkpoint_every: float = 30.0,
        progress: ProgressSink | None = None,
        stop: Callable[[], bool] = _never,
        ranks: Ranks | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.rng: np.random.Generator = numpy_generator(seed)
        self.generator: torch.Generator = torch_generator(seed)
        self.name = name
        self.ranks = ranks or Ranks()
        self.records: list[dict[str, Any]] = []
        self._checkpoints = checkpoints
        self._checkpoint_every = checkpoint_every
        self._progress = progress
        self._stop = stop
        self._window: dict[str, list[torch.Tensor]] = {}
        self._latest: dict[str, float] = {}
        self._step = 0
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._began = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of work so far, with those that went into the checkpoint from which a loop went on."""
        return self._before + time.monotonic() - self._began

    @property
    def scratch(self) -> Path:
        """A folder for temporary files, removed when the run ends."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="fewcore-")
        return Path(self._scratch.name)

    def zeros(self, shape: tuple[int, ...], dtype: str | np.dtype[Any] | type[Any]) -> Array:
        """Return an array of zeros to be filled: in memory, or above 1 GiB in a mapped file that is gone with the array.

        So images need no more memory than is looked at, however many they are. The file is on the disk that TMPDIR names;
        on Linux its room is taken at once, because a mapped file that cannot grow would end the process.
        """
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if n_bytes <= LARGE_ARRAY:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(prefix="fewcore-") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:  # macOS has no such call
                file.truncate(n_bytes)
            return np.memmap(file, dtype, "r+", shape=shape)

    def loop(self, n_steps: int, *, name: str = "train", **state: Any) -> Iterator[int]:
        """Yield the steps that are still to do, from 0 to `n_steps` - 1; progress, checkpoints and Ctrl-C are seen to.

        `state` names everything that a step changes: modules, optimisers and cursors (whatever has `state_dict` and
        `load_state_dict`), tensors, arrays, dicts and lists. With both generators and the log it is saved at
        intervals; after a kill the loop goes on from the last saved step and ends with the same numbers.

        >>> total = {"sum": 0}
        >>> for step in Run().loop(4, state=total):
        ...     total["sum"] += step
        >>> total["sum"]
        6
        """
        start = self._restore(name, state)
        if self._checkpoints is not None:  # a disk that machines share may show one of them an older file
            self.ranks.agree(f"{self._checkpoints.name} {name} begins", str(start))
        every = max(1, n_steps // RECORDS_PER_LOOP)
        began = saved = time.monotonic()
        for step in range(start, n_steps):
            self._step = step
            yield step
            done = step + 1
            if done % every == 0 or done == n_steps:
                self._flush(name, done)
            self._show(name, done, n_steps)
            now = time.monotonic()
            long = now - saved >= self._checkpoint_every or (done == n_steps and now - began >= self._checkpoint_every)
            stopping = self._stop()
            if long or stopping:
                self._check_window(done)
                self._save(name, done, state)
                saved = now
            if stopping:
                raise Interrupted(f"{self.name}: stopped after step {done} of {n_steps}; run again to go on")

    def track(self, items: Sequence[T] | Iterable[T], *, name: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, showing progress; for work that is short enough to be done again after a kill."""
        count = total if total is not None else len(items) if isinstance(items, Sequence) else 0
        for done, item in enumerate(items, 1):
            if self._stop():
                raise Interrupted(f"{self.name}: stopped in {name}; run again to go on")
            yield item
            self._show(name, done, count)

    def log(self, **values: float | torch.Tensor) -> None:
        """Log numbers of the current step; the learning curves show their means over a few steps.

        Tensors may stay on their device: they are read when a point of the curve is complete. A value that is NaN or
        infinite stops the stage: at this step on the CPU, at the curve's next point on a GPU.
        """
        for key, value in values.items():
            number = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            if number.device.type == "cpu":
                self._check(key, float(number), self._step)
            self._window.setdefault(key, []).append(number)

    def _check(self, key: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            advice = "lower the learning rate, or look for what is odd in the data"
            raise NumericalError(f"{self.name}: {key} is {value} at step {step}; expected a finite number ({advice})")

    def _check_window(self, step: int) -> None:
        """Let no checkpoint hold what a number has spoilt. The window stays open: when it closes, time has no say."""
        for key, values in self._window.items():
            self._check(key, float(torch.stack([v.float().to(values[-1].device) for v in values]).sum()), step)

    def _flush(self, name: str, done: int) -> None:
        if not self._window:
            return
        # After a restart the first values of a window lie on the CPU.
        means = {
            key: float(torch.stack([v.float().to(vs[-1].device) for v in vs]).mean())
            for key, vs in self._window.items()
        }
        for key, value in means.items():
            self._check(key, value, done)
        self._window.clear()
        self._latest |= means
        self.records.append({"loop": name, "step": done, **means})
        if self._progress is not None:
            self._progress.record({"stage": loop_label(self.name, name), "step": done, "values": means})

    def _show(self, name: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.update(loop_label(self.name, name), done, total, self._latest)

    def _path(self, name: str) -> Path | None:
        return None if self._checkpoints is None else self._checkpoints / f"{name}.checkpoint"

    def _save(self, name: str, done: int, state: dict[str, Any]) -> None:
        path = self._path(name)
        if path is None or not self.ranks.leads:  # all ranks hold the same, and go on from the one file
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {key: value.state_dict() if hasattr(value, "state_dict") else value for key, value in state.items()}
        generators = {"rng": self.rng.bit_generator.state, "generator": self.generator.get_state()}
        log = {"records": self.records, "latest": self._latest, "window": self._window}
        checkpoint.save(path, {"done": done, "seconds": self.seconds, "state": own, **log, **generators})

    def _restore(self, name: str, state: dict[str, Any]) -> int:
        path = self._path(name)
        saved = checkpoint.load(path) if path is not None else None
        if saved is None or set(saved["state"]) != set(state):
            return 0
        for key, value in saved["state"].items():
            _put_back(state[key], value)
        self.rng.bit_generator.state = saved["rng"]
        self.generator.set_state(saved["generator"])
        self.records[:] = saved["records"]
        self._latest = saved["latest"]
        self._window = saved["window"]
        self._before = max(self._before, saved["seconds"])
        return int(saved["done"])


def _put_back(target: Any, value: Any) -> None:
    """Fill `target` in place with what a checkpoint held of it."""
    if hasattr(target, "load_state_dict"):
        target.load_state_dict(value)
    elif isinstance(target, torch.Tensor):
        with torch.no_grad():
            target.copy_(value)
    elif isinstance(target, dict):
        target.clear()
        target.update(value)
    elif isinstance(target, list | np.ndarray):
        target[:] = value
    else:
        raise TypeError(
            f"a loop cannot restore {type(target).__name__}; expected a module, tensor, array, dict or list"
        )
