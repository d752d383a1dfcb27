"""What a running pipeline is made of: stages with their keys, data sets as a cell sees them, inputs made when asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np

from fewcore.cells import Cell
from fewcore.contracts import Array, ImageSet, Seen, split_word
from fewcore.errors import DataError, PluginError, Problem
from fewcore.kinds import KINDS
from fewcore.run import Run
from fewcore.views import Show, view
from fewcore.wiring import Wired


@dataclass(frozen=True, eq=False)
class Table:
    """A data set as a cell sees it: its images, the rows of each split, and whose training labels are known."""

    key: str
    images: ImageSet
    rows: Mapping[str, Array]
    known: Array

    def check_split(self, split: str, who: str) -> None:
        """Refuse a stage for which the splits have no rows."""
        if split not in self.rows:
            raise DataError(
                f"stages.{who}: found no {split} rows; expected splits with {split}"
                f" (type splits: {{test: 0.25, validation: 0.1}}, or give some images of the data set the split {split})"
            )

    def check_classes(self, where: str, splits: Collection[str], *, all_known: bool) -> None:
        """Refuse two classes of which one has no image in one of the splits, before anything is trained on them.

        Training images count whose labels are known, or all of them with `all_known`.

        Raises:
            DataError: as said, all splits at once.

        """
        names = self.images.class_names if self.images.target else ()
        problems = []
        for split in (split for split in self.rows if split in splits and len(names) == 2):
            labels = self.images.labels[self.rows[split]]
            if split == "train" and not all_known:
                labels = np.where(self.known, labels, -1)
            counts = np.bincount(labels[labels >= 0], minlength=2)
            if missing := [name for name, n in zip(names, counts, strict=True) if not n]:
                found = f"no {split_word(split)} image with the label {' or '.join(missing)} among {len(labels)}"
                expected = f"both classes of '{self.images.target}' in each split"
                problems.append(Problem(where, found, expected, "another splits.seed, other shares, or more labels"))
        if problems:
            raise DataError(*problems)

    def view(self, split: str, show: Show) -> ImageSet:
        """Return the rows of a split; of the training rows' targets at most the known ones."""
        return view(self.images, self.rows[split], show, self.known if split == "train" else None)


@dataclass(frozen=True, eq=False)
class Node:
    """A stage in a cell with its key, and what was seen on the way to its result."""

    stage: Wired
    cell: Cell
    key: str
    recipe: Mapping[str, Any]
    seed: int | None
    seen: Seen
    others: Mapping[str, Node] = field(repr=False)

    @property
    def title(self) -> str:
        """The node for people: the stage's name and the cell where there are several."""
        return f"{self.stage.name} ({self.cell.label})" if self.cell.label else self.stage.name


class CachedEncoder:
    """An encoder whose vectors of a data set are known already: rows of that set are looked up, others computed."""

    def __init__(self, encoder: Any, vectors: Array, source: str) -> None:
        self._encoder = encoder
        self._vectors = vectors
        self._source = source

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the vectors of images, (n, e) or (n, m, e) float32."""
        if images.source == self._source:
            return np.asarray(self._vectors[images.ids])
        vectors: Array = self._encoder.embed(images, run)
        return vectors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


class LazyInputs(Mapping[str, Any]):
    """The inputs of a stage by name, each made or loaded when it is asked for."""

    def __init__(self, names: tuple[str, ...], argument: Callable[[str], Any]) -> None:
        self._names = names
        self._argument = argument

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._argument(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def result_class(stage: Wired) -> type[Any]:
    """Return the class that the verb of a stage makes: its return annotation.

    Raises:
        PluginError: the annotation is missing or names nothing.

    """
    return returned_class(type(stage.component), KINDS[stage.kind].verb, stage.offer.full_name)


def returned_class(cls: type[Any], method: str, who: str) -> type[Any]:
    """Return the class that a method makes: its return annotation.

    Raises:
        PluginError: the annotation is missing or names nothing.

    """
    verb = getattr(cls, method)
    try:
        made = get_type_hints(verb).get("return")
    except NameError as error:
        raise PluginError(f"{who}: the annotations of {verb.__qualname__} cannot be read: {error}") from error
    if not isinstance(made, type):
        raise PluginError(f"{who}: found {verb.__qualname__} -> {made}; expected the class of what it makes")
    return made
