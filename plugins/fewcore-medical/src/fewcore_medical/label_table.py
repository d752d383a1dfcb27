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
        except WrongCell as error:
            problems.append(error.at(where))
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


class WrongCell(Exception):
    """What was found in a line of a table, and what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected

    def at(self, where: str) -> Problem:
        """Return the problem that says where it was."""
        return Problem(where, self.found, self.expected)


def table_rows(table: Path, needed: tuple[str, ...], advice: str) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of a CSV table with their numbers; empty ones are passed over. Values lack outer spaces.

    A line with more values than columns has them under "". `advice` says what was expected.

    Raises:
        DataError: no table, one that is too large, no text in UTF-8, no CSV, no rows, or columns of `needed` that lack.

    """
    try:
        if table.stat().st_size > MAX_BYTES:
            raise DataError(Problem(str(table), f"more than {MAX_BYTES:,} bytes", advice))
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = f"no table that can be read ({type(error).__name__})"
        raise DataError(Problem(str(table), found, advice)) from error
    except UnicodeDecodeError as error:
        raise DataError(Problem(str(table), "no text in UTF-8", advice, "save it as UTF-8")) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(Problem(str(table), f"line {reader.line_num + 1} that is no CSV", advice)) from error
    lacking = [name for name in needed if name not in (reader.fieldnames or ())]
    if lacking:
        raise DataError(Problem(str(table), f"no column {', '.join(lacking)}", advice))
    if not rows:
        raise DataError(Problem(str(table), "no rows", advice))
    return [(line, {name: v.strip() if name else "more" for name, v in row.items()}) for line, row in rows]


def path_inside(folder: Path, said: str) -> Path:
    """Return the file or folder of a cell, which lies in `folder`.

    Raises:
        WrongCell: there is none, or it lies elsewhere.

    """
    try:
        path = (folder / said).resolve()
        here = bool(said) and path.exists()
    except (OSError, ValueError):
        here = False
    if not here:
        raise WrongCell("a file that is not there", f"a file or folder in {folder}")
    if not path.is_relative_to(folder.resolve()):
        raise WrongCell("a file that lies elsewhere", f"a file or folder in {folder}")
    return path


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    rows = table_rows(table, NEEDED, ADVICE)
    if 0 < len([name for name in BOX if name in rows[0][1]]) < len(BOX):
        raise DataError(Problem(str(table), "some columns of a region", f"all of {', '.join(BOX)}, or none"))
    return rows


def _entry(said: dict[str, str], folder: Path, classes: tuple[str, ...], where: str) -> LabelRow:
    if "" in said:
        raise WrongCell("more values than columns", "as many")
    label = said["label"].lower()
    numbers = {name: i for i, name in enumerate(classes)} | {str(i): i for i in range(len(classes))}
    if label not in numbers:
        raise WrongCell("an unknown label", f"one of {', '.join(classes)}")
    if not said["patient"]:
        raise WrongCell("no patient", "a name or number that is the same for all volumes of a patient")
    path = path_inside(folder, said["file"])
    return LabelRow(path, numbers[label], said["patient"], _box(said), where)


def _box(said: dict[str, str]) -> Array | None:
    values = [said.get(name, "") for name in BOX]
    if not any(values):
        return None
    try:
        box = np.array([int(value) for value in values], dtype=np.int64).reshape(3, 2)
    except (ValueError, OverflowError) as error:
        raise WrongCell("a region that is not six whole numbers", ", ".join(BOX)) from error
    if (box[:, 0] < 0).any() or (box[:, 1] <= box[:, 0]).any():
        raise WrongCell("a region with nothing in it", "x0 < x1, y0 < y1, z0 < z1, counted from 0")
    return box
