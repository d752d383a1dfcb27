"""Radiographs of chests with masks of the lungs, from the files of public sets to arrays."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from platformdirs import user_data_path

from fewcore import Array, ImageSet, ImageSpec, Problem, Run, Target, child_seed, numpy_generator

CLASSES = ("normal", "tuberculosis", "nodule")
STRUCTURES = ("lungs",)
Fit = Literal["stretch", "pad"]

MAX_FILE_BYTES = 2**28
MAX_PIXELS = 80_000_000
THREADS = 8
TOGETHER = 64
FORMATS = ("PNG", "GIF", "TIFF")
DEEP = ("I;16", "I;16B", "I;16L", "I")
RAW_TOP = 4095
"""Highest value of JSRT's raw images; a few pixels lie above it, for noise."""
STRAY = 0.01
"""Largest share of pixels above it: with the bytes in the wrong order there are many more."""
HALF = 0.5


class Unreadable(Exception):
    """What was found instead of an image; `expected` what should have been."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


@dataclass(frozen=True)
class Film:
    """A radiograph's file, the files of its masks, which are joined, and its class's name.

    `raw` is the side of a raw image in pixels, 0 for other formats. `exact` masks are of the image's size; others have its
    proportions.
    """

    image: Path
    masks: tuple[Path, ...]
    label: str
    raw: int = 0
    exact: bool = True

    @property
    def name(self) -> str:
        """The file's name without its suffix, as it was published."""
        return self.image.stem


def set_folder(path: str, name: str) -> Path:
    """Return the folder of a set: `path`, else `name` under $FEWCORE_DATA, else under the user's data folder."""
    if path:
        return Path(path).expanduser()
    home = os.environ.get("FEWCORE_DATA", "")
    return (Path(home).expanduser() if home else user_data_path("fewcore")) / name


def read_films(films: list[Film], size: int, fit: Fit, run: Run, problems: list[Problem]) -> tuple[Array, Array, Array]:
    """Return images (n, 1, size, size) uint8, masks (n, 1, size, size) float32, NaN where there is none, and the files'
    heights and widths (n, 2); report what cannot be read.
    """
    n = len(films)
    images, masks = run.zeros((n, 1, size, size), np.uint8), run.zeros((n, 1, size, size), np.float32)
    sizes = np.zeros((n, 2), np.int64)

    def read(i: int) -> Problem | None:
        film = films[i]
        path = film.image
        try:
            image = _raw(path, film.raw) if film.raw else _grey(path)
            sizes[i] = image.height, image.width
            images[i, 0] = np.rint(255 * np.clip(_fitted(image, size, fit), 0, 1))
            masks[i, 0] = np.nan if not film.masks else 0
            for path in film.masks:
                masks[i, 0] = np.maximum(masks[i, 0], _mask(path, image, film.exact, size, fit))
        except Unreadable as error:
            return Problem(str(path), error.found, error.expected)
        except OSError as error:
            return Problem(str(path), f"a file that cannot be read ({type(error).__name__})", "one that can")
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's name files
        for start in run.track(range(0, n, TOGETHER), name="read radiographs"):
            found = pool.map(read, range(start, min(start + TOGETHER, n)))
            problems += [problem for problem in found if problem is not None]
    return images, masks, sizes


def film_set(
    films: list[Film],
    arrays: tuple[Array, Array | None, Array],
    classes: tuple[str, ...],
    split: Array,
    preparation: dict[str, object],
    draw: int,
) -> ImageSet:
    """Return the set; `split` (n,) names the split of each film. Each film is a group of its own, as far as is known."""
    images, masks, sizes = arrays
    ids = numpy_generator(child_seed(draw, "chest films", "ids")).permutation(len(films))
    labels = np.array([classes.index(film.label) for film in films], np.int64)
    targets = {"class": Target("class", labels, classes)}
    if masks is not None:
        targets["mask"] = Target("masks", masks, STRUCTURES)
    names = [name for name in ("train", "validation", "test") if (split == name).any()]
    splits = {name: np.sort(ids[split == name]) for name in names}
    spec = ImageSpec(images.shape[2:], 1, (0, 255), preparation={"grey": True, **preparation})
    return ImageSet(images, ids, ids.copy(), spec, targets, splits, "class", {"size": sizes})


