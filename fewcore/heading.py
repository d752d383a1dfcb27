"""Check what a pipeline file says beside its stages: version, seed, rows, known labels, and the loops over cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fewcore.errors import did_you_mean

VERSION = 1
KEYS = (
    "fewcore",
    "name",
    "seed",
    "target",
    "splits",
    "labels",
    "repeat",
    "matrix",
    "skip",
    "select",
    "stages",
    "published",
)
SPLIT_KEYS = ("folds", "fold", "by", "test", "validation", "seed")
LABEL_KEYS = ("share", "number", "per_class", "classes", "by")
HOW_MANY = ("share", "number", "per_class")

LONGEST = 40
"""Characters of what was found that a message shows."""

Add = Callable[..., None]


def _is_whole(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if len(text) <= LONGEST else f"'{text[:LONGEST]}...'"


def known(path: str, mapping: Any, keys: Iterable[str], what: str, add: Add) -> dict[str, Any]:
    """Return `mapping` where it is one, else an empty one; note every key that is not among `keys`."""
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        # A table of patients may be typed for a pipeline: what is in it is not told.
        add(path, _quoted(mapping) if path else "no mapping of keys", f"a mapping of {what}")
        return {}
    keys = tuple(keys)
    for key in mapping:
        if key not in keys:
            add(
                f"{path}.{key}" if path else key,
                f"unknown {what}",
                f"one of {', '.join(keys)}",
                did_you_mean(key, keys),
            )
    return mapping


def check_heading(spec: Any, add: Add) -> dict[str, Any]:
    """Note what is wrong with the top of a file; return it as a mapping."""
    top = known("", spec, KEYS, "key", add)
    if top.get("fewcore") != VERSION or isinstance(top.get("fewcore"), bool):
        add("fewcore", f"'{top.get('fewcore')}'", f"the line 'fewcore: {VERSION}', the version of the file format")
    if not isinstance(top.get("name", ""), str):
        add("name", _quoted(top["name"]), "text")
    _check_repeat(top.get("repeat"), "repeat", add)
    _check_matrix(top.get("matrix"), add)
    _check_skip(top, add)
    _check_select(top, add)
    if not isinstance(top.get("stages"), dict) or not top["stages"]:
        add("stages", "no stages", "stages: {data: {dataset: digits}, ...}")
    return top


def _check_repeat(axes: Any, path: str, add: Add) -> None:
    if axes is not None and not isinstance(axes, dict):
        add(path, _quoted(axes), f"a mapping of dotted paths to lists, such as {path}: {{seed: [0, 1, 2]}}")
        return
    for axis, values in (axes or {}).items():
        if not isinstance(values, list) or not values:
            add(f"{path}.{axis}", _quoted(values), "a list of values")


def _check_matrix(axes: Any, add: Add) -> None:
    if isinstance(axes, list):
        if not axes or not all(isinstance(cell, dict) and cell for cell in axes):
            add("matrix", "a list with something else than cells", "cells such as [{labels.share: 0.1}]")
    elif axes is not None and not isinstance(axes, dict):
        add("matrix", _quoted(axes), "a mapping of dotted paths to values, or a list of cells")
    elif axes is not None:
        for axis, values in axes.items():
            if not isinstance(values, list | dict) or not values:
                add(f"matrix.{axis}", _quoted(values), "a list of values, or a mapping of names to values")


def _check_skip(top: Mapping[str, Any], add: Add) -> None:
    rules, matrix = top.get("skip"), top.get("matrix")
    if rules is None:
        return
    if not isinstance(rules, list) or not all(isinstance(rule, dict) and rule for rule in rules):
        add("skip", f"'{rules}'", "a list of rules such as [{labels.share: 1.0}]")
        return
    cells = matrix if isinstance(matrix, list) else [matrix or {}]
    axes = list(dict.fromkeys(axis for cell in cells if isinstance(cell, dict) for axis in cell))
    for number, rule in enumerate(rules):
        for axis in rule:
            if axis not in axes:
                expected = f"one of {', '.join(axes)}" if axes else "a file with a matrix"
                add(f"skip.{number}.{axis}", "no axis of the matrix", expected, did_you_mean(axis, axes))


def _check_select(top: Mapping[str, Any], add: Add) -> None:
    select = known("select", top.get("select"), ("by", "over"), "option of select", add)
    if not select:
        return
    if not (isinstance(select.get("by"), list) and isinstance(select.get("over"), dict)):
        expected = "select: {by: [score.accuracy], over: {stages.x.y: [1, 2]}}"
        add("select", "no list 'by' or no mapping 'over'", expected)
        return
    _check_repeat(select["over"], "select.over", add)
    stages = top.get("stages")
    named = stages.items() if isinstance(stages, dict) else ()
    evaluators = [name for name, said in named if isinstance(said, dict) and "evaluator" in said]
    for number, choice in enumerate(select["by"]):
        name, _, metric = str(choice).partition(".")
        if name not in evaluators or not metric:
            expected = f"EVALUATOR.METRIC with an evaluator among {', '.join(evaluators) or 'none'}"
            near = "" if name in evaluators else did_you_mean(name, evaluators)
            add(f"select.by.{number}", f"'{choice}'", expected, near)


def check_rows(spec: Mapping[str, Any], add: Add) -> None:
    """Note what is wrong with the seed, the splits and the known labels of a cell."""
    if not _is_whole(spec.get("seed", 0)):
        add("seed", f"'{spec['seed']}'", "a whole number from 0")
    _check_target(spec.get("target"), add)
    splits = known("splits", spec.get("splits"), SPLIT_KEYS, "option of splits", add)
    if splits.get("by") not in (None, "group", "image"):
        add("splits.by", f"'{splits['by']}'", "group or image")
    for share in ("test", "validation"):
        value = splits.get(share, 0)
        if not _is_number(value) or not 0 <= value < 1:
            add(f"splits.{share}", f"'{value}'", "a share from 0 up to, not including, 1")
    folds, fold = splits.get("folds"), splits.get("fold")
    if folds is not None and not _is_whole(folds, 2):
        add("splits.folds", f"'{folds}'", "a whole number, at least 2")
    elif fold is not None and (not _is_whole(fold) or fold >= (folds or 0)):
        add("splits.fold", f"'{fold}'", f"a whole number below folds ({folds})")
    if folds is not None and "test" in splits:
        add("splits.test", "a share beside folds", "one of folds and test")
    if set(splits) - {"seed"} and not folds and not splits.get("test"):
        add("splits", "no test rows", "folds: 10, or a share such as test: 0.25")
    if not _is_whole(splits.get("seed", 0)):
        add("splits.seed", f"'{splits['seed']}'", "a whole number from 0")
    _check_labels(known("labels", spec.get("labels"), LABEL_KEYS, "option of labels", add), add)


def _check_target(target: Any, add: Add) -> None:
    if isinstance(target, dict):
        positive = known("target", target, ("of", "positive"), "option of target", add).get("positive")
        if not isinstance(target.get("of"), str) or not isinstance(positive, list) or not positive:
            add("target", f"'{target}'", "target: {of: finding, positive: [malignant]}")
    elif target is not None and not isinstance(target, str):
        add("target", f"'{target}'", "the name of a class target")


def _check_labels(labels: Mapping[str, Any], add: Add) -> None:
    if "share" in labels and not (_is_number(labels["share"]) and 0 < labels["share"] <= 1):
        add("labels.share", f"'{labels['share']}'", "a share above 0, at most 1")
    for name in ("number", "per_class"):
        if name in labels and not _is_whole(labels[name], 1):
            add(f"labels.{name}", f"'{labels[name]}'", "a whole number from 1")
    if len(said := [name for name in HOW_MANY if name in labels]) > 1:
        add("labels", " and ".join(said), f"one of {', '.join(HOW_MANY)}")
    if labels.get("by") not in (None, "class"):
        add("labels.by", f"'{labels['by']}'", "class")
    classes = labels.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(one, str) or _is_whole(one) for one in classes):
        add("labels.classes", f"'{classes}'", "a list of names or numbers of classes")
