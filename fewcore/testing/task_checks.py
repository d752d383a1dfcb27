"""Checks of partitions and of the tasks made from them: ids, support and query, and the law of a stream."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewcore import checkpoint
from fewcore.components import Offer
from fewcore.contracts import Array, Partitions, TaskBatch
from fewcore.testing import toys
from fewcore.testing.trial import Setup, Trial, arrays_within, complain, difference


def partitions_stand_on_the_rows(offer: Offer, setup: Setup) -> None:
    """Partitions are (p, n) and have the ids of the rows that were given, in their order."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    partitions: Partitions = trial.make(arguments=given)
    sources = [value[0] if isinstance(value, tuple) else value for value in given.values()]
    ids = next((value.ids for value in sources if hasattr(value, "ids")), partitions.ids)
    if not np.array_equal(partitions.ids, ids):
        complain(
            offer, "partitions with other ids than their input", "its ids, in its order", "Partitions(parts, x.ids)"
        )


def _labels(batch: TaskBatch) -> Iterator[tuple[int, Array, Array, Array, Array]]:
    for i in range(len(batch)):
        known = batch.query[i] >= 0
        support = batch.support[i], batch.support_labels[i]
        yield i, *support, batch.query[i][known], batch.query_labels[i][known]


def tasks_keep_the_contract(offer: Offer, setup: Setup) -> None:
    """Support and query share no image, each class has its shots, labels count from 0, padding is -1 in both."""
    trial = Trial(offer, setup)
    stream = trial.make()
    n_rows = toys.N_CLASSES * toys.PER_CLASS["train"]
    for batch in (stream.start().draw(8), *stream.batches()):
        if batch.n_way not in stream.n_way or batch.n_shot not in stream.n_shot:
            found = f"a {batch.n_way}-way {batch.n_shot}-shot batch"
            complain(
                offer,
                found,
                f"ways {stream.n_way} and shots {stream.n_shot}, as the stream says",
                "n_way and n_shot as tuples of all that the stream draws",
            )
        if not np.array_equal(batch.query < 0, batch.query_labels < 0):
            complain(offer, "queries padded in rows or labels alone", "-1 in both", "query_labels[query < 0] = -1")
        for i, support, support_labels, query, query_labels in _labels(batch):
            rows = np.concatenate([support, query])
            if len(np.unique(rows)) < len(rows):
                complain(
                    offer,
                    f"task {i} with an image twice, in support or query",
                    "disjoint support and query",
                    "rng.permutation(rows)[: n_shot + n_query], the first n_shot for support",
                )
            if rows.max() >= n_rows:
                complain(
                    offer,
                    f"row {rows.max()} in task {i}",
                    f"rows below {n_rows}, not ids",
                    "places among the stage's rows, from 0",
                )
            if not np.array_equal(np.bincount(support_labels, minlength=batch.n_way), [batch.n_shot] * batch.n_way):
                complain(
                    offer,
                    f"support labels {support_labels.tolist()}",
                    f"{batch.n_shot} of each of {batch.n_way}",
                    "class_by_class(rows, tasks, n_shot)",
                )
            if len(query_labels) and not (query_labels.min() >= 0 and query_labels.max() < batch.n_way):
                complain(
                    offer,
                    f"query labels {query_labels.tolist()}",
                    f"0 to {batch.n_way - 1}",
                    "class_by_class(rows, tasks, n_shot)",
                )


def tasks_are_pure(offer: Offer, setup: Setup) -> None:
    """Classes of a task made from partitions are told apart by one of them: no part is in two classes, none is -1."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    if "partitions" not in given:
        return
    sources = given["partitions"] if isinstance(given["partitions"], tuple) else (given["partitions"],)
    every = np.concatenate([source.parts for source in sources])
    for i, support, support_labels, query, query_labels in _labels(trial.make(arguments=given).start().draw(8)):
        rows, labels = np.concatenate([support, query]), np.concatenate([support_labels, query_labels])
        inside = rows.max() < every.shape[1]
        if not (inside and any(_tells_apart(parts[rows], labels) for parts in every)):
            complain(
                offer,
                f"task {i}, whose classes no partition tells apart",
                "classes made of different parts",
                "images of one part for each label, of one partition",
            )


def _tells_apart(parts: Array, labels: Array) -> bool:
    owners: dict[int, set[int]] = {}
    for part, label in zip(parts.tolist(), labels.tolist(), strict=True):
        owners.setdefault(part, set()).add(label)
    return -1 not in owners and all(len(classes) == 1 for classes in owners.values())


def stream_obeys_its_law(offer: Offer, setup: Setup) -> None:
    """Task i is a function of seed and i (and of observations): cursors agree, go on from a checkpoint, do not interact."""
    trial = Trial(offer, setup)
    stream = trial.make()
    finite = arrays_within(list(stream.batches()))
    if apart := difference(finite, arrays_within(list(stream.batches()))):
        complain(
            offer,
            f"{apart} in two calls of batches()",
            "the same finite tasks every time",
            "batches() as a function of the seed and the task numbers alone",
        )
    first, second = stream.start(), stream.start()
    whole = first.draw(3)
    parts = [second.draw(2), second.draw(1)]
    for name in ("support", "query", "task"):
        pieces = np.concatenate([getattr(part, name) for part in parts])
        if not np.array_equal(getattr(whole, name), pieces):
            complain(
                offer,
                f"other {name} in draw(2) and draw(1) than in draw(3)",
                "equal tasks from two cursors",
                "task i as a function of the seed and i, such as numpy_generator(child_seed(seed, i))",
            )
    first.observe(whole, np.array([0.9, 0.1, 0.5]))
    state = _through_checkpoint(dict(first.state_dict()))
    later = stream.start()
    later.load_state_dict(state)
    if apart := difference(arrays_within(first.draw(4)), arrays_within(later.draw(4))):
        complain(
            offer,
            f"{apart} after state_dict and load_state_dict",
            "the tasks that would have come next",
            "every number that draw changes into state_dict",
        )
    again = trial.make().start()
    if apart := difference(arrays_within(whole), arrays_within(again.draw(3))):
        complain(
            offer,
            f"{apart} in a stream made again from its recipe",
            "the same tasks",
            "the seed of the stream as int(run.rng.integers(2**63))",
        )


def _through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fewcore-conformance-") as folder:
        path = Path(folder) / "state.checkpoint"
        checkpoint.save(path, state)
        return checkpoint.load(path) or {}
