"""Tasks that are functions of their number: one consumer's place among them, and tasks from images class by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fewcore.contracts import Array, TaskBatch


class NumberedCursor:
    """One consumer's place in a stream whose tasks `at` gives by their numbers (t,): the number of the next task.

    At least `ahead` tasks are drawn at a time.
    """

    def __init__(self, at: Callable[[Array], TaskBatch], ahead: int) -> None:
        self._at, self._least = at, ahead
        self._place = 0
        self._ahead: TaskBatch | None = None

    def draw(self, t: int) -> TaskBatch:
        """Return the next t tasks."""
        begin = self._place
        self._place += t
        if self._ahead is None or begin < self._ahead.task[0] or self._place - 1 > self._ahead.task[-1]:
            self._ahead = self._at(np.arange(begin, begin + max(t, self._least)))
        offset = begin - int(self._ahead.task[0])
        return self._ahead.part(offset, offset + t)

    def observe(self, batch: TaskBatch, scores: Array) -> None:
        """Do nothing: these tasks do not depend on how well they went."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the number of the next task."""
        return {"place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the task that `state_dict` named."""
        self._place = int(state["place"])


def class_by_class(rows: Array, tasks: Array, n_shot: int) -> TaskBatch:
    """Return tasks (t,) of images `rows` (t, k, m): of each class the first `n_shot` for support, the others to be asked."""
    t, n_way, m = rows.shape
    labels = np.arange(n_way)
    return TaskBatch(
        np.ascontiguousarray(rows[:, :, :n_shot]).reshape(t, -1),
        np.tile(np.repeat(labels, n_shot), (t, 1)),
        np.ascontiguousarray(rows[:, :, n_shot:]).reshape(t, -1),
        np.tile(np.repeat(labels, m - n_shot), (t, 1)),
        np.asarray(tasks),
        n_way,
        n_shot,
    )
