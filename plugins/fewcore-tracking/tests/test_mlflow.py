"""What MLflow's own client finds in what was logged."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fewcore import LogEntry
from fewcore_tracking.mlflow import LONGEST, MLflow, artifact_folder, clean, is_local, ready_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy

CONDITIONS = {"evaluator": "score", "method": "maml", "split": "test", "n": 200, "way": 5, "shot": 1}
RESULT = LogEntry("result", "maml", 0, {"accuracy": 0.8, "accuracy.low": 0.75, "accuracy.high": 0.85}, 9.0, CONDITIONS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in a file; making its tables takes seconds, so the tests share it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def client(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store)


def only_run(store: str, experiment: str) -> Any:
    found = client(store).get_experiment_by_name(experiment)
    (run,) = client(store).search_runs([found.experiment_id])
    return run


@pytest.fixture
def run_folder(tmp_path: Path) -> tuple[Path, ...]:
    for name in ("pipeline.yaml", "report.html"):
        (tmp_path / name).write_text(name)
    return tmp_path / "pipeline.yaml", tmp_path / "report.html"


def artifacts(store: str, run: Any) -> list[str]:
    return sorted(file.path for file in client(store).list_artifacts(run.info.run_id))


def test_points_parameters_results_and_files_are_there(store: str, run_folder: tuple[Path, ...]) -> None:
    facts = {"fewcore": "0.1.0", "net": "fewcore-meta:conv4", "tasks.n_way": [5, 20]}
    tracking = MLflow("whole", store).open("tiny", run_folder[0].parent, facts)
    for step in range(1, 151):
        tracking.record(LogEntry("curve", "maml (seed 1)", step, {"loss": step / 100}, 1000.0 + step))
    tracking.record(LogEntry("progress", "maml (seed 1)", 100, {"done": 100.0, "total": 400.0, "loss": 1.0}, 1200.0))
    tracking.record(RESULT)
    tracking.close("finished", run_folder)
    run = only_run(store, "whole")
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params == {"fewcore": "0.1.0", "net": "fewcore-meta:conv4", "tasks.n_way": "[5, 20]"}
    history = client(store).get_metric_history(run.info.run_id, "maml seed 1/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (step, step / 100, 1_000_000 + 1000 * step) for step in range(1, 151)
    ]
    assert run.data.metrics["progress/maml seed 1"] == 0.25
    assert run.data.metrics["result/score/accuracy/maml way 5 shot 1"] == 0.8
    assert artifacts(store, run) == ["pipeline.yaml", "report.html", "results.json"]
    kept = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts" / "whole" / run.info.run_id / "artifacts"
    assert json.loads((kept / "results.json").read_text()) == [{"stage": "maml", **RESULT.values, **CONDITIONS}]


@pytest.mark.parametrize(("status", "ended"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_run_that_did_not_finish_says_so(store: str, tmp_path: Path, status: str, ended: str) -> None:
    MLflow(status, store, run_name="mine").open("tiny", tmp_path, {}).close(status, ())
    run = only_run(store, status)
    assert (run.info.run_name, run.info.status) == ("mine", ended)


def test_who_runs_it_where_is_not_told(store: str, tmp_path: Path) -> None:
    MLflow("quiet", store).open("tiny", tmp_path, {}).close("finished", ())
    run = only_run(store, "quiet")
    assert run.data.tags == {"mlflow.runName": "tiny"}
    assert run.info.user_id == "unknown"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_files_are_left_out_where_asked(store: str, run_folder: tuple[Path, ...]) -> None:
    MLflow("bare", store, files="never").open("tiny", run_folder[0].parent, {}).close("finished", run_folder)
    assert artifacts(store, only_run(store, "bare")) == []


def test_the_store_is_the_option_then_the_variable_then_a_file_here(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    MLflow("by variable").open("tiny", tmp_path, {}).close("finished", ())
    assert only_run(store, "by variable").info.status == "FINISHED"


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("sqlite:///mlflow.db", True),
        ("file:///data/mlruns", True),
        ("/data/mlruns", True),
        ("http://localhost:5000", False),
        ("https://mlflow.example.org", False),
        ("./mlruns", True),
        ("databricks", False),
        ("mlflow-artifacts:/1/ab", False),
        ("s3://bucket/x", False),
        ("file://server/share", False),
        ("postgresql://localhost/x", False),
    ],
)
def test_what_is_on_this_machine(uri: str, local: bool) -> None:
    assert is_local(uri) == local


def test_artifacts_stand_beside_a_store_in_a_file(tmp_path: Path) -> None:
    assert artifact_folder(f"sqlite:///{tmp_path}/all.db", "a b/../c") == f"{tmp_path.as_uri()}/mlartifacts/a-b----c"
    assert artifact_folder("http://localhost:5000", "chest") is None


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("maml (seed 1)/loss", "maml seed 1/loss"),
        ("result//a at 5%/../x", "result/a at 5/x"),
        ("/loss/", "loss"),
        ("κ", "-"),
    ],
)
def test_names_are_such_as_mlflow_takes(name: str, cleaned: str) -> None:
    assert clean(name).startswith(cleaned)


def test_long_names_stay_apart() -> None:
    one, other = clean("s" * 300 + "/loss"), clean("s" * 300 + "/accuracy")
    assert one != other
    assert len(one) == len(other) == LONGEST


def test_an_experiment_has_a_name() -> None:
    with pytest.raises(ValueError, match="expected some, as experiment=chest"):
        MLflow(" ")


def test_a_new_store_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "runs.db"
    watched: list[tuple[str, ...]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            if path.exists():
                with contextlib.closing(sqlite3.connect(path)) as there:
                    watched.append(tuple(row[0] for row in there.execute("select version_num from alembic_version")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    ready_store(f"sqlite:///{path}")
    time.sleep(0.2)
    done.set()
    watcher.join()
    assert len(set(watched)) == 1, "whoever saw the file saw its last version"
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]
    before = path.stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    assert ready_store("sqlite:///new/runs.db") == f"sqlite:///{path}"
    assert path.stat().st_mtime_ns == before


def test_stores_that_are_no_files_are_left_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("http://localhost:5000", "sqlite:///:memory:", "sqlite:///a.db?timeout=3", "databricks"):
        assert ready_store(uri) == uri
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_an_error_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(MlflowException, match="Connection refused"):
        MLflow(uri=f"http://127.0.0.1:{port}").open("tiny", tmp_path, {})
    assert time.monotonic() - began < 10
