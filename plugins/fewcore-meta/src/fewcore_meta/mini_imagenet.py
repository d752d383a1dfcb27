"""miniImageNet: 100 classes of ImageNet with 600 images each, split by Ravi and Larochelle."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from fewcore import DataError, ImageSet, ImageSpec, Problem, Run, Target, numpy_generator, option
from fewcore_meta.decoding import Photographs, decode_all, read_file
from fewcore_meta.download import data_folder
from fewcore_meta.synsets import MINI_IMAGENET

FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
IMAGES = "images"
PER_CLASS = 600
HEADER = ["filename", "label"]
MAX_CSV_BYTES = 2**26
ADVICE = "docs/data.md says where it comes from"
ID_SEED = 0

Row = tuple[str, str]
"""Name of an image's file and its class."""


@dataclass(frozen=True)
class MiniImageNet:
    """miniImageNet: 64 classes of ImageNet for training, 16 for validation and 20 for test, 600 images of each.

    Images are (3, image_size, image_size) uint8, by default stretched to a square. Classes are named by their synsets
    (n01532829). Labels are read from the lists train.csv, val.csv and test.csv, each a line `filename,label` and one such
    line an image; images of these names lie in the folder `images` beside the lists.

    They are looked for in `path`, else in the folder `mini-imagenet` under $FEWCORE_DATA, else in that of the user's data
    folder. There is no official archive of the images, since ImageNet's terms allow none: docs/data.md says where lists
    and images come from. So there is no checksum either; the lists must name the 100 published classes, with 600 images
    of each.

    Source: S. Ravi, H. Larochelle: Optimization as a Model for Few-Shot Learning, ICLR 2017,
    https://openreview.net/forum?id=rJY0-Kcll; after O. Vinyals et al.: Matching Networks for One Shot Learning, 2016,
    arXiv:1606.04080.

    Differs from the paper: nothing known. That images are stretched, with a Lanczos filter, is common practice.

    Raises:
        DataError: lists or images are missing or cannot be read, an image is listed twice, a class is in two lists, or the
            classes and their sizes are not those published; all of it at once.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(84, "height and width", unit="pixels", paper="84", low=8, high=512)
    fit: Literal["stretch", "crop"] = option(
        "stretch", "how an oblong image becomes a square: stretched, or its middle", paper="stretch"
    )
    path: str = option("", "folder of the lists and of `images`; empty: looked for as said above")
    complete: bool = option(True, "refuse other classes and numbers than those published; false for a part")

    def sources(self) -> tuple[Path, ...]:
        """Return the three lists and the folder of the images."""
        folder = self._folder()
        return (*(folder / name for name in FILES.values()), folder / IMAGES)

    def load(self, run: Run) -> ImageSet:
        """Return all images, (60000, 3, h, w) uint8, with the class target `synset`."""
        folder = self._folder()
        problems: list[Problem] = []
        lists = {split: _rows(folder / name, problems) for split, name in FILES.items()}
        problems += _repeated(lists)
        if self.complete:
            problems += _unpublished(lists)
        rows = [row for listed in lists.values() for row in listed]
        problems += _missing(folder / IMAGES, rows)
        if not problems and not rows:
            problems.append(Problem(str(folder), "lists without images", "one image at least"))
        if problems:
            raise DataError(*problems, title="mini-imagenet")
        paths = [folder / IMAGES / name for name, _ in rows]
        files = Photographs(len(rows), lambda i: read_file(paths[i]), lambda i: str(paths[i]))
        images = decode_all(files, self.image_size, self.fit, run, problems)
        if problems:
            raise DataError(*problems, title="mini-imagenet")
        ids = numpy_generator(ID_SEED).permutation(len(rows))
        ends = np.cumsum([len(listed) for listed in lists.values()])[:-1]
        parts = dict(zip(lists, np.split(ids, ends), strict=True))
        names, labels = np.unique([label for _, label in rows], return_inverse=True)
        target = Target("class", labels.astype(np.int64), tuple(str(name) for name in names))
        spec = ImageSpec((self.image_size,) * 2, 3, (0, 255), preparation={"grey": False, "fit": self.fit})
        splits = {split: np.sort(chosen) for split, chosen in parts.items() if len(chosen)}
        return ImageSet(images, ids, ids.copy(), spec, {"synset": target}, splits, "synset")

    def _folder(self) -> Path:
        """Return the folder of the files.

        Raises:
            DataError: a list or the folder of images is not there.

        """
        folder = data_folder(self.path, "mini-imagenet")
        problems = [
            Problem(str(folder), f"no {name}", "the list of one split", ADVICE)
            for name in FILES.values()
            if not (folder / name).is_file()
        ]
        if not (folder / IMAGES).is_dir():
            problems.append(Problem(str(folder), f"no folder {IMAGES}", "the folder of the images", ADVICE))
        if problems:
            raise DataError(*problems, title="mini-imagenet")
        return folder


def _rows(path: Path, problems: list[Problem]) -> list[Row]:
    """Return the lines of a list; report those that are none, and names that lead out of the folder."""
    if path.stat().st_size > MAX_CSV_BYTES:
        problems.append(Problem(str(path), f"more than {MAX_CSV_BYTES:,} bytes", "a list of images"))
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(Problem(str(path), f"a list that cannot be read ({error})", "lines `filename,label`"))
        return []
    if not lines or lines[0] != HEADER:
        found = f"'{','.join(lines[0])}' as its first line" if lines else "an empty list"
        problems.append(Problem(str(path), found, f"'{','.join(HEADER)}'"))
        return []
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) == 2 and all(line) and Path(line[0]).name == line[0] and not line[0].startswith("."):
            rows.append((line[0], line[1]))
        else:
            problems.append(Problem(f"{path}, line {number}", f"'{','.join(line)}'", "a file's name and a class"))
    return rows


def _repeated(lists: dict[str, list[Row]]) -> list[Problem]:
    """Return the images that are listed twice and the classes of two splits."""
    problems = []
    seen: dict[str, str] = {}
    split_of: dict[str, str] = {}
    for split, rows in lists.items():
        for name, _ in rows:
            if name in seen:
                problems.append(
                    Problem(FILES[split], f"'{name}', which {FILES[seen[name]]} lists too", "each image once")
                )
            seen[name] = split
        for label in sorted({label for _, label in rows}):
            if label in split_of:
                found = f"class {label}, which is in {FILES[split_of[label]]} too"
                problems.append(Problem(FILES[split], found, "each class in one split"))
            split_of[label] = split
    return problems


def _unpublished(lists: dict[str, list[Row]]) -> list[Problem]:
    """Return how the lists differ from the published classes and their sizes."""
    problems = []
    advice = "put the published list there, or set complete: false for another one"
    for split, rows in lists.items():
        counts: dict[str, int] = {}
        for _, label in rows:
            counts[label] = counts.get(label, 0) + 1
        wanted = set(MINI_IMAGENET[split])
        for what, odd in (("without class", wanted - {*counts}), ("with class", {*counts} - wanted)):
            if odd:
                told = f"a list {what}{'es' * (len(odd) > 1)} {', '.join(sorted(odd))}"
                problems.append(Problem(FILES[split], told, f"the {len(wanted)} published classes", advice))
        problems += [
            Problem(FILES[split], f"{n} image{'s' * (n != 1)} of class {label}", str(PER_CLASS), advice)
            for label, n in sorted(counts.items())
            if label in wanted and n != PER_CLASS
        ]
    return problems


def _missing(folder: Path, rows: list[Row]) -> list[Problem]:
    """Return the images that are listed and not there."""
    there = {path.name for path in folder.iterdir()}
    return [Problem(str(folder), f"no {name}", "an image of the lists") for name, _ in rows if name not in there]
