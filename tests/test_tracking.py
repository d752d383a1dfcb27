"""Trackers: what they are told, that the log comes first, and that nothing of them reaches the run."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewcore import (
    Array,
    Arrays,
    Component,
    ImageSet,
    Interrupted,
    LogEntry,
    Meta,
    Offer,
    PipelineError,
    Tracking,
    option,
)
from fewcore.pipeline import check
from fewcore.plugins import Registry, load_registry
from fewcore.progress import Progress
from fewcore.run import Run
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store
from fewcore.testing import ConformanceError, Setup, checks_for
from fewcore.tracking import forward
from fewcore.tracking.choice import facts_of, hidden_labels, read_trackers
from fewcore.tracking.forward import Tracked, forwarding
from fewcore.tracking.log import closing_lines, entry_of, heading, known_points, record_start
from fewcore.yaml12 import read

TRAINED = [("curve", "maml", step, {"loss": float(step)}) for step in range(1, 6)]


@dataclass
class Notes:
    """A tracking that keeps what it gets."""

    entries: list[LogEntry] = field(default_factory=list)
    closed: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def record(self, entry: LogEntry) -> None:
        self.threads.add(threading.current_thread().name)
        self.entries.append(entry)

    def close(self, status: str, files: tuple[Path, ...]) -> None:
        self.closed.append((status, tuple(path.name for path in files)))

    def of(self, kind: str) -> list[tuple[str, str, int, dict[str, float]]]:
        return [(e.kind, e.stage, e.step, dict(e.values)) for e in self.entries if e.kind == kind]


@dataclass(frozen=True)
class Notebook:
    """A tracker that keeps what it gets, for the tests."""

    width: int = option(80, "columns", low=10)
    style: str = option("plain", "of what kind")
    notes: Notes = field(default_factory=Notes, init=False, compare=False)

    def open(self, name: str, folder: Path, facts: Mapping[str, Any]) -> Notes:
        return self.notes


class Faulty(Notes):
    """A tracking with a fault, in one of its methods."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def record(self, entry: LogEntry) -> None:
        super().record(entry)
        if self.fault == "record raises" and len(self.entries) == 3:
            raise OSError("no\nroute to host")
        if self.fault == "record exits":
            sys.exit(1)
        if self.fault == "record hangs":
            threading.Event().wait()
        if self.fault == "slow":
            time.sleep(0.05)

    def close(self, status: str, files: tuple[Path, ...]) -> None:
        super().close(status, files)
        if self.fault == "close raises":
            raise ValueError("half written")
        if self.fault == "close hangs":
            threading.Event().wait()


@dataclass(frozen=True)
class Fault:
    """A tracker with a fault."""

    tracking: Faulty

    def open(self, name: str, folder: Path, facts: Mapping[str, Any]) -> Faulty:
        if self.tracking.fault == "open raises":
            raise ModuleNotFoundError("No module named 'somewhere'")
        if self.tracking.fault == "open hangs":
            threading.Event().wait()
        return self.tracking


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.yaml").write_text("fewcore: 1\n")
    (tmp_path / "report.html").write_text("<p>")
    return tmp_path


@pytest.fixture
def here() -> Iterator[str]:
    """A name under which this module can be imported, as a plugin's could."""
    sys.modules["components_of_these_tests"] = sys.modules[__name__]
    yield "components_of_these_tests"
    del sys.modules["components_of_these_tests"]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def train(folder: Path, stream: io.StringIO, trackers: Mapping[str, Any], *, stop_after: int = 0) -> None:
    """Train for 5 steps, tracked, with a checkpoint after each; stopped after some where asked."""
    log, line = folder / "log.jsonl", {"run": "tiny", "pipeline": "0123"}
    hidden = {"stages.data.path /scans/Smith": "stages.data.path value 1", "/scans/Smith": "value 1"}
    steps: list[int] = []
    with Progress(log, stream=stream) as progress:
        progress.record(line)
        run = Tracked("tiny", folder, log, record_start(log, line), {"seed": 0}, hidden)
        with forwarding(trackers, run, progress) as end:
            stage = Run(
                name="maml",
                progress=progress,
                checkpoints=folder / "checkpoints",
                checkpoint_every=0,
                stop=lambda: stop_after > 0 and len(steps) >= stop_after,
            )
            for step in stage.loop(5):
                stage.log(loss=step + 1.0)
                steps.append(step)
            end.status = "finished"


