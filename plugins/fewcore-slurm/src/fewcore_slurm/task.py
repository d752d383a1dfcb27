"""What submitit pickles and calls in a job: a folder's name, and how to run a worker there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import submitit

SAVE_SECONDS = 60.0
"""So long a worker may take to save when its machine is taken away; Slurm gives 90 seconds."""
LOOK_SECONDS = 0.2
SIGNALLED = os.EX_TEMPFAIL
"""The exit code of a worker that a signal ended: there is more to do."""


class Task:
    """Runs a worker in a process of its own, so that submitit's signals never end it in the middle of a step."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the worker to its end, and return its exit code."""
        while (code := self._run()) == SIGNALLED:
            # Slurm signals all processes, first that the machine is wanted. The word to leave comes to submitit, which
            # calls `checkpoint` and does not come back here. Without it, the machine is ours, and the work goes on.
            time.sleep(SAVE_SECONDS)
        return code

    def _run(self) -> int:
        with (Path(self.folder) / "said.txt").open("ab") as said:
            # -P: a file torch.py in the working folder must not be taken for the library.
            command = [sys.executable, "-P", "-m", "fewcore.workers.worker", self.folder]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # noqa: S603
            # Not wait(): `checkpoint` is called in the middle of it, and would wait for its lock for ever.
            while (code := self._process.poll()) is None:
                time.sleep(LOOK_SECONDS)
            return code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Let the worker save, and return what submitit is to hand in again: the same worker in the same folder."""
        if self._process is not None:
            self._process.terminate()
            until = time.monotonic() + SAVE_SECONDS
            while self._process.poll() is None and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
            self._process.kill()  # where it is not done, what it saved last has to do
        return submitit.helpers.DelayedSubmission(Task(self.folder))
