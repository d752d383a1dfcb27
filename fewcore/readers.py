"""Image files of other formats, read and written by what plugins offer: entry points of three groups.

Of the group `fewcore.readers` each is named by the end of the files' names (`nii.gz`, `dcm`) and is a function of a path that
returns the image, (h, w), or the slices of a volume, (d, h, w), finite numbers in their own unit. It raises `DataError` where it
cannot, and says nothing of a header's content.

Of the group `fewcore.writers` each has such a name too, and is a function `write(mask, source, target, structure)`: it writes a mask
(d, h, w) uint8 of 0 and 1, rows and slices in the reader's order, as a file of the source's format and geometry, which may name the
structure that it is the mask of.

Of the group `fewcore.spacings` each has such a name too, and is a function of a path that returns the size of a voxel in millimetres,
(d, h, w). Formats whose files do not say it have none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any, cast

import numpy as np

from fewcore.contracts import Array
from fewcore.errors import DataError
from fewcore.image_files import SUFFIXES, Unusable

READERS, WRITERS, SPACINGS = "fewcore.readers", "fewcore.writers", "fewcore.spacings"
ADVICE = "NIfTI and DICOM: pip install 'fewcore[medical]'"


def is_plain(name: str) -> bool:
    """Return whether a file is PNG, JPEG or TIFF by its name."""
    return name.lower().endswith(SUFFIXES)


def reader_of(name: str) -> EntryPoint:
    """Return the reader of a file by the end of its name; of several the one with the longest.

    Raises:
        Unusable: there is none.

    """
    found = _point(READERS, name)
    if found is None:
        raise Unusable(f"a file of another format; expected PNG, JPEG, TIFF, or what a plugin reads ({ADVICE})")
    return found


def suffix_of(name: str) -> str:
    """Return the end of a file's name that says its format, `.nii.gz` or `.png`; empty where it is not known."""
    point = None if is_plain(name) else _point(READERS, name)
    return name[-len(point.name) - 1 :] if point is not None else Path(name).suffix if is_plain(name) else ""


@cache
def offered(group: str) -> EntryPoints:
    """Return what plugins offer of a group; what is installed is looked through once, and not for each file."""
    return entry_points(group=group)


def _point(group: str, name: str) -> EntryPoint | None:
    found = [point for point in offered(group) if name.lower().endswith(f".{point.name.lower()}")]
    return max(found, key=lambda point: len(point.name), default=None)


def source_of(name: str) -> tuple[Path, ...]:
    """Return the file of the code that reads a file of this name, so that results are made anew when it changes."""
    try:
        module = importlib.util.find_spec(reader_of(name).module)
    except (Unusable, ImportError, ValueError):
        return ()
    return (Path(module.origin),) if module is not None and module.origin else ()


def read_values(path: Path, name: str) -> Array:
    """Return the image of a file that is none of PNG, JPEG and TIFF, (h, w) float32 in its own unit.

    Raises:
        Unusable: there is no reader, or it refuses the file, or the file holds several slices.

    """
    slices = read_slices(path, name)
    if len(slices) != 1:
        raise Unusable(f"a volume of {len(slices)} slices; expected one image a file")
    return np.asarray(slices[0])


def read_slices(path: Path, name: str) -> Array:
    """Return the slices of a file that is none of PNG, JPEG and TIFF, (d, h, w) float32 in its own unit; one of an image.

    Raises:
        Unusable: there is no reader, or it refuses the file, or returns something else.

    """
    read = cast("Callable[[Path], Any]", _loaded(reader_of(name), "reader"))
    try:
        values = np.asarray(read(path))
    except DataError as error:
        raise Unusable("; ".join(str(problem) for problem in error.problems)) from error
    shaped = values.ndim in (2, 3) and values.size > 0 and values.dtype.kind in "iuf"
    if not shaped or not np.isfinite(values).all():
        raise Unusable(f"{values.dtype} {values.shape}; expected one image, or slices, of finite numbers")
    return (values if values.ndim == 3 else values[None]).astype(np.float32)


def spacing_of(path: Path, name: str) -> tuple[float, ...] | None:
    """Return the size of a file's voxels in millimetres, (d, h, w); None where its format does not say it.

    Raises:
        Unusable: the plugin refuses the file.

    """
    point = _point(SPACINGS, name)
    if point is None:
        return None
    measure = cast("Callable[[Path], Any]", _loaded(point, "measure of voxels"))
    try:
        return tuple(map(float, measure(path)))
    except DataError as error:
        raise Unusable("; ".join(str(problem) for problem in error.problems)) from error


def can_write(name: str) -> bool:
    """Return whether a plugin writes masks beside files of this name."""
    return _point(WRITERS, name) is not None


def write_mask(mask: Array, source: Path, target: Path, structure: str) -> None:
    """Write the mask (d, h, w) of 0 and 1 of a structure in the format and geometry of the file from which it was made.

    Raises:
        Unusable: there is no writer, or it refuses.

    """
    point = _point(WRITERS, source.name)
    if point is None:
        raise Unusable("a file of a format in which no plugin writes masks; expected PNG, JPEG, TIFF, NIfTI or DICOM")
    write = cast("Callable[[Array, Path, Path, str], None]", _loaded(point, "writer"))
    try:
        write(mask, source, target, structure)
    except DataError as error:
        raise Unusable("; ".join(str(problem) for problem in error.problems)) from error


def _loaded(point: EntryPoint, what: str) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise Unusable(f"a {what} that cannot be imported ({type(error).__name__}); expected one that can") from error