def messages(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["message"] for line in lines if "message" in line]


# ---- what is forwarded


def test_a_tracker_gets_the_points_of_the_log_in_a_thread_of_its_own(folder: Path, stream: io.StringIO) -> None:
    tracker = Notebook()
    train(folder, stream, {"notes": tracker})
    assert tracker.notes.of("curve") == TRAINED
    assert tracker.notes.of("progress")[-1] == ("progress", "maml", 5, {"done": 5.0, "total": 5.0, "loss": 5.0})
    assert tracker.notes.closed == [("finished", ("pipeline.yaml", "report.html"))]
    assert tracker.notes.threads == {"fewcore-notes"}
    assert isinstance(tracker.notes, Tracking)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    points = [line for line in logged if "values" in line]
    assert [(p["stage"], p["step"], p["values"]) for p in points] == [tuple(point[1:]) for point in TRAINED]
    first = next(entry for entry in tracker.notes.entries if entry.kind == "curve")
    assert abs(first.time - time.time()) < 60


def test_two_trackers_get_the_same(folder: Path, stream: io.StringIO) -> None:
    first, second = Notebook(), Notebook()
    train(folder, stream, {"first": first, "second": second})
    assert first.notes.entries == second.notes.entries != []


def test_what_came_before_a_restart_is_not_lost_and_comes_once(folder: Path, stream: io.StringIO) -> None:
    before, after = Notebook(), Notebook()
    with pytest.raises(Interrupted):
        train(folder, stream, {"notes": before}, stop_after=2)
    assert before.notes.of("curve") == TRAINED[:2]
    assert before.notes.closed == [("interrupted", ())]
    train(folder, stream, {"notes": after})
    assert after.notes.of("curve") == TRAINED
    later = Notebook()
    train(folder, stream, {"notes": later})
    assert later.notes.of("curve") == TRAINED


def test_a_run_that_raises_is_closed_as_failed(folder: Path, stream: io.StringIO) -> None:
    tracker = Notebook()
    log = folder / "log.jsonl"
    with Progress(log, stream=stream) as progress:
        progress.record({"message": "begun"})
        run = Tracked("x", folder, log, 0, {}, {})
        with pytest.raises(ZeroDivisionError), forwarding({"notes": tracker}, run, progress):
            _ = 1 / 0
    assert tracker.notes.closed == [("failed", ())]


