"""What Montgomery, Shenzhen and JSRT have in common: shares of the splits, reading, and the errors told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewcore import DataError, ImageSet, Problem, Run
from fewcore_medical.chest_films import Film, Fit, drawn_splits, film_set, read_films


@dataclass(frozen=True)
class Shares:
    """Shares of the films for validation and test."""

    validation: float
    test: float


def check_shares(validation: float, test: float) -> None:
    """Refuse shares that leave nothing for training.

    Raises:
        ValueError: as said.

    """
    if validation + test >= 1:
        found = f"{validation:g} and {test:g}"
        raise ValueError(f"validation_share and test_share: found {found}; expected a sum below 1")


def sources_of(films: list[Film], folder: Path) -> tuple[Path, ...]:
    """Return the files of films that are there, or the folder where there are none.

    Raises:
        DataError: there is no such folder.

    """
    files = sorted({path for film in films for path in (film.image, *film.masks) if path.is_file()})
    if not files and not folder.is_dir():
        advice = "docs/data.md says where it comes from; set path, or FEWCORE_DATA"
        raise DataError(Problem(str(folder), "no folder", "the folder of the set", advice))
    return tuple(files) or (folder,)


def load_set(
    name: str,
    films: list[Film],
    classes: tuple[str, ...],
    size: int,
    fit: Fit,
    masks: bool,
    shares: Shares,
    problems: list[Problem],
    run: Run,
) -> ImageSet:
    """Return the films as a set with splits in which every class has its share.

    Raises:
        DataError: `problems`, and what is wrong with the files, at once.

    """
    # Files that are missing are told already.
    there = [film for film in films if all(path.is_file() for path in film.masks)]
    images, drawn, sizes = read_films(there, size, fit, run, problems)
    if problems:
        raise DataError(*problems, title=name)
    n = len(films)
    counts = {"test": round(shares.test * n), "validation": round(shares.validation * n)}
    labels = np.array([classes.index(film.label) for film in films])
    split = drawn_splits(labels, {**counts, "train": n - sum(counts.values())}, 0)
    arrays = (images, drawn if masks else None, sizes)
    return film_set(films, arrays, classes, split, {"fit": fit}, 0)
