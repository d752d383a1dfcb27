"""Image files of other formats, read by what plugins offer: entry points of the group `fewcore.readers`.

An entry point is named by the end of the files' names (`nii.gz`, `dcm`) and is a function of a path that returns the image,
(h, w) finite numbers in their own unit. It raises `DataError` where it cannot, and says nothing of a header's content.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import numpy as np

from fewcore.contracts import Array
from fewcore.errors import DataError
from fewcore.image_files import SUFFIXES, Unusable

GROUP = "fewcore.readers"
ADVICE = "NIfTI and DICOM: pip install 'fewcore[medical]'"


def is_plain(name: str) -> bool:
    """Return whether a file is PNG, JPEG or TIFF by its name."""
    return name.lower().endswith(SUFFIXES)


def reader_of(name: str) -> EntryPoint:
    """Return the reader of a file by the end of its name; of several the one with the longest.

    Raises:
        Unusable: there is none.

    """
    found = [point for point in entry_points(group=GROUP) if name.lower().endswith(f".{point.name.lower()}")]
    if not found:
        raise Unusable(f"a file of another format; expected PNG, JPEG, TIFF, or what a plugin reads ({ADVICE})")
    return max(found, key=lambda point: len(point.name))


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
        Unusable: there is no reader, or it refuses the file, or returns something else.

    """
    try:
        read = cast("Callable[[Path], Any]", reader_of(name).load())
    except ImportError as error:
        raise Unusable(f"a reader that cannot be imported ({type(error).__name__}); expected one that can") from error
    try:
        values = np.asarray(read(path))
    except DataError as error:
        raise Unusable("; ".join(str(problem) for problem in error.problems)) from error
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise Unusable(f"{values.dtype} {values.shape}; expected one image of finite numbers")
    return values.astype(np.float32)