def drawn_splits(labels: Array, sizes: dict[str, int], draw: int) -> Array:
    """Return the split of each film, (n,), its name or empty where it is in none; every class has its share of each.

    Films are put into one order in which each stretch holds the classes in their shares, and the order is cut.
    """
    rng = numpy_generator(child_seed(draw, "chest films", "splits"))
    order = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    order = np.argsort(place, kind="stable")
    split = np.full(len(labels), "", dtype="U10")
    cuts = np.cumsum([0, *sizes.values()])
    for name, start, stop in zip(sizes, cuts[:-1], cuts[1:], strict=True):
        split[order[start:stop]] = name
    return split


def _opened(path: Path) -> Image.Image:
    """Return a PNG, GIF or TIFF file, decoded."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Unreadable(f"{path.stat().st_size:,} bytes", f"at most {MAX_FILE_BYTES:,}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"{image.width} x {image.height} pixels", f"at most {MAX_PIXELS:,} in all")
            image.load()
            return image.copy()
    except Unreadable:
        raise
    # Pillow's decoders raise nearly anything on damaged files.
    except Exception as error:
        raise Unreadable(f"no readable image ({type(error).__name__})", "a whole PNG, GIF or TIFF file") from error


def _grey(path: Path) -> Image.Image:
    """Return an image as F in [0, 1]."""
    image = _opened(path)
    top = 255.0
    if image.mode in DEEP:
        top = 65535.0
    elif image.mode != "L":
        image = image.convert("L")
    return Image.fromarray(np.asarray(image, np.float32) / np.float32(top))


def _raw(path: Path, side: int) -> Image.Image:
    """Return a raw big-endian image of 12 bits, in which high values are black, as F in [0, 1]."""
    n_bytes = path.stat().st_size
    if n_bytes != 2 * side * side:
        raise Unreadable(f"{n_bytes:,} bytes", f"{2 * side * side:,}: {side} x {side} pixels of two bytes")
    values = np.frombuffer(path.read_bytes(), ">u2").reshape(side, side)
    above = float((values > RAW_TOP).mean())
    if above > STRAY:
        raise Unreadable(f"{above:.0%} of the values above {RAW_TOP}", "12 bits, the high byte first")
    return Image.fromarray(1 - np.minimum(values, RAW_TOP).astype(np.float32) / np.float32(RAW_TOP))


def _mask(path: Path, image: Image.Image, exact: bool, size: int, fit: Fit) -> Array:
    """Return a mask (size, size) float32 of 0 and 1, fitted as its image is."""
    found = _opened(path)
    if found.size != image.size and (exact or found.width * image.height != found.height * image.width):
        expected = f"{image.width} x {image.height}, as its image" + ("" if exact else ", or the same proportions")
        raise Unreadable(f"a mask of {found.width} x {found.height} pixels", expected)
    # A palette's numbers say nothing; its colours are black and white.
    values = np.asarray(found if found.mode in DEEP else found.convert("L"))
    inside = Image.fromarray((values > values.max(initial=1) / 2).astype(np.float32))
    if not np.asarray(inside).any():
        raise Unreadable("an empty mask", "a lung")
    return (_fitted(inside, size, fit) >= HALF).astype(np.float32)


def _fitted(image: Image.Image, size: int, fit: Fit) -> Array:
    """Return an F image as (size, size) float32: stretched to a square, or in the middle of a black one; anti-aliased."""
    if fit == "pad" and image.width != image.height:
        scale = size / max(image.size)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        whole = Image.new("F", (size, size))
        small = image.resize(inner, Image.Resampling.BILINEAR)
        whole.paste(small, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return np.asarray(whole)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
