"""What a model says of new files, and how it is written: a table, and masks in each file's own format and geometry."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from fewcore import readers
from fewcore.contracts import Array, Predictions
from fewcore.disk import TEMPORARY, written
from fewcore.errors import DataError, FewcoreError, Problem
from fewcore.image_files import FORMATS, Unusable
from fewcore.models.new_files import NewFile
from fewcore.models.new_images import Fitting
from fewcore.models.records import ModelRecord
from fewcore.reports.report import csv_field

TABLE = "predictions.csv"
MASKS = "masks"
LOSSY = (".jpg", ".jpeg")
"""Formats that change values: masks of such files are PNG."""


@dataclass(frozen=True)
class Places:
    """Where predictions go: the table, and the folder of the masks, both in one folder.

    A name that ends in `.csv` is the table's own, `answers.csv`, and masks go to `answers_masks`; any other is that of a folder,
    which gets `predictions.csv` and `masks`.
    """

    table: Path
    masks: Path

    @classmethod
    def of(cls, said: str | Path) -> Places:
        """Return the places that a name means."""
        path = Path(said)
        if path.suffix.lower() == ".csv" and not path.is_dir():
            return cls(path, path.with_name(f"{path.stem}_{MASKS}"))
        return cls(path / TABLE, path / MASKS)

    @property
    def folder(self) -> Path:
        """The folder in which both lie."""
        return self.table.parent

    @property
    def own(self) -> Path:
        """The folder in which nothing but results lies, where new files are not looked for."""
        return self.folder if self.masks.name == MASKS else self.masks


@dataclass(frozen=True, eq=False)
class FilePredictions:
    """What a model says of files: a row for each image, or for each slice of a volume.

    `rows` (n,) is the file of each row, counted in `files`. `scores` is (n, k), one column for each of `classes`, higher is
    likelier; `values` (n, m) with `value_names`. What the model does not make is None. `masks` gives the masks of a file;
    `raw_masks` (n, k, s, s) in [0, 1] is what the model made of its own images.
    """

    files: tuple[NewFile, ...]
    rows: Array
    classes: tuple[str, ...]
    structures: tuple[str, ...]
    scores: Array | None
    values: Array | None
    value_names: tuple[str, ...]
    raw_masks: Array | None
    fitting: Fitting

    @classmethod
    def of(cls, files: list[NewFile], made: Predictions, record: ModelRecord, fitting: Fitting) -> FilePredictions:
        """Return predictions of the images of files with the names of the record's classes and structures."""
        rows = np.repeat(np.arange(len(files)), [file.n_slices for file in files])
        classes, structures = names_of(record, made)
        values = (made.scores, made.values, made.value_names, made.masks)
        return cls(tuple(files), rows, classes, structures, *values, fitting)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def predicted(self) -> list[str]:
        """The likeliest class of each row; none where the model makes no scores."""
        return [] if self.scores is None else [self.classes[best] for best in self.scores.argmax(1).tolist()]

    def masks(self, file: int) -> Array:
        """Return the masks of a file in its own size, (k, d, h, w) uint8 of 0 and 1; d is 1 for an image.

        Raises:
            DataError: the model makes no masks.

        """
        if self.raw_masks is None:
            raise DataError("masks: found a model that makes no masks; expected one that does")
        said = self.raw_masks[self.rows == file]
        size = self.files[file].size
        return np.stack(
            [np.stack([self.fitting.restored(square, size) for square in of]) for of in said.swapaxes(0, 1)]
        )

    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write a table and, where the model makes masks, a file for each image and structure.

        `out` is a folder, which gets `predictions.csv` and `masks/`, or the table, `answers.csv`, beside which masks go to
        `answers_masks/`. Returns `out`. All files are there, or none is.

        Raises:
            DataError: files are there already, two masks would have one name, or a format cannot be written.
            ResourceError: the disk is full or cannot be written.

        """
        places = Places.of(out)
        folder = places.folder
        targets = self._targets(places, overwrite)
        new = not folder.exists()
        try:
            with written(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as temporary:
                    self._write(Path(temporary), places, targets)
        except FewcoreError:
            if new and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
            raise
        return Path(out)

    def _write(self, temporary: Path, places: Places, targets: list[list[Path]]) -> None:
        """Write all files into a temporary folder, then put them in their places; the table last."""
        moves: dict[Path, Path] = {}
        for number in range(len(self.files)) if self.structures else ():
            for mask, target, structure in zip(self.masks(number), targets[number], self.structures, strict=True):
                # Names as they will be: a writer may go by them.
                place = moves[target] = temporary / target.relative_to(places.folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                _write_mask(mask, self.files[number], place, structure)
        table = moves[places.table] = temporary / places.table.name
        table.write_text(self._table(places.folder, targets), encoding="utf-8", newline="")
        for target, place in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            place.replace(target)

    def _targets(self, places: Places, overwrite: bool) -> list[list[Path]]:
        """Return the mask files of each file, one a structure."""
        problems: list[Problem] = []
        seen: dict[Path, str] = {}
        targets = [
            [places.masks / _mask_name(file.name, structure) for structure in self.structures] for file in self.files
        ]
        for file, masks in zip(self.files, targets, strict=True):
            if masks and not (readers.is_plain(file.name) or readers.can_write(file.name)):
                problems.append(Problem(str(file.path), "a format in which no plugin writes masks", "another format"))
            for mask, structure in zip(masks, self.structures, strict=True):
                if mask in seen:
                    both = f"the same name of its mask {structure} as the mask {seen[mask]}"
                    problems.append(Problem(str(file.path), both, "different names"))
                seen[mask] = f"{structure} of {file.path}"
        there = [path for path in (places.table, *seen) if path.exists()]
        if there and not overwrite:
            many = f"{there[0]}{f' and {len(there) - 1} more' if len(there) > 1 else ''}"
            problems.append(Problem(many, "there already", "new files", "type --overwrite, or another --out"))
        if problems:
            raise DataError(*problems)
        return targets

    def _table(self, folder: Path, targets: list[list[Path]]) -> str:
        text = io.StringIO()
        slices = any(file.n_slices > 1 for file in self.files)
        head = ["file", *(["slice"] if slices else [])]
        head += ["class", *(f"score {name}" for name in self.classes)] if self.classes else []
        head += [*(f"value {name}" for name in self.value_names), *(f"mask {name}" for name in self.structures)]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(csv_field, head))
        for line in self._lines(folder, targets, slices):
            writer.writerow(map(csv_field, line))
        return text.getvalue()

    def _lines(self, folder: Path, targets: list[list[Path]], slices: bool) -> Iterator[list[Any]]:
        predicted = self.predicted
        first = np.searchsorted(self.rows, self.rows)
        for row, number in enumerate(self.rows.tolist()):
            line: list[Any] = [self.files[number].name, *([row - int(first[row]) + 1] if slices else [])]
            if self.scores is not None:
                line += [predicted[row], *map(_short, self.scores[row].tolist())]
            if self.values is not None:
                line += map(_short, self.values[row].tolist())
            yield [*line, *(target.relative_to(folder).as_posix() for target in targets[number])]


def names_of(record: ModelRecord, made: Predictions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes that scores count, and of the structures that masks show; numbers where none is known."""
    classes = _named(record.classes, 0 if made.scores is None else made.scores.shape[1], "class")
    n_masks = 0 if made.masks is None else made.masks.shape[1]
    # Where several targets have as many structures, which of them the model learnt is not known.
    known = {names for names in record.structures.values() if len(names) == n_masks}
    return classes, _named(known.pop() if len(known) == 1 else (), n_masks, "structure")


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _named(names: tuple[str, ...], count: int, what: str) -> tuple[str, ...]:
    return names if len(names) == count else tuple(f"{what} {number}" for number in range(1, count + 1))


def _mask_name(name: str, structure: str) -> str:
    """Return the name of a file's mask: the file's own, the structure's, and the ending of its format."""
    suffix = readers.suffix_of(name)
    plain = re.sub(r"[^\w.-]+", "-", structure)
    ending = ".png" if suffix.lower() in LOSSY else suffix
    return f"{name[: len(name) - len(suffix)]}_{plain}{ending}"


def _write_mask(mask: Array, file: NewFile, target: Path, structure: str) -> None:
    """Write a mask (d, h, w) of 0 and 1 as its file is; as 0 and 255 in PNG and TIFF, with the file's resolution."""
    if not readers.is_plain(file.name):
        try:
            readers.write_mask(mask, file.path, target, structure)
        except Unusable as error:
            raise DataError(Problem(str(file.path), str(error))) from error
        return
    with Image.open(file.path, formats=FORMATS) as image:
        dpi = image.info.get("dpi")
    kept: dict[str, Any] = {"dpi": tuple(map(float, dpi))} if dpi and min(dpi) > 0 else {}
    Image.fromarray(mask[0] * np.uint8(255)).save(target, **kept)
