"""Where the lines of the results stand on the x axis of a figure: at a value of an axis, or at a number of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fewcore.reports.results import Line

if TYPE_CHECKING:
    from fewcore.reports.report import TaskCount


@dataclass(frozen=True, eq=False)
class Place:
    """A line of the results at `x`, to which the condition `axis` leads it."""

    line: Line
    axis: str
    x: float

    @property
    def label(self) -> str:
        """The line for people, without what its place says."""
        own = {key: value for key, value in self.line.conditions.items() if key != self.axis}
        return ", ".join(part for part in (self.line.name, replace(self.line, conditions=own, repeats={}).note) if part)


def places_by_tasks(counts: Sequence[TaskCount], lines: Sequence[Line]) -> list[Place]:
    """Return the lines whose models were trained on a fixed list of tasks, at its length; over seeds, at the mean.

    Left out is what cannot be joined to a curve: a model for which no condition changes the number of tasks.
    """
    numbers = [(line, n) for line in lines if (n := _mean_count(counts, line)) is not None]
    return [place for stage in dict.fromkeys(line.stage for line, _ in numbers) for place in _curves(stage, numbers)]


def _mean_count(counts: Sequence[TaskCount], line: Line) -> float | None:
    """Return the mean number of tasks over the cells of a line; a model's line has no axis on which it does not depend."""
    found = [
        count.n
        for count in counts
        if count.stage == line.stage
        and all(line.conditions.get(axis, value) == value for axis, value in count.conditions.items())
    ]
    return float(np.mean(found)) if found else None


def _curves(stage: str, numbers: Sequence[tuple[Line, float]]) -> Iterator[Place]:
    """Yield the places of one model's lines, along the condition under which its number of tasks changes most."""
    own = [(line, n) for line, n in numbers if line.stage == stage]
    curves: dict[str, list[list[tuple[Line, float]]]] = {}
    for axis in dict.fromkeys(key for line, _ in own for key in line.conditions):
        groups: dict[str, list[tuple[Line, float]]] = {}
        for line, n in own:
            alike = {key: value for key, value in line.conditions.items() if key != axis}
            groups.setdefault(repr(alike), []).append((line, n))
        curves[axis] = [points for points in groups.values() if _n_counts(points) > 1]
    axis = max(curves, key=lambda axis: max(map(_n_counts, curves[axis]), default=0), default="")
    yield from (Place(line, axis, n) for points in curves.get(axis, ()) for line, n in points)


def _n_counts(points: Sequence[tuple[Line, float]]) -> int:
    return len({n for _, n in points})
