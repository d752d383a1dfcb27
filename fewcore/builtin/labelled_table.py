"""A folder or zip file of one's own images with a table that says mask, class and patient of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fewcore import Array, DataError, ImageSet, Problem, Run, image_files, readers
from fewcore.builtin import films
from fewcore.builtin.film_set import Cut, Film, FilmSet
from fewcore.builtin.films import Steps
from fewcore.builtin.places import Place, opened
from fewcore.builtin.table_rows import Columns, Row, numbered, read_rows

if TYPE_CHECKING:
    from fewcore.builtin.folder import Folder

Made = TypeVar("Made")
THREADS = 8


class _Refused(Exception):
    """A film that cannot be used."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def table_sources(options: Folder) -> tuple[Path, ...]:
    """Return the zip file, or the table and the files that it names and that are there; and the code that reads them."""
    with opened(options.path, options.table) as (place, table):
        rows = read_rows(_content(place, table), table, _columns(options), [])
        names = sorted({name for row in rows for name in (row.image, row.mask) if name and not place.refusal(name)})
        code = sorted({path for name in names if not readers.is_plain(name) for path in readers.source_of(name)})
        if place.files:
            return (*place.files, *code)
        found = [place.file(name) for name in (table, *names)]
        return (*(file for file in found if isinstance(file, Path)), *code)


def load_table(options: Folder, run: Run) -> ImageSet:
    """Return the images of a table, with the targets `class` and `mask` where it has these columns.

    Raises:
        DataError: everything that is wrong with the table and its files, at once, by the table's lines.

    """
    problems: list[Problem] = []
    with opened(options.path, options.table) as (place, table):
        rows = read_rows(_content(place, table), table, _columns(options), problems)
        labels, names = numbered(rows, options.classes, problems)
        found = _films(place, rows, labels, problems)
        images = _read(place, found, options, problems, run)
        # Where some images cannot be read, the table says how many there should be.
        problems += _small_classes(labels if problems else images.labels, names, options.min_per_class)
        if problems:
            raise DataError(*sorted(problems, key=_line), title=place.title)
    return images.as_set(names, options)


def _content(place: Place, table: str) -> bytes:
    file = place.file(table)
    try:
        return file.read_bytes() if isinstance(file, Path) else file.getvalue()
    except (OSError, image_files.Unusable) as error:
        raise DataError(Problem(table, f"not readable ({type(error).__name__})", "a file that may be read")) from error


def _columns(options: Folder) -> Columns:
    number = options.object_column if options.per_object else ""
    return Columns(options.image_column, options.mask_column, options.class_column, options.patient_column, number)


def _line(problem: Problem) -> tuple[bool, int]:
    """Return where a problem stands in the list: by the table's lines, then the others."""
    number = problem.where.partition(" line ")[2].partition(":")[0]
    return not number.isdecimal(), int(number) if number.isdecimal() else 0


def _films(place: Place, rows: list[Row], labels: Array, problems: list[Problem]) -> list[Film]:
    """Return the films whose files are there, with a cut for each row; report the others."""
    pairs = list(zip(rows, labels.tolist(), strict=True))
    made = []
    for image, group in groupby(pairs, key=lambda pair: pair[0].image):
        cuts = tuple(Cut(row, label, value=row.object) for row, label in group)
        first = cuts[0].row
        problems += [
            Problem(cut.row.where, f"another mask or patient than in {first.where}", "the same for one image")
            for cut in cuts[1:]
            if (cut.row.mask, cut.row.patient) != (first.mask, first.patient)
        ]
        refused = [(name, refusal) for name in (image, first.mask) if name and (refusal := _refusal(place, name))]
        problems += [Problem(f"{first.where}: {name}", str(refusal)) for name, refusal in refused]
        if not refused:
            made.append(Film(image, first.mask, first.where, cuts))
    return made


def _refusal(place: Place, name: str) -> image_files.Unusable | None:
    refusal = place.refusal(name)
    try:
        if refusal is None and not readers.is_plain(name):
            readers.reader_of(name)
    except image_files.Unusable as error:
        return error
    return refusal


@contextmanager
def _named(film: Film, name: str) -> Iterator[None]:
    """Say in a refusal which line of the table and which file it was."""
    where = f"{film.where}: {name}"
    try:
        yield
    except image_files.Unusable as error:
        raise _Refused(Problem(where, str(error))) from error
    except OSError as error:
        found = f"not readable ({type(error).__name__})"
        raise _Refused(Problem(where, found, "a file that may be read")) from error


