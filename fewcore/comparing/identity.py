"""What the models of a run were judged on, as digests: equal ones mean the same tasks or images with the same truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from fewcore.contracts import Array
from fewcore.grouping import FOLD, anonymous
from fewcore.nodes import Table
from fewcore.outcomes import Judged
from fewcore.store import digest

CHUNK = 1 << 24
"""Bytes of images that are read at a time."""

TRUTH = "truth."
"""Begins the names of the parts that are targets."""

Parts = dict[str, str]
"""`images`, the pixels of the test rows; for few-shot models `tasks`; for others `order`, the ids, by which scores are
sorted, `groups`, the `target` that is meant, and each target's truth. `data` is the key of the data set, which says how it was read: it serves to word a difference, and
makes none itself, since equal images may be read by another version."""


class Identities:
    """Makes the digests of what was judged; the images of a split are read once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str], Parts] = {}

    def of(self, entries: Sequence[Judged]) -> Parts:
        """Return what all outcomes of one model were judged on: those of its seeds, and in each its folds in order."""
        series: dict[str, list[Parts]] = {}
        for entry in entries:
            repeats = {axis: value for axis, value in entry.outcome.repeats.items() if axis != FOLD}
            series.setdefault(json.dumps(repeats, sort_keys=True, default=str), []).append(self._one(entry))
        names = dict.fromkeys(name for folds in series.values() for parts in folds for name in parts)
        return {
            name: _combined([[parts.get(name, "") for parts in folds] for folds in series.values()]) for name in names
        }

    def _one(self, entry: Judged) -> Parts:
        table, split = entry.table, entry.outcome.split
        if (id(table), split) not in self._rows:
            self._rows[id(table), split] = _rows_of(table, split)
        rows = self._rows[id(table), split]
        if entry.tasks:
            return {"data": rows["data"], "images": rows["images"], "tasks": entry.tasks}
        return rows


def _combined(series: list[list[str]]) -> str:
    """Return one text for the folds of all seeds: the text itself where all are equal."""
    distinct = sorted({tuple(folds) for folds in series})
    first = distinct[0]
    return first[0] if len(distinct) == 1 and len(set(first)) == 1 else digest(distinct)


def _rows_of(table: Table, split: str) -> Parts:
    images, rows = table.images, table.rows[split]
    parts = {"data": table.key, "images": array_digest(images.images, rows)}
    parts |= {"order": array_digest(images.ids, rows), "groups": array_digest(anonymous(images.groups[rows]))}
    parts["target"] = images.target
    for name, target in images.targets.items():
        parts[f"{TRUTH}{name}"] = digest(target.kind, list(target.names), array_digest(target.values, rows))
    return parts


def array_digest(array: Array, rows: Array | None = None) -> str:
    """Return a digest of some rows of an array, perhaps memory-mapped: of their type, shape and bytes."""
    rows = np.arange(len(array)) if rows is None else rows
    total = hashlib.sha256(f"{array.dtype.str}{(len(rows), *array.shape[1:])}".encode())
    step = max(1, CHUNK // max(1, array[:1].nbytes))
    for start in range(0, len(rows), step):
        total.update(np.ascontiguousarray(array[rows[start : start + step]]).tobytes())
    return total.hexdigest()[:32]


def why_apart(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """Return in words why two models were not judged on the same tasks or images; nothing where they were."""
    apart = {name for name in {*first} | {*second} if name != "data" and first.get(name) != second.get(name)}
    if not apart:
        return ""
    if ("tasks" in first) != ("tasks" in second):
        return "one was judged on few-shot tasks, the other on images"
    if "images" in apart:
        same_data = first.get("data") == second.get("data")
        return (
            "the test rows are other rows of the data set: its splits differ"
            if same_data
            else "the test images differ: another data set, other contents of it, or the same read in another way"
        )
    if "order" in apart:
        return "the test images have other ids, so that their scores stand in another order: other images are in the data set"
    found = []
    if "tasks" in apart:
        found.append("the test tasks differ: other ways, shots, queries, number or seed of the tasks")
    if "target" in apart:
        found.append(f"another target is meant: '{first.get('target', '')}' and '{second.get('target', '')}'")
    if "groups" in apart:
        found.append("images belong together in other groups")
    if names := sorted(name.removeprefix(TRUTH) for name in apart if name.startswith(TRUTH)):
        found.append(f"the truth differs in {', '.join(names)}")
    return "; ".join(found) or f"they differ in {', '.join(sorted(apart))}"
