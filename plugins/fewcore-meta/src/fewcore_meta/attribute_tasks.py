"""Attribute tasks: images with some binary attributes against images with the opposite ones, as CACTUs tests on CelebA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from fewcore import (
    Array,
    DataError,
    ImageSet,
    NumberedCursor,
    Problem,
    Run,
    TaskBatch,
    class_by_class,
    distinct_integers,
    option,
    task_key,
    task_uniforms,
)

AHEAD = 256
"""Tasks that a cursor draws ahead."""
WORDS_AT_ONCE = 2**19
"""Words of 64 images that are looked at together: 4 MB."""
BITS = 64


def _packed(columns: Array) -> Array:
    """Return truth values (a, n) as bits, (a, ceil(n / 64)) uint64, image i in bit i % 64 of word i // 64."""
    padded = np.pad(columns, ((0, 0), (0, -columns.shape[1] % BITS)))
    return np.asarray(np.packbits(padded, axis=1, bitorder="little").view("<u8"))


def _ones(words: Array) -> Array:
    """Return how many bits of each word are set, (...) int64: sums of neighbouring bits, then pairs, then fours."""
    x = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.asarray((x * np.uint64(0x0101010101010101)) >> np.uint64(56), np.int64)


class _Table:
    """A table of binary attributes, and the tasks that it gives: an image's membership is read from bits.

    `prototypes` (c, k) hold signed attributes: a where the first class has attribute a, ~a where it lacks it; the second
    class has the opposite. `sizes` (c, 2) are the classes' images.
    """

    def __init__(self, values: Array, attributes: range, together: int) -> None:
        # Row a says who has attribute a, row -1 - a, which is ~a, who lacks it; who is unknown is in neither.
        has, lacks = (np.ascontiguousarray(truth == values.T) for truth in (1, 0))
        self._bits = _packed(np.concatenate([has, lacks[::-1]]))
        signs = [np.array((-1, *rest)) for rest in product((-1, 1), repeat=together - 1)]
        chosen = np.array(list(combinations(attributes, together)))
        self.prototypes = np.stack([np.where(sign > 0, chosen, ~chosen) for sign in signs], 1).reshape(-1, together)
        self.sizes = self._in_blocks(self.prototypes, lambda words: _ones(words).sum(-1))

    def _in_blocks(self, prototypes: Array, measure: Any) -> Array:
        """Return `measure` of the words (b, 2, w) of both classes of prototypes, block by block."""
        step = max(1, WORDS_AT_ONCE // (2 * self._bits.shape[1]))
        return np.concatenate(
            [measure(self._words(prototypes[start : start + step])) for start in range(0, len(prototypes), step)]
        )

    def _words(self, prototypes: Array) -> Array:
        """Return the members of both classes as bits, (b, 2, w) uint64."""
        both = np.stack([prototypes, ~prototypes], 1)
        words = self._bits[both[..., 0]]
        for place in range(1, both.shape[-1]):
            words &= self._bits[both[..., place]]
        return np.asarray(words)

    def members(self, prototypes: Array, ranks: Array) -> Array:
        """Return the images that are `ranks` (b, 2, m) -th among the members of each class, (b, 2, m) int64."""
        step = max(1, WORDS_AT_ONCE // (2 * self._bits.shape[1]))
        parts = [slice(start, start + step) for start in range(0, len(prototypes), step)]
        return np.concatenate([_ranked(self._words(prototypes[part]), ranks[part]) for part in parts])


def _ranked(words: Array, ranks: Array) -> Array:
    """Return the places of the set bits that have `ranks` (b, 2, m) in `words` (b, 2, w), (b, 2, m) int64."""
    b, classes, w = words.shape
    rows = words.reshape(-1, w)
    upto = np.cumsum(_ones(rows).reshape(-1))
    before_row = np.concatenate([[0], upto[w - 1 :: w][:-1]])
    wanted = ranks.reshape(len(rows), -1) + before_row[:, None]
    # One search serves all rows, since the counts grow from row to row.
    word = np.searchsorted(upto, wanted, side="right")
    found = rows.reshape(-1)[word]
    left = wanted - (upto[word] - _ones(found))
    bits = np.unpackbits(found.astype("<u8").reshape(-1, 1).view(np.uint8), axis=1, bitorder="little")
    place = np.argmax(np.cumsum(bits, 1, dtype=np.uint8) == left.reshape(-1, 1) + 1, axis=1).reshape(word.shape)
    inside = word - np.arange(len(rows))[:, None] * w
    return np.asarray((inside * BITS + place).reshape(b, classes, -1))


class AttributeStream:
    """Two-way tasks from a table of attributes. Task i depends on the seed and i alone.

    `n_prototypes` counts those with enough images in both classes, of `n_candidates`.
    """

    n_way = (2,)

    def __init__(self, table: _Table, usable: Array, options: AttributeTasks, seed: int) -> None:
        self.n_shot = (options.n_shot,)
        self.n_query = options.n_query
        self.n_tasks = options.n_tasks
        self.n_candidates = len(table.prototypes)
        self.n_prototypes = len(usable)
        self._table, self._usable = table, usable
        self._key = task_key(seed, 2, options.n_shot)

    def at(self, tasks: Array) -> TaskBatch:
        """Return the tasks with numbers `tasks` (t,); support and query stand class by class."""
        t, size, n_shot = len(tasks), self.n_shot[0] + self.n_query, self.n_shot[0]
        uniforms = task_uniforms(self._key, tasks, 2 + 2 * size)
        number = self._usable[(uniforms[0] * len(self._usable)).astype(np.int64)]
        ranks = distinct_integers(uniforms[2:].reshape(size, 2, t), self._table.sizes[number].T)
        rows = self._table.members(self._table.prototypes[number], ranks.transpose(2, 1, 0))
        swapped = uniforms[1] < 0.5
        rows[swapped] = rows[swapped, ::-1]
        return class_by_class(rows, tasks, n_shot)

    def start(self) -> NumberedCursor:
        """Return a cursor at task 0."""
        return NumberedCursor(self.at, AHEAD)

    def batches(self) -> Iterator[TaskBatch]:
        """Yield the first `n_tasks` tasks."""
        yield self.at(np.arange(self.n_tasks))


@dataclass(frozen=True)
class AttributeTasks:
    """Two-way tasks from a table of binary attributes, three at a time.

    A prototype is a set of `together` attributes and, for each, whether the images of the first class have it; the images
    of the second class are opposite in all of them. Images that are in neither class, or of which one of the attributes
    is unknown, are no part of the task. Prototypes and their opposites are one, so that A attributes give
    C(A, 3) * 4 candidates: 4,560 from 20, 480 from 10. Those with fewer than n_shot + n_query images in a class are left
    out. A task draws one of the others, which class has label 0, and the images without replacement. Task i is a function
    of the seed and i alone.

    `attributes` is the stage's own range, so that training, validation and test may ask of different things: on CelebA
    [0, 20], [20, 30] and [30, 40], in the order of its file.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, appendix B.

    Differs from the paper: nothing known. It counts 4,287, 391 and 402 prototypes on CelebA, with 6 images a class in
    training and 10 in validation and test.

    Raises:
        DataError: there is no table of attributes, several without `table`, fewer attributes than the range asks for, or
            no prototype with enough images.

    """

    attributes: tuple[int, int] = option(
        (0, 20), "the first attribute and the one after the last", paper="0, 20; 20, 30 and 30, 40 to validate and test"
    )
    together: int = option(3, "attributes that define a task", paper="3", low=1, high=8)
    table: str = option("", "the target that holds the attributes; needed where there are several")
    n_shot: int = option(5, "support images of a class", paper="1 in training, 5 in tests", low=1)
    n_query: int = option(5, "query images of a class", paper="5, ProtoNets 15", low=1)
    n_tasks: int = option(1000, "tasks on validation and test", paper="1000", low=1)

    def __post_init__(self) -> None:
        first, last = self.attributes
        if first < 0 or last - first < self.together:
            raise ValueError(
                f"attributes: found {[first, last]}; expected a range of at least {self.together} (together), from 0"
            )

    def tasks(self, images: ImageSet, run: Run) -> AttributeStream:
        """Return the stream of tasks; its seed is drawn from `run.rng`."""
        name = self._table_name(images)
        target = images.targets[name]
        if self.attributes[1] > target.values.shape[1]:
            raise DataError(
                f"attribute-tasks: found attributes {list(self.attributes)} of a table '{name}' of "
                f"{target.values.shape[1]}; expected at most [0, {target.values.shape[1]}]"
            )
        table = _Table(target.values, range(*self.attributes), self.together)
        usable = np.flatnonzero(table.sizes.min(1) >= self.n_shot + self.n_query)
        if not len(usable):
            raise self._too_few(table, target.names)
        return AttributeStream(table, usable, self, int(run.rng.integers(2**63)))

    def _table_name(self, images: ImageSet) -> str:
        names = sorted(name for name, target in images.targets.items() if target.kind == "attributes")
        if self.table in names or (len(names) == 1 and not self.table):
            return self.table or names[0]
        if not names:
            raise DataError(
                "attribute-tasks: found no table of binary attributes; expected a data set with one, such as celeba"
            )
        found = f"'{self.table}'" if self.table else f"{len(names)} tables of attributes"
        raise DataError(f"attribute-tasks: found {found}; expected one of {', '.join(names)} (type table: {names[0]})")

    def _too_few(self, table: _Table, names: tuple[str, ...]) -> DataError:
        """Return the error for a table in which no prototype has enough images of both classes."""
        need = self.n_shot + self.n_query
        best = int(table.sizes.min(1).argmax())
        signed = table.prototypes[best].tolist()
        said = ", ".join(f"{'' if a >= 0 else 'not '}{names[max(a, ~a)] if names else max(a, ~a)}" for a in signed)
        sizes = " and ".join(str(size) for size in table.sizes[best])
        found = f"the largest of {len(table.prototypes)} prototypes ({said}) has {sizes} images in its classes"
        expected = f"at least {need} in both ({self.n_shot} support + {self.n_query} query)"
        return DataError(Problem("attribute-tasks", found, expected, "lower n_shot or n_query, or give more images"))
