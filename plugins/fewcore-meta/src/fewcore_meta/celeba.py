"""CelebA: 202,599 faces with 40 binary attributes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, numpy_generator, option
from fewcore_meta.decoding import MAX_FILE_BYTES, Photographs, Unreadable, decode_all, read_file
from fewcore_meta.download import data_folder

ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
FACES = "img_align_celeba"
ARCHIVE = f"{FACES}.zip"
SPLITS = ("train", "validation", "test")
SIZES = (162_770, 19_867, 19_962)
N_ATTRIBUTES = 40
MAX_TEXT_BYTES = 2**28
LISTED = 20
ADVICE = "docs/data.md says where it comes from"
ID_SEED = 0


@dataclass(frozen=True)
class CelebA:
    """CelebA, aligned and cropped: 162,770 faces for training, 19,867 for validation, 19,962 for test, 40 attributes each.

    Images are (3, image_size, image_size) uint8, made from 178 x 218 pixels. `attributes` is a target of 40 binary
    attributes, in the order of the file (5_o_Clock_Shadow to Young, alphabetical): what attribute-tasks asks for. There
    is no class. Attributes and splits are read from their two lists.

    The files img_align_celeba.zip (or the folder img_align_celeba that it holds), list_attr_celeba.txt and
    list_eval_partition.txt are looked for in `path`, else in the folder `celeba` under $FEWCORE_DATA, else in that of the
    user's data folder. The authors hand them out through pages that no program may fetch from: docs/data.md says where
    they are, and their sizes and SHA-256. Here the numbers of images and attributes are checked, and the zip file's own
    checksum of each image.

    Source: Z. Liu, P. Luo, X. Wang, X. Tang: Deep Learning Face Attributes in the Wild, ICCV 2015, arXiv:1411.7766.

    Differs from the paper: K. Hsu et al. (arXiv:1810.02334) do not say how 178 x 218 pixels become 84 x 84: `fit`.

    Raises:
        DataError: files are missing or cannot be read, the lists disagree, an image is missing, or the numbers are not
            those published; all of it at once.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(84, "height and width", unit="pixels", paper="84; embeddings 64", low=8, high=512)
    fit: Literal["stretch", "crop"] = option("stretch", "how a face becomes a square: stretched, or its middle")
    path: str = option("", "folder of the files; empty: looked for as said above")
    complete: bool = option(True, "refuse other numbers than those published; false for a part")

    def sources(self) -> tuple[Path, ...]:
        """Return the two lists and the zip file or the folder of the faces."""
        return self._places()

    def load(self, run: Run) -> ImageSet:
        """Return all faces, (202599, 3, h, w) uint8, with the target `attributes`, (202599, 40) of 0 and 1."""
        attributes, partition, faces = self._places()
        problems: list[Problem] = []
        names, table, attribute_names = _attributes(attributes, problems)
        of_split = _partition(partition, names, problems)
        if self.complete and not problems:
            problems += _unpublished(of_split, attribute_names)
        with ExitStack() as open_files:
            files = _faces(faces, names, problems, open_files)
            if problems:
                raise DataError(*problems, title="celeba")
            images = decode_all(files, self.image_size, self.fit, run, problems)
        if problems:
            raise DataError(*problems, title="celeba")
        ids = numpy_generator(ID_SEED).permutation(len(names))
        splits = {name: np.sort(ids[of_split == number]) for number, name in enumerate(SPLITS)}
        spec = ImageSpec((self.image_size,) * 2, 3, (0, 255), preparation={"grey": False, "fit": self.fit})
        target = Target("attributes", table, attribute_names)
        kept = {name: chosen for name, chosen in splits.items() if len(chosen)}
        return ImageSet(images, ids, ids.copy(), spec, {"attributes": target}, kept)

    def _places(self) -> tuple[Path, Path, Path]:
        """Return the two lists and the zip file or the folder of the faces, the zip file where there is both.

        Raises:
            DataError: one of them is not there.

        """
        folder = data_folder(self.path, "celeba")
        problems = [
            Problem(str(folder), f"no {name}", "the list", ADVICE)
            for name in (ATTRIBUTES, PARTITION)
            if not (folder / name).is_file()
        ]
        faces = folder / ARCHIVE if (folder / ARCHIVE).is_file() else folder / FACES
        if not faces.exists():
            problems.append(Problem(str(folder), f"no {ARCHIVE} and no folder {FACES}", "one of the two", ADVICE))
        if problems:
            raise DataError(*problems, title="celeba")
        return folder / ATTRIBUTES, folder / PARTITION, faces


