"""The files of the two sets of chest radiographs of the National Library of Medicine: Montgomery County and Shenzhen."""

from __future__ import annotations

import re
from pathlib import Path

from fewcore import Problem
from fewcore_medical.chest_films import Film

ADVICE = "docs/data.md says where it comes from"
WHOLE = "put the whole of it there, or set complete: false for a part"
MONTGOMERY = {"normal": 80, "tuberculosis": 58}
SHENZHEN = {"normal": 326, "tuberculosis": 336}
SHENZHEN_MASKS = 566
"""Masks of Shenzhen that were published later; 96 images have none."""
OF_DIGIT = {"0": "normal", "1": "tuberculosis"}


def montgomery_films(folder: Path, masks: bool, complete: bool, problems: list[Problem]) -> list[Film]:
    """Return the films of a folder that holds MontgomerySet, or its content; report what is missing or odd."""
    base = folder / "MontgomerySet" if (folder / "MontgomerySet").is_dir() else folder
    films = []
    for path, label in _images(base / "CXR_png", r"MCUCXR_\d{4}_([01])", problems):
        sides = [base / "ManualMask" / side / path.name for side in ("leftMask", "rightMask")]
        lacking = [side for side in sides if masks and not side.is_file()]
        problems += [Problem(str(side), "no mask", f"the mask of {path.name}", ADVICE) for side in lacking]
        films.append(Film(path, tuple(sides) if masks else (), label))
    problems += unpublished("montgomery", films, MONTGOMERY) if complete and films else []
    return films


def shenzhen_films(folder: Path, masks: bool, complete: bool, problems: list[Problem]) -> list[Film]:
    """Return the films of a folder that holds ChinaSet_AllFiles, or its content, and the masks; report what is odd.

    Images without a mask have none: there are 96 of them.
    """
    base = folder / "ChinaSet_AllFiles" if (folder / "ChinaSet_AllFiles").is_dir() else folder
    drawn = _shenzhen_masks(folder, problems) if masks else {}
    films = [
        Film(path, (drawn[path.stem],) if path.stem in drawn else (), label)
        for path, label in _images(base / "CXR_png", r"CHNCXR_\d{4}_([01])", problems)
    ]
    names = {film.name for film in films}
    stray = sorted(drawn.keys() - names) if films else []
    problems += [Problem(str(drawn[name]), "a mask without its image", f"{name}.png", ADVICE) for name in stray]
    if complete and films:
        problems += unpublished("shenzhen", films, SHENZHEN)
        n_masks = sum(bool(film.masks) for film in films)
        if masks and not stray and n_masks != SHENZHEN_MASKS:
            problems.append(Problem("shenzhen", f"{n_masks} masks", str(SHENZHEN_MASKS), WHOLE))
    return films


def unpublished(name: str, films: list[Film], counts: dict[str, int]) -> list[Problem]:
    """Return how the numbers of films of each class differ from those published."""
    found = {label: sum(film.label == label for film in films) for label in counts}
    return [
        Problem(name, f"{found[label]} images of class {label}", str(count), WHOLE)
        for label, count in counts.items()
        if found[label] != count
    ]


def _images(folder: Path, pattern: str, problems: list[Problem]) -> list[tuple[Path, str]]:
    """Return the PNG files of a folder with their classes, sorted; report other names and a folder without any."""
    found = sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
    if not found:
        problems.append(Problem(str(folder), "no images", "the folder CXR_png with PNG files", ADVICE))
    films = []
    for path in found:
        match = re.fullmatch(pattern, path.stem)
        if match is None:
            problems.append(Problem(str(path), "another name", f"{pattern}.png, whose last digit says the class"))
        else:
            films.append((path, OF_DIGIT[match[1]]))
    return films


def _shenzhen_masks(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Return the masks by the names of their images: files NAME_mask.png in a folder `mask`, however deep."""
    found = sorted(path for path in folder.glob("mask/**/*_mask.png") if not path.name.startswith("."))
    if not found:
        expected = "the folder `mask` with files such as CHNCXR_0001_0_mask.png, or masks: false"
        problems.append(Problem(str(folder / "mask"), "no masks", expected, ADVICE))
    return {path.stem.removesuffix("_mask"): path for path in found}
