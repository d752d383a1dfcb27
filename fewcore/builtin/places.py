"""Where the files of a table lie: in a folder, or in a zip file that is read without being extracted."""

from __future__ import annotations

import io
import os
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fewcore import DataError, Problem, image_files

MAX_FILE_BYTES = 2**30
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)
"""What zipfile raises on damaged, encrypted and unusual files."""


class Place(Protocol):
    """Files by their names, which are paths with `/` from the table's own folder."""

    @property
    def title(self) -> str:
        """The folder or zip file, for messages."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """What all files are read from, where it is one file: the zip file."""
        ...

    def refusal(self, name: str) -> image_files.Unusable | None:
        """Return why there is no such file, or None where there is one."""
        ...

    def file(self, name: str) -> image_files.File:
        """Return a file's path or bytes."""
        ...


@dataclass(frozen=True)
class FolderPlace:
    """The files of a folder; names and links that lead out of it are refused."""

    root: Path

    @property
    def title(self) -> str:
        """The folder."""
        return f"folder {self.root}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Nothing: each file is one of its own."""
        return ()

    def refusal(self, name: str) -> image_files.Unusable | None:
        """Return why there is no such file, or None where there is one."""
        try:
            path = (self.root / name).resolve()
            there = path.is_file()
        except (OSError, ValueError):
            there = False
        if not there:
            return image_files.Unusable("no such file; expected a path from the table's folder")
        if not path.is_relative_to(self.root):
            return image_files.Unusable("a file that lies elsewhere; expected one in the table's folder")
        return None

    def file(self, name: str) -> Path:
        """Return a file's path."""
        return self.root / name


@dataclass(frozen=True, eq=False)
class ZipPlace:
    """The files of a folder in a zip file, which is `prefix` in it."""

    path: Path
    prefix: str
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo] = field(repr=False)

    @property
    def title(self) -> str:
        """The zip file."""
        return f"folder {self.path}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The zip file."""
        return (self.path,)

    def _member(self, name: str) -> zipfile.ZipInfo | None:
        return self.members.get(posixpath.normpath(posixpath.join(self.prefix, name)))

    def refusal(self, name: str) -> image_files.Unusable | None:
        """Return why there is no such file, or None where there is one."""
        member = self._member(name)
        if member is None or member.is_dir():
            return image_files.Unusable("no such file in the zip file; expected a path from the table's folder")
        if member.file_size > MAX_FILE_BYTES:
            return image_files.Unusable(f"{member.file_size:,} bytes; expected at most {MAX_FILE_BYTES:,}")
        return None

    def file(self, name: str) -> io.BytesIO:
        """Return a file's bytes.

        Raises:
            Unusable: damaged, encrypted or compressed in a way that is not known.

        """
        member = self._member(name)
        assert member is not None, "refusal() was asked before"
        try:
            with self.archive.open(member) as file:
                return io.BytesIO(file.read(member.file_size))
        except BROKEN as error:
            raise image_files.Unusable(f"not readable ({type(error).__name__}); expected a whole zip file") from error


@contextmanager
def opened(path: str, table: str) -> Iterator[tuple[Place, str]]:
    """Yield where the files of a table lie, and the table's name there.

    `path` is a folder or a zip file, looked for as it is and then under $FEWCORE_DATA. `table` is a path in it; in a zip
    file, whose files often lie in one folder, it may also be the end of the only path that fits.

    Raises:
        DataError: there is no such folder or zip file, or no such table in it.

    """
    home = os.environ.get("FEWCORE_DATA", "")
    places = [Path(path).expanduser(), *([Path(home).expanduser() / path] if home else [])]
    found = next((place.resolve() for place in places if place.exists()), None)
    folder, name = posixpath.split(table)
    if found is not None and found.is_dir():
        root = (found / folder).resolve()
        place = FolderPlace(root)
        if not root.is_relative_to(found) or place.refusal(name) is not None:
            raise DataError(Problem("table", f"no {table} in {found}", "a CSV file in the folder", "table: FILE"))
        yield place, name
        return
    if found is None or not zipfile.is_zipfile(found):
        found_text = f"no folder and no zip file '{path}'"
        raise DataError(
            Problem("folder", found_text, "a folder or zip file of images", "path: FOLDER, or set FEWCORE_DATA")
        )
    try:
        with zipfile.ZipFile(found) as archive:
            yield _in_zip(found, archive, table)
    except zipfile.BadZipFile as error:
        raise DataError(Problem("folder", f"{found}: no readable zip file", "a whole zip file")) from error


def _in_zip(path: Path, archive: zipfile.ZipFile, table: str) -> tuple[Place, str]:
    members = {posixpath.normpath(info.filename): info for info in archive.infolist() if not info.is_dir()}
    wanted = posixpath.normpath(table)
    fitting = [wanted] if wanted in members else [name for name in members if name.endswith(f"/{wanted}")]
    if len(fitting) != 1:
        found = f"{len(fitting) or 'no'} {table} in {path}"
        raise DataError(Problem("table", found, "one CSV file of that name", "table: FOLDER/FILE, its path in the zip"))
    folder, name = posixpath.split(fitting[0])
    return ZipPlace(path, folder, archive, members), name