def test_the_record_of_a_run_begins_at_the_first_heading_of_its_pipeline(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    mine, other = {"run": "tiny", "pipeline": "aa"}, {"run": "tiny", "pipeline": "bb"}
    lines: list[dict[str, Any]] = [
        mine,
        {"stage": "maml", "step": 1, "values": {}},
        other,
        mine,
        {"stage": "knn", "step": 2, "values": {}},
    ]
    lines += [mine, {"message": 'of "pipeline"'}, {"stage": "knn", "step": 3, "values": {}}]
    log.write_text("".join(json.dumps({"time": "x", **line}) + "\n" for line in lines) + '{"half')
    text = log.read_bytes()
    start = record_start(log, mine)
    assert text[start:].count(b"\n") == 5
    assert known_points(log, start) == {("knn", 2), ("knn", 3)}
    assert record_start(log, other) == len(text), "what stands last is another pipeline's"
    assert record_start(tmp_path / "none.jsonl", mine) == 0
    assert known_points(tmp_path / "none.jsonl", 0) == set()


@pytest.mark.parametrize(
    "line",
    [
        {"message": "failed: data: /scans/Smith_John.dcm: no image"},
        {"stage": "data", "traceback": "File /scans/Smith_John.dcm"},
        {"run": "tiny", "pipeline": "0123"},
        {"stage": "maml", "step": 1, "values": {"loss": None}},
        {"stage": 3, "values": {"loss": 1.0}},
        {},
    ],
)
def test_messages_tracebacks_and_headings_are_no_numbers(line: dict[str, Any]) -> None:
    assert entry_of({"time": "2026-01-01T00:00:00.000+00:00", **line}) is None


def test_a_row_of_an_evaluator_keeps_interval_and_conditions_but_no_note() -> None:
    row = {"stage": "maml", "metric": "accuracy", "value": 0.8, "ci95": [0.7, None], "n": 200, "method": "maml"}
    said = entry_of(
        {"time": "2026-01-01T00:00:00+00:00", "evaluator": "score", **row, "conditions": {"way": 5}, "note": "Smith"}
    )
    conditions = {"evaluator": "score", "method": "maml", "n": 200, "way": 5}
    assert said == LogEntry("result", "maml", 0, {"accuracy": 0.8, "accuracy.low": 0.7}, 0.0, conditions)
    assert said.time == 1767225600.0


def test_names_of_files_in_axes_are_numbered(folder: Path) -> None:
    hidden = {"stages.data.path /scans/Smith": "stages.data.path value 1", "/scans/Smith": "value 1"}
    run = Tracked("x", folder, folder / "log.jsonl", 0, {}, hidden)
    entry = LogEntry("result", "maml (stages.data.path /scans/Smith): tune", 0, {"a": 1.0}, 0.0, {"of": "/scans/Smith"})
    shown = run.shown(entry)
    assert (shown.stage, shown.conditions) == ("maml (stages.data.path value 1): tune", {"of": "value 1"})


class Vectors:
    """An encoder: the pixels."""

    dim = 64

    def embed(self, images: ImageSet, run: Run) -> Array:
        return images.images.reshape(len(images), -1).astype(np.float32)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        return {}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Vectors:
        return cls()


@dataclass(frozen=True)
class Curve:
    """An embedder with a learning curve."""

    def fit(self, images: ImageSet, run: Run) -> Vectors:
        for step in run.loop(3):
            run.log(loss=3.0 - step)
        return Vectors()


def test_a_curve_that_was_computed_elsewhere_is_added_once(tmp_path: Path, stream: io.StringIO, here: str) -> None:
    registry = Registry(
        (*load_registry().offers, Offer("embedder", Component("curve", f"{here}:Curve", "a curve"), "fewcore-x", "1"))
    )
    text = "fewcore: 1\nrepeat: {seed: [0, 1]}\nstages:\n  data: {dataset: digits}\n  embed: {embedder: curve}\n"
    pipeline, log = check(read(text), registry), tmp_path / "log.jsonl"
    curve = [(f"embed (seed {seed})", step, {"loss": 4.0 - step}) for seed in (0, 1) for step in (1, 2, 3)]

    def closing(path: Path) -> list[Any]:
        with Progress(path, stream=stream) as progress:
            progress.record(heading(pipeline))
            session = Session(Store(tmp_path / "store"), torch.device("cpu"), progress=progress)
            lines = list(closing_lines(path, pipeline, session, Runner(pipeline, session).run()))
            for line in lines:
                progress.record(line)
        return [(line["stage"], line["step"], line["values"]) for line in lines]

    assert closing(log) == [], "it wrote them as they came"
    assert len(known_points(log, 0)) == 6
    assert sorted(closing(tmp_path / "elsewhere.jsonl")) == curve
    assert closing(tmp_path / "elsewhere.jsonl") == []


# ---- a tracker never stops or slows a run


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("open raises", "ModuleNotFoundError: No module named 'somewhere'"),
        ("record raises", "OSError: no route to host"),
        ("record exits", "SystemExit: 1"),
        ("close raises", "ValueError: half written"),
    ],
)
def test_a_tracker_that_raises_is_switched_off_and_said_once(
    folder: Path, stream: io.StringIO, fault: str, why: str
) -> None:
    good, bad = Notebook(), Fault(Faulty(fault))
    train(folder, stream, {"bad": bad, "good": good})
    assert good.notes.of("curve") == TRAINED
    (said,) = messages(folder)
    assert said.startswith(f"tracker bad is switched off: {why} (forwarded ")
    assert said.endswith("all are in log.jsonl: run again to forward them)")
    assert stream.getvalue().count("switched off") == 1


