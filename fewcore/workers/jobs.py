"""Several workers make the results of a pipeline's cells ahead; the runner then finds them in the store.

Work is given out by result, not by cell: what several cells share is made once, and no worker waits for another while
there is something else to do. Workers and this process exchange lines of JSON; results go through the store.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewcore import yaml12
from fewcore.errors import FewcoreError, Interrupted, PipelineError, PluginError, ResourceError
from fewcore.pipeline import Pipeline
from fewcore.progress import Progress
from fewcore.session import Session
from fewcore.workers.executors import Executor, Job, Processes, dealt_device
from fewcore.workers.mailbox import Mailbox
from fewcore.workers.work import Work
from fewcore.workers.worker import error_from_json

LOOK_SECONDS = 0.02
BEAT_SECONDS = 10.0
LEAVE_SECONDS = 30.0
SHOW_SECONDS = 20.0
ALL = "all cells: results"

Tell = Callable[[Work, FewcoreError], object]


@dataclass
class _Worker:
    """A worker as this process sees it: `number` is its place, `busy` the work that it has.

    `left` says that it has saved and ended; a cluster may start it again. `shown` is the name of the work whose progress
    it told last.
    """

    number: int
    job: Job
    inbox: Mailbox
    outbox: Mailbox
    ready: bool = False
    left: bool = False
    busy: Work | None = None
    shown: str = ""


class Jobs:
    """Makes results by at most `n_jobs` workers that an executor starts, each with `n_threads` CPU threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        session: Session,
        executor: Executor,
        n_jobs: int,
        *,
        n_threads: int,
        device: str = "cpu",
        checkpoint_every: float = 30.0,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.session = session
        self._executor, self._device = executor, device
        self._progress, self._stop = progress, stop
        self._cells = {id(cell): number for number, (cell, _) in enumerate(pipeline.cells)}
        self._setup = {
            "pipeline": _text(pipeline),
            "store": str(session.store.root.resolve()),
            "threads": n_threads,
            "checkpoint_every": checkpoint_every,
            "folder": str(Path.cwd()),
        }
        self._workers: list[_Worker] = []
        self._n_jobs = n_jobs
        self._free: list[int] = []
        self._n_given = 0
        self._beat = 0.0
        self._folder = Path()

    def make(self, work: Iterable[Work], tell: Tell) -> None:
        """Do all work whose needs can be met. What fails is told, and noted in `session.failed`; the rest goes on.

        Raises:
            Interrupted: the run was stopped; the workers have saved and ended.
            FewcoreError: no worker can be started.

        """
        todo: dict[str, Work] = {}
        for one in work:
            todo.setdefault(one.key, one)
        if not todo:
            return
        self._free = list(range(self._n_jobs))
        # Under such a name the next run sweeps away what a killed one has left.
        name = f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}"
        self._folder = self.session.store.root.resolve() / "temporary" / name
        try:
            self._folder.mkdir(mode=0o700)  # submitit leaves pickles there
            self._work_off(todo, tell)
            self._leave()
        except OSError as error:
            raise ResourceError(f"{self._folder}: {error}; expected a disk with room, then run again") from error
        finally:
            for worker in self._workers:
                worker.job.end()
            self._workers.clear()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _work_off(self, todo: dict[str, Work], tell: Tell) -> None:
        lost: set[str] = set()
        made, shown = 0, -1.0
        total = len(todo)
        while todo or any(worker.busy for worker in self._workers):
            if self._stop():
                self._stop_all()
            before = made
            made += sum(self._hear(worker, tell) for worker in list(self._workers))
            lacking = lost | self.session.failed.keys()
            while new := {key for key, one in todo.items() if one.needs & lacking}:
                lost |= new
                lacking |= new
                todo = {key: one for key, one in todo.items() if key not in new}
            self._give_out(todo)
            now = time.monotonic()
            if made > before or now - shown > SHOW_SECONDS:
                shown = now
                self._update(ALL, made, total - len(lost), {})
            if now - self._beat > BEAT_SECONDS:
                self._beat = now
                self._say({"beat": True})
            time.sleep(LOOK_SECONDS)

    def _give_out(self, todo: dict[str, Work]) -> None:
        """Give what can be done to workers that have nothing to do, and start as many more as there is work for."""
        unmade = {*todo} | {worker.busy.key for worker in self._workers if worker.busy}
        can = [one for one in todo.values() if not one.needs & unmade]
        idle = [worker for worker in self._workers if worker.ready and not worker.busy and not worker.left]
        for worker, work in zip(idle, can, strict=False):
            self._n_given += 1
            worker.busy = todo.pop(work.key)
            said = {"cell": self._cells[id(work.node.cell)], **work.to_json()}
            worker.inbox.write({"number": self._n_given, "work": said})
        awaited = sum(not worker.busy and (worker.left or not worker.ready) for worker in self._workers)
        for _ in range(min(len(self._free), len(can) - len(idle) - awaited)):
            self._start()

    def _start(self) -> None:
        number = self._free.pop(0)
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        inbox = Mailbox(folder / "inbox.jsonl")
        here = isinstance(self._executor, Processes)  # elsewhere a worker sees only its own GPUs
        device = dealt_device(self._device, number) if here else self._device
        inbox.write({"setup": {**self._setup, "device": device}})
        job = self._executor.start(folder)
        self._workers.append(_Worker(number, job, inbox, Mailbox(folder / "outbox.jsonl")))

    def _hear(self, worker: _Worker, tell: Tell) -> int:
        """Take what a worker says, and return how many pieces of work it has done."""
        how = worker.job.ended()  # before its last messages are read
        done = 0
        for message in worker.outbox.read():
            worker.ready |= "ready" in message
            worker.left = (worker.left or "left" in message) and "ready" not in message
            if "progress" in message:
                name, place, total, values = message["progress"]
                self._update(self._title(worker, name), place, total, values)
            if "record" in message and self._progress is not None:
                self._progress.record(message["record"])
            if "answer" in message and worker.busy:
                done += 1
                self._note(message, worker.busy, tell)
                worker.busy = None
        if how:
            self._workers.remove(worker)
            done += self._ended(worker, how, tell)
        return done

    def _note(self, message: dict[str, Any], work: Work, tell: Tell) -> None:
        self.session.computed.extend((name, key) for name, key in message["computed"])
        self.session.tracebacks.update(message["tracebacks"])
        damaged = self.session.store.damaged
        damaged.extend(key for key in message["damaged"] if key not in damaged)
        if message["error"] is not None:
            self._failed(work, error_from_json(message["error"]), tell)

    def _ended(self, worker: _Worker, how: str, tell: Tell) -> int:
        """Note what a worker that has ended leaves undone. One that never came up gets no successor."""
        if worker.ready:
            self._free.insert(0, worker.number)
        elif not self._workers and not self._free:
            raise PluginError(f"no worker could set itself up: it {how}; expected what this process has, there too")
        elif self._progress is not None:
            self._progress.say(f"a worker could not set itself up: it {how}; the run goes on with one less")
        if worker.busy is None:
            return 0
        advice = "expected room for all workers (type a smaller --jobs); running again tries this once more"
        self._failed(worker.busy, ResourceError(f"{worker.busy.node.title}: its worker {how}; {advice}"), tell)
        return 1

    def _failed(self, work: Work, error: FewcoreError, tell: Tell) -> None:
        self.session.failed[work.key] = error
        tell(work, error)

    def _say(self, message: dict[str, Any]) -> None:
        for worker in self._workers:
            worker.inbox.write(message)

    def _stop_all(self) -> None:
        """Let the workers save and end. One that has left has saved, and may wait in a queue for days to be started again."""
        busy = [worker for worker in self._workers if worker.busy]
        self._say({"stop": True})
        while any(not worker.job.ended() and not self._has_left(worker) for worker in busy):
            time.sleep(LOOK_SECONDS)
        for worker in busy:  # what ended meanwhile is in the store
            worker.busy = None
        raise Interrupted("stopped; the workers have saved; run again, with or without --jobs, to go on")

    def _has_left(self, worker: _Worker) -> bool:
        worker.left |= any("left" in message for message in worker.outbox.read())
        return worker.left

    def _leave(self) -> None:
        """Let the workers end that have nothing more to do."""
        self._say({"end": True})
        until = time.monotonic() + LEAVE_SECONDS
        while any(worker.ready and not worker.job.ended() for worker in self._workers) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)

    def _title(self, worker: _Worker, name: str) -> str:
        """Return under what a worker's progress is shown: two may embed for two cells at once."""
        worker.shown = name
        same = any(other.shown == name and other.busy for other in self._workers if other is not worker)
        return f"{name} [worker {worker.number + 1}]" if same else name

    def _update(self, name: str, done: int, total: int, values: dict[str, float]) -> None:
        if self._progress is not None:
            self._progress.update(name, done, total, values)


def _text(pipeline: Pipeline) -> str:
    """Return a pipeline as text, from which workers read the same again."""
    text: str = yaml.safe_dump(pipeline.spec, sort_keys=False, allow_unicode=True, width=120)
    if yaml12.read(text).data != pipeline.spec:
        raise PipelineError("the pipeline cannot be written down for workers; expected plain values (type --jobs 1)")
    return text
