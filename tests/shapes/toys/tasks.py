"""K-means, and two task samplers that need no partition of everything: attributes, and subsets of clusters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.cluster import KMeans as SklearnKMeans

from fewcore import Array, Embeddings, ImageSet, Partitions, Run, TaskBatch, option


@dataclass(frozen=True)
class KMeans:
    """Clusters of vectors, each partition under its own random weights of the axes."""

    n_clusters: int = option(20, "clusters", low=2)
    n_partitions: int = option(1, "partitions", low=1)
    n_init: int = option(1, "starts", low=1)

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        """Return the partitions (p, n)."""
        vectors = embeddings.vectors
        assert vectors.ndim == 2
        parts = []
        for number in range(self.n_partitions):
            weights = np.ones(vectors.shape[1]) if number == 0 else run.rng.random(vectors.shape[1])
            seed = int(run.rng.integers(2**31))
            found = SklearnKMeans(self.n_clusters, n_init=self.n_init, random_state=seed)
            parts.append(found.fit_predict(vectors * weights))
        return Partitions(np.array(parts, np.int16), embeddings.ids)


def _task(sides: tuple[Array, Array], s: int, q: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """Return support, its labels, query, its labels of a two-way task; queries are padded with -1 to 2 q."""
    drawn = [rng.permutation(side) for side in sides]
    most = min(q, *(len(side) - s for side in drawn))
    query = np.concatenate([side[s : s + most] for side in drawn])
    pad = (0, 2 * q - len(query))
    return (
        np.concatenate([side[:s] for side in drawn]),
        np.repeat([0, 1], s),
        np.pad(query, pad, constant_values=-1),
        np.pad(np.repeat([0, 1], most), pad, constant_values=-1),
    )


class AttributeStream:
    """Tasks that part images by three attributes; task i depends on the seed and i alone."""

    def __init__(self, sides: list[tuple[Array, Array]], options: AttributeTasks, seed: int) -> None:
        self.n_way, self.n_shot = (2,), (options.n_shot,)
        self._sides, self._options, self._seed = sides, options, seed

    def at(self, tasks: Array) -> TaskBatch:
        """Return tasks by number."""
        made, which = [], []
        for number in tasks.tolist():
            rng = np.random.default_rng([self._seed, number])
            which.append(int(rng.integers(len(self._sides))))
            made.append(_task(self._sides[which[-1]], self._options.n_shot, self._options.n_query, rng))
        return TaskBatch(*(np.stack(part) for part in zip(*made, strict=True)), np.array(which), 2, self.n_shot[0])

    def start(self) -> AttributeCursor:
        """Return a cursor at task 0."""
        return AttributeCursor(self)

    def batches(self) -> Iterator[TaskBatch]:
        """Yield one batch."""
        yield self.at(np.arange(self._options.n_tasks))


class AttributeCursor:
    """The number of the next task."""

    def __init__(self, stream: AttributeStream) -> None:
        self._stream = stream
        self._place = 0

    def draw(self, t: int) -> TaskBatch:
        """Return the next t tasks."""
        self._place += t
        return self._stream.at(np.arange(self._place - t, self._place))

    def observe(self, batch: TaskBatch, scores: Array) -> None:
        """Do nothing."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the place."""
        return {"place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place."""
        self._place = state["place"]


@dataclass(frozen=True)
class AttributeTasks:
    """Two-way tasks: images with three given attributes against images with the opposite ones."""

    attributes: tuple[int, int] = option((0, 4), "the first attribute, and the one after the last")
    n_shot: int = option(5, "support images of a class", low=1)
    n_query: int = option(5, "query images of a class", low=1)
    n_tasks: int = option(20, "tasks of evaluation", low=1)

    def tasks(self, images: ImageSet, run: Run) -> AttributeStream:
        """Return the stream."""
        values = images.targets["attributes"].values
        sides = []
        for three in itertools.combinations(range(*self.attributes), 3):
            for signs in itertools.product((0, 1), repeat=2):
                wanted = np.array((0, *signs))
                sides.append(tuple(np.flatnonzero((values[:, three] == side).all(1)) for side in (wanted, 1 - wanted)))
        usable = [(a, b) for a, b in sides if min(len(a), len(b)) > self.n_shot]
        return AttributeStream(usable, self, int(run.rng.integers(2**31)))


Pair = tuple[frozenset[int], frozenset[int]]


class SubsetStream:
    """Tasks between two disjoint sets of parts; the cursor learns which of them still teach something."""

    n_way = (2,)

    def __init__(self, partitions: Partitions, options: ClusterSubsets, seed: int) -> None:
        self.n_shot = (options.n_support,)
        self.options, self.seed = options, seed
        self.parts = partitions.parts[0]
        k = int(self.parts.max()) + 1
        names = partitions.names or tuple(str(number) for number in range(k))
        excluded = [{frozenset(side) for side in pair} for pair in options.exclude]
        self.pairs: list[Pair] = []
        for labels in itertools.product((0, 1, 2), repeat=k):
            a, b = (frozenset(i for i, label in enumerate(labels) if label == side) for side in (0, 1))
            named = {frozenset(names[i] for i in side) for side in (a, b)}
            if a and b and min(a) < min(b) and named not in excluded and self._large(a, b):
                self.pairs.append((a, b))

    def _large(self, *sides: frozenset[int]) -> bool:
        return all(np.isin(self.parts, list(side)).sum() > self.options.n_support for side in sides)

    def start(self) -> SubsetCursor:
        """Return a cursor that has observed nothing."""
        return SubsetCursor(self)

    def batches(self) -> Iterator[TaskBatch]:
        """Yield the first tasks in the order that needs no feedback."""
        yield self.start().draw(self.options.n_tasks)


class SubsetCursor:
    """How well each pair went: its last score and the changes so far."""

    def __init__(self, stream: SubsetStream) -> None:
        self._stream = stream
        self._rng = np.random.Generator(np.random.Philox(stream.seed))
        n = len(stream.pairs)
        self.observed = np.zeros(n, np.int64)
        self._last = np.zeros(n)
        self._change = np.full(n, np.inf)

    def draw(self, t: int) -> TaskBatch:
        """Return t tasks: at random, or those first whose score changed most."""
        options, pairs = self._stream.options, self._stream.pairs
        noise = self._rng.random(len(pairs))
        order = np.argsort(noise) if options.order == "random" else np.lexsort((noise, -self._change))
        chosen = np.resize(order, t)
        made = []
        for number in chosen:
            a, b = (np.flatnonzero(np.isin(self._stream.parts, list(side))) for side in pairs[number])
            made.append(_task((a, b), options.n_support, options.n_query, self._rng))
        stacked = (np.stack(part) for part in zip(*made, strict=True))
        return TaskBatch(*stacked, chosen, 2, options.n_support)

    def observe(self, batch: TaskBatch, scores: Array) -> None:
        """Note how each task went."""
        for number, score in zip(batch.task.tolist(), scores.tolist(), strict=True):
            if self.observed[number]:
                self._change[number] = abs(score - self._last[number])
            self._last[number] = score
            self.observed[number] += 1

    def state_dict(self) -> Mapping[str, Any]:
        """Return what was observed and the generator's state."""
        numbers = {"observed": self.observed.copy(), "last": self._last.copy(), "change": self._change.copy()}
        return {**numbers, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.observed, self._last, self._change = (state[name].copy() for name in ("observed", "last", "change"))
        self._rng.bit_generator.state = state["rng"]


@dataclass(frozen=True)
class ClusterSubsets:
    """Two-way tasks between unions of clusters."""

    order: Literal["random", "curriculum"] = option("random", "which pair comes next")
    n_support: int = option(2, "support images of a class", low=1)
    n_query: int = option(4, "query images of a class", low=1)
    n_tasks: int = option(20, "tasks of evaluation", low=1)
    exclude: tuple[tuple[tuple[str, ...], ...], ...] = option((), "pairs that are left out, by the parts' names")

    def tasks(self, partitions: Partitions, run: Run) -> SubsetStream:
        """Return the stream."""
        return SubsetStream(partitions, self, int(run.rng.integers(2**31)))
