"""The files of JSRT: raw images, and the masks of SCR."""

from __future__ import annotations

import re
from pathlib import Path

from fewcore import Problem
from fewcore_medical.chest_films import Film
from fewcore_medical.nlm_films import ADVICE, unpublished

JSRT = {"normal": 93, "nodule": 154}
SIDE = 2048
NAME = re.compile(r"JPC(LN|NN)\d{3}", re.IGNORECASE)
OF_LETTERS = {"LN": "nodule", "NN": "normal"}
LUNGS = ("left lung", "right lung")
MASK_SUFFIXES = (".gif", ".png")


def jsrt_films(folder: Path, side: int, masks: bool, complete: bool, problems: list[Problem]) -> list[Film]:
    """Return the films of a folder that holds .IMG files and SCR's folders, however deep; report what is missing or odd."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.upper() == ".IMG" and path.name[0] != ".")
    if not images:
        problems.append(Problem(str(folder), "no images", "files such as JPCLN001.IMG", ADVICE))
    drawn = {lung: _masks(folder, lung) for lung in LUNGS} if masks else {}
    films, seen = [], dict[str, Path]()
    for path in images:
        name = path.stem.upper()
        match = NAME.fullmatch(name)
        if match is None:
            problems.append(Problem(str(path), "another name", "JPCLN and three digits (nodule), or JPCNN (none)"))
        elif name in seen:
            problems.append(Problem(str(path), f"the image of {seen[name]} again", "each image once"))
        else:
            seen[name] = path
            lacking = [lung for lung in drawn if name not in drawn[lung]]
            expected = f"{name}.gif or {name}.png in SCR's folders of that name"
            problems += [Problem(str(folder), f"no mask of the {lung}", expected, ADVICE) for lung in lacking]
            paths = tuple(drawn[lung][name] for lung in drawn if lung not in lacking)
            films.append(Film(path, paths, OF_LETTERS[match[1].upper()], side, exact=False))
    problems += unpublished("jsrt", films, JSRT) if complete and films else []
    return sorted(films, key=lambda film: film.name)


def _masks(folder: Path, lung: str) -> dict[str, Path]:
    """Return the masks of a lung by their names: files in folders such as fold1/masks/left lung."""
    names = (lung, lung.replace(" ", "_"))
    found = (path for path in folder.rglob("*") if path.suffix.lower() in MASK_SUFFIXES and path.parent.name in names)
    return {path.stem.upper(): path for path in sorted(found)}
