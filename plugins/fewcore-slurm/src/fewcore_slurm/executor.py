"""Workers in jobs of a Slurm cluster: submitit submits each, and hands it in again when the cluster takes its machine."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit

from fewcore import ResourceError, last_words, option
from fewcore_slurm.task import Task

LOOK_SECONDS = 2.0
ASK_SECONDS = 60.0
"""So often the cluster itself is asked; a job that ended by itself leaves a file, which is looked for more often."""


class SlurmJob:
    """A worker in a job of the cluster, or one that waits in its queue."""

    def __init__(self, job: submitit.Job[int], folder: Path) -> None:
        self._job = job
        self._said = folder / "said.txt"
        self._looked = 0.0
        self._asked = time.monotonic()
        self._how = ""

    def ended(self) -> str:
        """Return how the job ended."""
        now = time.monotonic()
        if not self._how and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            ask = now - self._asked >= ASK_SECONDS
            self._asked = now if ask else self._asked
            if self._job.done(force_check=ask):
                # Not job.result(): it would unpickle a file.
                said = f"(job {self._job.job_id}) ended in the state {self._job.state}"
                self._how = f"{said}{last_words(self._said)}"
        return self._how

    def end(self) -> None:
        """Cancel the job. One that is over already stays as it is."""
        if not self._job.done():
            with contextlib.suppress(OSError):
                self._job.cancel(check=False)


@dataclass(frozen=True)
class Slurm:
    """Each worker is one Slurm job, which makes results until none are left.

    The store must be on a disk that all machines see (set FEWCORE_CACHE), and every machine needs the same environment.
    When a job is preempted or its time is up, its worker saves, submitit hands it in again, and it goes on.

    Source: submitit, https://github.com/facebookincubator/submitit.
    """

    partition: str = option("", "partition of the cluster; empty for its default")
    timeout_min: int = option(240, "time of a job, after which it is handed in again", unit="minutes", low=1)
    cpus_per_task: int = option(4, "CPU cores of a worker, and its threads unless --threads says", low=1)
    gpus_per_node: int = option(0, "GPUs of a worker", low=0)
    mem_gb: float = option(16.0, "memory of a worker", unit="GB", low=0.1)
    account: str = option("", "account that pays; empty for the user's own")
    qos: str = option("", "quality of service; empty for the cluster's default")
    constraint: str = option("", "features that a machine must have; empty for any")
    max_requeues: int = option(100, "how often a job whose time was up is handed in again", low=0)
    cluster: Literal["slurm", "local"] = option("slurm", "local: jobs on this machine, to try things out")

    @property
    def n_threads(self) -> int:
        """The cores of a job."""
        return self.cpus_per_task

    def start(self, folder: Path) -> SlurmJob:
        """Submit a job that runs a worker.

        Raises:
            ResourceError: the cluster is not there, or refuses the job.

        """
        try:
            timeouts = {f"{self.cluster}_max_num_timeout": self.max_requeues}
            executor = submitit.AutoExecutor(folder / "submitit", cluster=self.cluster, **timeouts)
            executor.update_parameters(**self._parameters())
            with _interruptible():
                return SlurmJob(executor.submit(Task(str(folder))), folder)
        except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
            raise ResourceError(
                f"--executor slurm: no job can be submitted: {error}; expected a machine on which sbatch works, and a"
                " partition, account and size that it takes"
            ) from error

    def _parameters(self) -> dict[str, Any]:
        texts = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint")}
        slurm = {f"slurm_{name}": value for name, value in texts.items() if value}
        sizes = {"cpus_per_task": self.cpus_per_task, "gpus_per_node": self.gpus_per_node, "mem_gb": self.mem_gb}
        return {"name": "fewcore", "timeout_min": self.timeout_min, **sizes, **slurm}


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let what is started here be ended by SIGINT, by which submitit cancels jobs of this machine.

    A shell's background job ignores it, and what it starts would too.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)
