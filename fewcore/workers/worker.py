"""A worker: a process that makes results which another one asks for, one after the other: `python -m fewcore.workers.worker FOLDER`.

The folder holds two mailboxes. In `inbox.jsonl` stands how to set up and then what to do, in `outbox.jsonl` how it goes.
Results go into the store and nowhere else. A worker that is started again in the same folder, as a cluster does after it
took the machine away, goes on with what it has not answered.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewcore.errors import FewcoreError, Interrupted, PluginError, Problem, ResourceError
from fewcore.workers.mailbox import Mailbox

if TYPE_CHECKING:
    from fewcore.nodes import Node
    from fewcore.pipeline import Pipeline
    from fewcore.session import Session

LOOK_SECONDS = 0.5
SHOW_SECONDS = 0.2
PATIENCE_SECONDS = 600.0
"""After so long without a word from the process that gives out work, a worker takes it for dead, saves and ends."""
AWAY_SECONDS = 30.0
"""Where there is more between two looks, this process itself may have been suspended: then it waits anew."""


def error_to_json(error: FewcoreError) -> dict[str, Any]:
    """Return an error as JSON; its class is the nearest that fewcore itself has."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == FewcoreError.__module__)
    return {"class": name, "title": error.title, "problems": [asdict(problem) for problem in error.problems]}


def error_from_json(said: Mapping[str, Any]) -> FewcoreError:
    """Return the error that `error_to_json` wrote."""
    known: dict[str, type[FewcoreError]] = {cls.__name__: cls for cls in FewcoreError.__subclasses__()}
    problems = (Problem(**problem) for problem in said["problems"])
    return known.get(said["class"], FewcoreError)(*problems, title=said["title"])


class Worker:
    """Does what its inbox says."""

    def __init__(self, folder: Path) -> None:
        self.inbox, self.outbox = Mailbox(folder / "inbox.jsonl"), Mailbox(folder / "outbox.jsonl")
        self.stopping = self.finished = self.signalled = False
        self._setup: dict[str, Any] = {}
        self._work: list[dict[str, Any]] = []
        self._answered = {message["answer"] for message in self.outbox.read() if "answer" in message}
        self._parent = os.getppid()
        self._heard = self._looked = time.monotonic()
        self._shown: dict[str, float] = {}

    def run(self) -> int:
        """Work until there is no more to do. Returns 0, or the code of `Interrupted` where a signal ended the work."""
        self._wait(lambda: bool(self._setup))
        if not self._setup:
            return self._code
        pipeline, session = self._set_up()
        self.outbox.write({"ready": True})
        while self._wait(lambda: bool(self._work)):
            try:
                answer = self._do(self._work[0], pipeline, session)
            except Interrupted:
                break
            self.outbox.write(answer)
            self._work.pop(0)
        self.outbox.write({"left": True})
        return self._code

    @property
    def _code(self) -> int:
        return Interrupted.exit_code if self.signalled else 0

    def update(self, name: str, done: int, total: int, values: dict[str, float]) -> None:
        """Pass on how far a stage is; part of `ProgressSink`."""
        now = time.monotonic()
        if done >= total > 0 or now - self._shown.get(name, 0.0) >= SHOW_SECONDS:
            self._shown[name] = now
            self.outbox.write({"progress": [name, done, total, values]})

    def record(self, entry: Mapping[str, Any]) -> None:
        """Pass on a point of a learning curve; part of `ProgressSink`."""
        self.outbox.write({"record": dict(entry)})

    def stop(self) -> bool:
        """Return whether to save and end: it was told to, or whoever gave out the work is gone."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._look(now)
        return self.stopping

    def _look(self, now: float) -> None:
        if now - self._looked > AWAY_SECONDS:
            self._heard = now
        self._looked = now
        for message in self.inbox.read():
            self._heard = now
            self._setup = message.get("setup", self._setup)
            self.stopping |= "stop" in message
            self.finished |= "end" in message
            if "work" in message and message["number"] not in self._answered:
                self._work.append(message)
        self.stopping |= os.getppid() != self._parent or now - self._heard > PATIENCE_SECONDS

    def _wait(self, come: Any) -> bool:
        """Wait until something has come; return False where there will be nothing more."""
        pause = 0.01
        self._look(time.monotonic())
        while not (come() or self.stopping or self.finished):
            time.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)
            self._look(time.monotonic())
        return bool(come()) and not self.stopping

    def _set_up(self) -> tuple[Pipeline, Session]:
        import torch

        from fewcore import pipeline, yaml12
        from fewcore.memory import keep_freed_memory
        from fewcore.plugins import load_registry
        from fewcore.run import device_named
        from fewcore.session import Session
        from fewcore.store import Store

        said = self._setup
        os.chdir(said["folder"])
        torch.set_num_threads(said["threads"])
        keep_freed_memory()
        checked = pipeline.check(yaml12.read(said["pipeline"]), load_registry())
        every = {"checkpoint_every": said["checkpoint_every"]}
        session = Session(
            Store(Path(said["store"])), device_named(said["device"]), progress=self, stop=self.stop, **every
        )
        return checked, session

    def _do(self, message: dict[str, Any], pipeline: Pipeline, session: Session) -> dict[str, Any]:
        """Do one piece of work and return the answer: what was computed, and what went wrong."""
        from fewcore.blame import blame
        from fewcore.workers.work import do

        work, error = message["work"], None
        before = len(session.computed)
        try:
            node, data = self._found(work, pipeline, session)
            with blame(node.title, node.stage.offer, session.tracebacks):
                do(session, node, data, work["split"])
        except Interrupted:
            raise
        except FewcoreError as problem:
            error = error_to_json(problem)
        answer = {"answer": message["number"], "error": error, "computed": session.computed[before:]}
        return {**answer, "tracebacks": dict(session.tracebacks), "damaged": list(session.store.damaged)}

    def _found(self, work: Mapping[str, Any], pipeline: Pipeline, session: Session) -> tuple[Node, Node | None]:
        cell, stages = pipeline.cells[work["cell"]]
        nodes = session.plan(cell, stages)
        node = nodes[work["stage"]]
        if node.key != work["key"]:
            problem = f"{node.title}: the worker on {platform.node()} would make another result than is asked for"
            raise PluginError(f"{problem}; expected the same versions of the plugins and the same files everywhere")
        return node, nodes[work["data"]] if work["data"] else None


def main(folder: str) -> int:
    """Run a worker and return its exit code."""
    worker = Worker(Path(folder))

    def asked(_number: int, _frame: object) -> None:
        worker.stopping = worker.signalled = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that gives out work, and it says stop
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):  # a cluster that wants its machine back
        if hasattr(signal, name):  # Windows has not all
            signal.signal(getattr(signal, name), asked)
    try:
        return worker.run()
    except FewcoreError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a worker's stderr is a file that is read where it fails
        return error.exit_code
    except OSError as error:
        print(f"{folder}: {error}", file=sys.stderr)  # noqa: T201
        return ResourceError.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
