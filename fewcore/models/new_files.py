"""Which new files are meant, and all of them read before anything else is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fewcore import readers
from fewcore.contracts import Array
from fewcore.errors import DataError, Problem
from fewcore.image_files import Unusable, quiet_pillow
from fewcore.models.new_images import Fitting, NewImages
from fewcore.run import Run

THREADS = 8
SERIES = (".dcm", ".ima")
FORMATS = "PNG, JPEG or TIFF, or a format of a plugin (NIfTI and DICOM: pip install 'fewcore[medical]')"


@dataclass(frozen=True)
class NewFile:
    """A file, and its name in results: its path from the folder that was named.

    `size` is its height and width in pixels, empty where masks cannot go back into it; `n_slices` the number of images
    in it, once it was read. Where the data set reads volumes itself, a folder of DICOM slices is one file.
    """

    path: Path
    name: str
    size: tuple[int, ...] = ()
    n_slices: int = 1


def listed(said: Iterable[str | Path], skip: Path | None = None, *, series: bool = False) -> list[NewFile]:
    """Return the files that are meant: files as they are, and all images in folders, however deep, by their names.

    In folders, names that begin with a dot, files of other formats and what lies in `skip` are passed over. With `series`
    a folder of DICOM files is one volume.

    Raises:
        DataError: what is missing, folders without images, folders that are `skip` or lie in it, folders that hold other
            images beside a volume's slices, and names that two files would have in results.

    """
    problems: list[Problem] = []
    found: dict[str, NewFile] = {}
    places = [Path(place) for place in said]
    for place in places:
        if place.is_dir() and skip is not None and place.resolve().is_relative_to(skip.resolve()):
            problems.append(Problem(str(place), "the folder of the results", "one of images", "type another --out"))
            continue
        files = _images_in(place, skip, series, problems) if place.is_dir() else [NewFile(place, place.name)]
        if place.is_dir() and not files:
            problems.append(Problem(str(place), "no images", FORMATS))
        elif not place.exists():
            problems.append(Problem(str(place), "no such file or folder", "an image, or a folder of images"))
        for file in files:
            other = found.setdefault(file.name, file)
            if other is not file and other.path.resolve() != file.path.resolve():
                both = f"'{file.name}' and {other.path} have one name in the results"
                problems.append(Problem(str(file.path), both, "different names", "name the folder that holds both"))
    if not places:
        problems.append(Problem("files", "none", "images or folders of images"))
    if problems:
        raise DataError(*problems, title=_title(len(problems)))
    return list(found.values())


def labelled_files(folder: Path, *, series: bool = False) -> tuple[tuple[str, ...], list[NewFile], Array]:
    """Return the classes of a folder, which are its sub-folders, all images in them, and the class of each, (n,).

    With `series` a folder of DICOM files is one volume; the folder of a class may be one itself.

    Raises:
        DataError: there is no such folder, fewer than two classes, a class without images, images beside the classes, or
            beside a volume's slices.

    """
    if not folder.is_dir():
        expected = "a folder with a sub-folder of images for each class"
        raise DataError(Problem(str(folder), "no such folder", expected, "type --labelled DIR"))
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    problems: list[Problem] = []
    files = _images_in(folder, None, series, problems)
    inside = [file.path.relative_to(folder).parts for file in files]
    # A file is in a class where a folder leads to it; a volume where its own folder is in the class, or is it.
    labels = [
        parts[0] if len(parts) > 1 or (parts and file.path.is_dir()) else ""
        for file, parts in zip(files, inside, strict=True)
    ]
    if loose := [file.name for file, label in zip(files, labels, strict=True) if not label]:
        expected = "every image in the sub-folder of its class"
        problems.append(
            Problem(str(folder), f"{len(loose)} images beside the sub-folders, such as {loose[0]}", expected)
        )
    if len(names) < 2:
        there = f"{len(names)} sub-folders"
        problems.append(Problem(str(folder), there, "at least two, one for each class"))
    problems += [Problem(str(folder / name), "no images", FORMATS) for name in names if name not in labels]
    if problems:
        raise DataError(*problems, title=_title(len(problems)))
    return names, files, np.array([names.index(label) for label in labels], np.int64)


def read_all(files: list[NewFile], fitting: Fitting, run: Run, *, one_each: bool) -> tuple[Array, list[NewFile]]:
    """Return the images of files, (n, c, h, w), one after the other, and the files with size and number of slices.

    With `one_each` a volume of several slices is refused.

    Raises:
        DataError: every file that cannot be used, with the reason of each.

    """
    problems: list[Problem] = []
    images, read = [], []
    with quiet_pillow(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            tried = pool.map(lambda file: _tried(file.path, fitting), files)
            found = list(run.track(tried, name="read images", total=len(files)))
        finally:
            pool.shutdown(cancel_futures=True)
    for file, made in zip(files, found, strict=True):
        if isinstance(made, Unusable):
            problems.append(Problem(str(file.path), str(made)))
        elif one_each and len(made.images) > 1:
            problems.append(Problem(str(file.path), f"a volume of {len(made.images)} slices", "one image a file"))
        else:
            images.append(made.images)
            read.append(replace(file, size=made.size, n_slices=len(made.images)))
    if problems:
        raise DataError(*problems, title=f"{len(problems)} of {len(files)} files cannot be used, and none was")
    return np.concatenate(images), read


def _title(count: int) -> str:
    return "new files" if count > 1 else ""


def _images_in(folder: Path, skip: Path | None, series: bool, problems: list[Problem]) -> list[NewFile]:
    """Return the images of a folder in the order of their names, without opening any, and add what is wrong with it."""
    return sorted(_walked(folder, skip, series, problems), key=lambda file: file.name)


def _walked(folder: Path, skip: Path | None, series: bool, problems: list[Problem]) -> Iterator[NewFile]:
    passed = None if skip is None else skip.resolve()
    volumes: list[Path] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [n for n in folders if not n.startswith(".") and (here / n).resolve() != passed]
        images = [name for name in names if not name.startswith(".") and readers.suffix_of(name)]
        slices = [name for name in images if series and name.lower().endswith(SERIES)]
        volume = next((volume for volume in volumes if here.is_relative_to(volume)), None)
        others = images if volume is not None else [name for name in images if slices and name not in slices]
        if others:
            found = f"other images beside the DICOM files of one volume, such as {here / others[0]}"
            problems.append(Problem(str(volume or here), found, "one series a folder, and nothing else in it"))
        if volume is not None:
            continue
        if slices:
            volumes.append(here)
            inside = here.relative_to(folder).as_posix()
            yield NewFile(here, folder.resolve().name if inside == "." else inside)
            continue
        for name in images:
            path = here / name
            yield NewFile(path, path.relative_to(folder).as_posix())


def _tried(path: Path, fitting: Fitting) -> NewImages | Unusable:
    try:
        return fitting.read(path)
    except Unusable as error:
        return error
    except OSError as error:
        return Unusable(f"not readable ({type(error).__name__}); expected a file that may be read")
