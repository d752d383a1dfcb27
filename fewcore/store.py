"""Content-addressed results: written to a temporary name and renamed, locked while computed, verified when read.

A result is a folder: `arrays/*.npy` (memory-mapped when read), `meta.json`, `recipe.json`, `facts.json` about the making,
and `manifest.json` with the checksum of each of them. Nothing is ever pickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from fewcore.contracts import Array, Meta
from fewcore.errors import ResourceError

CHUNK = 1 << 20
FORMAT = 1
"""Version of the folder layout. It enters every key, so that a newer fewcore passes over older results and does not take them for damaged."""


def user_root() -> Path:
    """Return where results are kept unless FEWCORE_CACHE says another place: the user's cache folder."""
    return platformdirs.user_cache_path("fewcore")


def default_root() -> Path:
    """Return where results are kept: FEWCORE_CACHE, else the user's cache folder."""
    said = os.environ.get("FEWCORE_CACHE")
    return Path(said) if said else user_root()


def digest(*parts: Any) -> str:
    """Return 32 hex digits that depend on all parts: JSON values and arrays (their type, shape and bytes)."""
    total = hashlib.sha256(f"store format {FORMAT}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            total.update(json.dumps(part, sort_keys=True).encode())
        total.update(b"\x00")
    return total.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def folder_digest(path: Path) -> str:
    """Return a digest of the names, sizes and times of change of all files in a folder, however deep; none is read."""
    return digest(sorted([name[len(str(path)) :], *facts] for name, *facts in _listed(str(path))))


def _listed(folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, size in bytes and time of change of every file in a folder; links are files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _listed(entry.path)
            else:
                stat = entry.stat()
                yield entry.path, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Entry:
    """A stored result: its arrays, its JSON, the recipe that made it, and facts about the making."""

    key: str
    arrays: Mapping[str, Array]
    meta: Meta
    recipe: Meta
    facts: Meta


def write_result(folder: Path, entry: Entry) -> None:
    """Write a result into a new folder: arrays without pickle, JSON, and the checksum of each file."""
    (folder / "arrays").mkdir(parents=True)
    for number, array in enumerate(entry.arrays.values()):
        with (folder / "arrays" / f"{number}.npy").open("wb") as file:
            np.save(file, np.asarray(array), allow_pickle=False)
    facts = {"arrays": list(entry.arrays), **entry.facts}
    for name, value in (("meta", entry.meta), ("recipe", entry.recipe), ("facts", facts)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    sums = {p.relative_to(folder).as_posix(): file_digest(p) for p in files}
    _write_synced(folder / "manifest.json", json.dumps({"files": sums}))


def read_result(folder: Path, key: str) -> Entry:
    """Return what `write_result` wrote, large arrays memory-mapped.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file was changed. Damaged files may raise KeyError, TypeError or OSError too.

    """
    # Names in a folder of a stranger may lead anywhere: only the regular files in it are opened.
    own = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    }
    if "manifest.json" not in own:
        raise FileNotFoundError(folder / "manifest.json")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    if missing := {"meta.json", "recipe.json", "facts.json", *files} - (own & {*files}):
        raise FileNotFoundError(f"{folder}: {min(missing)}")
    if any(file_digest(folder / name) != wanted for name, wanted in files.items()):
        raise ValueError("a checksum differs")
    texts = [(folder / f"{name}.json").read_text() for name in ("meta", "recipe", "facts")]
    meta, recipe, facts = map(json.loads, texts)
    names = facts.pop("arrays")
    if not {f"arrays/{number}.npy" for number in range(len(names))} <= {*files}:
        raise ValueError("an array without a checksum")
    arrays = {name: _load(folder / "arrays" / f"{number}.npy") for number, name in enumerate(names)}
    return Entry(key, arrays, meta, recipe, facts)


class Store:
    """The results of all runs, by key.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> store.put("ab12", {"x": np.arange(3)}, {"name": "count"}, recipe={}, facts={})
    >>> store.get("ab12").arrays["x"].tolist()
    [0, 1, 2]
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        self.damaged: list[str] = []
        self._verified: dict[str, Entry] = {}
        with self._disk("make the store", self.root):
            for folder in ("results", "temporary", "locks", "checkpoints", "files", "latest"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            self._sweep()

    def _sweep(self) -> None:
        """Remove what killed runs of this machine left half-written."""
        for left in (self.root / "temporary").iterdir():
            host, _, rest = left.name.partition("~")
            pid = rest.partition("~")[0]
            if host == socket.gethostname() and pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self.root / "results" / key[:2] / key

    def has(self, key: str) -> bool:
        """Return whether a result is there, without reading it."""
        return (self._folder(key) / "manifest.json").is_file()

    def get(self, key: str) -> Entry | None:
        """Return a result, or None where there is none or a file of it was changed; a changed one is removed."""
        if key in self._verified:
            return self._verified[key]
        folder = self._folder(key)
        if not folder.exists():  # asked first: another process may put it there while it is looked for
            return None
        try:
            entry = read_result(folder, key)
        except FileNotFoundError:
            if folder.exists():
                self._remove_damaged(key)
            return None
        except (ValueError, KeyError, TypeError, OSError):
            self._remove_damaged(key)
            return None
        self._verified[key] = entry
        return entry

    def _remove_damaged(self, key: str) -> None:
        self.damaged.append(key)
        shutil.rmtree(self._folder(key), ignore_errors=True)

    def put(self, key: str, arrays: Mapping[str, Array], meta: Meta, *, recipe: Meta, facts: Meta) -> None:
        """Keep a result whole or not at all.

        Raises:
            ResourceError: the disk is full or cannot be written.

        """
        temporary = self.root / "temporary" / f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}"
        need = sum(array.nbytes for array in arrays.values())
        self._verified.pop(key, None)
        with self._disk("keep a result", self.root, need):
            try:
                write_result(temporary, Entry(key, arrays, meta, recipe, facts))
                folder = self._folder(key)
                folder.parent.mkdir(parents=True, exist_ok=True)
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not self.has(key):
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the right to compute a result; a second run waits, then finds it done."""
        with filelock.FileLock(self.root / "locks" / f"{key}.lock"):
            yield

    def checkpoints(self, key: str) -> Path:
        """Return the folder of a result's checkpoints; it exists once something is saved."""
        return self.root / "checkpoints" / key

    def drop_checkpoints(self, key: str) -> None:
        """Remove the checkpoints of a result that is kept."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def fingerprint(self, path: Path) -> str:
        """Return the sha256 of a file, computed once for each path, size and time of change, or a folder's digest."""
        if path.is_dir():
            return folder_digest(path)
        stat = path.stat()
        name = digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        note = self.root / "files" / name
        with contextlib.suppress(OSError):
            if len(known := note.read_text()) == hashlib.sha256().digest_size * 2:
                return known
        found = file_digest(path)
        with self._disk("note a checksum", note):
            _write_synced(note, found)
        return found

    def note_recipe(self, pipeline: str, cell: str, stage: str, recipe: Meta) -> None:
        """Note the recipe with which a stage last ran, so that `explain` can say what has changed."""
        note = self.root / "latest" / f"{digest(pipeline, cell, stage)}.json"
        with self._disk("note a recipe", note):
            _write_synced(note, json.dumps(recipe))

    def last_recipe(self, pipeline: str, cell: str, stage: str) -> Meta | None:
        """Return the recipe with which a stage last ran."""
        try:
            recipe: Meta = json.loads((self.root / "latest" / f"{digest(pipeline, cell, stage)}.json").read_text())
        except (OSError, ValueError):
            return None
        return recipe

    @contextlib.contextmanager
    def _disk(self, what: str, path: Path, need: int = 0) -> Iterator[None]:
        """Turn errors of the disk into one that says where, how much, and what to type."""
        try:
            yield
        except OSError as error:
            free = _free(self.root)
            amount = f", {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free" if need or free >= 0 else ""
            raise ResourceError(
                f"{path}: cannot {what}: {error.strerror or error}{amount}; expected a disk with room"
                " (what is finished is kept; set FEWCORE_CACHE to a larger disk and run again)"
            ) from error


def _load(path: Path) -> Array:
    """Return an array: memory-mapped where it is large, in memory where that is cheaper."""
    large = path.stat().st_size > CHUNK
    array: Array = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    return array


def _write_synced(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return -1
