"""Several workers make what one process would make, to the last byte, and what goes wrong in one is noted and no more."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from running import SHAPES, as_json

from fewcore import DataError, FewcoreError, Interrupted, PipelineError, PluginError, ResourceError, pipeline, plugins
from fewcore.commands.jobs_options import Workers, read_workers
from fewcore.errors import Problem
from fewcore.pipeline import Pipeline
from fewcore.progress import Progress
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store
from fewcore.workers.executors import Job, Processes, dealt_device
from fewcore.workers.jobs import Jobs
from fewcore.workers.mailbox import Mailbox
from fewcore.workers.worker import PATIENCE_SECONDS, Worker, error_from_json, error_to_json

CPU = torch.device("cpu")
PLUGIN = """
from fewcore import Component, hookimpl
from toys import TOYS


@hookimpl
def fewcore_datasets():
    return list(TOYS["dataset"])


@hookimpl
def fewcore_embedders():
    return [c for c in TOYS["embedder"] if c.name in ("acai", "vae", "whiten")]


@hookimpl
def fewcore_backbones():
    return list(TOYS["backbone"])


@hookimpl
def fewcore_partitioners():
    return list(TOYS["partitioner"])


@hookimpl
def fewcore_meta_learners():
    return list(TOYS["meta_learner"])


@hookimpl
def fewcore_learners():
    fragile = Component("fragile", "fragile:Fragile", "ends as it is told to", "", True, ("scores",))
    return [fragile, *(c for c in TOYS["learner"] if c.name in ("fine-tune", "orient", "shaky"))]
