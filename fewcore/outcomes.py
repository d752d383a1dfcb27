"""The core predicts: every model on the rows or tasks of a split, with targets and query labels taken away.

No evaluator holds a model, and no model meets the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fewcore.cells import Cell
from fewcore.contracts import ImageSet, Predictions, TaskBatch
from fewcore.errors import PluginError
from fewcore.metrics import Outcome
from fewcore.nodes import Node, Table
from fewcore.run import Run
from fewcore.session import Session
from fewcore.store import digest
from fewcore.views import view

MODELS = ("learner", "meta_learner")


@dataclass(frozen=True, eq=False)
class Judged:
    """An outcome before it counts: the key of its predictions and the axis values of its cell.

    `table` is the data set on whose rows it was judged, `tasks` the digest of the tasks, empty where there are none.
    """

    key: str
    cell: Cell
    outcome: Outcome
    table: Table
    tasks: str = ""


def outcomes_of(session: Session, node: Node, split: str) -> Iterator[Judged]:
    """Yield the outcomes of a model on a split: one for its rows, or one for each way and shot of each task stream."""
    if (error := session.failed.get(outcomes_key(session, node, split))) is not None:
        raise error
    if node.stage.kind == "learner":
        yield _of_rows(session, node, split)
        return
    streams = streams_of(node, split)
    # Once for all tasks, so that a model can keep what it computed of the images.
    images = cache(lambda: _blind_rows(session, node, split))
    for tasks in streams:
        named = {"tasks": tasks.stage.name} if len(streams) > 1 else {}
        for batch in session.value(tasks).batches():
            yield _of_tasks(session, node, split, images, tasks, batch, named)


def streams_of(node: Node, split: str) -> list[Node]:
    """Return the task samplers on whose tasks a few-shot model is judged."""
    return [
        other
        for other in node.others.values()
        if other.stage.kind == "task_sampler" and other.stage.split == split and other.stage.data == node.stage.data
    ]


def outcomes_key(session: Session, node: Node, split: str) -> str:
    """Return one key for all outcomes of a model on a split."""
    if node.stage.kind == "learner":
        return _key_of_rows(session, node, split)
    return digest("outcomes", node.key, [stream.key for stream in streams_of(node, split)])


def are_stored(session: Session, node: Node, split: str) -> bool:
    """Return whether all predictions of a model on a split are in the store, whose task streams can be made from it."""
    if node.stage.kind == "learner":
        return session.store.has(_key_of_rows(session, node, split))
    keys = [
        _key_of_tasks(node, tasks, n_way, n_shot)
        for tasks in streams_of(node, split)
        for stream in [session.value(tasks)]
        for n_way in stream.n_way
        for n_shot in stream.n_shot
    ]
    return all(session.store.has(key) for key in keys)


def _key_of_rows(session: Session, node: Node, split: str) -> str:
    table = session.table(node.others[node.stage.data])
    table.check_split(split, node.stage.name)
    return digest("predict", node.key, table.key, table.images.ids[table.rows[split]])


def _key_of_tasks(node: Node, tasks: Node, n_way: int, n_shot: int) -> str:
    return digest("classify", node.key, tasks.key, n_way, n_shot)


def _of_rows(session: Session, node: Node, split: str) -> Judged:
    table = session.table(node.others[node.stage.data])
    table.check_split(split, node.stage.name)
    truth = view(table.images, table.rows[split], "all")
    images = _blind_rows(session, node, split)
    key = _key_of_rows(session, node, split)

    def make(run: Run) -> tuple[Any, Any]:
        predictions = session.value(node).predict(images, run)
        if not np.array_equal(predictions.ids, images.ids):
            raise PluginError(
                f"{node.title}: predictions of other images; expected the ids of the images, in their order"
            )
        arrays, meta = predictions.to_arrays()
        return arrays, {**meta, "norm": getattr(session.value(node), "norm", "none")}

    entry = session.stored(key, f"{node.title}: predict", make, {"model": node.key, "split": split})
    made = Predictions.from_arrays(entry.arrays, entry.meta, {})
    outcome = Outcome(
        node.stage.name,
        node.stage.offer.name,
        made,
        split,
        truth.ids,
        truth.groups,
        truth.targets,
        truth.target,
        seen=node.seen,
        norm=entry.meta["norm"],
        images=table.images.images,
    )
    return Judged(key, node.cell, outcome, table)


def _blind_rows(session: Session, node: Node, split: str) -> ImageSet:
    """Return the images, or the vectors in their place, of the rows on which a model is judged, without targets."""
    table = session.table(node.others[node.stage.data])
    images = view(table.images, table.rows[split], "nothing")
    if node.stage.vectors:
        return session.as_vectors(images, node.others[node.stage.vectors], node.others[node.stage.data])
    return images


def _of_tasks(
    session: Session,
    node: Node,
    split: str,
    images: Callable[[], ImageSet],
    tasks: Node,
    batch: TaskBatch,
    named: Mapping[str, Any],
) -> Judged:
    key = _key_of_tasks(node, tasks, batch.n_way, batch.n_shot)

    def make(run: Run) -> tuple[Any, Any]:
        model = session.value(node)
        blind = replace(batch, query_labels=np.full_like(batch.query_labels, -1))
        scores = np.asarray(model.classify(blind, images(), run))
        wanted = (*batch.query.shape, batch.n_way)
        if scores.shape != wanted:
            raise PluginError(f"{node.title}: classify gave scores {scores.shape}; expected {wanted}")
        return {"scores": scores.astype(np.float32)}, {"norm": model.norm}

    title = f"{node.title}: {batch.n_way}-way {batch.n_shot}-shot"
    entry = session.stored(key, title, make, {"model": node.key, "tasks": tasks.key})
    numbers = np.arange(len(batch))
    outcome = Outcome(
        node.stage.name,
        node.stage.offer.name,
        Predictions(numbers, scores=entry.arrays["scores"]),
        split,
        numbers,
        numbers,
        query_labels=batch.query_labels,
        conditions={**named, "way": batch.n_way, "shot": batch.n_shot},
        seen=node.seen,
        norm=entry.meta["norm"],
    )
    drawn = digest(batch.support, batch.support_labels, batch.query, batch.query_labels)
    return Judged(key, node.cell, outcome, session.table(node.others[node.stage.data]), drawn)


def counted_once(judged: list[Judged]) -> list[Judged]:
    """Return each outcome once: axes on which its predictions do not depend are not among its conditions.

    Conditions are the matrix's axes, repeats those that are averaged over.
    """
    groups: dict[tuple[str, str], list[Judged]] = {}
    for entry in judged:
        groups.setdefault((entry.outcome.stage, entry.key), []).append(entry)
    result = []
    for same in groups.values():
        first = same[0]

        def constant(name: str, entries: list[Judged] = same) -> dict[str, Any]:
            axes: list[Mapping[str, Any]] = [getattr(entry.cell, name) for entry in entries]
            return {axis: value for axis, value in axes[0].items() if all(other[axis] == value for other in axes)}

        conditions = {**constant("matrix"), **first.outcome.conditions}
        outcome = replace(first.outcome, conditions=conditions, repeats=constant("repeat"))
        cell = replace(first.cell, matrix=constant("matrix"), select=constant("select"), repeat=constant("repeat"))
        result.append(replace(first, cell=cell, outcome=outcome))
    return result
