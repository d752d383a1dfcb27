"""NIfTI files: the header is read raw and checked, since nibabel mends a spacing of zero in silence."""

from __future__ import annotations

import gzip
import zlib
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from fewcore import Array
from fewcore_medical.voxel_grid import (
    MAX_SIDE,
    UnusableVolume,
    Volume,
    check_affine,
    check_shape,
    check_spacing,
    check_values,
)

SUFFIXES = (".nii", ".nii.gz")
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
NIFTI1, NIFTI2 = 348, 540
MAX_OFFSET = 2**24
READ_ERRORS = (OSError, EOFError, zlib.error)


def read_nifti(path: Path, *, flat: bool = False) -> Volume:
    """Return the volume of a file; with `flat` a file of two axes is a volume of one slice.

    Raises:
        UnusableVolume: the file cannot be read, is truncated, is no NIfTI file or has a header that cannot be.

    """
    if not path.name.lower().endswith(SUFFIXES):
        raise UnusableVolume("no NIfTI file", "a file named .nii or .nii.gz, or a folder of DICOM files")
    try:
        with closing(_opened(path)) as file:
            header = _header(file)
            shape, affine = _geometry(header, flat)
            dtype, slope, intercept = _numbers(header)
            values = _values(file, header, shape, dtype)
    except READ_ERRORS as error:
        found = f"not readable ({type(error).__name__})"
        raise UnusableVolume(found, "a whole NIfTI file", "copy it again") from error
    if (slope, intercept) != (1.0, 0.0):
        values = values.astype(np.float64) * slope + intercept
    affine = TO_LPS @ affine
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    positions = affine[:3, 3] @ normal + np.linalg.norm(affine[:3, 2]) * np.arange(shape[2])
    # Without both codes the standard leaves open where left is, and nibabel's affine is a habit of its own.
    has_sides = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
    return Volume(check_values(values.transpose(2, 1, 0)), affine, positions, has_sides)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path) if zipped else path.open("rb"))


def _header(file: IO[bytes]) -> Any:
    """Return nibabel's header of the first bytes of a file, as they are."""
    start = file.read(NIFTI1)
    kinds = {b"n+1\0": nibabel.Nifti1Header, b"ni1\0": nibabel.Nifti1Header}
    made: Any = kinds.get(start[344:348])
    if made is None and start[4:12] == b"n+2\0\r\n\x1a\n":
        start += file.read(NIFTI2 - NIFTI1)
        made = nibabel.Nifti2Header
    if made is None or len(start) not in (NIFTI1, NIFTI2):
        raise UnusableVolume("no NIfTI header, or a truncated one", "a NIfTI file in one piece")
    if start[344:348] == b"ni1\0":
        raise UnusableVolume("a header without its image", "a NIfTI file in one piece, .nii")
    try:
        return made(start, check=False)
    except (HeaderDataError, ValueError) as error:
        raise UnusableVolume("a NIfTI header that cannot be read", "a NIfTI file") from error


def _geometry(header: Any, flat: bool) -> tuple[tuple[int, int, int], Array]:
    """Return the shape (columns, rows, slices) and the affine."""
    dims = [int(side) for side in header["dim"]]
    if not 1 <= dims[0] <= 7 or not all(1 <= side <= MAX_SIDE for side in dims[1 : 1 + dims[0]]):
        raise UnusableVolume("sides that are none or too many voxels", f"1 to {MAX_SIDE} voxels a side")
    sides = dims[1 : 1 + dims[0]]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if flat and len(sides) == 2:
        sides.append(1)
    check_shape(tuple(sides))
    check_spacing(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, FloatingPointError) as error:
        raise UnusableVolume("an affine that cannot be", "finite numbers for place and direction") from error
    check_affine(affine)
    return (sides[0], sides[1], sides[2]), affine


def _numbers(header: Any) -> tuple[np.dtype[Any], float, float]:
    """Return the type of the voxels, and by what they are multiplied and moved."""
    try:
        dtype = np.dtype(header.get_data_dtype())
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, ValueError, KeyError) as error:
        raise UnusableVolume("a type or scale of voxels that cannot be", "whole or floating numbers") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnusableVolume("voxels that are no real numbers of at most 8 bytes", "whole or floating numbers")
    slope, intercept = float(slope or 1.0), float(intercept or 0.0)
    if not np.isfinite([slope, intercept]).all():
        raise UnusableVolume("a scale of voxels that is not finite", "finite numbers")
    return dtype, slope, intercept


def _values(file: IO[bytes], header: Any, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
    """Return the voxels (columns, rows, slices); as many bytes are read as the header says, and no more."""
    offset = float(header["vox_offset"])
    if not NIFTI1 <= offset <= MAX_OFFSET:
        raise UnusableVolume("voxels that begin within the header or far behind it", "a NIfTI file in one piece")
    file.seek(int(offset))
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise UnusableVolume("fewer voxels than the header says", "a whole file", "copy it again: it is truncated")
    # Reading on checks the sum at the end of a zipped file.
    file.read(1)
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F")