@pytest.mark.parametrize("fault", ["open hangs", "record hangs", "close hangs"])
def test_the_end_of_a_run_waits_a_little_for_a_tracker_that_hangs(
    folder: Path, stream: io.StringIO, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "EXIT_SECONDS", 0.6)
    monkeypatch.setattr(forward, "QUIET_SECONDS", 0.1)
    began = time.monotonic()
    train(folder, stream, {"bad": Fault(Faulty(fault))})
    assert time.monotonic() - began < 5
    assert [text.split(" (")[0] for text in messages(folder)] == [
        "waiting up to 1 seconds for bad",
        "tracker bad is switched off: still behind after 1 seconds",
    ]


def test_a_tracker_that_hangs_is_switched_off_while_the_run_goes_on(
    folder: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "HANG_SECONDS", 0.1)
    log = folder / "log.jsonl"
    with Progress(log, stream=stream) as progress:
        progress.record({"stage": "maml", "step": 1, "values": {"loss": 1.0}})
        with forwarding({"bad": Fault(Faulty("record hangs"))}, Tracked("x", folder, log, 0, {}, {}), progress):
            time.sleep(0.3)
            progress.record({"stage": "maml", "step": 2, "values": {"loss": 1.0}})
            progress.record({"stage": "maml", "step": 3, "values": {"loss": 1.0}})
            assert [text.split(" (")[0] for text in messages(folder)] == [
                "tracker bad is switched off: no answer for 0 seconds"
            ]
            began = time.monotonic()
    assert time.monotonic() - began < 0.2, "what is switched off is not waited for"
    assert len(messages(folder)) == 1


def test_a_tracker_that_cannot_keep_up_loses_nothing_of_the_record(
    folder: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "EXIT_SECONDS", 0.3)
    monkeypatch.setattr(forward, "QUIET_SECONDS", 0.1)
    log, slow, later = folder / "log.jsonl", Faulty("slow"), Notebook()
    n = 2000
    with Progress(log, stream=stream) as progress:
        began = time.monotonic()
        with forwarding({"slow": Fault(slow)}, Tracked("x", folder, log, 0, {}, {}), progress):
            for step in range(n):
                progress.record({"stage": "maml", "step": step, "values": {"loss": 1.0}})
            written = time.monotonic() - began
    assert written < 0.05 * n / 10, "the run did not wait for it"
    forwarded = int(messages(folder)[-1].split("(forwarded ")[1].split()[0])
    assert 0 < forwarded < n
    assert messages(folder)[-1].endswith("all are in log.jsonl: run again to forward them)")
    with Progress(log, stream=stream) as progress:
        progress.record({"message": "again"})
        monkeypatch.setattr(forward, "EXIT_SECONDS", 30.0)
        with forwarding({"notes": later}, Tracked("x", folder, log, 0, {}, {}), progress):
            pass
    assert [entry.step for entry in later.notes.entries] == list(range(n))


def test_a_log_that_cannot_be_read_switches_trackers_off(folder: Path, stream: io.StringIO) -> None:
    log = folder / "log.jsonl"
    with Progress(log, stream=stream) as progress:
        run = Tracked("x", folder, folder / "gone.jsonl", 0, {}, {})
        with forwarding({"notes": Notebook()}, run, progress):
            progress.record({"stage": "maml", "step": 1, "values": {"loss": 1.0}})
    assert "FileNotFoundError" in messages(folder)[0]


