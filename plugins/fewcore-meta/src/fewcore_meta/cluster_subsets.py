"""Two-way tasks between two disjoint sets of clusters, in an order that may follow how well they are learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from fewcore import (
    Array,
    DataError,
    Partitions,
    Problem,
    Run,
    TaskBatch,
    distinct_integers,
    option,
    task_key,
    task_uniforms,
)
from fewcore_meta.said_once import say_once

MOST_PARTS = 10
SPARE = 2
"""Images of a side that are left at least for the queries."""
FIRST, SECOND, UNUSED = 0, 1, 2
IMAGES, ORDER = 0, 1
"""What is drawn: which images a task has, and which task comes next."""


def subset_pairs(k: int) -> Array:
    """Return all pairs of disjoint, non-empty subsets of k parts, (3^k - 2^(k+1) + 1) / 2 rows of k.

    Each part is on the first side (0), on the second (1) or unused (2); the side of the first part that is used is the
    first, so that a pair stands once.
    """
    sides = np.array(list(product((FIRST, SECOND, UNUSED), repeat=k)), np.int8)
    used = sides != UNUSED
    leads = sides[np.arange(len(sides)), used.argmax(1)] == FIRST
    return np.asarray(sides[leads & (sides == SECOND).any(1)])


class SubsetStream:
    """Tasks between sets of parts. `pairs` (l, k) are the pairs as `subset_pairs` writes them, `partition` (l,) says of
    which partition each is, `sizes` (l, 2) how many images its sides have; `n_excluded` and `n_small` were left out.
    """

    n_way = (2,)

    def __init__(self, partitions: Partitions, options: ClusterSubsets, seed: int) -> None:
        self.n_shot = (options.n_shot,)
        self.options, self.seed = options, seed
        self._parts = partitions.parts
        k = _n_parts(partitions)
        self.names = partitions.names or tuple(str(part) for part in range(k))
        pairs = subset_pairs(k)
        excluded = _excluded(pairs, self.names, options.exclude)
        counts = np.stack([np.bincount(parts[parts >= 0], minlength=k) for parts in self._parts])
        # A pair of which a part is empty is another pair written again.
        written_twice = ((pairs != UNUSED)[None] & (counts == 0)[:, None]).any(2)
        sizes = np.stack([(counts[:, None] * (pairs == side)).sum(2) for side in (FIRST, SECOND)], 2)
        small = (sizes.min(2) < options.n_shot + SPARE) & ~written_twice
        self.n_excluded, self.n_small = int(excluded.sum()), int((small & ~excluded).sum())
        self.partition, chosen = np.nonzero(~written_twice & ~small & ~excluded)
        if not len(chosen):
            raise _too_small(self.names, counts, options)
        self.pairs, self.sizes = pairs[chosen], sizes[self.partition, chosen]

    def __len__(self) -> int:
        return len(self.pairs)

    def named(self, pair: int) -> str:
        """Return a pair by the names of its parts: `0, 2 | 1`."""
        sides = (
            [name for name, side in zip(self.names, self.pairs[pair], strict=True) if side == wanted]
            for wanted in (FIRST, SECOND)
        )
        return " | ".join(", ".join(side) for side in sides)

    def at(self, pairs: Array, draws: Array) -> TaskBatch:
        """Return a task of each of `pairs` (t,): which images, and which side has label 0, depends on `draws` (t,) alone."""
        n_shot, n_query = self.options.n_shot, self.options.n_query
        sizes = np.minimum(self.sizes[pairs], n_shot + n_query)
        uniforms = task_uniforms(task_key(self.seed, IMAGES), draws, 1 + 2 * (n_shot + n_query))
        support = np.empty((len(pairs), 2, n_shot), np.int64)
        query = np.full((len(pairs), 2, n_query), -1)
        for i, pair in enumerate(pairs.tolist()):
            parts = self._parts[self.partition[pair]]
            swapped = self.options.swap_labels and bool(uniforms[0, i] < 0.5)
            for side in (FIRST, SECOND):
                members = np.flatnonzero(np.isin(parts, np.flatnonzero(self.pairs[pair] == side)))
                size = sizes[i, side]
                own = uniforms[1 + side * (n_shot + n_query) :][:size, i]
                drawn = members[distinct_integers(own[:, None], np.array([len(members)]))[:, 0]]
                label = 1 - side if swapped else side
                support[i, label], query[i, label, : size - n_shot] = drawn[:n_shot], drawn[n_shot:]
        labels = np.repeat([0, 1], n_shot), np.repeat([0, 1], n_query)
        rows = query.reshape(len(pairs), -1)
        return TaskBatch(
            support.reshape(len(pairs), -1),
            np.tile(labels[0], (len(pairs), 1)),
            rows,
            np.where(rows >= 0, labels[1], -1),
            pairs,
            2,
            n_shot,
        )

    def start(self) -> SubsetCursor:
        """Return a cursor that has observed nothing."""
        return SubsetCursor(self)

    def batches(self) -> Iterator[TaskBatch]:
        """Yield the first `n_tasks` tasks, each pair in turn."""
        draws = np.arange(self.options.n_tasks)
        yield self.at(draws % len(self), draws)


class SubsetCursor:
    """One consumer's place, and how well each task went: its last score and what is remembered of it.

    `observed` (l,) counts how often a task was scored, `last` (l,) is its last score, `memory` (l, m) the newest rewards
    first, NaN where there are fewer than m. `waiting` (l,) are drawn and not yet scored: none of them is drawn again
    before all are, so that the tasks of a step differ.
    """

    def __init__(self, stream: SubsetStream) -> None:
        self._stream = stream
        n_pairs = len(stream)
        self._draws = 0
        self.observed = np.zeros(n_pairs, np.int64)
        self.last = np.full(n_pairs, np.nan)
        self.memory = np.full((n_pairs, stream.options.memory), np.nan)
        self.waiting = np.zeros(n_pairs, bool)

    def draw(self, t: int) -> TaskBatch:
        """Return the next t tasks."""
        draws = np.arange(self._draws, self._draws + t)
        chosen = np.array([self._chosen(number) for number in draws.tolist()], np.int64)
        self._draws += t
        return self._stream.at(chosen, draws)

    def _chosen(self, number: int) -> int:
        """Return the pair of the draw with a number."""
        n_pairs, options = len(self._stream), self._stream.options
        if options.order == "round-robin":
            return int(self._uniforms(number // n_pairs, n_pairs).argsort()[number % n_pairs])
        if self.waiting.all():
            self.waiting[:] = False
        luck, pick, (explore,) = np.split(self._uniforms(number, 2 * n_pairs + 1), [n_pairs, 2 * n_pairs])
        if options.order == "random" or explore < options.exploration:
            score = np.zeros(n_pairs)
        else:
            score = self._thompson(pick)
        # Of those that were not yet scored twice, the ones scored least come first.
        seldom = np.where(np.isinf(score), self.observed, 0)
        chosen = int(np.lexsort((luck, seldom, -score, self.waiting))[0])
        self.waiting[chosen] = True
        return chosen

    def _uniforms(self, number: int, n: int) -> Array:
        return task_uniforms(task_key(self._stream.seed, ORDER), np.array([number]), n)[:, 0]

    def _thompson(self, pick: Array) -> Array:
        """Return one remembered reward of each task, drawn at random, without its sign; infinite before there is one."""
        known = (~np.isnan(self.memory)).sum(1)
        reward = self.memory[np.arange(len(pick)), (pick * known).astype(np.int64)]
        return np.where(known > 0, np.abs(reward), np.inf)

    def observe(self, batch: TaskBatch, scores: Array) -> None:
        """Remember how well each task of a batch went; a score that is no number teaches nothing."""
        self.waiting[batch.task] = False
        for pair, score in zip(batch.task.tolist(), scores.tolist(), strict=True):
            if not np.isfinite(score):
                continue
            change = score if self._stream.options.order == "bandit" else score - self.last[pair]
            if np.isfinite(change):
                self.memory[pair, 1:] = self.memory[pair, :-1].copy()
                self.memory[pair, 0] = change
            self.last[pair] = score
            self.observed[pair] += 1

    def state_dict(self) -> Mapping[str, Any]:
        """Return the place and what was observed."""
        return {
            "draws": self._draws,
            "observed": self.observed.copy(),
            "last": self.last.copy(),
            "memory": self.memory.copy(),
            "waiting": self.waiting.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place that `state_dict` named."""
        self._draws = int(state["draws"])
        self.observed, self.last = np.array(state["observed"]), np.array(state["last"])
        self.memory, self.waiting = np.array(state["memory"]), np.array(state["waiting"])


