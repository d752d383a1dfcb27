"""Where files of data sets lie, and how those are fetched whose size and checksum are known."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from platformdirs import user_data_path

from fewcore import DataError, Problem

CHUNK = 2**16
TIMEOUT = 60
"""Seconds."""


def data_folder(path: str, name: str) -> Path:
    """Return the folder of a data set: `path`, else `name` under $FEWCORE_DATA, else under the user's data folder."""
    if path:
        return Path(path).expanduser()
    home = os.environ.get("FEWCORE_DATA", "")
    return Path(home) / name if home else user_data_path("fewcore") / name


def fetch_file(url: str, n_bytes: int, sha256: str, path: Path, who: str) -> None:
    """Download a file of the data set `who` to `path`, whole and right or not at all.

    Raises:
        DataError: it cannot be downloaded, or differs in size or SHA-256 from what is expected.

    """
    by_hand = f"download {url} by hand to {path}"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest, size = hashlib.sha256(), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, temporary.open("wb") as file:  # noqa: S310 - fixed https address
            while size <= n_bytes and (part := answer.read(CHUNK)):
                digest.update(part)
                size += len(part)
                file.write(part)
        if (size, digest.hexdigest()) != (n_bytes, sha256):
            found = f"{url}: {min(size, n_bytes + 1):,} bytes with SHA-256 {digest.hexdigest()}"
            raise DataError(Problem(f"{who}.fetch", found, f"{n_bytes:,} bytes with SHA-256 {sha256}", by_hand))
        temporary.replace(path)
    except OSError as error:
        raise DataError(Problem(f"{who}.fetch", f"{url}: {error}", "a download", by_hand)) from error
    finally:
        temporary.unlink(missing_ok=True)
