"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings of each."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, numpy_generator, option
from fewcore_meta.download import data_folder, fetch_file

HALVES = ("images_background", "images_evaluation")
N_CHARACTERS = (964, 659)
DRAWINGS_PER_CHARACTER = 20
CACTUS_SHARES = (1100, 100, 423)

SOURCE = "https://github.com/brendenlake/omniglot/raw/master/python/"
OFFICIAL = {
    "images_background.zip": (9464212, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
    "images_evaluation.zip": (6462886, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
}
"""Bytes and SHA-256 of the official files."""

MEMBER = re.compile(r"([^/]+/character\d+)/([^/.][^/]*)\.png")
"""A drawing's path below its half: alphabet and character name the class. What fits not (__MACOSX, ._x) is passed over."""
MAX_FILE_BYTES = 2**20
MAX_PIXELS_A_SIDE = 1024
PNG_HEADER = b"\x89PNG\r\n\x1a\n"
ID_SEED = 0


@dataclass(frozen=True)
class _File:
    """One drawing's file: where it lies, for messages; the name of its class; its size in bytes; how to read it."""

    where: str
    character: str
    n_bytes: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Omniglot:
    """Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people; a character is a class.

    Images are (1, image_size, image_size) uint8: strokes 255 on a background of 0, the reverse of the files, so that a
    border of zeros is background. Splits are by class. `cactus` draws 1100 characters for training, 100 for validation
    and 423 for test from all alphabets; `lake` tests on the 659 characters of the 20 evaluation alphabets, and draws
    `validation_characters` from the 964 background characters for validation.

    The files are looked for in `path`, else in the folder `omniglot` under $FEWCORE_DATA, else in that of the user's
    data folder: the official zip files images_background.zip and images_evaluation.zip, read without being extracted,
    or the folders that they hold; the zip file where there is both. With `fetch`, zip files that are missing are
    downloaded from the authors' repository. Their sizes and SHA-256 are those that TensorFlow Datasets records for
    these addresses; a file that differs is not kept.

    Source: B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum: Human-level concept learning through probabilistic program
    induction, Science 350, 2015, doi:10.1126/science.aab3050. Splits: K. Hsu, S. Levine, C. Finn: Unsupervised Learning
    via Meta-Learning, ICLR 2019, arXiv:1810.02334.

    Differs from the paper: the list of CACTUs' 1100, 100 and 423 characters is not published with the paper, so
    `protocol_seed` draws one. Drawings are scaled down in grey, with anti-aliasing.

    Raises:
        DataError: files are missing, cannot be read, are no PNG images or too large, a character has not 20 drawings,
            or there are not 964 + 659 characters; all of it at once.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(28, "height and width", unit="pixels", paper="28", low=1, high=1024)
    protocol: Literal["cactus", "lake"] = option("cactus", "how characters are split", paper="cactus")
    protocol_seed: int = option(0, "draws the characters of the splits", low=0)
    validation_characters: int = option(100, "background characters for validation in `lake`", low=1)
    path: str = option("", "folder of the files; empty: looked for as said above")
    fetch: bool = option(False, "download the official zip files where they are missing (16 MB)")
    complete: bool = option(True, "refuse fewer than 964 + 659 characters; false for a part of Omniglot")

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are read: two zip files, or every drawing of an extracted folder."""
        found: list[Path] = []
        for _, place in self._places():
            found += [place] if place.suffix == ".zip" else sorted(place.glob("*/*/*.png"))
        return tuple(found)

    def load(self, run: Run) -> ImageSet:
        """Return all drawings, (32460, 1, h, w) uint8, with the class target `character`, named `Alphabet/characterNN`."""
        problems: list[Problem] = []
        pixels: list[Array] = []
        labels: list[int] = []
        names: list[str] = []
        sizes = []
        with ExitStack() as open_files:
            for half, place in self._places():
                files = _files(half, place, problems, open_files)
                known = _characters(place, files, names, problems)
                label_of = {name: len(names) + rank for rank, name in enumerate(known)}
                sizes.append(len(known))
                names += known
                for file in run.track(files, name=half):
                    try:
                        pixels.append(_decode(file, self.image_size))
                        labels.append(label_of[file.character])
                    except _Unreadable as error:
                        problems.append(Problem(file.where, str(error), "a PNG image of one drawing"))
        problems += self._count_problems(sizes)
        if problems:
            raise DataError(*problems, title="omniglot")
        return self._image_set(np.stack(pixels)[:, None], np.array(labels, dtype=np.int64), names, sizes)

    def _image_set(self, pixels: Array, labels: Array, names: list[str], sizes: list[int]) -> ImageSet:
        # Ids say nothing: in the order of the files they would tell the class.
        ids = numpy_generator(ID_SEED).permutation(len(pixels))
        splits = {
            split: np.sort(ids[np.isin(labels, characters)]) for split, characters in self._characters(*sizes).items()
        }
        spec = ImageSpec(
            (self.image_size,) * 2, 1, (0, 255), preparation={"grey": True, "fit": "stretch", "invert": True}
        )
        target = Target("class", labels, tuple(names))
        return ImageSet(pixels, ids, ids.copy(), spec, {"character": target}, splits, "character")

    def _characters(self, n_background: int, n_evaluation: int) -> dict[str, Array]:
        """Return the classes of each split."""
        rng = numpy_generator(self.protocol_seed)
        if self.protocol == "lake":
            drawn = rng.permutation(n_background)
            cut = self.validation_characters
            test = np.arange(n_background, n_background + n_evaluation)
            return {"train": drawn[cut:], "validation": drawn[:cut], "test": test}
        n = n_background + n_evaluation
        drawn = rng.permutation(n)
        n_train, n_validation, _ = (share * n // sum(CACTUS_SHARES) for share in CACTUS_SHARES)
        train, validation, test = np.split(drawn, [n_train, n_train + n_validation])
        return {"train": train, "validation": validation, "test": test}

    def _count_problems(self, sizes: Sequence[int]) -> list[Problem]:
        found = []
        for half, n, expected in zip(HALVES, sizes, N_CHARACTERS, strict=True):
            if self.complete and n != expected:
                advice = "put the whole of it there, or set complete: false for a part"
                found.append(Problem(half, f"{n} characters", str(expected), advice))
        if self.protocol == "lake" and self.validation_characters >= sizes[0]:
            what = f"{self.validation_characters} of {sizes[0]} background characters"
            found.append(Problem("validation_characters", what, "some left for training", "lower it"))
        if self.protocol == "cactus" and sum(sizes) * min(CACTUS_SHARES) < sum(CACTUS_SHARES):
            what = f"{sum(sizes)} characters"
            found.append(Problem("protocol", what, "at least 17 for three splits", "protocol: lake"))
        return found

    def _places(self) -> list[tuple[str, Path]]:
        """Return each half with its zip file or folder.

        Raises:
            DataError: a half is missing and is not to be fetched, or cannot be fetched.

        """
        folder = data_folder(self.path, "omniglot")
        places, problems = [], []
        for half in HALVES:
            name = f"{half}.zip"
            if not (folder / name).is_file() and not (folder / half).is_dir():
                if self.fetch:
                    fetch_file(SOURCE + name, *OFFICIAL[name], folder / name, "omniglot")
                else:
                    advice = f"set fetch: true in the omniglot stage, or type: curl -L --create-dirs -o '{folder / name}' {SOURCE}{name}"
                    problems.append(Problem(str(folder), f"no {name} and no folder {half}", "one of the two", advice))
            places.append((half, folder / name if (folder / name).is_file() else folder / half))
        if problems:
            raise DataError(*problems, title="omniglot")
        return places


def _characters(place: Path, files: list[_File], taken: list[str], problems: list[Problem]) -> list[str]:
    """Return the names of the characters, sorted; report those with a wrong number of drawings or a name twice."""
    counts: dict[str, int] = {}
    for file in files:
        counts[file.character] = counts.get(file.character, 0) + 1
    for name in sorted(counts):
        if counts[name] != DRAWINGS_PER_CHARACTER:
            where, n = f"{place}: {name}", counts[name]
            problems.append(Problem(where, f"{n} drawing{'s' * (n != 1)}", str(DRAWINGS_PER_CHARACTER)))
    twice = sorted(counts.keys() & set(taken))
    problems += [Problem(f"{place}: {name}", "a character of both halves", "a name in one of them") for name in twice]
    return sorted(counts)


def _files(half: str, place: Path, problems: list[Problem], open_files: ExitStack) -> list[_File]:
    """Return the drawings of one half, sorted by path; report a zip file that cannot be read, else leave it open."""
    if place.suffix != ".zip":
        found = list(_in_folder(place))
    else:
        try:
            found = list(_in_zip(half, open_files.enter_context(zipfile.ZipFile(place))))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            advice = "delete it and fetch it again"
            problems.append(Problem(str(place), f"no readable zip file ({error})", "the official file", advice))
            return []
    return sorted(found, key=lambda file: file.where)


def _in_zip(half: str, archive: zipfile.ZipFile) -> Iterator[_File]:
    for info in archive.infolist():
        head, _, rest = info.filename.partition("/")
        match = MEMBER.fullmatch(rest) if head == half else None
        if match:

            def read(info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as member:
                    # The size that a member declares need not be true: no more is unpacked than is allowed.
                    return member.read(MAX_FILE_BYTES + 1)

            yield _File(f"{archive.filename}: {info.filename}", match[1], info.file_size, read)


def _in_folder(folder: Path) -> Iterator[_File]:
    for path in folder.glob("*/*/*.png"):
        if match := MEMBER.fullmatch(path.relative_to(folder).as_posix()):
            yield _File(str(path), match[1], path.stat().st_size, path.read_bytes)


class _Unreadable(Exception):
    """What was found instead of a drawing."""


def _decode(file: _File, size: int) -> Array:
    """Return a drawing, (size, size) uint8, strokes 255 on 0.

    Raises:
        _Unreadable: the file is too large, cannot be read, is no PNG image, or declares too many pixels.

    """
    if file.n_bytes > MAX_FILE_BYTES:
        raise _Unreadable(f"{file.n_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")
    try:
        content = file.read()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise _Unreadable(f"a file that cannot be read ({error})") from error
    if len(content) > MAX_FILE_BYTES:
        raise _Unreadable(f"more than {MAX_FILE_BYTES:,} bytes")
    if not content.startswith(PNG_HEADER) or content[12:16] != b"IHDR" or len(content) < 24:
        raise _Unreadable("no PNG image")
    # Read before Pillow is asked: a small file can declare an image that fills the memory.
    width, height = struct.unpack(">II", content[16:24])
    if not (0 < width <= MAX_PIXELS_A_SIDE and 0 < height <= MAX_PIXELS_A_SIDE):
        raise _Unreadable(f"{width} x {height} pixels, more than {MAX_PIXELS_A_SIDE} a side or none")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
            grey = opened.convert("L")
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        raise _Unreadable(f"a broken image ({error})") from error
    if grey.size != (size, size):
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(255 - np.asarray(grey))
