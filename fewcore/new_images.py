"""From new files to images like those that a model learnt from, and from what it says of them back to the files.

The data set's `ImageSpec` says how: its `preparation` names the steps. What does not fit is refused with the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image, ImageOps

from fewcore import image_files, readers
from fewcore.contracts import Array, ImageSpec
from fewcore.image_files import Preparation, Unusable

STEPS = frozenset({"grey", "fit", "bits", "max_pixels", "window", "invert", "per_object", "margin"})
"""The steps of `ImageSpec.preparation` that new files can go through."""
MAX_PIXELS = 50_000_000
BITS = 16
INSIDE = 0.5
"""From which value on a pixel belongs to a mask."""

Window = tuple[float, float]
Fit = Literal["pad", "crop", "stretch"]


@dataclass(frozen=True, eq=False)
class NewImages:
    """The images of one file, (m, c, h, w): one, or the slices of a volume; `size` is the height and width of the file."""

    images: Array
    size: tuple[int, int]


@dataclass(frozen=True)
class Fitting:
    """How new files become images of `spec`, of `dtype`.

    `window` are the values of files of more than 8 bits that become black and white; None: those of the data set.
    """

    spec: ImageSpec
    dtype: str
    window: Window | None = None

    @property
    def _foreign(self) -> list[str]:
        """The steps of the data set that new files cannot go through."""
        return sorted(set(self.spec.preparation) - STEPS)

    @property
    def _fit(self) -> Fit:
        return cast("Fit", self.spec.preparation.get("fit", "pad"))

    @property
    def _how(self) -> Preparation:
        said = self.spec.preparation
        grey, bits = self.spec.channels == 1, int(said.get("bits", BITS))
        return Preparation(self.spec.size[0], grey, self._fit, bits, int(said.get("max_pixels", MAX_PIXELS)))

    def read(self, path: Path) -> NewImages:
        """Return the images of a file, made like those of the data set.

        Raises:
            Unusable: the file cannot be read, or does not fit; the text says what was found and what was expected.

        """
        self._check_spec()
        made = []
        for image in self._opened(path):
            size = (image.height, image.width)
            if self.spec.preparation.get("invert"):
                image = ImageOps.invert(image) if image.mode != "F" else Image.fromarray(1 - np.asarray(image))
            made.append(self._scaled(image_files.fitted(image, self._how)))
        return NewImages(np.stack(made), size)

    def restored(self, mask: Array, size: tuple[int, int]) -> Array:
        """Return a mask (s, s) in [0, 1] as (h, w) uint8 of 0 and 1, in the size of its file."""
        return (image_files.unfitted(mask, size, self._fit) >= INSIDE).astype(np.uint8)

    def _check_spec(self) -> None:
        """Refuse what new files can never become."""
        sides = self.spec.size
        if len(sides) != 2 or sides[0] != sides[1] or self.spec.channels not in (1, 3):
            what = " x ".join(map(str, (self.spec.channels, *sides)))
            raise Unusable(f"a model of images {what}; expected one of square images with 1 or 3 channels")

    def _opened(self, path: Path) -> list[Image.Image]:
        """Return the images of a file in their own size: L or RGB, or F in [0, 1]."""
        how, name = self._how, path.name
        if readers.is_plain(name):
            image_files.read_header(path, how.max_pixels)
            values = image_files.deep_values(path)
            found = [image_files.decoded(path, how) if values is None else self._from_values(values, plain=True)]
        else:
            slices = readers.read_slices(path, name)
            if slices[0].size > how.max_pixels:
                h, w = slices.shape[1:]
                raise Unusable(f"{w} x {h} pixels; expected at most {how.max_pixels:,} (max_pixels)")
            found = [self._from_values(values, plain=False) for values in slices]
        if self._foreign and found[0].size != self.spec.size[::-1]:
            steps, side = ", ".join(self._foreign), self.spec.size[0]
            raise Unusable(
                f"{found[0].width} x {found[0].height} pixels, and a data set whose own steps ({steps}) new files cannot go"
                f" through; expected images that have gone through them, {side} x {side} pixels"
            )
        return found

    def _from_values(self, values: Array, *, plain: bool) -> Image.Image:
        """Return values of their own unit as F in [0, 1]."""
        low, high = self.window or self._own_window(values, plain)
        least, most = float(values.min()), float(values.max())
        if not (np.isfinite(least) and np.isfinite(most)):
            raise Unusable("NaN or infinite pixels; expected finite values")
        said = self.window or (not plain and self.spec.preparation.get("window"))
        if not said and not low <= least <= most <= high:
            found, expected = f"values from {least:g} to {most:g}", f"{low:g} to {high:g}, as in the data set"
            raise Unusable(
                f"{found}; expected {expected}, or the values that become black and white (--window LOW HIGH)"
            )
        return Image.fromarray(np.clip((values.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32))

    def _own_window(self, values: Array, plain: bool) -> Window:
        said: Any = self.spec.preparation.get("window")
        if said and not plain:
            return float(said[0]), float(said[1])
        if plain and values.dtype.kind == "f":
            return 0.0, 1.0
        bits = 8 if self.dtype == "uint8" else self._how.bits
        return 0.0, float(2**bits - 1)

    def _scaled(self, pixels: Array) -> Array:
        """Return pixels, uint8 or float32 in [0, 1], in the range and type of the data set."""
        low, high = self.spec.value_range
        share = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
        if self.dtype == "uint8":
            return pixels if pixels.dtype == np.uint8 else np.rint(255 * pixels).astype(np.uint8)
        return (low + (high - low) * share).astype(self.dtype)
