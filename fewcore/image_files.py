"""From an image file to an array: PNG, JPEG and TIFF, with limits that are checked before anything is decoded."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from fewcore.contracts import Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Named, so that a file with a false suffix cannot reach the decoders of other formats, some of which start programs.
FORMATS = ("PNG", "JPEG", "TIFF")
DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
EXTREME_ASPECT = 2.0**15

File = Path | io.BytesIO
"""An image file: its path, or its bytes."""


@dataclass(frozen=True)
class Preparation:
    """The steps from file to array: turn as EXIF says, grey or colour, fit to a square of `size` pixels.

    `bits` is how many bits of a 16-bit file carry its values: it is divided by 2**bits - 1.
    """

    size: int
    grey: bool
    fit: Literal["pad", "crop", "stretch"]
    bits: int
    max_pixels: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded: (h, w) in pixels, and whether it has more than 8 bits a value."""

    size: tuple[int, int]
    deep: bool


class Unusable(Exception):
    """A file that cannot be used; the text says what was found and what was expected."""


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings, which name files: what is unusable is found by the checks below.

    Not for several threads: enter it around them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(file: File, max_pixels: int) -> Header:
    """Return a file's header, its size as the image stands before it is turned.

    Raises:
        Unusable: empty, no image, more than `max_pixels`, or several pages.

    """
    if (file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes) == 0:
        raise Unusable("an empty file; expected an image")
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            pages, mode = getattr(image, "n_frames", 1), image.mode
    except Image.DecompressionBombError as error:
        raise Unusable(f"far too many pixels; expected at most {max_pixels:,} (max_pixels)") from error
    # Pillow's decoders raise nearly anything on damaged files.
    except Exception as error:
        raise Unusable(f"no readable image ({_reason(error)}); expected PNG, JPEG or TIFF") from error
    if width * height > max_pixels:
        raise Unusable(f"{width} x {height} pixels; expected at most {max_pixels:,} in all (max_pixels)")
    if pages > 1:
        raise Unusable(f"{pages} pages; expected one (a volume needs another data set)")
    return Header((height, width), mode in DEEP)


def read_image(file: File, how: Preparation) -> Array:
    """Return a file as (c, size, size): uint8, or float32 in [0, 1] where it has more than 8 bits a value.

    Raises:
        Unusable: truncated or broken pixels, or values outside the range that `bits` gives.

    """
    return fitted(decoded(file, how), how)


def decoded(file: File, how: Preparation) -> Image.Image:
    """Return a file as an image in its own size, turned: L or RGB, or F in [0, 1] where it has more than 8 bits a value.

    Raises:
        Unusable: as for `read_image`.

    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.load()
            turned = ImageOps.exif_transpose(image)
            # Colours come before size, because a palette's indices must not be averaged.
            return _from_deep(turned, how) if turned.mode in DEEP else _from_bytes(turned, how.grey)
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"truncated or broken ({_reason(error)}); expected a whole image") from error


def deep_values(file: File) -> Array | None:
    """Return the values of a file of more than 8 bits, (h, w), turned, in their own unit; None of a file of 8 bits.

    Raises:
        Unusable: truncated or broken pixels.

    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode not in DEEP:
                return None
            image.load()
            return np.asarray(ImageOps.exif_transpose(image))
    except Exception as error:
        raise Unusable(f"truncated or broken ({_reason(error)}); expected a whole image") from error


def fitted(image: Image.Image, how: Preparation) -> Array:
    """Return an image as (c, size, size): uint8, or float32 in [0, 1].

    Raises:
        Unusable: a strip that is thousands of times as long as wide.

    """
    array = np.asarray(_fitted(image, how))
    if array.dtype != np.uint8:
        array = np.clip(array, 0, 1).astype(np.float32)
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    channels = 1 if how.grey else 3
    return np.ascontiguousarray(np.broadcast_to(planes, (channels, how.size, how.size)))


def _from_bytes(image: Image.Image, grey: bool) -> Image.Image:
    """Return an 8-bit image as L or RGB; what is transparent shows white, as in a viewer."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if grey else "RGB")


def _from_deep(image: Image.Image, how: Preparation) -> Image.Image:
    """Return an image of more than 8 bits as F in [0, 1], by one fixed scale and not by its own extremes."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise Unusable("NaN or infinite pixels; expected finite values")
    low, high = values.min(), values.max()
    top = 1.0 if image.mode == "F" else float(2**how.bits - 1)
    if low < 0 or high > top:
        name = "[0, 1]" if image.mode == "F" else f"[0, {top:.0f}] (bits: {how.bits})"
        raise Unusable(f"values from {low} to {high}; expected {name}")
    return Image.fromarray((values / top).astype(np.float32))


def _fitted(image: Image.Image, how: Preparation) -> Image.Image:
    """Return the image as a square: padded with black, cropped to its middle, or stretched; anti-aliased."""
    width, height = image.size
    square = (how.size, how.size)
    if max(width, height) > EXTREME_ASPECT * min(width, height):
        raise Unusable(f"{width} x {height} pixels; expected no such strip")
    if how.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize(square, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    if how.fit == "stretch" or width == height:
        return image.resize(square, Image.Resampling.BILINEAR)
    inner = _inner(width, height, how.size)
    whole = Image.new(image.mode, square)
    whole.paste(
        image.resize(inner, Image.Resampling.BILINEAR), ((how.size - inner[0]) // 2, (how.size - inner[1]) // 2)
    )
    return whole


def unfitted(square: Array, size: tuple[int, int], fit: Literal["pad", "crop", "stretch"]) -> Array:
    """Return what was said of a fitted image, (s, s), in the size (h, w) of its file: float32, (h, w).

    What padding added is taken away; what cropping took is 0. Between pixels it is interpolated linearly.
    """
    height, width = size
    image = Image.fromarray(np.asarray(square, np.float32))
    side = len(square)
    if fit == "stretch" or width == height:
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    if fit == "pad":
        inner_width, inner_height = _inner(width, height, side)
        across, down = (side - inner_width) // 2, (side - inner_height) // 2
        # Cut out before it is resized: what was said of the padding has no say.
        inner = image.crop((across, down, across + inner_width, down + inner_height))
        return np.asarray(inner.resize((width, height), Image.Resampling.BILINEAR))
    shorter = min(width, height)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    # The edges of the square may cut pixels of the file: those are out, unless nothing else is in.
    last, lower = math.floor(left + shorter), math.floor(top + shorter)
    first, upper = min(math.ceil(left), last - 1), min(math.ceil(top), lower - 1)
    scale = side / shorter
    inside = (
        max(first - left, 0) * scale,
        max(upper - top, 0) * scale,
        min(last - left, shorter) * scale,
        min(lower - top, shorter) * scale,
    )
    made = image.resize((last - first, lower - upper), Image.Resampling.BILINEAR, box=inside)
    whole = np.zeros((height, width), np.float32)
    whole[upper:lower, first:last] = np.asarray(made)
    return whole


def _inner(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the width and height of what stands in the middle of a padded square."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reason(error: Exception) -> str:
    """Return the kind of an error without its text, which may name the file."""
    kind = type(error).__name__
    return "truncated" if isinstance(error, OSError) and "truncated" in str(error) else kind
