"""How the images of a folder are dealt out to the splits: groups whole, every class with its share; or whole classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fewcore import Array, DataError, Problem, child_seed, numpy_generator


@dataclass(frozen=True)
class Shares:
    """What is dealt out, `images` or `classes`, and the shares of the splits beside training."""

    by: Literal["images", "classes"]
    validation: float
    test: float


def dealt(classes: Array, n_classes: int, groups: Array, shares: Shares) -> dict[str, Array]:
    """Return the rows of each split for images of `classes` (n,), -1 where unknown, and `groups` (n,), numbered from 0.

    Raises:
        DataError: a split comes out empty, or whole classes cannot be held out.

    """
    rng = numpy_generator(child_seed(0, "folder", "splits"))
    wanted = {"test": shares.test, "validation": shares.validation}
    if shares.by == "classes":
        of_row = _deal_classes(classes, n_classes, wanted, rng)
        crossing = len(np.unique(np.stack([groups, of_row]), axis=1).T) - len(np.unique(groups))
        if crossing:
            found = "groups with images in classes of several splits"
            raise DataError(Problem("folder", found, "each group in classes of one split", "split_by: images"))
    else:
        of_row = _deal_groups(classes, groups, wanted, rng)
    rows = {"train": np.flatnonzero(of_row == 0)}
    rows |= {name: np.flatnonzero(of_row == i) for i, name in enumerate(wanted, 1) if wanted[name] > 0}
    empty = [name for name, chosen in rows.items() if not len(chosen)]
    if empty:
        found = f"no {shares.by} left for {' and '.join(empty)}"
        raise DataError(Problem("folder", found, "images in every split", "change validation_share and test_share"))
    return {name: rows[name] for name in ("train", "validation", "test") if name in rows}


def _deal_classes(classes: Array, k: int, shares: dict[str, float], rng: np.random.Generator) -> Array:
    """Return the split of each row (0 for training), whole classes being held out, at least one where a share is asked."""
    if not k:
        raise DataError(Problem("folder", "split_by: classes without classes", "a sub-folder for each class"))
    if (classes < 0).any():
        raise DataError(Problem("folder", "split_by: classes, and images without a class", "a class for each image"))
    of_class = np.zeros(k, int)
    order, place = rng.permutation(k), 0
    for number, share in enumerate(shares.values(), 1):
        count = max(1, round(share * k)) if share > 0 else 0
        of_class[order[place : place + count]] = number
        place += count
    return np.asarray(of_class[classes])


def _deal_groups(classes: Array, groups: Array, shares: dict[str, float], rng: np.random.Generator) -> Array:
    """Return the split of each row (0 for training), groups being dealt out within their commonest class.

    A group goes to the first split that is still short by at least half of the group.
    """
    of_row = np.zeros(len(classes), int)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    commonest = np.array([np.bincount(classes[rows] + 1).argmax() for rows in members])
    for stratum in np.unique(commonest):
        chosen = rng.permutation(np.flatnonzero(commonest == stratum))
        total = sum(len(members[g]) for g in chosen)
        short = {number: share * total for number, share in enumerate(shares.values(), 1)}
        for g in chosen:
            size = len(members[g])
            number = next((i for i, missing in short.items() if missing >= size / 2 and missing > 0), 0)
            of_row[members[g]] = number
            if number:
                short[number] -= size
    return of_row
