"""Curves, results and pages as runs of an MLflow experiment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from fewcore import LogEntry, option
from fewcore_tracking.names import result_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

DEFAULT = "sqlite:///mlflow.db"
"""Where MLflow itself looks in a folder; its folders of files (`./mlruns`) are in maintenance and refused."""
NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)
NOT_IN_FILES = re.compile(r"[^\w\-]")
SQLITE = "sqlite:///"
LONGEST = 250
MOST_AT_ONCE = 100
SECONDS = 1.0
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
"""What MLflow is told unless the user said something else: to report nothing, and not to try for minutes."""


class MLflowTracking:
    """One run of an MLflow experiment. Numbers go in batches: each costs a transaction."""

    def __init__(self, client: MlflowClient, run: Run, with_files: bool) -> None:
        self._client, self._id, self._with_files = client, run.info.run_id, with_files
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()
        self._results: list[dict[str, Any]] = []

    def record(self, entry: LogEntry) -> None:
        """Log each number as a metric; a result's name says what it was measured on."""
        from mlflow.entities import Metric

        if entry.kind == "result":
            values: Iterable[tuple[str, float]] = [(result_name(entry), next(iter(entry.values.values())))]
            self._results.append({"stage": entry.stage, **entry.values, **entry.conditions})
        elif entry.kind == "curve":
            values = [(f"{entry.stage}/{name}", value) for name, value in entry.values.items()]
        else:
            total = entry.values.get("total")
            values = [(f"progress/{entry.stage}", entry.values["done"] / total)] if total else []
        milliseconds = int(entry.time * 1000)
        self._waiting += [Metric(clean(name), value, milliseconds, entry.step) for name, value in values]
        if len(self._waiting) >= MOST_AT_ONCE or time.monotonic() - self._sent > SECONDS:
            self._send()

    def close(self, status: str, files: tuple[Path, ...]) -> None:
        """Log what waits, the results as a table, the run's files where they may go, and end the run."""
        self._send()
        if self._results:
            self._client.log_text(self._id, json.dumps(self._results, indent=1, default=str), "results.json")
        for path in files if self._with_files else ():
            self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, STATUS.get(status, "FAILED"))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), MOST_AT_ONCE):
            self._client.log_batch(self._id, metrics=waiting[first : first + MOST_AT_ONCE], synchronous=True)
        self._sent = time.monotonic()


@dataclass(frozen=True)
class MLflow:
    """Make a run of an MLflow experiment: options as parameters, curves and results as metrics, pages as artifacts.

    The store is the one that `uri` names, else MLFLOW_TRACKING_URI, else `mlflow.db` in the folder where fewcore was
    started, where `mlflow ui` finds it. The pipeline and the page name folders, and the page shows images, so they
    become artifacts where the store is on this machine; `files=always` sends them to a server too.
    """

    experiment: str = option("fewcore", "name of the experiment")
    uri: str = option("", "where the store is, such as http://localhost:5000 or sqlite:///all-runs.db")
    run_name: str = option("", "name of the run; that of the pipeline where it is empty")
    files: Literal["local", "always", "never"] = option(
        "local", "keep pipeline.yaml and report.html: where the store is on this machine, always, or never"
    )

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ValueError("found no name of the experiment; expected some, as experiment=chest")

    def open(self, name: str, folder: Path, facts: Mapping[str, Any]) -> MLflowTracking:
        """Make a run in the experiment, which is made where it is not there."""
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # MLflow tells of each table it makes; alembic too.
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT
        client = MlflowClient(tracking_uri=ready_store(uri))
        found = client.get_experiment_by_name(self.experiment)
        place = artifact_folder(uri, self.experiment)
        number = found.experiment_id if found else client.create_experiment(self.experiment, artifact_location=place)
        run = client.create_run(number, run_name=self.run_name or name)
        said = [Param(clean(key), str(value)) for key, value in facts.items()]
        for first in range(0, len(said), MOST_AT_ONCE):
            client.log_batch(run.info.run_id, params=said[first : first + MOST_AT_ONCE])
        local = is_local(uri) and is_local(run.info.artifact_uri)
        return MLflowTracking(client, run, self.files == "always" or (self.files == "local" and local))


def store_file(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for stores of other kinds."""
    path = uri.removeprefix(SQLITE)
    return None if path == uri or "?" in path or ":memory:" in path else Path(path).absolute()


def ready_store(uri: str) -> str:
    """Return the store by a name that no change of folder changes; the file of a SQLite store is made where it is missing.

    MLflow makes its many tables in some seconds, and a file with some of them may be refused for ever: a run that ends
    meanwhile must not leave one, and another that begins must not meet one.
    """
    path = store_file(uri)
    if path is None:
        return uri
    if not path.exists():
        _make_whole(path)
    return f"{SQLITE}{path}"


def _make_whole(path: Path) -> None:
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        MlflowClient(tracking_uri=f"{SQLITE}{part}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another run was faster
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def clean(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, blanks and - _ . : /, at most 250 of them, and like a path.

    >>> clean("result/score/accuracy/maml (way 5, shot 1)")
    'result/score/accuracy/maml way 5 shot 1'
    """
    parts = (part.strip() for part in NOT_IN_NAMES.sub("", name).split("/"))
    path = "/".join(part for part in parts if part.strip("."))
    if path and len(path) <= LONGEST:
        return path
    return f"{path[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def artifact_folder(uri: str, experiment: str) -> str | None:
    """Return where an experiment's files are kept: beside the store where that is a file; a server knows best itself.

    >>> artifact_folder("sqlite:////data/all.db", "chest"), artifact_folder("https://mlflow.example.org", "chest")
    ('file:///data/mlartifacts/chest', None)
    """
    path = store_file(uri)
    return None if path is None else (path.parent / "mlartifacts" / NOT_IN_FILES.sub("-", experiment)).as_uri()


def is_local(uri: str) -> bool:
    """Return whether a store or a folder of artifacts is on this machine.

    >>> is_local("sqlite:///mlflow.db"), is_local("/data/runs"), is_local("databricks")
    (True, True, False)
    """
    parts = urlsplit(uri)
    is_file = parts.scheme in ("file", "sqlite") or (not parts.scheme and uri.startswith(("/", ".")))
    return is_file and parts.hostname in (None, "localhost")