def _lines(path: Path, problems: list[Problem]) -> list[list[str]]:
    """Return the words of each line of a text; report one that cannot be read."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError(f"more than {MAX_TEXT_BYTES:,} bytes")
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        problems.append(Problem(str(path), f"a list that cannot be read ({error})", "a text of words"))
        return []


def _attributes(path: Path, problems: list[Problem]) -> tuple[list[str], Array, tuple[str, ...]]:
    """Return the files' names (n), the attributes (n, a) int8 of 0 and 1, and these attributes' names (a)."""
    before = len(problems)
    lines = _lines(path, problems)
    if len(problems) > before:
        return [], np.zeros((0, 0), np.int8), ()
    if len(lines) < 3 or len(lines[0]) != 1 or not lines[0][0].isdigit():
        expected = "the number of images, then the names of the attributes, then a line an image"
        problems.append(Problem(str(path), f"{len(lines)} lines, or another beginning", expected))
        return [], np.zeros((0, 0), np.int8), ()
    names, rows = lines[1], lines[2:]
    if int(lines[0][0]) != len(rows):
        problems.append(Problem(str(path), f"{len(rows)} images", f"{lines[0][0]}, as its first line says"))
    good = {name: set(values) <= {"-1", "1"} and len(values) == len(names) for name, *values in rows}
    odd = [name for name, fine in good.items() if not fine]
    problems += [Problem(f"{path}: {name}", "other values", f"{len(names)} of -1 and 1") for name in odd[:LISTED]]
    if len(odd) > LISTED:
        problems.append(Problem(str(path), f"{len(odd) - LISTED} more lines with other values"))
    if len(good) < len(rows):
        problems.append(Problem(str(path), f"{len(rows) - len(good)} images listed twice", "each image once"))
    if len(problems) > before:
        return [], np.zeros((0, 0), np.int8), tuple(names)
    table = np.array([values for _, *values in rows], dtype="U2") == "1"
    return [row[0] for row in rows], table.astype(np.int8), tuple(names)


def _partition(path: Path, names: list[str], problems: list[Problem]) -> Array:
    """Return the number of each image's split, (n,), in the order of `names`."""
    before = len(problems)
    lines = _lines(path, problems)
    odd = [line for line in lines if len(line) != 2 or line[1] not in ("0", "1", "2")]
    if odd:
        found = f"{len(odd)} line{'s' * (len(odd) != 1)} such as '{' '.join(odd[0])}'"
        problems.append(Problem(str(path), found, "a file's name and 0, 1 or 2"))
    if len(problems) > before:
        return np.zeros(0, np.int64)
    split_of = {name: int(number) for name, number in lines}
    apart = {*names} ^ {*split_of}
    if apart and names:
        found = f"{len(apart)} image{'s' * (len(apart) != 1)}, such as {min(apart)}, in one of the two lists alone"
        problems.append(Problem(str(path), found, f"the images of {ATTRIBUTES}"))
        return np.zeros(0, np.int64)
    return np.array([split_of[name] for name in names], np.int64)


def _unpublished(of_split: Array, attribute_names: tuple[str, ...]) -> list[Problem]:
    """Return how numbers of images and attributes differ from those published."""
    advice = "put the whole of it there, or set complete: false for a part"
    counts = np.bincount(of_split, minlength=len(SPLITS)).tolist()
    problems = [
        Problem(PARTITION, f"{found} images for {split}", str(expected), advice)
        for split, found, expected in zip(SPLITS, counts, SIZES, strict=True)
        if found != expected
    ]
    if len(attribute_names) != N_ATTRIBUTES:
        problems.append(Problem(ATTRIBUTES, f"{len(attribute_names)} attributes", str(N_ATTRIBUTES), advice))
    return problems


def _faces(place: Path, names: list[str], problems: list[Problem], open_files: ExitStack) -> Photographs:
    """Return the images of the list, read from a folder or a zip file that is left open; report those that are missing."""
    if place.is_dir():
        there = {path.name for path in place.iterdir()}
        problems += _absent(place, [name for name in names if name not in there])
        return Photographs(len(names), lambda i: read_file(place / names[i]), lambda i: str(place / names[i]))
    try:
        archive = open_files.enter_context(zipfile.ZipFile(place))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        problems.append(Problem(str(place), f"no readable zip file ({error})", "the official file", ADVICE))
        return Photographs(0, lambda _: b"", lambda _: "")
    members = {info.filename: info for info in archive.infolist()}
    paths = [f"{FACES}/{name}" for name in names]
    problems += _absent(place, [name for name, path in zip(names, paths, strict=True) if path not in members])
    return Photographs(len(names), _reader(archive, members, paths), lambda i: f"{place}: {paths[i]}")


def _reader(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], paths: list[str]) -> Callable[[int], bytes]:
    def read(i: int) -> bytes:
        try:
            with archive.open(members[paths[i]]) as member:
                return member.read(MAX_FILE_BYTES + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise Unreadable(f"a file that cannot be read ({error})") from error

    return read


def _absent(place: Path, names: list[str]) -> list[Problem]:
    problems = [Problem(str(place), f"no {name}", f"an image of {ATTRIBUTES}") for name in names[:LISTED]]
    if len(names) > LISTED:
        problems.append(Problem(str(place), f"{len(names) - LISTED} more images are missing"))
    return problems