def _parted(place: Place, film: Film, options: Folder) -> Film:
    """Return a film with a cut for each object of its mask, or for those that the table names."""
    with _named(film, film.mask or film.image):
        if not film.mask:
            raise image_files.Unusable("no mask; expected an instance mask for each image (per_object)")
        boxes = films.objects_of(films.read_mask(place, film.mask, options.max_pixels))
        if not boxes:
            raise image_files.Unusable("an empty mask; expected an object, which is a value above 0 (per_object)")
        lacking = [str(cut.value) for cut in film.cuts if options.object_column and cut.value not in boxes]
        if lacking:
            there = ", ".join(str(value) for value in boxes)
            raise image_files.Unusable(f"no object {', '.join(lacking)}; expected some of the mask's: {there}")
    square = options.fit == "pad"
    wide = {value: films.widened(box, options.margin, square=square) for value, box in boxes.items()}
    if options.object_column:
        return replace(film, cuts=tuple(replace(cut, box=wide[cut.value or 0]) for cut in film.cuts))
    return replace(film, cuts=tuple(replace(film.cuts[0], box=box, value=value) for value, box in wide.items()))


def _read(place: Place, found: list[Film], options: Folder, problems: list[Problem], run: Run) -> FilmSet:
    """Return the images of the films; report what cannot be read."""
    how = image_files.Preparation(options.image_size, options.grey, options.fit, options.bits, options.max_pixels)
    steps = Steps(how, options.window)

    def guarded(make: Callable[[Film], Made]) -> Callable[[Film], Made | Problem]:
        def call(film: Film) -> Made | Problem:
            try:
                return make(film)
            except _Refused as error:
                return error.problem

        return call

    def deep(film: Film) -> bool:
        with _named(film, film.image):
            return films.is_deep(place, film.image, options.max_pixels)

    with image_files.quiet_pillow(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            if options.per_object:
                parted = list(pool.map(guarded(lambda film: _parted(place, film, options)), found))
                problems += [made for made in parted if isinstance(made, Problem)]
                found = [made for made in parted if isinstance(made, Film)]
            # A header that cannot be read is reported when its film is.
            is_deep = any(made is True for made in pool.map(guarded(deep), found))
            read = FilmSet.empty(found, options, np.float32 if is_deep else np.uint8, run)
            fill = guarded(lambda film: _fill(place, film, steps, read))
            for made in run.track(pool.map(fill, read.films), name="read images", total=len(found)):
                problems += [made] if isinstance(made, Problem) else []
        finally:
            pool.shutdown(cancel_futures=True)
    return read


def _fill(place: Place, film: Film, steps: Steps, read: FilmSet) -> None:
    """Read a film and fill its rows."""
    rows = slice(film.start, film.start + len(film.cuts))
    with _named(film, film.image):
        image = films.read_film(place, film.image, steps)
        pixels = np.stack([films.patch(image, cut.box, steps.how) for cut in film.cuts])
    deep = read.images.dtype == np.float32 and pixels.dtype == np.uint8
    read.images[rows] = pixels / np.float32(255) if deep else pixels
    read.sizes[rows] = image.height, image.width
    read.boxes[rows] = [cut.box or (0, 0, image.width, image.height) for cut in film.cuts]
    if read.masks is None:
        return
    read.masks[rows] = np.nan
    if not film.mask:
        return
    k = read.masks.shape[1]
    with _named(film, film.mask):
        mask = films.read_mask(place, film.mask, steps.how.max_pixels)
        if mask.shape != (image.height, image.width):
            found = f"a mask of {mask.shape[0]} x {mask.shape[1]} pixels"
            raise image_files.Unusable(f"{found}; expected {image.height} x {image.width}, as its image has")
        read.masks[rows] = [films.structures_of(mask, k, cut.box, cut.value, steps.how) for cut in film.cuts]


def _small_classes(labels: Array, names: tuple[str, ...], least: int) -> list[Problem]:
    counts = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
    return [
        Problem("", f"class '{name}' has {count} image{'s' * (count != 1)}", f"at least {least} (min_per_class)")
        for name, count in zip(names, counts, strict=True)
        if count < least
    ]
