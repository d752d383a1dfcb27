"""Which images are labelled, and what is known of them; data that cannot be learnt from is refused here.

What counts: an image is labelled where all that the learner needs is known of it, its class, its mask or both. One of which
only a part is known counts as not labelled, and a warning says how many those are. An empty mask says that there is nothing:
it is a label as any other, but at least one labelled image must have a structure that is not empty.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from fewcore import Array, DataError, ImageSet, Target

MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows of a set with what is known of them: `classes` (l,) and `masks` (l, k, h, w) where the learner needs them.

    `rows` (l,) are the labelled rows, `rest` the others. `n_classes` and `structures` are 0 where they are not needed.
    """

    rows: Array
    rest: Array
    classes: Array
    masks: Array
    n_classes: int
    structures: int


def labelled(images: ImageSet, mask: str, needs: tuple[str, ...], who: str) -> Labelled:
    """Return the labelled rows of a training set; `needs` holds `class`, `mask` or both.

    Raises:
        DataError: there is no such target, masks of another size than the images, values that
            are no masks, no labelled image, a class without one, or a structure that is empty in all of them.

    """
    known = np.ones(len(images), dtype=bool)
    masks, classes = np.zeros((len(images), 0, 0, 0), np.float32), np.full(len(images), -1)
    names: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    parts: dict[str, Array] = {}
    if "class" in needs:
        classes, names = images.labels, _class_names(images, who)
        parts["class"] = classes >= 0
    if "mask" in needs:
        target = mask_target(images, mask, who)
        masks, structures = target.values, _structures(target)
        parts["mask"] = known_masks(images, target, mask, who)
    for part in parts.values():
        known &= part
    _warn_of_partly_known(images, parts, mask, who)
    rows = np.flatnonzero(known)
    _check_enough(rows, classes[rows], names, parts, who)
    found = Labelled(
        rows, np.flatnonzero(~known), classes[rows], masks[rows].astype(np.float32), len(names), len(structures)
    )
    _check_not_empty(found.masks, structures, "labelled", who)
    return found


def judged(validation: ImageSet, images: ImageSet, mask: str, needs: tuple[str, ...], who: str) -> dict[str, Array]:
    """Return what is known of the validation rows: `masks` (n, k, h, w), NaN unknown, and `classes` (n,), -1 unknown.

    Raises:
        DataError: the validation images are of another shape than the training images, or nothing is known of any.

    """
    if validation.shape != images.shape:
        raise DataError(f"{who}: found validation images {validation.shape}; expected {images.shape}, as in training")
    found: dict[str, Array] = {}
    if "mask" in needs:
        target = mask_target(validation, mask, who)
        known = known_masks(validation, target, mask, who)
        if not known.any():
            raise DataError(
                f"{who}: found no mask of '{mask}' among {len(validation)} validation images; expected some"
            )
        _check_not_empty(target.values[known], _structures(target), "validation", who)
        found["masks"] = np.where(known[:, None, None, None], target.values, np.nan).astype(np.float32)
    if "class" in needs:
        found["classes"] = validation.labels
        if not (validation.labels >= 0).any():
            raise DataError(f"{who}: found no class among {len(validation)} validation images; expected some")
    return found


def mask_target(images: ImageSet, mask: str, who: str) -> Target:
    """Return the masks of that name.

    Raises:
        DataError: there is no such target of masks, or its masks are of another size than the images.

    """
    offered = [name for name, target in images.targets.items() if target.kind == "masks"]
    if mask not in offered:
        listed = f"one of {', '.join(offered)} (type mask: {offered[0]})" if offered else "a data set with masks"
        raise DataError(f"{who}: found no masks named '{mask}'; expected {listed}")
    target = images.targets[mask]
    if target.values.shape[2:] != images.shape[1:]:
        found, wanted = (" x ".join(map(str, size)) for size in (target.values.shape[2:], images.shape[1:]))
        raise DataError(
            f"{who}: found masks of '{mask}' {found} for images {wanted}; expected masks of the images' size"
        )
    return target


def known_masks(images: ImageSet, target: Target, mask: str, who: str) -> Array:
    """Return which images have a mask for every structure, (n,) bool.

    Raises:
        DataError: a mask is NaN in a part of its pixels only, or a value lies outside [0, 1].

    """
    pixels = target.values.reshape(*target.values.shape[:2], -1)
    unknown = np.isnan(pixels)
    torn = unknown.any(2) & ~unknown.all(2)
    if torn.any():
        listed = _listed(images.ids[np.any(torn, axis=1)])
        raise DataError(
            f"{who}: found NaN in a part of the masks of '{mask}' (images {listed}); expected masks that are known or NaN throughout"
        )
    if pixels.size and (np.nanmin(pixels, initial=0) < 0 or np.nanmax(pixels, initial=0) > 1):
        wrong = np.any((pixels < 0) | (pixels > 1), axis=(1, 2))
        listed = _listed(images.ids[wrong])
        raise DataError(
            f"{who}: found values outside [0, 1] in the masks of '{mask}' (images {listed}); expected 0 to 1"
        )
    return np.asarray(~unknown.any((1, 2)))


def _structures(target: Target) -> tuple[str, ...]:
    return target.names or tuple(f"structure {number}" for number in range(target.values.shape[1]))


def _class_names(images: ImageSet, who: str) -> tuple[str, ...]:
    names = images.class_names
    if len(names) < 2:
        raise DataError(f"{who}: found {len(names)} classes in '{images.target}'; expected at least 2")
    return names


def _warn_of_partly_known(images: ImageSet, parts: dict[str, Array], mask: str, who: str) -> None:
    classes = parts.get("class")
    if classes is None and images.target in images.targets:
        classes = images.labels >= 0
    if "mask" not in parts or classes is None:
        return
    without_mask = int((classes & ~parts["mask"]).sum())
    without_class = int((parts["mask"] & ~classes).sum()) if "class" in parts else 0
    if without_mask or without_class:
        text = (
            f"{who}: {without_mask} images have a class and no mask of '{mask}', {without_class} a mask and no class; they"
            " count as not labelled"
        )
        warnings.warn(text, UserWarning, stacklevel=4)


def _check_enough(rows: Array, classes: Array, names: tuple[str, ...], parts: dict[str, Array], who: str) -> None:
    counts = np.bincount(classes, minlength=len(names)) if names else np.zeros(0, int)
    without = [name for name, count in zip(names, counts, strict=True) if not count]
    what = " and ".join(parts)
    if not len(rows):
        raise DataError(f"{who}: found no training image with a known {what}; expected some (raise labels.share)")
    if without:
        raise DataError(
            f"{who}: found no labelled image of {', '.join(without)} among {len(rows)} with a known {what}; expected at least"
            " one of each class (raise labels.share, or type labels: {by: class})"
        )


def _check_not_empty(masks: Array, structures: tuple[str, ...], which: str, who: str) -> None:
    empty = [name for number, name in enumerate(structures) if not masks[:, number].any()]
    if empty:
        raise DataError(
            f"{who}: found only empty masks of {', '.join(empty)} in {len(masks)} {which} images; expected at least one with a"
            " pixel inside"
        )


def _listed(ids: Array) -> str:
    shown = ", ".join(map(str, ids[:MOST_NAMED].tolist()))
    return f"{shown} and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else shown
