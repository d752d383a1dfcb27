"""Images and slices from NIfTI and DICOM files, for data sets that read tables of files and for new files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fewcore import Array, DataError
from fewcore_medical.dicom import BROKEN, quiet_pydicom, raw_header, raw_pixels
from fewcore_medical.nifti import read_nifti
from fewcore_medical.voxel_grid import UnusableVolume, check_shape, check_values

T = TypeVar("T")
TAGS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
)
GREY = ("MONOCHROME1", "MONOCHROME2")


def read_nifti_image(path: Path) -> Array:
    """Return the slices of a NIfTI file, (d, h, w) float32, in the order of the file; one where it has two axes.

    Raises:
        DataError: the file cannot be used.

    """
    return _told(lambda: read_nifti(path, flat=True).values)


def nifti_spacing(path: Path) -> tuple[float, ...]:
    """Return the size of the voxels of a NIfTI file in millimetres, (d, h, w).

    Raises:
        DataError: the file cannot be used.

    """
    return _told(lambda: read_nifti(path, flat=True).spacing)


def read_dicom_image(path: Path) -> Array:
    """Return the image of a DICOM file, (h, w) float32, rescaled (HU for CT), bright where its values are high.

    Where 0 is white (MONOCHROME1) values are turned around within the bits that are stored.

    Raises:
        DataError: the file cannot be used, is coloured, or holds several frames.

    """
    return _told(lambda: _frame(path))


def _told(read: Callable[[], T]) -> T:
    try:
        return read()
    except UnusableVolume as error:
        raise DataError(error.problem("")) from error


def _frame(path: Path) -> Array:
    header = raw_header(path, TAGS)
    try:
        with quiet_pydicom():
            shape = (int(header.Rows), int(header.Columns))
            planes, frames = int(header.get("SamplesPerPixel", 1)), int(header.get("NumberOfFrames") or 1)
            form, bits = str(header.get("PhotometricInterpretation", "")), int(header.BitsStored)
            signed = bool(header.get("PixelRepresentation", 0))
            slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    except BROKEN as error:
        found = f"a header without rows, columns or bits ({type(error).__name__})"
        raise UnusableVolume(found, "a whole DICOM file") from error
    check_shape((1, *shape))
    if planes != 1 or frames != 1 or form not in GREY:
        raise UnusableVolume("several channels or frames, or colours", "one grey image a file")
    if not np.isfinite([slope, intercept]).all() or slope == 0 or not 1 <= bits <= 32:
        raise UnusableVolume("a scale of pixels that cannot be", "finite numbers, 1 to 32 bits")
    pixels = raw_pixels(path, shape).astype(np.float64)
    if form == "MONOCHROME1":
        pixels = (-1 if signed else 2**bits - 1) - pixels
    return check_values(pixels * slope + intercept)
