"""From many photographs to one array: in threads, with limits that are checked before anything is decoded."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fewcore import Array, Problem, Run

MAX_FILE_BYTES = 2**25
MAX_PIXELS = 80_000_000
"""The largest image of ImageNet has 61 million."""
THREADS = 8
TOGETHER = 256
# Named, so that a file with a false suffix cannot reach the decoders of other formats, some of which start programs.
# ImageNet holds a PNG file that is called JPEG.
FORMATS = ("JPEG", "PNG")

Fit = Literal["stretch", "crop"]


class Unreadable(Exception):
    """What was found instead of an image."""


@dataclass(frozen=True)
class Photographs:
    """Many files, none of them open: `read(i)` gives the bytes of file i, `where(i)` its place for messages."""

    n: int
    read: Callable[[int], bytes]
    where: Callable[[int], str]

    def __len__(self) -> int:
        return self.n


def read_file(path: str | Path) -> bytes:
    """Return a file's bytes, at most one more than is allowed."""
    with Path(path).open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def decode(content: bytes, size: int, fit: Fit) -> Array:
    """Return an image as (3, size, size) uint8: stretched to a square, or its middle square; Lanczos filter.

    Raises:
        Unreadable: empty, too large, too many pixels, neither JPEG nor PNG, truncated or broken.

    """
    if not content:
        raise Unreadable("an empty file")
    if len(content) > MAX_FILE_BYTES:
        raise Unreadable(f"more than {MAX_FILE_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Unreadable(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
            # A JPEG file is decoded at half, a quarter or an eighth of its size where that leaves twice what is needed.
            image.draft("RGB", (2 * size, 2 * size))
            rgb = image.convert("RGB")
    except Unreadable:
        raise
    # Pillow's decoders raise nearly anything on damaged files.
    except Exception as error:
        raise Unreadable(f"no readable image ({type(error).__name__})") from error
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side) if fit == "crop" else (0, 0, width, height)
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(rgb).transpose(2, 0, 1)


def decode_all(files: Photographs, size: int, fit: Fit, run: Run, problems: list[Problem]) -> Array:
    """Return all images, (n, 3, size, size) uint8, in a mapped file where they are large; report those that cannot be read."""
    images = run.zeros((len(files), 3, size, size), np.uint8)

    def decode_one(i: int) -> Problem | None:
        try:
            images[i] = decode(files.read(i), size, fit)
        except Unreadable as error:
            return Problem(files.where(i), str(error), "a JPEG or PNG image")
        except OSError as error:
            return Problem(files.where(i), f"a file that cannot be read ({error.strerror or error})", "one that can")
        return None

    starts = range(0, len(files), TOGETHER)
    with warnings.catch_warnings(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's name files
        for start in run.track(starts, name="read images"):
            found = pool.map(decode_one, range(start, min(start + TOGETHER, len(files))))
            problems += [problem for problem in found if problem is not None]
    return images
