"""The executor on a cluster of one machine: submitit's own, whose jobs are preempted and handed in again as Slurm's are."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from fewcore import PipelineError, ResourceError, pipeline, plugins
from fewcore.chosen import read_chosen
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store
from fewcore.workers.jobs import Jobs
from fewcore_slurm.executor import Slurm
from fewcore_slurm.task import Task

PLUGIN = """
from fewcore import Component, hookimpl


@hookimpl
def fewcore_learners():
    return [Component("slow", "slow_method:Slow", "counts slowly", "", True, ("scores",))]
"""
METHOD = '''
from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewcore import ImageSet, Predictions, Run, option


class Draws:
    def __init__(self, total):
        self.total = total

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        return Predictions(images.ids, scores=np.tile(self.total, (len(images), 1)).astype(np.float32))

    def to_arrays(self):
        return {"total": self.total}, {}

    @classmethod
    def from_arrays(cls, arrays, meta, inputs) -> Draws:
        return cls(arrays["total"])


@dataclass(frozen=True)
class Slow:
    """Adds up numbers that it draws, and notes each step in a file."""

    notes: str = option(..., "the file")
    n_steps: int = option(40, "steps")
    seconds: float = option(0.1, "time of a step", unit="seconds")

    def learn(self, images: ImageSet, run: Run) -> Draws:
        total = np.zeros(10)
        for step in run.loop(self.n_steps, total=total):
            total += run.rng.random(10)
            with Path(self.notes).open("a") as file:
                file.write(f"{step}\\n")
            time.sleep(self.seconds)
        return Draws(total)
'''


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A slow learner as an installed distribution, so that workers find it."""
    site = tmp_path / "site"
    info = site / "fewcore_slow-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fewcore-slow\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[fewcore]\nslow = slow_plugin\n")
    (site / "slow_plugin.py").write_text(PLUGIN)
    (site / "slow_method.py").write_text(METHOD)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("FEWCORE_PLUGINS", "fewcore-slow,fewcore-slurm")
    monkeypatch.syspath_prepend(str(site))
    plugins._load_all.cache_clear()
    yield
    plugins._load_all.cache_clear()
    for name in ("slow_plugin", "slow_method"):
        sys.modules.pop(name, None)


def ran(tmp_path: Path, store: str, said: str = "", seconds: float = 0.0, stop=lambda: False):
    """Run a pipeline, by jobs where an executor is named, and return the result and the steps that were made."""
    notes = tmp_path / f"{store}-notes"
    (tmp_path / "slow.yaml").write_text(
        "fewcore: 1\nstages:\n  data: {dataset: digits}\n"
        f"  model: {{learner: slow, notes: {notes}, seconds: {seconds}}}\n"
        "  score: {evaluator: classification, metrics: [accuracy]}\n"
    )
    pipe = pipeline.load(tmp_path / "slow.yaml", plugins.load_registry())
    session = Session(Store(tmp_path / store), torch.device("cpu"))
    jobs = None
    if said:
        _, executor = read_chosen("--executor", "executor", said, "", plugins.load_registry())
        jobs = Jobs(pipe, session, executor, 1, n_threads=1, checkpoint_every=1000.0, stop=stop)
    result = Runner(pipe, session, jobs=jobs).run()
    return session, result, [int(step) for step in notes.read_text().split()]


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds submitit's process through /proc")
def test_a_preempted_worker_is_handed_in_again_and_goes_on(tmp_path):
    notes = tmp_path / "two-notes"
    preempted: list[int] = []

    def preempt() -> bool:
        """Be Slurm: signal everything in the job, once, while it is at work."""
        if not preempted and notes.exists() and len(notes.read_text().split()) > 5:
            [controller] = [child for child in children(os.getpid()) if children(child)]
            [task] = children(controller)
            [worker] = children(task)
            for process in (task, worker):
                os.kill(process, signal.SIGUSR2)
                preempted.append(process)
        return False

    session, result, steps = ran(tmp_path, "two", "slurm:cluster=local,timeout_min=10", 0.1, preempt)
    assert len(preempted) == 2
    assert not result.failures
    assert steps == list(range(40))  # the worker saved at the step at which it was signalled
    undisturbed, _, _ = ran(tmp_path, "one")
    [node] = [nodes["model"] for nodes in result.nodes]
    # The file of the steps is an option, so the keys differ; the numbers do not.
    total = session.value(node).total
    [other] = [entry for entry in undisturbed._values.values() if hasattr(entry, "total")]
    assert total.tolist() == other.total.tolist()


@pytest.mark.parametrize("heeds", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_a_job_that_is_killed_is_said_to_be(tmp_path, heeds):
    before = signal.signal(signal.SIGINT, heeds)  # a shell's background jobs ignore it
    try:
        job = Slurm(cluster="local").start(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert job.ended() == ""
    job.end()
    until = time.monotonic() + 30
    while not job.ended():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "ended in the state" in job.ended()


def test_without_a_cluster_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ResourceError, match=r"--executor slurm: no job can be submitted: .*; expected a machine on which"
    ):
        Slurm().start(tmp_path)


def test_what_slurm_is_asked_for(tmp_path):
    said = "slurm:partition=gpu,timeout_min=30,gpus_per_node=2,mem_gb=64,account=lab,cpus_per_task=8"
    _, executor = read_chosen("--executor", "executor", said, "", plugins.load_registry())
    assert executor.n_threads == 8
    assert executor._parameters() == {
        "name": "fewcore",
        "timeout_min": 30,
        "cpus_per_task": 8,
        "gpus_per_node": 2,
        "mem_gb": 64.0,
        "slurm_partition": "gpu",
        "slurm_account": "lab",
    }
    with pytest.raises(PipelineError, match="--executor slurm: cpus_per_task: found 0"):
        read_chosen("--executor", "executor", "slurm:cpus_per_task=0", "", plugins.load_registry())


def test_a_worker_that_was_signalled_by_mistake_starts_again(tmp_path, monkeypatch):
    """Slurm may signal the processes and change its mind; then nobody calls `checkpoint`."""
    monkeypatch.setattr("fewcore_slurm.task.SAVE_SECONDS", 0.0)
    codes = [75, 75, 0]
    task = Task(str(tmp_path))
    monkeypatch.setattr(task, "_run", lambda: codes.pop(0))
    assert task() == 0
    assert codes == []
