"""A table of labels beside a folder of volumes: which file, which class, which patient, and where to look."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fewcore import Array, DataError, Problem

NEEDED = ("file", "label", "patient")
BOX = ("x0", "x1", "y0", "y1", "z0", "z1")
"""Voxels of the region, columns, rows and slices: the first, and the one after the last."""
MAX_BYTES = 2**24
ADVICE = "a CSV file with the columns file, label and patient, and perhaps x0, x1, y0, y1, z0, z1"


@dataclass(frozen=True, eq=False)
class LabelRow:
    """One volume: its place, the number of its class, its patient, and its region (3, 2) in voxels, x, y, z, or None.

    `where` names the row in messages, by its line alone.
    """

    path: Path = field(repr=False)
    label: int
    patient: str = field(repr=False)
    box: Array | None
    where: str


def read_table(table: Path, folder: Path, classes: tuple[str, ...]) -> list[LabelRow]:
    """Return the rows of a table whose files lie in `folder`; a label is a class's name or its number.

    Raises:
        DataError: everything that is wrong: no table, no text, lacking columns, no rows, files that are not there, lie
            elsewhere or stand twice, unknown labels, rows without a patient, regions that are none, a patient in two
            classes.

    """
    rows = _rows(table)
    problems: list[Problem] = []
    made: list[LabelRow] = []
    seen: dict[Path, str] = {}
    class_of: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        where = f"{table.name} line {line}"
        try:
            entry = _entry(row, folder, classes, where)
        except _WrongRow as error:
            problems.append(error.problem)
            continue
        if entry.path in seen:
            problems.append(Problem(where, f"the file of {seen[entry.path]} again", "each file once"))
        seen[entry.path] = where
        known, first = class_of.setdefault(entry.patient, (entry.label, where))
        if known != entry.label:
            problems.append(Problem(where, f"a patient who is of another class in {first}", "one class a patient"))
        made.append(entry)
    if problems:
        raise DataError(*problems, title=str(table))
    return made


class _WrongRow(Exception):
    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(found)
        self.problem = Problem(where, found, expected)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of the table with their numbers; empty ones are passed over."""
    try:
        if table.stat().st_size > MAX_BYTES:
            raise DataError(Problem(str(table), f"more than {MAX_BYTES:,} bytes", ADVICE))
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = f"no table that can be read ({type(error).__name__})"
        raise DataError(Problem(str(table), found, ADVICE)) from error
    except UnicodeDecodeError as error:
        raise DataError(Problem(str(table), "no text in UTF-8", ADVICE, "save it as UTF-8")) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(Problem(str(table), f"line {reader.line_num + 1} that is no CSV", ADVICE)) from error
    names = reader.fieldnames or ()
    lacking = [name for name in NEEDED if name not in names]
    if lacking:
        raise DataError(Problem(str(table), f"no column {', '.join(lacking)}", ADVICE))
    if 0 < len([name for name in BOX if name in names]) < len(BOX):
        raise DataError(Problem(str(table), "some columns of a region", f"all of {', '.join(BOX)}, or none"))
    if not rows:
        raise DataError(Problem(str(table), "no rows", ADVICE))
    return rows


def _entry(row: dict[str, str], folder: Path, classes: tuple[str, ...], where: str) -> LabelRow:
    if "" in row:
        raise _WrongRow(where, "more values than columns", "as many")
    said = {name: value.strip() for name, value in row.items()}
    label = said["label"].lower()
    numbers = {name: i for i, name in enumerate(classes)} | {str(i): i for i in range(len(classes))}
    if label not in numbers:
        raise _WrongRow(where, "an unknown label", f"one of {', '.join(classes)}")
    if not said["patient"]:
        raise _WrongRow(where, "no patient", "a name or number that is the same for all volumes of a patient")
    try:
        path = (folder / said["file"]).resolve()
        here = bool(said["file"]) and path.exists()
    except (OSError, ValueError):
        here = False
    if not here:
        raise _WrongRow(where, "a file that is not there", f"a file or folder in {folder}")
    if not path.is_relative_to(folder.resolve()):
        raise _WrongRow(where, "a file that lies elsewhere", f"a file or folder in {folder}")
    return LabelRow(path, numbers[label], said["patient"], _box(said, where), where)


def _box(said: dict[str, str], where: str) -> Array | None:
    values = [said.get(name, "") for name in BOX]
    if not any(values):
        return None
    try:
        box = np.array([int(value) for value in values], dtype=np.int64).reshape(3, 2)
    except (ValueError, OverflowError) as error:
        raise _WrongRow(where, "a region that is not six whole numbers", ", ".join(BOX)) from error
    if (box[:, 0] < 0).any() or (box[:, 1] <= box[:, 0]).any():
        raise _WrongRow(where, "a region with nothing in it", "x0 < x1, y0 < y1, z0 < z1, counted from 0")
    return box
