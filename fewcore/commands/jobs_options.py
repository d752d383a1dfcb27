"""`--jobs` and `--executor`: how many workers `fewcore run` has, and where they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from fewcore.chosen import read_chosen
from fewcore.commands.pipeline_options import counted
from fewcore.errors import PipelineError
from fewcore.workers.executors import Executor, Processes, dealt_device, n_cores

if TYPE_CHECKING:
    from fewcore.pipeline import Pipeline
    from fewcore.plugins import Registry
    from fewcore.progress import Progress
    from fewcore.session import Session
    from fewcore.workers.jobs import Jobs


def jobs_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how many workers make the results of the cells, and where."""
    for decorate in (
        click.option(
            "--executor",
            metavar="EXECUTOR:OPTION=VALUE,...",
            help="Where workers run, such as slurm:partition=gpu. Default: processes of this machine.",
        ),
        click.option(
            "--jobs",
            "n_jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Workers that make the results of all cells; they share out GPUs and cores.",
        ),
    ):
        command = decorate(command)
    return command


@dataclass(frozen=True)
class Workers:
    """What was said of workers: `n_jobs` of them, each with `n_threads` CPU threads, on `device`."""

    executor: Executor
    n_jobs: int
    n_threads: int
    device: str
    checkpoint_every: float

    @property
    def own_device(self) -> str:
        """Where this process computes, which makes metrics and no models: a login node may have no GPU."""
        if isinstance(self.executor, Processes):
            return dealt_device(self.device, 0)
        return "cpu" if self.device == "cpu" else "auto"

    def jobs(self, pipeline: Pipeline, session: Session, progress: Progress, stop: Callable[[], bool]) -> Jobs:
        """Return what starts the workers when there is something to do, and say what they will be."""
        from fewcore.workers.jobs import Jobs

        for line in self.told():
            progress.say(line)
        return Jobs(
            pipeline,
            session,
            self.executor,
            self.n_jobs,
            n_threads=self.n_threads,
            device=self.device,
            checkpoint_every=self.checkpoint_every,
            progress=progress,
            stop=stop,
        )

    def told(self) -> list[str]:
        """Return what a user should know of the workers, in lines."""
        each = f"{counted(self.n_threads, 'CPU thread')} each"
        told = [f"up to {counted(self.n_jobs, 'worker')}, {each}: the numbers are those of --threads {self.n_threads}"]
        if not isinstance(self.executor, Processes):
            return told
        devices = {dealt_device(self.device, number) for number in range(self.n_jobs)}
        if any(device.startswith("cuda:") for device in devices) and len(devices) > 1:
            told.append(f"the workers are dealt out over {', '.join(sorted(devices))}")
        elif devices != {"cpu"} and _has_gpu():
            told.append("all workers share one GPU and its memory")
        if self.n_jobs * self.n_threads > n_cores():
            fewer_threads = ", or --threads 1" if self.n_threads > 1 else ""
            told.append(
                f"{self.n_jobs} x {self.n_threads} threads are more than the {counted(n_cores(), 'core')} here: they will"
                f" wait for one another (type a smaller --jobs{fewer_threads})"
            )
        return told


def read_workers(
    n_jobs: int, executor: str | None, threads: int | None, device: str, checkpoint_every: float, registry: Registry
) -> Workers | None:
    """Return what `--jobs` and `--executor` say, or None where this process does everything.

    Raises:
        PipelineError: the executor is not installed, its options are wrong, or torchrun has started other processes.

    """
    if n_jobs == 1 and executor is None:
        return None
    from fewcore.ranks import launched

    if launched():
        raise PipelineError(
            "--jobs: found beside torchrun; expected one of them: torchrun shares out the tasks of a model"
        )
    where: Executor = Processes(n_jobs)
    if executor is not None:
        _, where = read_chosen("--executor", "executor", executor, "slurm:partition=gpu,timeout_min=240", registry)
    return Workers(where, n_jobs, threads or where.n_threads, device, checkpoint_every)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
