"""Folders that are written for people: whether they can be, what is told where they cannot, and files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fewcore.errors import ResourceError

TEMPORARY = ".fewcore-"
"""Begins the names of folders in which files are written before they are put in their places."""


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into one that names the folder.

    Raises:
        ResourceError: the disk is full or cannot be written.

    """
    try:
        yield
    except OSError as error:
        found = f"{folder}: cannot be written: {error.strerror or error}"
        raise ResourceError(f"{found}; expected a folder that can be, on a disk with room") from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or cannot be made where it is none; what is tried leaves nothing.

    Raises:
        ResourceError: as said.

    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    with written(folder), TemporaryDirectory(dir=there, prefix=TEMPORARY):
        pass


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
