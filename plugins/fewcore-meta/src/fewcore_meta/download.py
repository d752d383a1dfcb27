"""Download a file whose size and checksum are known."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from fewcore import DataError, Problem

CHUNK = 2**16
TIMEOUT = 60
"""Seconds."""


def fetch_file(url: str, n_bytes: int, sha256: str, path: Path) -> None:
    """Download a file to `path`, whole and right or not at all.

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
            raise DataError(Problem("omniglot.fetch", found, f"{n_bytes:,} bytes with SHA-256 {sha256}", by_hand))
        temporary.replace(path)
    except OSError as error:
        raise DataError(Problem("omniglot.fetch", f"{url}: {error}", "a download", by_hand)) from error
    finally:
        temporary.unlink(missing_ok=True)
