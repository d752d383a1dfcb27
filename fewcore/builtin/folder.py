"""A folder of one's own images: one sub-folder a class, images without classes, or a table that says more."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np

from fewcore import (
    Array,
    DataError,
    ImageSet,
    ImageSpec,
    Problem,
    Run,
    Target,
    child_seed,
    image_files,
    numpy_generator,
    option,
)
from fewcore.builtin.labelled_table import load_table, table_sources
from fewcore.builtin.splitting import Shares, dealt

Read = TypeVar("Read")
Option = TypeVar("Option")
THREADS = 8
LEAST = 8

MASK = re.compile(r"(.+?)[ _-](?:mask|seg|segmentation|gt|label)(?:[ _-]?\d+)?", re.IGNORECASE)
"""The name of a mask's file, and in it that of its image: `benign (1)_mask`, `benign (1)_mask_1`."""


@dataclass(frozen=True)
class _Listing:
    """What stands in a folder: images by path from the folder, the class of each (-1 for none), and what is wrong."""

    files: tuple[Path, ...]
    classes: Array
    names: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Folder:
    """PNG, JPEG and TIFF images of a folder: each sub-folder is a class; images directly in the folder have none.

    Images of a class may lie in folders of its own, however deep. Names that begin with a dot and files of other
    suffixes are passed over, and so are classes that `classes` leaves out. Each image is turned as its EXIF data says, made grey or coloured, and fitted to a square;
    what is transparent shows white. Eight bits a value stay uint8. Where any file has more, the whole set is float32 in
    [0, 1], each 16-bit file divided by 2**bits - 1 (never by its own extremes, which would make images incomparable),
    8-bit files by 255; float TIFFs must be in [0, 1]. 16-bit colour PNGs are read with 8 bits. Links to folders, and
    links that leave the folder, are not followed.

    Everything that is wrong is reported at once: files that are empty, damaged, truncated, too large or of several
    pages, classes that are empty or too small, names without a group, links. File names stand nowhere else: ids and
    groups are numbers that say nothing.

    With `table`, a CSV file in the folder, each line says an image, its mask, its class and its patient, by paths from the
    table's own folder; `path` may then be a zip file too, which is not extracted. Empty cells are not known. Masks are
    PNG or TIFF of the image's size: 0 where nothing is. There are a target `class` and a target `mask`, groups are
    patients. Files of other formats are read where a plugin offers a reader (NIfTI and DICOM: fewcore-medical); their
    values become 0 to 1 by `window`. With `per_object` every object of an instance mask becomes an image of its own; those
    of one patient, or of one image where no patient is known, stay in one split. Problems name the table's lines.

    The splits are fixed by the file names: the same folder always gives the same. They keep a group together; by
    `images` every class has its share of each split, by `classes` whole classes are held out, as few-shot tests want.

    Raises:
        DataError: as above; or a split that comes out empty; or a group in classes of several splits.

    """

    path: str = option(..., "the folder; looked for here, else under $FEWCORE_DATA")
    table: str = option("", "a CSV file in the folder or zip file, a line an image; empty: sub-folders are classes")
    classes: tuple[str, ...] = option((), "the sub-folders to read, or all classes of the table; empty: all of them")
    image_size: int = option(64, "height and width that images are fitted to", unit="pixels", low=LEAST, high=4096)
    grey: bool = option(False, "one channel instead of three")
    fit: Literal["pad", "crop", "stretch"] = option("pad", "how an oblong image becomes a square; pad adds black")
    bits: int = option(16, "bits that carry the values of 16-bit files", paper="12 on many scanners", low=9, high=16)
    max_pixels: int = option(50_000_000, "largest image that is decoded", unit="pixels", low=1)
    min_per_class: int = option(1, "fewest images that a class may have", low=1)
    groups: str = option("", "regular expression on the path inside the folder; its first group names the patient")
    split_by: Literal["images", "classes"] = option("images", "what is dealt out to the splits")
    validation_share: float = option(0.15, "share for validation, of images or of classes", low=0, high=1)
    test_share: float = option(0.25, "share for test, of images or of classes", low=0, high=1)
    image_column: str = option("image", "the table's column of image files")
    mask_column: str = option("mask", "its column of mask files; empty: none")
    class_column: str = option("class", "its column of classes; empty: none")
    patient_column: str = option("patient", "its column of patients; empty: each image is a group of its own")
    structures: tuple[str, ...] = option(("mask",), "what a mask shows; of several the first is its value 1, and so on")
    window: tuple[float, ...] = option((), "values of other formats that become 0 and 1; empty: 0, 2**bits - 1")
    per_object: bool = option(False, "cut a patch around each object of an instance mask: each value above 0")
    margin: float = option(0.1, "around an object, as a share of its longer side", paper="not given", low=0, high=10)
    object_column: str = option("", "where a line is an object: the column of its value in the mask")

    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.validation_share + self.test_share >= 1:
            found = f"{self.validation_share} and {self.test_share}"
            raise ValueError(f"validation_share and test_share: found {found}; expected a sum below 1")
        try:
            re.compile(self.groups)
        except re.error as error:
            raise ValueError(f"groups: found no regular expression: {error}") from error
        self._check_table_options()

    def _check_table_options(self) -> None:
        if self.per_object and not (self.table and self.mask_column and len(self.structures) == 1):
            raise ValueError(
                "per_object: found no table, no mask_column or several structures; expected all of one mask"
            )
        if self.object_column and not self.per_object:
            raise ValueError(f"object_column: found '{self.object_column}'; expected per_object: true beside it")
        if self.table and self.groups:
            raise ValueError("groups: found a regular expression beside a table; expected patient_column")
        if not self.structures or len({*self.structures}) < len(self.structures):
            raise ValueError(f"structures: found {list(self.structures)}; expected at least one name, each once")
        if self.window and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise ValueError(f"window: found {list(self.window)}; expected a low and a higher value, or nothing")
        if not self.image_column:
            raise ValueError("image_column: found no name; expected the table's column of image files")

    def sources(self) -> tuple[Path, ...]:
        """Return the image files, sorted; or the table and its files, or the zip file."""
        if self.table:
            return table_sources(self)
        root = _root(self.path)
        return tuple(root / file for file in _listing(root, self.classes).files)

    def load(self, run: Run) -> ImageSet:
        """Return the images, (n, c, image_size, image_size) uint8 or float32, with the target `class` if there are any.

        With a table there may be the target `mask` too, (n, k, image_size, image_size) of 0 and 1. `geometry["size"]` (n, 2)
        is the height and width of each file in pixels; `geometry["box"]` (n, 4), with `per_object`, is what was cut out
        of it: left, upper, right, lower.
        """
        if self.table:
            return load_table(self, run)
        root = _root(self.path)
        listing = _listing(root, self.classes)
        problems = [*listing.problems, *self._small_classes(listing)]
        groups = self._groups(listing, problems)
        images, sizes = self._read(root, listing, problems, run)
        if not listing.files:
            problems.append(Problem("", "no images", "PNG, JPEG or TIFF files, or a sub-folder of them for each class"))
        if problems:
            raise DataError(*problems, title=f"folder {root}")
        n = len(listing.files)
        ids = numpy_generator(child_seed(0, "folder", "ids", n)).permutation(n)
        shares = Shares(self.split_by, self.validation_share, self.test_share)
        rows = dealt(listing.classes, len(listing.names), groups, shares)
        # A file's number in the sorted listing would tell its class; a permuted one does not.
        groups = numpy_generator(child_seed(0, "folder", "groups", n)).permutation(n)[groups]
        high = 1.0 if images.dtype == np.float32 else 255.0
        how = {"grey": self.grey, "fit": self.fit, "bits": self.bits, "max_pixels": self.max_pixels}
        spec = ImageSpec((self.image_size,) * 2, 1 if self.grey else 3, (0.0, high), preparation=how)
        targets = {"class": Target("class", listing.classes, listing.names)} if listing.names else {}
        splits = {name: np.sort(ids[chosen]) for name, chosen in rows.items()}
        target = "class" if targets else ""
        return ImageSet(images, ids, groups, spec, targets, splits, target, geometry={"size": sizes})

    def _small_classes(self, listing: _Listing) -> list[Problem]:
        counts = np.bincount(listing.classes[listing.classes >= 0], minlength=len(listing.names)).tolist()
        expected = f"at least {self.min_per_class} (min_per_class)"
        return [
            Problem("", f"class '{name}' has {count} image{'s' * (count != 1)}", expected)
            for name, count in zip(listing.names, counts, strict=True)
            if count < self.min_per_class
        ]

    def _groups(self, listing: _Listing, problems: list[Problem]) -> Array:
        """Return the number of each file's group, counted from 0."""
        if not self.groups:
            return np.arange(len(listing.files))
        pattern = re.compile(self.groups)
        names = []
        for file in listing.files:
            found = pattern.search(file.as_posix())
            name = found and (found[1] if pattern.groups else found[0])
            if name is None:
                problems.append(
                    Problem(file.as_posix(), f"no group: '{self.groups}' does not match", "a name with one")
                )
            names.append(name or "")
        return np.asarray(np.unique(names, return_inverse=True)[1])

    def _read(self, root: Path, listing: _Listing, problems: list[Problem], run: Run) -> tuple[Array, Array]:
        """Return the images and the files' sizes (n, 2); what cannot be read is added to the problems."""
        how = image_files.Preparation(self.image_size, self.grey, self.fit, self.bits, self.max_pixels)
        n = len(listing.files)
        sizes = np.zeros((n, 2), np.int64)
        with image_files.quiet_pillow(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            headers = list(
                pool.map(lambda file: _tried(image_files.read_header, root / file, self.max_pixels), listing.files)
            )
            deep = any(not isinstance(header, image_files.Unusable) and header.deep for header in headers)
            shape = (n, 1 if self.grey else 3, self.image_size, self.image_size)
            images = np.zeros(shape, np.float32 if deep else np.uint8)

            def decode(i: int) -> image_files.Unusable | None:
                header = headers[i]
                if isinstance(header, image_files.Unusable):
                    return header
                sizes[i] = header.size
                image = _tried(image_files.read_image, root / listing.files[i], how)
                if isinstance(image, image_files.Unusable):
                    return image
                images[i] = image / np.float32(255) if deep and image.dtype == np.uint8 else image
                return None

            try:
                found = list(run.track(pool.map(decode, range(n)), name="read images", total=n))
            finally:
                pool.shutdown(cancel_futures=True)
        for file, error in zip(listing.files, found, strict=True):
            if error is not None:
                problems.append(Problem(file.as_posix(), str(error)))
        return images, sizes


def _tried(read: Callable[[Path, Option], Read], path: Path, option: Option) -> Read | image_files.Unusable:
    """Return what a reader returns, or its refusal."""
    try:
        return read(path, option)
    except image_files.Unusable as error:
        return error
    except OSError as error:
        return image_files.Unusable(f"not readable ({type(error).__name__}); expected a file that may be read")


def _root(path: str) -> Path:
    """Return the folder that the option names.

    Raises:
        DataError: there is none.

    """
    home = os.environ.get("FEWCORE_DATA", "")
    places = [Path(path).expanduser(), *([Path(home) / path] if home else [])]
    for place in places:
        if place.is_dir():
            return place.resolve()
    raise DataError(Problem("folder", f"no folder '{path}'", "a folder of images", "path: FOLDER, or set FEWCORE_DATA"))


def _masks_among(files: list[Path]) -> list[Problem]:
    """Return a problem where files are named as masks of others beside them: as images they would teach their answer."""
    stems = {(file.parent, file.stem) for file in files}
    masks = [file for file in files if (found := MASK.fullmatch(file.stem)) and (file.parent, found[1]) in stems]
    if not masks:
        return []
    found_text = f"{len(masks)} files named as masks of others, the first is {masks[0].as_posix()}"
    return [Problem("", found_text, "images alone", "move the masks out, or name them in a table: table")]


def _listing(root: Path, classes: tuple[str, ...]) -> _Listing:
    """Return the images under a folder, of some classes or of all, in the order of their names, without opening any."""
    files: list[Path] = []
    problems: list[Problem] = []
    names: set[str] = set()
    for place, folders, found in os.walk(root, followlinks=False):
        here = Path(place)
        inside = here.relative_to(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if (here / name).is_symlink()]:
            problems.append(Problem((inside / name).as_posix(), "a link to a folder", "the folder itself"))
            folders.remove(name)
        if inside == Path():
            there = ", ".join(folders) or "no sub-folder"
            problems += [Problem("classes", f"'{c}'", f"some of {there}") for c in classes if c not in folders]
            folders[:] = [name for name in folders if name in classes or not classes]
            names = set(folders)
        for name in found:
            if name.startswith(".") or not name.lower().endswith(image_files.SUFFIXES):
                continue
            file = here / name
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                problems.append(Problem((inside / name).as_posix(), "a link out of the folder", "the file itself"))
            else:
                files.append(inside / name)
    files.sort(key=lambda file: file.as_posix())
    loose = [file for file in files if len(file.parts) == 1]
    if loose and names:
        found_text = f"{len(loose)} images beside {len(names)} sub-folders"
        problems.append(Problem("", found_text, "images in sub-folders, one a class, or images alone"))
    problems += _masks_among(files)
    class_names = tuple(sorted(names))
    number = {name: i for i, name in enumerate(class_names)}
    numbers = np.array([number.get(file.parts[0], -1) if len(file.parts) > 1 else -1 for file in files], np.int64)
    return _Listing(tuple(files), numbers, class_names, tuple(problems))
