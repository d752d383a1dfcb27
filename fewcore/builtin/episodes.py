"""Few-shot tasks from the parts of partitions: vectorised, and each task a pure function of the seed and its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from fewcore import (
    Array,
    DataError,
    NumberedCursor,
    Partitions,
    PipelineError,
    Problem,
    Run,
    TaskBatch,
    class_by_class,
    distinct_integers,
    option,
    task_key,
    task_uniforms,
)

BLOCK = 1024
"""Tasks that a cursor draws ahead: what NumPy costs for each call is then shared by many tasks."""

LISTED = 12


class _Index:
    """The members of every part of every partition, sorted by part; a partition is sorted when it is first drawn.

    `counts` (p, k) are the sizes of the parts, `first` (p, k) where a part begins in the members.
    """

    def __init__(self, partitions: Partitions) -> None:
        self.parts = partitions.parts
        p, self.n = self.parts.shape
        k = int(self.parts.max()) + 1
        self.counts = np.zeros((p, k), np.int64)
        for row, counts in zip(self.parts, self.counts, strict=True):
            counts += np.bincount(row[row >= 0], minlength=k)
        before = np.cumsum(self.counts, 1) - self.counts
        unassigned = self.n - self.counts.sum(1)
        self.first = before + (unassigned + np.arange(p) * self.n)[:, None]
        # Memory that is never written is never taken, so thousands of partitions cost what is drawn of them.
        self._members = np.empty(p * self.n, np.min_scalar_type(max(self.n - 1, 0)))
        self._sorted = np.zeros(p, bool)

    def members(self, partitions: Array, places: Array) -> Array:
        """Return the rows that stand at `places`, which lie in `partitions`; int64."""
        for p in np.unique(partitions[~self._sorted[partitions]]):
            self._members[p * self.n : (p + 1) * self.n] = np.argsort(self.parts[p], kind="stable")
            self._sorted[p] = True
        return self._members[places].astype(np.int64)


class _Setting:
    """What is drawn from, for one way and shot: the usable partitions and, of each, the parts that are large enough.

    `cumulative` (u,) are the summed probabilities of the usable partitions, `usable` (u,) their numbers; the parts of
    partition p that are large enough are `parts[begin[p] : begin[p] + n_parts[p]]`.
    """

    def __init__(self, partitions: Partitions, index: _Index, n_way: int, n_shot: int, n_query: int) -> None:
        large = index.counts >= n_shot + n_query
        self.n_parts = large.sum(1)
        self.usable = np.flatnonzero((self.n_parts >= n_way) & (partitions.weights > 0))
        self.left_out = int((partitions.weights > 0).sum()) - len(self.usable)
        if not len(self.usable):
            raise _too_small(partitions, index.counts, n_way, n_shot, n_query)
        self.parts = np.nonzero(large)[1]
        self.begin = np.cumsum(self.n_parts) - self.n_parts
        weights = partitions.weights[self.usable]
        self.cumulative = np.cumsum(weights / weights.sum())
        self.cumulative[-1] = 1.0


def _too_small(partitions: Partitions, counts: Array, n_way: int, n_shot: int, n_query: int) -> DataError:
    """Return the error for partitions of which none has enough parts that are large enough."""
    need = n_shot + n_query
    needs = f"a task needs {need} ({n_shot} support + {n_query} query)"
    large = (counts >= need).sum(1)
    best = int(np.argmax(np.where(partitions.weights > 0, large, -1)))
    n_large = int(large[best])
    where = f" in the best of {len(partitions)} partitions" if len(partitions) > 1 else ""
    found = f"found {n_large} part{'s' * (n_large != 1)} with at least {need} images{where}"
    problems = [Problem("", found, f"{n_way} (n_way)", "lower n_way, n_shot or n_query")]
    if partitions.names:
        sizes = list(zip(partitions.names, counts[best].tolist(), strict=False))
        small = [(name, size) for name, size in sizes if size < need]
        for name, size in small[:LISTED]:
            problems.append(Problem("", f"class '{name}' has {size} image{'s' * (size != 1)}; {needs}"))
        if len(small) > LISTED:
            problems.append(Problem("", f"{len(small) - LISTED} more classes are too small"))
    else:
        sizes_text = ", ".join(str(size) for size in np.sort(counts[best])[::-1][:LISTED])
        problems.append(Problem("", f"its parts have {sizes_text} images; {needs}"))
    return DataError(*problems, title="episodes")


class EpisodeStream:
    """Tasks from partitions of the stage's rows. Task i of a way and shot depends on the seed and i alone.

    `n_way` and `n_shot` are tuples. `left_out` counts the partitions that cannot serve the first way and shot, because
    too few of their parts have enough members; the others share their probability.
    """

    def __init__(self, partitions: Partitions, episodes: Episodes, seed: int) -> None:
        self.n_way = _as_tuple(episodes.n_way)
        self.n_shot = _as_tuple(episodes.n_shot)
        self.n_query = episodes.n_query
        self.n_tasks = episodes.n_tasks
        self._partitions = partitions
        self._seed = seed
        self._settings: dict[tuple[int, int], _Setting] = {}
        for n_way in self.n_way:
            for n_shot in self.n_shot:
                self._settings[n_way, n_shot] = _Setting(partitions, self._index, n_way, n_shot, self.n_query)

    @cached_property
    def _index(self) -> _Index:
        return _Index(self._partitions)

    @property
    def left_out(self) -> int:
        """How many partitions with a positive weight cannot serve the first way and shot."""
        return self._settings[self.n_way[0], self.n_shot[0]].left_out

    def at(self, tasks: Array, n_way: int, n_shot: int) -> TaskBatch:
        """Return the tasks with numbers `tasks` (t,) of a way and shot; support and query stand class by class."""
        setting, index = self._settings[n_way, n_shot], self._index
        t, size = len(tasks), n_shot + self.n_query
        uniforms = task_uniforms(task_key(self._seed, n_way, n_shot), tasks, 1 + n_way + n_way * size)
        partition = setting.usable[np.searchsorted(setting.cumulative, uniforms[0], side="right")]
        # The order in which the parts are drawn is uniform, so it is the permutation of the labels too.
        places = setting.begin[partition] + distinct_integers(uniforms[1 : 1 + n_way], setting.n_parts[partition])
        part = setting.parts[places]
        sizes = index.counts[partition, part]
        drawn = distinct_integers(uniforms[1 + n_way :].reshape(size, n_way, t), sizes)
        rows = index.members(partition, index.first[partition, part] + drawn).transpose(2, 1, 0)
        return class_by_class(rows, tasks, n_shot)

    def start(self) -> NumberedCursor:
        """Return a cursor at task 0.

        Raises:
            PipelineError: the stream has several ways or shots, of which no batch can be made.

        """
        if len(self.n_way) > 1 or len(self.n_shot) > 1:
            raise PipelineError(
                f"episodes: found n_way {list(self.n_way)} and n_shot {list(self.n_shot)} where tasks are trained on; "
                f"expected one of each (write n_way: {self.n_way[0]}, n_shot: {self.n_shot[0]})"
            )
        return NumberedCursor(partial(self.at, n_way=self.n_way[0], n_shot=self.n_shot[0]), BLOCK)

    def batches(self) -> Iterator[TaskBatch]:
        """Yield the first `n_tasks` tasks of each way and shot."""
        for n_way in self.n_way:
            for n_shot in self.n_shot:
                yield self.at(np.arange(self.n_tasks), n_way, n_shot)


def _as_tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class Episodes:
    """N-way tasks from the parts of partitions, as in CACTUs.

    A task draws a partition by its weight; n_way of its parts, uniformly and not by size, among those with at least
    n_shot + n_query members; which part gets which label; and the members, without replacement. Parts that are too
    small are passed over here and not by the partitioner, so that one set of partitions feeds learners of several task
    sizes. Task i is a function of the seed and i alone, however many tasks are drawn at a time.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, section
    2.3. Random numbers: G. Steele, D. Lea, C. Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014,
    doi:10.1145/2660193.2660195 (SplitMix64).

    Differs from the paper: tasks are drawn when they are asked for instead of all before training.

    Raises:
        DataError: no partition has n_way parts with enough members; the message names the classes that are too small.

    """

    n_way: int | tuple[int, ...] = option(5, "classes of a task; a list on validation and test", paper="20 on Omniglot")
    n_shot: int | tuple[int, ...] = option(1, "support images of a class; a list on validation and test", paper="1")
    n_query: int = option(5, "query images of a class", paper="5, ProtoNets 15", low=1)
    n_tasks: int = option(1000, "tasks of each way and shot on validation and test", paper="1000", low=1)

    def __post_init__(self) -> None:
        for name, low in (("n_way", 2), ("n_shot", 1)):
            values = _as_tuple(getattr(self, name))
            if not values or min(values) < low or len(set(values)) < len(values):
                raise ValueError(f"{name}: found {list(values)}; expected distinct integers from {low}")

    def tasks(self, partitions: Partitions, run: Run) -> EpisodeStream:
        """Return the stream of tasks; its seed is drawn from `run.rng`."""
        return EpisodeStream(partitions, self, int(run.rng.integers(2**63)))
