"""DICOM series: headers are checked first; neither pydicom's messages nor a header's values reach anybody."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import config
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fewcore import Array
from fewcore_medical.voxel_grid import UnusableVolume, Volume, check_affine, check_shape, check_spacing, check_values

MAGIC = b"DICM"
MAX_FILE_BYTES = 2**28
MAX_FILES = 20_000
EVEN = 0.01
"""How far distances between slices may differ, as a share of them."""
TAGS = (
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "PatientID",
)
BROKEN = (
    pydicom.errors.InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged files."""


@dataclass(frozen=True, eq=False)
class SliceHeader:
    """What is needed of a slice's header: checked numbers."""

    path: Path
    series: str = field(repr=False)
    shape: tuple[int, int]
    spacing: Array
    position: Array
    directions: Array
    slope: float
    intercept: float
    patient: str = field(repr=False)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log, which quote headers."""
    disabled = config.logger.disabled
    config.logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.logger.disabled = disabled


def read_header(path: Path) -> SliceHeader:
    """Return the header of a slice.

    Raises:
        UnusableVolume: as for `raw_header`; or its header cannot be that of a slice.

    """
    header = raw_header(path, TAGS)
    try:
        # Values are parsed when they are asked for, and then pydicom warns of them.
        with quiet_pydicom():
            return _checked(path, header)
    except BROKEN as error:
        raise _no_header(error) from error


def raw_header(path: Path, tags: tuple[str, ...]) -> Any:
    """Return some tags of a file's header as pydicom reads them, without its pixels.

    Raises:
        UnusableVolume: the file is no DICOM file, too large, compressed as a whole, or its header cannot be read.

    """
    try:
        n_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] != MAGIC:
            raise UnusableVolume("no DICOM file", "DICOM files alone, none empty or truncated")
        if n_bytes > MAX_FILE_BYTES:
            raise UnusableVolume(f"{n_bytes:,} bytes", f"at most {MAX_FILE_BYTES:,} a slice")
        with quiet_pydicom():
            # A few bytes that are deflated can fill the memory: they are refused before they are read.
            if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                raise UnusableVolume("a deflated DICOM file", "one that is not deflated", "convert it")
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except BROKEN as error:
        raise _no_header(error) from error


def _no_header(error: Exception) -> UnusableVolume:
    return UnusableVolume(f"a header that cannot be read ({type(error).__name__})", "a whole DICOM file")


def _checked(path: Path, header: Any) -> SliceHeader:
    lacking = [tag for tag in TAGS[:6] if header.get(tag) in (None, "")]
    if lacking:
        raise UnusableVolume(f"a header without {', '.join(lacking)}", "a slice of CT or MR")
    if int(header.get("SamplesPerPixel", 1)) != 1 or int(header.get("NumberOfFrames") or 1) != 1:
        raise UnusableVolume("several channels or frames in a file", "one grey slice a file")
    if str(header.get("PhotometricInterpretation", "MONOCHROME2")) != "MONOCHROME2":
        raise UnusableVolume("pixels that are no grey values with black at 0", "MONOCHROME2")
    spacing, position, cosines = (
        np.array([float(value) for value in header.get(tag)], dtype=np.float64)
        for tag in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    )
    if spacing.shape != (2,) or position.shape != (3,) or cosines.shape != (6,):
        raise UnusableVolume("a spacing, place or direction of another length", "2, 3 and 6 numbers")
    check_spacing(spacing)
    directions = cosines.reshape(2, 3)
    # Comparisons with NaN are false.
    right = np.abs(directions @ directions.T - np.eye(2)).max() < 1e-2
    if not (np.isfinite(position).all() and right):
        raise UnusableVolume("a place or direction that cannot be", "finite numbers, two directions at right angles")
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise UnusableVolume("a scale of pixels that is not finite, or 0", "finite numbers")
    shape = (int(header.Rows), int(header.Columns))
    check_shape((1, *shape))
    series, patient = str(header.SeriesInstanceUID), str(header.get("PatientID", ""))
    return SliceHeader(path, series, shape, spacing, position, directions, slope, intercept, patient)


def read_series(files: tuple[Path, ...], series: str, uneven: bool) -> Volume:
    """Return the volume of a series' slices. Messages count files from 1 in the order of their names.

    Raises:
        UnusableVolume: there are no files, they are of several series, do not fit together or cannot be read.

    """
    if not files:
        raise UnusableVolume("no DICOM files", "a folder of the slices of one series, named .dcm or without a suffix")
    if len(files) > MAX_FILES:
        raise UnusableVolume(f"{len(files):,} files", f"at most {MAX_FILES:,} slices")
    headers = []
    for number, file in enumerate(files, 1):
        with _numbered(number, len(files)):
            headers.append(read_header(file))
    if series:
        headers = [header for header in headers if header.series == series]
    counts = len({header.series for header in headers})
    if counts != 1:
        raise UnusableVolume(
            f"slices of {counts} series", "the slices of one series", "put each into a folder of its own"
        )
    if len(headers) < 2:
        raise UnusableVolume("one slice", "at least two, whose distance is that of the slices")
    headers, affine, positions = _stacked(headers, uneven)
    values = np.empty((len(headers), *headers[0].shape), np.float32)
    for row, header in enumerate(headers):
        with _numbered(files.index(header.path) + 1, len(files)):
            values[row] = check_values(_pixels(header))
    return Volume(values, affine, positions)


@contextmanager
def _numbered(number: int, count: int) -> Iterator[None]:
    """Say in an error which file it was."""
    try:
        yield
    except UnusableVolume as error:
        found = f"file {number} of {count}: {error.found}"
        raise UnusableVolume(found, error.expected, error.suggestion) from error.__cause__


def _stacked(headers: list[SliceHeader], uneven: bool) -> tuple[list[SliceHeader], Array, Array]:
    """Return the slices sorted along their normal, the affine and the places, or refuse what does not fit together."""
    first = headers[0]
    check_shape((len(headers), *first.shape))
    for other in headers:
        same = other.shape == first.shape and np.allclose(other.spacing, first.spacing, rtol=1e-3)
        if not (same and np.allclose(other.directions, first.directions, atol=1e-3)):
            raise UnusableVolume("slices of other sizes, spacings or directions", "slices that are alike", "part them")
    normal = np.cross(*first.directions)
    places = np.array([header.position @ normal for header in headers])
    order = np.argsort(places, kind="stable")
    headers, places = [headers[i] for i in order], places[order]
    gaps = np.diff(places)
    depth = float(np.median(gaps))
    if gaps.min() <= 1e-3:
        raise UnusableVolume("two slices at one place", "each slice once")
    if not uneven and np.abs(gaps - depth).max() > EVEN * depth:
        raise UnusableVolume("slices at uneven distances", "even ones", "a slice may be missing: copy the series again")
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = normal * depth
    affine[:3, 3] = headers[0].position
    check_affine(affine)
    return headers, affine, places


def _pixels(header: SliceHeader) -> Array:
    return np.asarray(raw_pixels(header.path, header.shape) * header.slope + header.intercept)


def raw_pixels(path: Path, shape: tuple[int, int]) -> Array:
    """Return the pixels of a file (h, w) as they are stored.

    Raises:
        UnusableVolume: they are truncated, compressed, or of another shape than the header's.

    """
    try:
        with quiet_pydicom():
            pixels = np.asarray(pydicom.dcmread(path).pixel_array)
    except BROKEN as error:
        found = f"pixels that cannot be read ({type(error).__name__})"
        advice = "it is truncated, or compressed: convert it to an uncompressed one"
        raise UnusableVolume(found, "a whole, uncompressed DICOM file", advice) from error
    if pixels.shape != shape:
        raise UnusableVolume("pixels of another shape than the header's", "a whole DICOM file")
    return pixels
