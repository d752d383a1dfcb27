"""The annotations of LIDC-IDRI from its official XML files, one for each scan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from fewcore import DataError, Problem
from fewcore_medical.lidc_scans import (
    ATTRIBUTES,
    Contour,
    Reading,
    Scan,
    UnusableAnnotation,
    checked_contour,
    checked_ratings,
)

MAX_BYTES = 2**26
ROOT = "LidcReadMessage"
EXPECTED = "the XML files of LIDC-IDRI"


def read_xml(files: tuple[Path, ...]) -> list[Scan]:
    """Return the scans of which nodules of 3 mm and more were outlined.

    Messages of radiographs (IdriReadMessage) are passed over, nodules without characteristics, which are those below
    3 mm, too. Neither the size of a pixel nor the places of the slices stand in these files, and no patient: `spacing` is
    NaN, `positions` is empty and `patient` is the study.

    Raises:
        DataError: everything that is wrong with the files: unreadable, too large, no XML, with a document type or
            entities, which such files have not and attacks need, or annotations that cannot be.

    """
    folder = Path(os.path.commonpath([file.parent for file in files]))
    problems: list[Problem] = []
    scans: dict[str, Scan] = {}
    for file in files:
        try:
            scan = _scan(file)
        except UnusableAnnotation as error:
            problems.append(Problem(file.relative_to(folder).as_posix(), str(error), EXPECTED))
            continue
        if scan is None:
            continue
        if scan.series in scans:
            found = "a second file of one series"
            problems.append(Problem(file.relative_to(folder).as_posix(), found, "one file for each scan"))
        scans[scan.series] = scan
    if not problems and not any(scan.readings for scan in scans.values()):
        problems.append(Problem("", "no outlined nodules", EXPECTED))
    if problems:
        raise DataError(*problems, title="lidc.annotations")
    return [scan for scan in scans.values() if scan.readings]


def _scan(file: Path) -> Scan | None:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UnusableAnnotation(f"more than {MAX_BYTES:,} bytes")
        root = fromstring(file.read_bytes(), forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except OSError as error:
        raise UnusableAnnotation(f"not readable ({type(error).__name__})") from error
    except DefusedXmlException as error:
        raise UnusableAnnotation("a document type or entities, which may be an attack") from error
    except (ParseError, ValueError, LookupError) as error:
        raise UnusableAnnotation("no XML, or truncated") from error
    if _name(root) == "IdriReadMessage":
        return None
    if _name(root) != ROOT:
        raise UnusableAnnotation(f"an XML file whose root is not {ROOT}")
    series, study = (_text(_first(root, "ResponseHeader"), tag) for tag in ("SeriesInstanceUid", "StudyInstanceUID"))
    if not series:
        raise UnusableAnnotation("no SeriesInstanceUid in the header")
    readings = []
    for number, session in enumerate(_children(root, "readingSession"), 1):
        for rank, nodule in enumerate(_children(session, "unblindedReadNodule"), 1):
            try:
                reading = _reading(nodule)
            except UnusableAnnotation as error:
                raise UnusableAnnotation(f"reading session {number}, nodule {rank}: {error}") from error
            if reading is not None:
                readings.append(reading)
    return Scan(series, study or series, float("nan"), np.empty(0), tuple(readings))


def _reading(nodule: Element) -> Reading | None:
    """Return the reading of a nodule, or None where it is a small one that was only pointed at."""
    characteristics = _first(nodule, "characteristics")
    if characteristics is None or not len(characteristics):
        return None
    ratings = checked_ratings([_text(characteristics, name) for name in ATTRIBUTES])
    contours = tuple(_contour(roi) for roi in _children(nodule, "roi"))
    if not contours:
        raise UnusableAnnotation("ratings without a contour")
    return Reading(ratings, contours)


def _contour(roi: Element) -> Contour:
    inclusion = _text(roi, "inclusion").upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise UnusableAnnotation("a contour whose inclusion is neither TRUE nor FALSE")
    corners = [(_text(edge, "xCoord"), _text(edge, "yCoord")) for edge in _children(roi, "edgeMap")]
    try:
        points = np.array(corners, dtype=object).reshape(-1, 2).astype(np.int64)
    except (ValueError, OverflowError) as error:
        raise UnusableAnnotation("a contour with coordinates that are no whole numbers") from error
    return checked_contour(_text(roi, "imageZposition"), inclusion == "TRUE", points)


def _name(element: Element) -> str:
    """Return the tag without its namespace, which differs between the files."""
    return str(element.tag).rpartition("}")[2]


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if _name(child) == name)


def _first(element: Element, name: str) -> Element | None:
    return next(_children(element, name), None)


def _text(element: Element | None, name: str) -> str:
    found = None if element is None else _first(element, name)
    return "" if found is None else (found.text or "").strip()
