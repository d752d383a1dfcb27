"""The cells of a pipeline: what `repeat`, `matrix`, `select`, `skip` and folds make of one file."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewcore.errors import PipelineError, Problem, did_you_mean

Spec = dict[str, Any]
Combination = Mapping[str, tuple[Any, Any]]
"""A value for each axis of the matrix: path -> (label, value)."""
LOOPS = ("repeat", "matrix", "select", "skip")
SHORT = {"splits.fold": "fold"}
MAX_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One combination of axis values and the plain pipeline that it stands for.

    `matrix`, `select` and `repeat` map the axes to the labels of their values: what is compared, what is chosen on
    validation, and what is averaged over.
    """

    matrix: Mapping[str, Any]
    select: Mapping[str, Any]
    repeat: Mapping[str, Any]
    spec: Spec

    @property
    def axes(self) -> dict[str, Any]:
        """The labels of all axes' values."""
        return {**self.matrix, **self.select, **self.repeat}

    @property
    def label(self) -> str:
        """The cell for people: `seed 1, fold 2`."""
        return ", ".join(f"{name} {value}" for name, value in self.axes.items())


def in_common(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the axes on which two cells have the same value."""
    return {path: value for path, value in first.items() if second.get(path) == value}


def put(spec: Spec, path: str, value: Any) -> Spec:
    """Return a copy of `spec` in which the dotted `path` has `value`.

    Raises:
        PipelineError: the path goes through something that is no mapping, or names no stage of the file.

    """
    spec = copy.deepcopy(spec)
    place = spec
    *head, last = path.split(".")
    for depth, name in enumerate(head):
        if depth == 1 and head[0] == "stages" and name not in place:
            raise PipelineError(
                Problem(path, f"no stage '{name}'", f"one of {', '.join(place)}", did_you_mean(name, place))
            )
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise PipelineError(
                Problem(path, f"'{name}' is no mapping", "a dotted path to a value, such as stages.maml.inner_steps")
            )
    place[last] = copy.deepcopy(value)
    return spec


def _labelled(values: Any) -> list[tuple[Any, Any]]:
    """Return (label, value) for each value of an axis: a mapping names them, a list shows plain values as they are."""
    if isinstance(values, Mapping):
        return list(values.items())
    return [(json.dumps(value) if isinstance(value, dict | list) else value, value) for value in values]


def _combinations(axes: Any) -> list[Combination]:
    """Return every combination of axis values as path -> (label, value). A list of cells is taken as it is."""
    if isinstance(axes, list):
        return [{path: _labelled([value])[0] for path, value in cell.items()} for cell in axes]
    lists = [_labelled(values) for values in axes.values()]
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*lists)]


def _fits(combination: Combination, rule: Mapping[str, Any]) -> bool:
    """Return whether a combination has, on each axis of a rule of `skip`, a value that is named there."""
    for path, said in rule.items():
        label = combination.get(path, (None, None))[0]
        wanted = said if isinstance(said, list) else [said]
        # Also as text, since the names of a mapping are: {4: ...} is called '4'.
        if label not in wanted and str(label) not in map(str, wanted):
            return False
    return True


def _check_skip(combinations: Sequence[Combination], skip: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rules that fit no combination, and so leave nothing out."""
    axes: dict[str, dict[str, None]] = {}
    for path, (label, _) in (item for combination in combinations for item in combination.items()):
        axes.setdefault(path, {})[str(label)] = None
    told = "; ".join(f"{path}: {', '.join(labels)}" for path, labels in axes.items())
    known = [rule for rule in skip if set(rule) <= set(axes)]  # what is no axis, `heading` tells
    idle = [json.dumps(rule) for rule in known if not any(_fits(one, rule) for one in combinations)]
    if idle:
        expected, suggestion = f"values of the matrix ({told})", "mend the rule, or leave it out: --set skip=[]"
        raise PipelineError(*(Problem("skip", f"{rule}, which fits no cell", expected, suggestion) for rule in idle))


def cells(spec: Spec) -> Iterator[Cell]:
    """Yield the cells of a pipeline in a fixed order. `splits.folds` is one more axis to average over, unless
    `splits.fold` names a single one.

    Raises:
        PipelineError: there are more cells than `MAX_CELLS`, an axis names no place in the file, or `skip` fits no cell.

    """
    repeat = dict(spec.get("repeat") or {})
    splits = spec["splits"] if isinstance(spec.get("splits"), dict) else {}
    folds = splits.get("folds")
    if isinstance(folds, int) and folds > 1:
        repeat["splits.fold"] = [splits["fold"]] if "fold" in splits else range(folds)
    plain = {key: value for key, value in spec.items() if key not in LOOPS}
    over = (spec.get("select") or {}).get("over") or {}
    _check_count([spec.get("matrix") or {}, over, repeat])
    combinations, skip = _combinations(spec.get("matrix") or {}), spec.get("skip") or []
    _check_skip(combinations, skip)
    for matrix in combinations:
        if any(_fits(matrix, rule) for rule in skip):
            continue
        for select, repeated in itertools.product(_combinations(over), _combinations(repeat)):
            cell = plain
            for path, (_, value) in {**matrix, **select, **repeated}.items():
                cell = put(cell, path, value)
            yield Cell(_labels(matrix), _labels(select), _labels(repeated), cell)


def _check_count(loops: list[Any]) -> None:
    """Refuse what nobody can mean before it is written out."""
    count = 1
    for axes in loops:
        count *= len(axes) if isinstance(axes, list) else math.prod(len(values) for values in axes.values())
    if count > MAX_CELLS:
        raise PipelineError(Problem("matrix", f"{count} cells", f"at most {MAX_CELLS}"))


def _labels(axes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {SHORT.get(path, path): label for path, (label, _) in axes.items()}
