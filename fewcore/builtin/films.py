"""From the files of a table to arrays: an image with its mask, whole, or a patch around each object of the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from fewcore import Array, image_files, readers
from fewcore.builtin.places import Place

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels of the file; right and lower are one further than the last pixel."""

MASK_FORMATS = tuple(form for form in image_files.FORMATS if form != "JPEG")
HALF = 0.5
"""Share of a pixel from which on it belongs to a structure."""


@dataclass(frozen=True)
class Steps:
    """How files become images: `how`, and the values of other formats than PNG, JPEG and TIFF that become 0 and 1.

    `window` is empty where 0 and 2**bits - 1 are meant, which no value may leave.
    """

    how: image_files.Preparation
    window: tuple[float, ...]


def is_deep(place: Place, name: str, max_pixels: int) -> bool:
    """Return whether an image's file has more than 8 bits a value, as those that plugins read do.

    Raises:
        Unusable: it cannot be read.

    """
    return not readers.is_plain(name) or image_files.read_header(place.file(name), max_pixels).deep


def read_film(place: Place, name: str, steps: Steps) -> Image.Image:
    """Return an image in its own size: L or RGB, or F in [0, 1].

    Raises:
        Unusable: it cannot be read, or its values leave their range.

    """
    if readers.is_plain(name):
        file = place.file(name)
        image_files.read_header(file, steps.how.max_pixels)
        return image_files.decoded(file, steps.how)
    values = _values(place, name)
    low, high = steps.window or (0.0, float(2**steps.how.bits - 1))
    least, most = float(values.min()), float(values.max())
    if not steps.window and not low <= least <= most <= high:
        expected = f"{low:g} to {high:g} (bits: {steps.how.bits}), or the values that become black and white"
        raise image_files.Unusable(f"values from {least:g} to {most:g}; expected {expected} (window: [LOW, HIGH])")
    grey = Image.fromarray(np.clip((values - low) / (high - low), 0, 1).astype(np.float32))
    if values.size > steps.how.max_pixels:
        raise image_files.Unusable(
            f"{grey.width} x {grey.height} pixels; expected at most {steps.how.max_pixels:,} (max_pixels)"
        )
    return grey


def read_mask(place: Place, name: str, max_pixels: int) -> Array:
    """Return a mask's whole numbers, (h, w) int64, 0 outside of everything.

    Raises:
        Unusable: it cannot be read, is coloured or lossy, or holds other than whole numbers from 0.

    """
    values = _mask_pixels(place.file(name), max_pixels) if readers.is_plain(name) else _values(place, name)
    if not np.isfinite(values).all():
        raise image_files.Unusable("a mask with NaN or infinite pixels; expected whole numbers")
    whole = values.astype(np.int64)
    if (whole != values).any() or whole.min(initial=0) < 0:
        raise image_files.Unusable("a mask of other values than whole numbers from 0; expected 0 where nothing is")
    return whole


def _mask_pixels(file: image_files.File, max_pixels: int) -> Array:
    image_files.read_header(file, max_pixels)
    try:
        with Image.open(file, formats=image_files.FORMATS) as image:
            form = str(image.format)
            image.load()
            values = np.asarray(ImageOps.exif_transpose(image))
    except Exception as error:
        raise image_files.Unusable(f"truncated or broken ({type(error).__name__}); expected a whole mask") from error
    if form not in MASK_FORMATS:
        raise image_files.Unusable(
            f"a mask as {form}, which changes values; expected PNG, TIFF or a format of a plugin"
        )
    if values.ndim == 3:
        # An alpha plane says nothing of structures.
        colours = values[..., : values.shape[-1] - (values.shape[-1] in (2, 4))]
        if (colours != colours[..., :1]).any():
            raise image_files.Unusable("a coloured mask; expected one whole number a pixel")
        values = colours[..., 0]
    return np.asarray(values)


def _values(place: Place, name: str) -> Array:
    """Return the image of a file that a plugin reads; one in a zip file is written to a temporary one first."""
    file = place.file(name)
    if isinstance(file, Path):
        return readers.read_values(file, name)
    with TemporaryDirectory(prefix="fewcore-") as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(file.getbuffer())
        return readers.read_values(path, name)


def objects_of(mask: Array) -> dict[int, Box]:
    """Return the box of each object of an instance mask, by its value: every value above 0 is an object."""
    values, compact = np.unique(mask, return_inverse=True)
    found = ndimage.find_objects(compact.reshape(mask.shape) + 1)
    boxes = {}
    for value, place in zip(values.tolist(), found, strict=True):
        if value > 0:
            rows, columns = place
            boxes[int(value)] = (columns.start, rows.start, columns.stop, rows.stop)
    return boxes


def widened(box: Box, margin: float, *, square: bool) -> Box:
    """Return a box with a margin, a share of its longer side, on all sides; as a square around its middle if asked.

    It may reach out of the image.
    """
    left, upper, right, lower = box
    longer = max(right - left, lower - upper)
    half_width, half_height = (right - left) / 2 + margin * longer, (lower - upper) / 2 + margin * longer
    if square:
        half_width = half_height = max(half_width, half_height)
    x, y = (left + right) / 2, (upper + lower) / 2
    # Not round(), which takes 2.5 down and 3.5 up, so that equal objects would have boxes of other sizes.
    first, top = math.floor(x - half_width + 0.5), math.floor(y - half_height + 0.5)
    last, bottom = math.floor(x + half_width + 0.5), math.floor(y + half_height + 0.5)
    return first, top, max(last, first + 1), max(bottom, top + 1)


def patch(film: Image.Image, box: Box | None, how: image_files.Preparation) -> Array:
    """Return an image, or what a box cuts out of it, as (c, size, size); black where the box reaches out of it.

    Raises:
        Unusable: a strip.

    """
    return image_files.fitted(film if box is None else film.crop(box), how)


def structures_of(
    mask: Array, n_structures: int, box: Box | None, value: int | None, how: image_files.Preparation
) -> Array:
    """Return a mask as (n_structures, size, size) float32 of 0 and 1, fitted as its image is.

    Of one structure every value above 0 is part, or `value` alone; of several the first is 1, the second 2.

    Raises:
        Unusable: values above the number of structures.

    """
    if n_structures > 1 and mask.max() > n_structures:
        raise image_files.Unusable(
            f"a mask with the value {int(mask.max())}; expected 0 to {n_structures} (structures)"
        )
    plain = image_files.Preparation(how.size, True, how.fit, how.bits, how.max_pixels)
    chosen = [mask == value] if value is not None else [mask > 0]
    if n_structures > 1:
        chosen = [mask == number for number in range(1, n_structures + 1)]
    shares = [patch(Image.fromarray(inside.astype(np.float32)), box, plain) for inside in chosen]
    return np.concatenate(shares) >= HALF