"""
FRAGILE = '''
from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from fewcore import ImageSet, Run, option
from toys.vectors import Constant


@dataclass(frozen=True)
class Fragile:
    """Steps slowly, and writes each step down; or is killed."""

    n_steps: int = option(1, "steps")
    killed: bool = option(False, "whether it is killed")
    notes: str = option("", "file in which steps are noted")

    def learn(self, images: ImageSet, run: Run) -> Constant:
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        total = {"sum": 0.0}
        for step in run.loop(self.n_steps, total=total):
            total["sum"] += float(run.rng.random())
            time.sleep(0.05)
            if self.notes:
                with Path(self.notes).open("a") as file:
                    file.write(f"{step}\\n")
        return Constant()
'''
HEAD = "fewcore: 1\nname: many\ntarget: malignant\n"
STAGES = """
stages:
  data: {dataset: toy-patients}
  embed: {embedder: vae}
  net: {backbone: net}
  model: {learner: fine-tune, from: {start: embed}}
  other: {learner: fine-tune, from: {start: net}}
  score: {evaluator: classification, metrics: [accuracy]}
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The toys as an installed distribution, so that workers find them."""
    site = tmp_path / "site"
    info = site / "fewcore_toys-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fewcore-toys\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[fewcore]\ntoys = toy_plugin\n")
    (site / "toy_plugin.py").write_text(PLUGIN)
    (site / "fragile.py").write_text(FRAGILE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(SHAPES)]))
    monkeypatch.setenv("FEWCORE_PLUGINS", "fewcore-toys")
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(site))
    plugins._load_all.cache_clear()
    yield
    plugins._load_all.cache_clear()
    for name in ("toy_plugin", "fragile"):
        sys.modules.pop(name, None)


def loaded(tmp_path: Path, text: str) -> Pipeline:
    path = tmp_path / "pipeline.yaml"
    path.write_text(HEAD + textwrap.dedent(text))
    return pipeline.load(path, plugins.load_registry())


class Ran:
    """A run, by one process or by workers, with what it said."""

    def __init__(self, pipe: Pipeline, store: Path, n_jobs: int = 0, stop=lambda: False, device: str = "cpu"):
        self.session = Session(Store(store), CPU)
        self.said: list[str] = []
        self.stream = io.StringIO()
        with Progress(stream=self.stream, first=0.0, interval=0.0) as progress:
            jobs = None
            if n_jobs:
                more = {"n_threads": torch.get_num_threads(), "checkpoint_every": 0.0, "device": device}
                jobs = Jobs(pipe, self.session, Processes(), n_jobs, progress=progress, stop=stop, **more)
            self.runner = Runner(pipe, self.session, self.said.append, jobs)
            self.result = self.runner.run()

    @property
    def names(self) -> list[str]:
        return sorted(name for name, _ in self.session.computed)

    @property
    def failures(self) -> list[str]:
        return [str(failure) for failure in self.result.failures]


@pytest.mark.slow
def test_workers_make_what_one_process_makes_and_what_is_shared_once(tmp_path):
    text = STAGES + (
        "splits: {test: 0.25, validation: 0.2}\nrepeat: {seed: [0, 1]}\nmatrix: {labels.share: [0.5, 1.0]}\n"
        "select: {by: [score.accuracy], over: {stages.model.strength: [0.001, 1.0]}}\n"
    )
    pipe = loaded(tmp_path, text)
    one, two = Ran(pipe, tmp_path / "one"), Ran(pipe, tmp_path / "two", 2)
    assert as_json(two.result.reports) == as_json(one.result.reports)
    assert two.result.candidates == one.result.candidates
    assert two.result.status == one.result.status
    assert two.names == one.names
    assert two.names.count("embed") == 2  # one for each seed, not for each of the eight cells
    assert stored(tmp_path / "two") == stored(tmp_path / "one")
    assert "all cells: results" in two.stream.getvalue()
    assert not list((tmp_path / "two" / "temporary").iterdir())


def stored(root: Path) -> dict[str, bytes]:
    """Every array of a store."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("results/*/*/arrays/*")}


@pytest.mark.slow
def test_few_shot_models_predict_in_workers_and_nothing_is_done_twice(tmp_path, monkeypatch):
    pipe = pipeline.load(SHAPES / "a.yaml", plugins.load_registry(), overrides={"repeat.seed": [0]})
    one, two = Ran(pipe, tmp_path / "one"), Ran(pipe, tmp_path / "two", 1)
    assert as_json(two.result.reports) == as_json(one.result.reports)
    assert two.names == one.names
    assert len({key for _, key in two.session.computed}) == len(two.session.computed)
    monkeypatch.setattr(Jobs, "_start", None)  # all is there: no worker is started
    again = Ran(pipe, tmp_path / "two", 1)
    assert as_json(again.result.reports) == as_json(one.result.reports)
    assert set(again.result.status.values()) == {"reused"}


SHAKY = """
stages:
  data: {dataset: toy-patients}
  net: {backbone: net}
  model: {learner: shaky}
  after: {learner: orient, from: {start: model}}
  score: {evaluator: classification, metrics: [accuracy]}
matrix: {stages.model.fails: ['no', bug, nan]}
"""


def test_a_cell_that_fails_in_a_worker_is_noted_as_in_one_process(tmp_path):
    pipe = loaded(tmp_path, SHAKY)
    one, two = Ran(pipe, tmp_path / "one"), Ran(pipe, tmp_path / "two", 1)
    assert two.failures == one.failures
    assert two.said == one.said
    assert two.result.exit_code == one.result.exit_code == 4
    assert two.result.status == one.result.status
    assert as_json(two.result.reports) == as_json(one.result.reports)
    assert "ZeroDivisionError: told to" in two.session.tracebacks["model (stages.model.fails bug)"]


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_stage_alone(tmp_path):
    text = SHAKY.replace("{learner: shaky}", "{learner: fragile}").replace(
        "fails: ['no', bug, nan]", "killed: {a: true, b: false}"
    )
    ran = Ran(loaded(tmp_path, text), tmp_path / "store", 1)
    [failure] = ran.failures
    assert failure == (
        "model (stages.model.killed a): model (stages.model.killed a): its worker was killed by SIGKILL; expected room "
        "for all workers (type a smaller --jobs); running again tries this once more"
    )
    assert ran.said == [f"failed: {failure}"]
    assert ran.result.exit_code == 5
    judged = {(e.outcome.stage, e.outcome.conditions["stages.model.killed"]) for e in ran.result.outcomes}
    assert judged == {("model", "b"), ("after", "b")}
    assert not list((tmp_path / "store" / "temporary").iterdir())


def test_workers_that_are_stopped_save_and_one_process_goes_on(tmp_path):
    notes = tmp_path / "notes"
    stages = SHAKY.partition("matrix")[0].replace("shaky", f"fragile, n_steps: 30, notes: {notes}")
    pipe = loaded(tmp_path, stages)
    with pytest.raises(Interrupted, match="the workers have saved; run again, with or without --jobs"):
        Ran(pipe, tmp_path / "store", 1, stop=lambda: notes.exists() and len(notes.read_text()) > 6)
    done = len(notes.read_text().split())
    assert 4 <= done < 30
    ran = Ran(pipe, tmp_path / "store")
    assert [int(step) for step in notes.read_text().split()] == list(range(30))  # no step is lost, and none done twice
    assert ran.result.exit_code == 0


class Queued:
    """Processes as jobs of a cluster that took the machine back: they have saved, and wait in its queue for ever."""

    n_threads = 1

    def __init__(self) -> None:
        self.started: list[Job] = []

    def start(self, folder: Path) -> Job:
        self.started.append(Processes().start(folder))
        return Waiting(self.started[-1])


class Waiting:
    def __init__(self, job: Job) -> None:
        self.end = job.end

    def ended(self) -> str:
        return ""


def test_a_run_is_stopped_whose_worker_waits_in_a_queue(tmp_path):
    notes = tmp_path / "notes"
    stages = SHAKY.partition("matrix")[0].replace("shaky", f"fragile, n_steps: 2000, notes: {notes}")
    pipe, session, executor = loaded(tmp_path, stages), Session(Store(tmp_path / "store"), CPU), Queued()

    def stop() -> bool:
        if notes.exists():
            executor.started[0]._process.terminate()
        return bool(executor.started and executor.started[0].ended())

    jobs = Jobs(pipe, session, executor, 1, n_threads=1, stop=stop)
    with pytest.raises(Interrupted, match="the workers have saved"):
        Runner(pipe, session, jobs=jobs).run()
    [made] = (tmp_path / "store" / "checkpoints").iterdir()
    assert list(made.glob("*.checkpoint"))


@pytest.mark.slow
def test_the_command_stops_its_workers_and_they_end_with_it(tmp_path):
    notes = tmp_path / "notes"
    stages = SHAKY.partition("matrix")[0].replace("shaky", f"fragile, n_steps: 2000, notes: {notes}")
    (tmp_path / "pipeline.yaml").write_text(HEAD + stages)
    command = [sys.executable, "-m", "fewcore", "run", "pipeline.yaml", "--jobs", "2", "--device", "cpu"]
    for number, code in ((signal.SIGTERM, Interrupted.exit_code), (signal.SIGKILL, -signal.SIGKILL)):
        notes.unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        wait(lambda: notes.exists() and notes.read_text().count("\n") > 2)
        process.send_signal(number)
        assert process.wait(60) == code, process.stderr.read()
        wait(lambda: steps_stand_still(notes))
        process.stderr.close()


def wait(come, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < until
        time.sleep(0.1)


def steps_stand_still(notes: Path) -> bool:
    before = notes.read_text()
    time.sleep(1.0)
    return notes.read_text() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_compute_on_a_gpu(tmp_path):
    pipe = loaded(tmp_path, STAGES)
    one, two = Ran(pipe, tmp_path / "one"), Ran(pipe, tmp_path / "two", 2, device="cuda")
    assert two.result.status == one.result.status
    made = [two.session.store.get(nodes["model"].key) for nodes in two.result.nodes]
    assert {entry.facts["device"].partition(":")[0] for entry in made} == {"cuda"}


def test_errors_are_the_same_on_the_other_side():
    for error in (DataError(Problem("a", "b", "c", "d", 1, 2), "e", title="f"), Interrupted("g"), FewcoreError("h")):
        again = error_from_json(json.loads(json.dumps(error_to_json(error))))
        assert (type(again), str(again), again.problems) == (type(error), str(error), error.problems)
    odd = type("Odd", (ResourceError,), {})("full")
    assert type(error_from_json(error_to_json(odd))) is ResourceError


def test_a_line_that_is_being_written_waits(tmp_path):
    path = tmp_path / "box"
    box = Mailbox(path)
    assert box.read() == []
    path.write_bytes(b'{"a": 1}\n{"b"')
    assert box.read() == [{"a": 1}]
    assert box.read() == []
    with path.open("ab") as file:
        file.write(b": 2}\n")
    assert box.read() == [{"b": 2}]


def test_a_line_of_one_that_was_killed_is_passed_over(tmp_path):
    path = tmp_path / "box"
    path.write_bytes(b'{"answer": 1, "err')
    box = Mailbox(path)
    assert box.read() == []
    Mailbox(path).write({"ready": True})  # the worker that is started again in its folder
    assert box.read() == [{"ready": True}]


def test_a_worker_ends_that_hears_no_more(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("fewcore.workers.worker.time.monotonic", lambda: now[0])
    worker = Worker(tmp_path)
    for second in range(1, 1000):
        now[0] = 1000.0 + second
        if second == 300:
            Mailbox(tmp_path / "inbox.jsonl").write({"beat": True})
        assert worker.stop() == (second > 300 + PATIENCE_SECONDS), second
        if worker.stopping:
            break
    assert worker.stopping


def test_a_worker_that_was_suspended_itself_waits_anew(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("fewcore.workers.worker.time.monotonic", lambda: now[0])
    worker = Worker(tmp_path)
    now[0] += 10 * PATIENCE_SECONDS
    assert not worker.stop()


def test_a_worker_that_cannot_set_itself_up_ends_the_run(tmp_path, monkeypatch):
    pipe = loaded(tmp_path, SHAKY)
    monkeypatch.setenv("FEWCORE_PLUGINS", "fewcore")
    with pytest.raises(PluginError, match=r"no worker could set itself up: it ended with code 2: .*no learner named"):
        Ran(pipe, tmp_path / "store", 1)


def test_gpus_are_dealt_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [dealt_device("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert dealt_device("cuda:1", 0) == "cuda:1"
    assert dealt_device("cpu", 1) == "cpu"


def workers_of(n_jobs: int = 2, executor: str | None = None, threads: int | None = 1, device: str = "cpu"):
    return read_workers(n_jobs, executor, threads, device, 30.0, plugins.load_registry())


def test_what_is_said_of_workers(monkeypatch):
    monkeypatch.setattr("fewcore.commands.jobs_options.n_cores", lambda: 4)
    monkeypatch.setattr("fewcore.workers.executors.n_cores", lambda: 4)
    assert workers_of(1) is None
    assert workers_of(2).told() == ["up to 2 workers, 1 CPU thread each: the numbers are those of --threads 1"]
    assert workers_of(2, threads=None).n_threads == 2
    assert workers_of(8, threads=None).told()[1].startswith("8 x 1 threads are more than the 4 cores here")
    assert workers_of(8, threads=None).told()[1].endswith("(type a smaller --jobs)")
    assert workers_of(4, threads=2).told()[1].endswith("(type a smaller --jobs, or --threads 1)")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers_of(2, device="auto").told()[1:] == ["the workers are dealt out over cuda:0, cuda:1"]
    assert workers_of(2, device="cuda:1").told()[1:] == ["all workers share one GPU and its memory"]
    assert workers_of(2, device="auto").own_device == "cuda:0"
    elsewhere = [Workers(Queued(), 2, 1, device, 30.0).own_device for device in ("cpu", "cuda", "auto")]
    assert elsewhere == ["cpu", "auto", "auto"]


def test_workers_that_cannot_be(monkeypatch):
    with pytest.raises(PipelineError, match="--executor slum: no executor named 'slum'"):
        workers_of(2, "slum")
    with pytest.raises(PipelineError, match="--executor: 'a b'; expected NAME, or NAME:OPTION=VALUE"):
        workers_of(2, "a b")
    monkeypatch.setattr("fewcore.ranks.launched", lambda: True)
    with pytest.raises(PipelineError, match="--jobs: found beside torchrun"):
        workers_of(2)
