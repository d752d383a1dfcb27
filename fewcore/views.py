"""The only place that cuts rows and hides targets.

Every component meets data through `view`: it gets the rows of one split, and of the targets only what it may see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fewcore.contracts import Array, ImageSet, Target
from fewcore.errors import DataError, PipelineError, Problem, did_you_mean
from fewcore.seeds import child_seed, numpy_generator

Show = Literal["nothing", "known", "all"]
CHUNK = 2**26
"""Bytes of images that are moved at a time."""


def shuffled(images: ImageSet, source: str, zeros: Callable[..., Array] = np.zeros) -> ImageSet:
    """Return the set with its rows in one fixed shuffled order, numbered anew, the rows of a split side by side.

    The order of files tells the class, and so may ids: both are taken away here, once, for all runs. `zeros(shape, dtype)`
    makes the array of the images in their new order.
    """
    order = numpy_generator(child_seed(0, "row order")).permutation(len(images))
    place = {split: rank for rank, split in enumerate(images.splits)}
    rank_of = {int(i): place[split] for split, ids in images.splits.items() for i in ids}
    ranks = np.array([rank_of.get(int(i), len(place)) for i in images.ids])
    order = order[np.argsort(ranks[order], kind="stable")]
    new_id = {int(old): new for new, old in enumerate(images.ids[order])}
    splits = {s: np.sort(np.array([new_id[int(i)] for i in ids], dtype=np.int64)) for s, ids in images.splits.items()}
    _, groups = np.unique(images.groups[order], return_inverse=True)
    return replace(
        images,
        images=_in_order(images.images, order, zeros),
        ids=np.arange(len(images)),
        groups=groups.astype(np.int64),
        targets={name: replace(t, values=t.values[order]) for name, t in images.targets.items()},
        splits=splits,
        geometry={name: values[order] for name, values in images.geometry.items()},
        source=source,
    )


def _in_order(array: Array, order: Array, zeros: Callable[..., Array]) -> Array:
    """Return the rows of an array in another order, moved in chunks, since images may be more than the memory holds."""
    made = zeros(array.shape, array.dtype)
    step = max(1, CHUNK // max(1, array[:1].nbytes))
    for start in range(0, len(order), step):
        made[start : start + step] = array[order[start : start + step]]
    return made


def with_target(images: ImageSet, said: Any) -> ImageSet:
    """Return the set with the class target that a pipeline's `target` means.

    `said` is None (the set's own), the name of a class target, or `{of: finding, positive: [malignant]}`, which makes
    a target of two classes.

    Raises:
        PipelineError: there is no such target or class.

    """
    if said is None:
        return images
    classes = [name for name, target in images.targets.items() if target.kind == "class"]
    of = said.get("of") if isinstance(said, dict) else said
    if of not in classes:
        raise PipelineError(
            Problem("target", f"'{of}'", f"one of {', '.join(classes)}", did_you_mean(str(of), classes))
        )
    if not isinstance(said, dict):
        return replace(images, target=str(of))
    target = images.targets[of]
    positive = said.get("positive") or []
    if not positive or not set(positive) <= set(target.names):
        raise PipelineError(Problem("target.positive", f"{positive}", f"some of {', '.join(target.names)}"))
    chosen = np.isin(target.values, [target.names.index(name) for name in positive])
    values = np.where(target.values < 0, -1, chosen).astype(np.int64)
    name = f"{of}: {' or '.join(positive)}"
    made = Target("class", values, ("other", " or ".join(positive)))
    return replace(images, targets={**images.targets, name: made}, target=name)


def split_rows(images: ImageSet, spec: Mapping[str, Any] | None) -> dict[str, Array]:
    """Return the rows of train, validation and test, each sorted, none in two and no group cut.

    `spec` is the pipeline's `splits`: None for the data set's own; `folds` and `fold`, or a share `test`; a share
    `validation` of what is left; `by: group` (the default) or `image`; `seed` (default 0).

    Raises:
        DataError: there are fewer groups than folds, or a split that is asked for would be empty.

    """
    if not spec or set(spec) <= {"seed"}:
        return {split: np.flatnonzero(np.isin(images.ids, ids)) for split, ids in images.splits.items()}
    units = images.ids if spec.get("by") == "image" else images.groups
    if spec.get("by") == "image" and len(np.unique(images.groups)) < len(images):
        raise DataError("splits.by: found 'image' where images belong together in groups; expected by: group")
    rng = numpy_generator(child_seed(spec.get("seed", 0), "splits"))
    names = rng.permutation(np.unique(units))
    folds = spec.get("folds")
    if folds and len(names) < folds:
        raise DataError(f"splits.folds: found {len(names)} groups; expected at least {folds}, one for each fold")
    test = names[spec.get("fold", 0) :: folds] if folds else names[: round(len(names) * spec.get("test", 0))]
    rest = rng.permutation(names[~np.isin(names, test)])
    cut = round(len(rest) * spec.get("validation", 0))
    parts = {"train": rest[cut:], "validation": rest[:cut], "test": test}
    for split, wanted in (
        ("validation", spec.get("validation", 0)),
        ("test", folds or spec.get("test", 0)),
        ("train", 1),
    ):
        if wanted and not len(parts[split]):
            raise DataError(
                f"splits: found no group for {split} among {len(names)}; expected a larger share or more groups"
            )
    return {split: np.flatnonzero(np.isin(units, chosen)) for split, chosen in parts.items() if len(chosen)}


def known_rows(images: ImageSet, spec: Mapping[str, Any] | None, seed: int) -> Array:
    """Return which rows of a training view have known targets, (n,) bool, chosen before training.

    `spec` is the pipeline's `labels`: `share` or `number` of all rows, or `per_class`; `classes`, names or numbers, to
    which knowledge is limited; `by: class` for equal numbers of each. Choices are nested: what a smaller share knows, a
    larger one knows too. Whole groups are taken.

    Raises:
        PipelineError: a class is not among the target's.

    """
    if not spec or not images.target:
        return np.ones(len(images), dtype=bool)
    labels = images.labels
    allowed = _class_numbers(images, spec.get("classes"))
    per_class = spec.get("per_class")
    by_class = spec.get("by") == "class" or per_class is not None
    # A share is never exceeded; 0.29 of 100 are 29, whatever a float makes of it.
    budget = spec.get("number", int(spec.get("share", 1.0) * len(images) + 1e-6))
    whole = per_class is None and "number" not in spec and spec.get("share", 1.0) == 1.0
    known = np.zeros(len(images), dtype=bool)
    strata = [labels == k for k in allowed] if by_class else [np.isin(labels, allowed)]
    for number, stratum in enumerate(strata):
        even = budget // len(strata) + (number < budget % len(strata))
        quota = int(stratum.sum()) if whole else per_class if per_class is not None else even
        groups, sizes = np.unique(images.groups[stratum], return_counts=True)
        order = numpy_generator(child_seed(seed, "known labels", number)).permutation(len(groups))
        before = np.cumsum(sizes[order]) - sizes[order]
        known |= stratum & np.isin(images.groups, groups[order[before < quota]])
    return known


def _class_numbers(images: ImageSet, classes: Any) -> list[int]:
    names = images.class_names
    if classes is None:
        return list(range(len(names)))
    numbers = []
    for entry in classes if isinstance(classes, list) else [classes]:
        if entry in names:
            numbers.append(names.index(entry))
        elif isinstance(entry, int) and 0 <= entry < len(names):
            numbers.append(entry)
        else:
            near = did_you_mean(str(entry), names)
            raise PipelineError(Problem("labels.classes", f"'{entry}'", f"a class of '{images.target}'", near))
    return numbers


def view(images: ImageSet, rows: Array, show: Show, known: Array | None = None) -> ImageSet:
    """Return the rows of a set with none, the known, or all of their targets.

    Rows that stand side by side are not copied. `known` (len(rows),) bool says whose targets are known.
    """
    side_by_side = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    cut: Any = slice(int(rows[0]), int(rows[-1]) + 1) if side_by_side else rows
    targets: dict[str, Target] = {}
    if show != "nothing":
        for name, target in images.targets.items():
            values = np.array(target.values[cut])
            if show == "known" and known is not None:
                values[~known] = np.nan if values.dtype.kind == "f" else -1
            targets[name] = replace(target, values=values)
    return replace(
        images,
        images=images.images[cut],
        ids=images.ids[cut],
        groups=images.groups[cut],
        targets=targets,
        splits={},
        geometry={name: values[cut] for name, values in images.geometry.items()},
    )