@dataclass(frozen=True)
class ClusterSubsets:
    """Two-way tasks between unions of clusters: all pairs of disjoint, non-empty sets of them.

    K clusters give (3^K - 2^(K+1) + 1) / 2 tasks: 6, 25 and 90 for K = 3, 4 and 5. Images of clusters on neither side are
    not used. Support sets are balanced; a task is left out where a side has fewer than n_shot + 2 images. Which side has
    label 0 is drawn anew for each task (`swap_labels`). Each of several partitions gives tasks of its own.

    `order` says which tasks come next. `random` draws different ones for each step. `round-robin` takes all in turn.
    `curriculum` remembers, for each task, by how much its score changed since it was last trained on, and prefers tasks
    that change most, up or down: of each task one remembered change is drawn, and the largest is taken; tasks of which
    no change is known come first. `bandit` remembers the scores themselves. Both take some tasks at random.
    The score is what the meta-learner reports after it has adapted: `maml` the area under the ROC curve of the queries.

    Source: G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task Design to Meta-Train Medical
    Image Classifiers, ISBI 2020, arXiv:1907.07816; the orders: G. Maicas, A. P. Bradley, J. C. Nascimento, I. Reid,
    G. Carneiro: Training Medical Image Analysis Systems like Radiologists, MICCAI 2018, arXiv:1805.10884;
    T. Matiisen, A. Oliver, T. Cohen, J. Schulman: Teacher-Student Curriculum Learning, 2017, arXiv:1707.00183.

    Differs from the papers: they use all images of a task and name neither the length of the memory nor the share of
    exploration; those of Matiisen et al. are taken.

    Raises:
        DataError: there are more than 10 parts, no pair of them has enough images, or `exclude` names parts or a pair
            that do not exist.

    """

    order: Literal["random", "round-robin", "curriculum", "bandit"] = option("random", "which tasks come next")
    n_shot: int = option(4, "support images of a side", low=1)
    n_query: int = option(12, "query images of a side, at most", low=SPARE)
    memory: int = option(10, "scores or changes that are remembered of a task", paper="10 (Matiisen et al.)", low=1)
    exploration: float = option(
        0.1, "share of tasks taken at random by curriculum and bandit", paper="0.1 (Matiisen et al.)", low=0, high=1
    )
    swap_labels: bool = option(
        True, "draw for each task which side has label 0; false: always the first, as `multi-task` needs it"
    )
    n_tasks: int = option(100, "tasks on validation and test", low=1)
    exclude: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = option(
        (), "pairs that are left out, each as two lists of parts' names: [[[malignant], [none, benign]]]"
    )

    def tasks(self, partitions: Partitions, run: Run) -> SubsetStream:
        """Return the stream of tasks; its seed is drawn from `run.rng`."""
        k = _n_parts(partitions)
        if k > MOST_PARTS:
            raise DataError(
                f"cluster-subsets: found {k} parts; expected at most {MOST_PARTS}, for {k} parts have "
                f"{(3**k - 2 ** (k + 1) + 1) // 2:,} pairs of subsets (lower n_clusters, or take episodes)"
            )
        stream = SubsetStream(partitions, self, int(run.rng.integers(2**63)))
        if stream.n_small:
            # Of excluded pairs people know: they have named them.
            say_once(
                f"cluster-subsets: {len(stream)} of {len(stream) + stream.n_small} tasks; of the others a side has fewer than "
                f"{self.n_shot + SPARE} images ({self.n_shot} support + {SPARE}; lower n_shot for more)"
            )
        return stream


