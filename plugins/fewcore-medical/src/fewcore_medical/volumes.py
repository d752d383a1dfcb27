"""Volumes from NIfTI files and DICOM series: headers are checked before anything is read, and none reaches a message."""

from __future__ import annotations

from pathlib import Path

from fewcore_medical.dicom import read_series
from fewcore_medical.nifti import read_nifti
from fewcore_medical.voxel_grid import UnusableVolume, Volume


def load_volume(path: Path, where: str = "", *, series: str = "", uneven: bool = False) -> Volume:
    """Return the volume of a NIfTI file or of a folder of DICOM files.

    `where` stands in messages in place of the path. `series` is the SeriesInstanceUID that is meant where a folder holds
    several. `uneven` allows slices at uneven distances.

    Raises:
        DataError: the file or folder is no volume that can be used; nothing of its header is in the message.

    """
    if path.is_dir():
        return load_dicom_series(dicom_files(path), where or path.name, series=series, uneven=uneven)
    return load_nifti(path, where)


def load_nifti(path: Path, where: str = "") -> Volume:
    """Return the volume of a NIfTI-1 or NIfTI-2 file, .nii or .nii.gz.

    Raises:
        DataError: as for `load_volume`.

    """
    try:
        return read_nifti(path)
    except UnusableVolume as error:
        raise error.at(where or path.name) from error.__cause__


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that should be DICOM, sorted: those named .dcm or .ima, or without a suffix."""
    suffixes = ("", ".dcm", ".ima")
    found = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return tuple(sorted(file for file in found if file.suffix.lower() in suffixes and file.name != "DICOMDIR"))


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return the files of a volume: those of a folder of DICOM slices, or the file itself."""
    return dicom_files(path) if path.is_dir() else (path,)


def check_ascending(**ends: float) -> None:
    """Refuse the two ends of a range, options by name, where the first is not below the second.

    Raises:
        ValueError: as said.

    """
    low, high = ends.values()
    if not low < high:
        raise ValueError(f"{' and '.join(ends)}: found {low:g} and {high:g}; expected the first below the second")


def load_dicom_series(
    files: tuple[Path, ...], where: str = "series", *, series: str = "", uneven: bool = False
) -> Volume:
    """Return the volume of the slices of one DICOM series, sorted along their normal, rescaled (HU for CT).

    Raises:
        DataError: as for `load_volume`.

    """
    try:
        return read_series(files, series, uneven)
    except UnusableVolume as error:
        raise error.at(where) from error.__cause__
