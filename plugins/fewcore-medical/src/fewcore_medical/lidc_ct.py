"""The CT scans of LIDC-IDRI: their series found under a folder, nodules cut out of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fewcore import DataError, Problem
from fewcore_medical.dicom import read_header
from fewcore_medical.lidc_scans import Scan
from fewcore_medical.volumes import dicom_files, load_dicom_series
from fewcore_medical.voxel_grid import UnusableVolume, Volume

SAME_SPACING = 0.01
EXPECTED = "the CT series of LIDC-IDRI, each in a folder of its own, as The Cancer Imaging Archive gives them"


def series_folders(root: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each series under a folder, by SeriesInstanceUID; a series has a folder of its own.

    Raises:
        DataError: there is no such folder, no series, one in two folders, or a file whose header cannot be read.

    """
    if not root.is_dir():
        raise DataError(Problem("lidc.ct", f"no folder {root}", EXPECTED))
    found: dict[str, tuple[Path, ...]] = {}
    problems = []
    for place, folders, _ in os.walk(root):
        folders.sort()
        files = dicom_files(Path(place))
        if not files:
            continue
        where = f"lidc.ct: {Path(place).relative_to(root).as_posix()}"
        try:
            series = read_header(files[0]).series
        except UnusableVolume as error:
            # Radiographs lie beside the CT scans: their headers have no place in space.
            if not error.found.startswith("a header without"):
                problems.append(error.problem(f"{where}: file 1 of {len(files)}"))
            continue
        if series in found:
            problems.append(Problem(where, "a series that is in another folder too", "each series once"))
        found[series] = files
    if not problems and not found:
        problems.append(Problem("lidc.ct", "no DICOM series", EXPECTED))
    if problems:
        raise DataError(*problems)
    return found


def chosen_series(root: Path, scans: Iterable[Scan], *, complete: bool) -> dict[str, tuple[Path, ...]]:
    """Return the files of the series of scans.

    Raises:
        DataError: a series is not there, and `complete` is asked for; or none is there.

    """
    found = series_folders(root)
    wanted = {scan.series for scan in scans}
    here = {series: files for series, files in found.items() if series in wanted}
    if not here or (complete and len(here) < len(wanted)):
        what = f"{len(here)} of the {len(wanted)} scans with annotations"
        raise DataError(Problem("lidc.ct", what, "all of them", "download the rest, or set complete: false"))
    return here


def scan_volume(scan: Scan, files: tuple[Path, ...], where: str) -> Volume:
    """Return the CT scan in HU.

    Raises:
        DataError: it cannot be read, is not axial, or has another pixel spacing than the annotations.

    """
    volume = load_dicom_series(files, where, series=scan.series, uneven=True)
    if not volume.is_axial:
        raise DataError(Problem(where, "slices that are not axial", "columns to the left and rows to the back"))
    _, rows, columns = volume.spacing
    if not np.allclose([rows, columns], scan.spacing, rtol=SAME_SPACING):
        raise DataError(Problem(where, "a pixel spacing that is not the annotations'", "the scan that was annotated"))
    return volume


def with_header(scan: Scan, files: tuple[Path, ...], where: str) -> Scan:
    """Return the scan with the pixel spacing and the patient of its series, where the annotations do not say them.

    Raises:
        DataError: the header cannot be read, or pixels are no squares.

    """
    if np.isfinite(scan.spacing):
        return scan
    try:
        header = read_header(files[0])
    except UnusableVolume as error:
        raise error.at(where) from error
    rows, columns = header.spacing.tolist()
    if not np.isclose(rows, columns, rtol=SAME_SPACING):
        raise DataError(Problem(where, "pixels that are no squares", "CT scans of LIDC-IDRI"))
    return replace(scan, spacing=columns, patient=header.patient or scan.patient)