def _n_parts(partitions: Partitions) -> int:
    return len(partitions.names) or int(partitions.parts.max()) + 1


def _excluded(pairs: Array, names: tuple[str, ...], exclude: tuple[tuple[tuple[str, ...], ...], ...]) -> Array:
    """Return which pairs (l, k) are excluded by the names of their parts, (l,) bool."""
    found, problems = np.zeros(len(pairs), bool), []
    for first, second in exclude:
        unknown = [name for name in (*first, *second) if name not in names]
        wanted = np.full(len(names), UNUSED, np.int8)
        wanted[[names.index(name) for name in first if name in names]] = FIRST
        wanted[[names.index(name) for name in second if name in names]] = SECOND
        turned = np.where(wanted == UNUSED, UNUSED, 1 - wanted)
        same = (pairs == wanted).all(1) | (pairs == turned).all(1)
        said = f"exclude: {[list(first), list(second)]}"
        if unknown:
            found_parts = f"{said}: no part named {' or '.join(unknown)}"
            problems.append(Problem("cluster-subsets", found_parts, f"names among {', '.join(names)}"))
        elif not same.any() or set(first) & set(second):
            problems.append(Problem("cluster-subsets", said, "two lists of parts, neither empty and no part in both"))
        found |= same
    if problems:
        raise DataError(*problems)
    return found


def _too_small(names: tuple[str, ...], counts: Array, options: ClusterSubsets) -> DataError:
    """Return the error for parts of which no pair has enough images."""
    sizes = ", ".join(f"{name}: {size}" for name, size in zip(names, counts[0].tolist(), strict=True))
    found = f"no pair of sets of parts with enough images (images by part: {sizes})"
    need = f"at least {options.n_shot + SPARE} on either side ({options.n_shot} support + {SPARE})"
    return DataError(Problem("cluster-subsets", found, need, "lower n_shot, or choose other clusters"))
