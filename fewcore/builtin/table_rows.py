"""A table of images: which file, which mask, which class, which patient; a line an image, or a line an object of one."""

from __future__ import annotations

import csv
import io
import posixpath
from dataclasses import dataclass

import numpy as np

from fewcore import Array, DataError, Problem

MAX_BYTES = 2**28
NOT_A_NUMBER = "nan"
"""What programs write where nothing is known; here an empty cell says it."""


@dataclass(frozen=True)
class Columns:
    """The columns' names; empty where a table has none of a kind."""

    image: str
    mask: str
    label: str
    patient: str
    object: str


@dataclass(frozen=True)
class Row:
    """A line of the table: files by their paths, the class's name, the patient, and the object's value in the mask.

    Empty, or None, where the table says nothing. `where` names the row in messages.
    """

    image: str
    mask: str
    label: str
    patient: str
    object: int | None
    where: str


def read_rows(content: bytes, table: str, columns: Columns, problems: list[Problem]) -> list[Row]:
    """Return the rows of a table, sorted by image and object; add all that is wrong with single rows to the problems.

    Raises:
        DataError: no text, no CSV, lacking columns or no rows, so that nothing more can be said.

    """
    rows: list[Row] = []
    first: dict[tuple[str, int | None], str] = {}
    for line, cells in _lines(content, table, columns):
        where = f"{table} line {line}"
        row = _row(cells, columns, where, problems)
        if row is None:
            continue
        key = (row.image, row.object)
        if key in first:
            what = "the image" if row.object is None else "the image and the object"
            problems.append(Problem(where, f"{what} of {first[key]} again", "each once"))
            continue
        first[key] = where.removeprefix(f"{table} ")
        rows.append(row)
    return sorted(rows, key=lambda row: (row.image, row.object or 0))


def numbered(rows: list[Row], names: tuple[str, ...], problems: list[Problem]) -> tuple[Array, tuple[str, ...]]:
    """Return the number of each row's class, (n,), -1 where unknown, and the classes' names.

    `names` are the classes that the table may name, in their order; empty: all that it names, sorted.
    """
    found = {row.label for row in rows if row.label}
    known = names or tuple(sorted(found, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name)))
    number = {name: i for i, name in enumerate(known)}
    problems += [
        Problem(row.where, f"an unknown class '{row.label}'", f"one of {', '.join(known)}")
        for row in rows
        if row.label and row.label not in number
    ]
    return np.array([number.get(row.label, -1) for row in rows], np.int64), known


def _lines(content: bytes, table: str, columns: Columns) -> list[tuple[int, dict[str, str]]]:
    """Return the cells of each line by column, with the line's number; empty lines are passed over."""
    advice = "a CSV file with a line of column names"
    if len(content) > MAX_BYTES:
        raise DataError(Problem(table, f"more than {MAX_BYTES:,} bytes", advice))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(Problem(table, "no text in UTF-8", advice, "save it as UTF-8")) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    try:
        lines = [(reader.line_num, dict(cells)) for cells in reader]
    except csv.Error as error:
        raise DataError(Problem(table, f"line {reader.line_num + 1} that is no CSV", advice)) from error
    names = [name.strip() for name in reader.fieldnames or ()]
    said = {f"{kind}_column": getattr(columns, kind) for kind in ("image", "mask", "patient", "object")}
    said = {"image_column": columns.image, "class_column": columns.label, **said}
    lacking = [
        Problem(table, f"no column '{name}'", f"one of {', '.join(names) or 'none'}", _advice(option))
        for option, name in said.items()
        if name and name not in names
    ]
    twice = sorted({name for name in said.values() if name and names.count(name) > 1})
    lacking += [Problem(table, f"the column '{name}' twice", "each column once") for name in twice]
    if lacking:
        raise DataError(*lacking, title="folder")
    if not lines:
        raise DataError(Problem(table, "no rows", "a line for each image"))
    # A name with spaces around it is meant without them.
    return [(line, {(name or "").strip(): cell for name, cell in cells.items()}) for line, cells in lines]


def _advice(option: str) -> str:
    return f"{option}: NAME" if option == "image_column" else f'{option}: NAME, or "" where the table has none'


def _row(cells: dict[str, str], columns: Columns, where: str, problems: list[Problem]) -> Row | None:
    """Return a row, or None where its image is not said; report what is wrong with it."""
    if "" in cells:
        problems.append(Problem(where, "more values than columns", "as many"))
        return None
    image, mask, label, patient, number = (
        cells[name].strip() if name else ""
        for name in (columns.image, columns.mask, columns.label, columns.patient, columns.object)
    )
    if not image:
        problems.append(Problem(where, f"no {columns.image}", "a path from the table's folder"))
        return None
    for name, cell in ((columns.label, label), (columns.mask, mask), (columns.patient, patient)):
        if cell.lower() == NOT_A_NUMBER:
            problems.append(Problem(where, f"'{cell}' as {name}", "an empty cell where it is not known"))
            return None
    if columns.patient and not patient:
        expected = "a name or number that is the same for all images of a patient"
        problems.append(Problem(where, f"no {columns.patient}", expected))
    if columns.object and not (number.isdecimal() and int(number) > 0):
        problems.append(
            Problem(where, f"no {columns.object}", "the object's value in the mask, a whole number above 0")
        )
        return None
    value = int(number) if columns.object else None
    return Row(posixpath.normpath(image), mask and posixpath.normpath(mask), label, patient, value, where)