def test_telling_a_tracker_costs_a_run_microseconds(folder: Path, stream: io.StringIO) -> None:
    log = folder / "log.jsonl"
    with Progress(log, stream=stream) as progress:
        bad = {"bad": Fault(Faulty("record hangs"))}
        progress.record({"stage": "maml", "step": 0, "values": {"loss": 1.0}})
        with forwarding(bad, Tracked("x", folder, log, 0, {}, {}), progress):
            (look,) = progress.sinks
            best = float("inf")
            for _ in range(5):
                began = time.perf_counter()
                for _ in range(1000):
                    look()
                best = min(best, (time.perf_counter() - began) / 1000)
            progress.sinks[0].__self__.give_up(0)  # type: ignore[attr-defined]
    assert best < 20e-6


# ---- what the command line says


@pytest.fixture
def registry(here: str) -> Registry:
    """What is installed, and the notebook."""
    component = Component("notebook", f"{here}:Notebook", "keeps what it gets")
    return Registry((*load_registry().offers, Offer("tracker", component, "fewcore-x", "1")))


def problems(registry: Registry, *said: str) -> list[str]:
    with pytest.raises(PipelineError) as error:
        read_trackers(said, registry)
    return [str(problem) for problem in error.value.problems]


def test_options_are_read_as_in_a_pipeline_file(registry: Registry) -> None:
    assert read_trackers((), registry) == {}
    assert read_trackers(("notebook",), registry) == {"notebook": Notebook()}
    found = read_trackers(("fewcore-x:notebook:width=20,style=a=b, c:d",), registry)
    assert found == {"fewcore-x:notebook": Notebook(20, "a=b, c:d")}
    assert read_trackers(("notebook:style=http://host:5000/x",), registry)["notebook"].style == "http://host:5000/x"


def test_every_problem_is_told_at_once_with_what_to_type(registry: Registry) -> None:
    assert problems(registry, "notebook:widht=3,style=3", "notebook:width=3", "note book", "notebok") == [
        "--track notebook: widht: unknown option (did you mean 'width'?)",
        "--track notebook: style: found 3; expected text",
        "--track notebook: width: found 3; expected at least 10",
        "--track: 'note book'; expected NAME, or NAME:OPTION=VALUE,OPTION=VALUE, such as mlflow:experiment=chest",
        problems(registry, "notebok")[0],
    ]
    assert "did you mean 'notebook'?" in problems(registry, "notebok")[0]
    twice = "--track notebook: named twice; expected each tracker once"
    assert problems(registry, "notebook", "notebook:width=20") == [twice]
    # By its full name it is the same tracker, which would write into the files of the first.
    assert problems(registry, "fewcore-x:notebook", "notebook") == [twice]
    assert problems(registry, "notebook:width=20,style=a,width=30") == [
        "--track notebook: width: given 2 times; expected each option once"
    ]


def test_a_tracker_that_is_not_installed_says_which_extra_has_it() -> None:
    ours = Registry(tuple(o for o in load_registry().offers if o.kind != "tracker"))
    assert problems(ours, "mlflow") == [
        "--track mlflow: no tracker named 'mlflow'; installed: none; install it with: pip install 'fewcore[tracking]'"
    ]


def test_a_tracker_is_no_stage(registry: Registry) -> None:
    text = "fewcore: 1\nstages:\n  data: {dataset: digits}\n  notes: {tracker: notebook}\n"
    with pytest.raises(PipelineError) as error:
        check(read(text), registry)
    assert "no kind of component; expected one of dataset, " in str(error.value)
    assert "(type fewcore run PIPELINE --track notebook)" in str(error.value)
    with pytest.raises(PipelineError, match=r"'notebook' is of another kind; write --track notebook"):
        check(read(text.replace("tracker", "learner")), registry)


