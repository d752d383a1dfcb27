"""What a run shows on its page: images of each split, parts of a partition, tasks, a map of the embedding, drawn models.

True classes are used to colour the map, and only there; the caption says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import reduce

import numpy as np
from matplotlib.axes import Axes

from fewcore.cells import in_common
from fewcore.contracts import Array
from fewcore.errors import FewcoreError
from fewcore.nodes import Node, result_class
from fewcore.reports.drawing import draw as drawn
from fewcore.reports.rating_pictures import rating_pictures
from fewcore.reports.report import Picture
from fewcore.seeds import child_seed, numpy_generator
from fewcore.session import Session

PARTS, PER_PART = 10, 12
TASKS, WAYS, QUERIES = 3, 5, 3
POINTS, CLASSES = 1500, 10
MOST_MODELS = 24

Draw = Callable[[Session, Node], list[Picture]]


def pictures(session: Session, cells: Sequence[Mapping[str, Node]]) -> tuple[Picture, ...]:
    """Return the pictures of the first of some cells, and what the models of all of them draw of themselves.

    A stage whose result is missing has no picture.
    """
    made: list[Picture] = []
    for node in cells[0].values() if cells else ():
        if node.stage.kind in DRAWN and node.stage.split == "train":
            with suppress(FewcoreError):  # the failure itself is reported with its stage
                made += DRAWN[node.stage.kind](session, node)
    for same in _models(cells):
        with suppress(FewcoreError):
            made += _model(session, same[0], _named(same))
    return tuple(made)


def _models(cells: Sequence[Mapping[str, Node]]) -> list[list[Node]]:
    """Return what can draw itself, each with its nodes in all cells that share it; what cannot is not even loaded."""
    found: dict[str, list[Node]] = {}
    for node in (node for nodes in cells for node in nodes.values()):
        can = node.stage.kind in DRAW_THEMSELVES and node.stage.split == "train"
        if can and hasattr(result_class(node.stage), "draw"):
            found.setdefault(node.key, []).append(node)
    return list(found.values())[:MOST_MODELS]


def _named(same: Sequence[Node]) -> str:
    """Return a stage with the matrix values on which its result depends: those that all cells with this result share."""
    shared = reduce(in_common, (node.cell.matrix for node in same))
    told = ", ".join(f"{axis} {value}" for axis, value in shared.items())
    return f"{same[0].stage.name} ({told})" if told else same[0].stage.name


def _rng(node: Node) -> np.random.Generator:
    return numpy_generator(child_seed(0, "pictures", node.stage.kind))


def _data(session: Session, node: Node) -> list[Picture]:
    table = session.table(node)
    rows = np.concatenate([np.sort(_rng(node).permutation(r)[:PER_PART]) for r in table.rows.values()])
    groups = np.concatenate([np.full(min(PER_PART, len(r)), i) for i, r in enumerate(table.rows.values())])
    caption = "Images of each split, drawn at random."
    pixels = _cut(table.images.images, rows)
    sample = Picture("data", "Images", node.stage.name, caption, pixels, groups, tuple(table.rows))
    return [sample, *rating_pictures(table.images, node.stage.name, _rng(node))]


def _cut(images: Array, rows: Array) -> Array:
    return np.asarray(images[rows])


def _partition(session: Session, node: Node) -> list[Picture]:
    partitions = session.value(node)
    images = session.table(node.others[node.stage.data]).images
    rng = _rng(node)
    parts = partitions.parts[0]
    present, counts = np.unique(parts[parts >= 0], return_counts=True)
    # Of few parts all are shown; of many those that fill a row.
    full = present if len(present) <= PARTS else present[counts >= min(PER_PART, counts.max())]
    chosen = rng.permutation(full)[:PARTS]
    members = [rng.permutation(np.flatnonzero(parts == part))[:PER_PART] for part in chosen]
    rows = partitions.ids[np.concatenate(members)]
    groups = np.repeat(np.arange(len(chosen)), [len(m) for m in members])
    names = tuple(partitions.names[p] if p < len(partitions.names) else f"part {p}" for p in chosen)
    which = "All" if len(chosen) == len(present) else f"{len(chosen)} of"
    caption = f"{which} {len(present)} parts of the first of {len(partitions)} partitions, with images drawn at random."
    return [Picture("partition", "Parts", node.stage.name, caption, _cut(images.images, rows), groups, names)]


def _tasks(session: Session, node: Node) -> list[Picture]:
    batch = session.value(node).start().draw(TASKS)
    table = session.table(node.others[node.stage.data])
    ids = table.view("train", "nothing").ids
    rows: list[int] = []
    groups: list[int] = []
    roles: list[int] = []
    names: list[str] = []
    for t in range(len(batch)):
        for way in range(min(WAYS, batch.n_way)):
            support = batch.support[t][batch.support_labels[t] == way][:QUERIES]
            query = batch.query[t][batch.query_labels[t] == way][:QUERIES]
            rows += [*support, *query]
            groups += [len(names)] * (len(support) + len(query))
            roles += [0] * len(support) + [1] * len(query)
            names.append(f"task {t + 1}, class {way + 1}")
    shown = min(WAYS, batch.n_way)
    caption = (
        f"{TASKS} training tasks, {shown} of {batch.n_way} classes each: {min(QUERIES, batch.n_shot)} of {batch.n_shot} support "
        "images, then queries."
    )
    pixels = _cut(table.images.images, ids[np.array(rows)])
    return [
        Picture("tasks", "Tasks", node.stage.name, caption, pixels, np.array(groups), tuple(names), np.array(roles))
    ]


def _map(session: Session, node: Node) -> list[Picture]:
    data = node.others[node.stage.data]
    table = session.table(data)
    split = "validation" if "validation" in table.rows else "train"
    rows = table.rows[split]
    vectors = np.asarray(session.vectors(node, data)[rows], dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[1] < 2:
        return []
    labels = table.images.labels[rows] if table.images.target else np.full(len(rows), -1)
    rng = _rng(node)
    classes = rng.permutation(np.unique(labels[labels >= 0]))[:CLASSES]
    pick = np.flatnonzero(np.isin(labels, classes)) if len(classes) else np.arange(len(rows))
    pick = rng.permutation(pick)[:POINTS]
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred[pick] if len(pick) > 2 else centred, full_matrices=False)
    points = centred[pick] @ directions[:2].T
    groups = np.array([np.flatnonzero(classes == k)[0] if k in classes else -1 for k in labels[pick]])
    names = tuple(table.images.class_names[k] for k in classes)
    caption = f"The two main directions of {len(pick)} {split} vectors ({vectors.shape[1]}-d)." + (
        f" Colours are {len(classes)} true classes, which are used for this picture and nowhere else." if names else ""
    )
    return [
        Picture(
            "map", f"Map of {node.stage.name}", node.stage.name, caption, groups=groups, labels=names, points=points
        )
    ]


def _model(session: Session, node: Node, name: str) -> list[Picture]:
    """Let a model draw itself, where it can; a drawing that fails is told and harms nothing."""
    model = session.value(node)
    if not hasattr(model, "draw"):
        return []
    captions: list[str] = []

    def paint(axes: Axes) -> None:
        captions.append(str(model.draw(axes)))

    try:
        svg = drawn(paint, height=3.6)
    except Exception as error:  # a stranger's code: whatever it raises
        who = node.stage.offer.distribution
        return [Picture("model", "Model", name, f"{who} could not draw it: {type(error).__name__}: {error}")]
    return [Picture("model", "Model", name, captions[0], svg=svg)]


DRAWN: dict[str, Draw] = {"dataset": _data, "embedder": _map, "partitioner": _partition, "task_sampler": _tasks}
DRAW_THEMSELVES = ("embedder", "learner", "meta_learner")