PIPELINE = """
fewcore: 1
seed: 3
matrix: {stages.data.path: [/scans/Smith, Jones], stages.tasks.n_way: [5, 10]}
stages:
  data:  {dataset: folder, path: x, patient_column: Doe}
  parts: {partitioner: labels}
  tasks: {task_sampler: episodes, n_way: 5}
  test:  {task_sampler: episodes, split: test}
"""


def test_a_tracker_is_told_components_and_numbers_but_no_text_of_a_data_set() -> None:
    pipeline = check(read(PIPELINE), load_registry())
    facts = facts_of(pipeline)
    assert facts["data"] == "fewcore:folder"
    assert facts["seed"] == 3
    assert facts["tasks"] == "fewcore:episodes"
    assert "tasks.n_way" not in facts, "it is an axis"
    assert "tasks.n_query" in facts
    for name in ("Smith", "Jones", "Doe"):
        assert name not in json.dumps(facts, default=str)
    hidden = hidden_labels(pipeline)
    assert {hidden[cell.label] for cell, _ in pipeline.cells} == {
        f"stages.data.path {hidden[path]}, stages.tasks.n_way {way}"
        for path in ("/scans/Smith", "Jones")
        for way in (5, 10)
    }
    for name in ("Smith", "Jones"):
        assert name not in " ".join(hidden.values())


def test_the_tracker_of_the_docs_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "tracking.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "tracker_of_the_docs.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    component = Component("best", "tracker_of_the_docs:Best", "the best accuracy")
    for check_of_kit in checks_for("tracker"):
        check_of_kit(Offer("tracker", component, "fewcore-of-the-docs", "1"), Setup())
    tracking = component_of(component).open("tiny", tmp_path, {})
    tracking.record(LogEntry("curve", "maml", 1, {"validation_accuracy": 0.75}, 0.0))
    tracking.close("finished", ())
    assert (tmp_path / "best.txt").read_text() == "finished: 0.750\n"


@dataclass(frozen=True)
class Picky:
    """A tracker that refuses what a run may say."""

    fault: str = option("", "which")

    def open(self, name: str, folder: Path, facts: Mapping[str, Any]) -> PickyTracking:
        return PickyTracking(self.fault)


class PickyTracking(Notes):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def record(self, entry: LogEntry) -> None:
        if self.fault == "names" and not entry.stage.isascii():
            raise ValueError(f"bad name {entry.stage}")
        if self.fault == "order" and self.entries and entry.step < self.entries[-1].step:
            raise ValueError("a step went back")
        super().record(entry)

    def close(self, status: str, files: tuple[Path, ...]) -> None:
        if self.fault == "files":
            (files[0]).read_text()


@pytest.mark.parametrize(
    ("fault", "check_name", "message"),
    [
        ("names", "tracking_takes_what_a_run_says", "bad name naïve"),
        ("order", "tracking_takes_what_a_run_says", "a step went back"),
        ("files", "tracking_may_be_empty", "close failed on toy inputs with IndexError"),
    ],
)
def test_the_kit_finds_what_is_wrong_with_a_tracker(here: str, fault: str, check_name: str, message: str) -> None:
    offer = Offer("tracker", Component("picky", f"{here}:Picky", "picky"), "fewcore-x", "1")
    (wanted,) = [one for one in checks_for("tracker") if one.__name__ == check_name]
    wanted(offer, Setup())
    with pytest.raises(ConformanceError, match=f"tracker 'fewcore-x:picky'.*{message}"):
        wanted(offer, Setup(options={"fault": fault}))


def component_of(component: Component) -> Any:
    return Offer("tracker", component, "fewcore-of-the-docs", "1").load()()


def test_equal_pipelines_have_equal_headings() -> None:
    text = "fewcore: 1\nstages:\n  data: {dataset: digits}\n"
    one, same, other = (
        heading(check(read(t), load_registry()))
        for t in (text, text + "# a note\n", text.replace("1\n", "1\nseed: 1\n", 1))
    )
    assert one == same != other
