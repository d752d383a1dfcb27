"""From new files to images like those that a model learnt from, and from what it says of them back to the files.

The data set's `ImageSpec` says how: its `preparation` names the steps. Where these are its own, its component may have a method
`prepare(path)`, which returns one image of a new file, (c, h, w) or (c, d, h, w), and raises `DataError` where it cannot. What
does not fit is refused with the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image, ImageOps

from fewcore import image_files, readers
from fewcore.contracts import Array, ImageSpec
from fewcore.errors import DataError
from fewcore.image_files import Preparation, Unusable

STEPS = frozenset({"grey", "fit", "bits", "max_pixels", "window", "invert", "per_object", "margin"})
"""The steps of `ImageSpec.preparation` that new files can go through."""
MAX_PIXELS = 50_000_000
BITS = 16
SAME_SPACING = 0.01
"""By which share the voxels of a file may be larger or smaller than the data set's."""
INSIDE = 0.5
"""From which value on a pixel belongs to a mask."""

Window = tuple[float, float]
Fit = Literal["pad", "crop", "stretch"]


@dataclass(frozen=True, eq=False)
class NewImages:
    """The images of one file, (m, c, h, w) or (m, c, d, h, w): one, or the slices of a volume.

    `size` is the height and width of the file, in which masks are written; empty where they cannot be.
    """

    images: Array
    size: tuple[int, ...]


@dataclass(frozen=True)
class Fitting:
    """How new files become images of `spec`, of `dtype`.

    `window` are the values of files of more than 8 bits that become black and white; None: those of the data set.
    `prepare` is the data set's own way from a file to an image, where it has one.
    """

    spec: ImageSpec
    dtype: str
    window: Window | None = None
    prepare: Callable[[Path], Any] | None = None

    @property
    def takes_series(self) -> bool:
        """Whether a folder of DICOM slices is one image: the data set reads volumes itself."""
        return self.prepare is not None

    @property
    def _foreign(self) -> list[str]:
        """The steps of the data set that new files cannot go through."""
        return sorted(set(self.spec.preparation) - STEPS - {"notes"})

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
        if self.prepare is not None:
            return self._prepared(path, self.prepare)
        if len(self.spec.size) == 3:
            return self._volume(path)
        self._check_spec()
        made = []
        for image in self._opened(path):
            size = (image.height, image.width)
            if self.spec.preparation.get("invert"):
                image = ImageOps.invert(image) if image.mode != "F" else Image.fromarray(1 - np.asarray(image))
            made.append(self._scaled(image_files.fitted(image, self._how)))
        return NewImages(np.stack(made), size)

    def _prepared(self, path: Path, prepare: Callable[[Path], Any]) -> NewImages:
        if self.window is not None:
            raise Unusable("--window, and a data set that scales values itself; expected no --window")
        try:
            image = np.asarray(prepare(path))
        except DataError as error:
            said = [replace(problem, where="") for problem in error.problems]
            raise Unusable("; ".join(map(str, said))) from error
        wanted = (self.spec.channels, *self.spec.size)
        if image.shape != wanted or str(image.dtype) != self.dtype:
            raise Unusable(f"{image.dtype} {image.shape} from its data set; expected {self.dtype} {wanted}")
        return NewImages(image[None], ())

    def _volume(self, path: Path) -> NewImages:
        """Return a volume as it is: of the size of the data set's, its values scaled."""
        sides = " x ".join(map(str, self.spec.size))
        if readers.is_plain(path.name):
            raise Unusable(f"an image; expected a volume of {sides} voxels")
        slices = readers.read_slices(path, path.name)
        if slices.shape != self.spec.size or self.spec.channels != 1:
            found = " x ".join(map(str, slices.shape))
            cuts = ", which cuts them out itself and cannot cut new files" if self.spec.preparation else ""
            raise Unusable(f"{found} voxels; expected {sides}, as the volumes of its data set are{cuts}")
        self._check_spacing(path)
        return NewImages(self._scaled(self._from_values(slices, plain=False))[None, None], ())

    def restored(self, mask: Array, size: tuple[int, ...]) -> Array:
        """Return a mask (s, s) in [0, 1] as (h, w) uint8 of 0 and 1, in the size of its file.

        Raises:
            DataError: the data set cut the image out of the file by steps of its own.

        """
        if len(size) != 2:
            raise DataError(
                "masks: found images that their data set cut out of the files; expected images of whole files"
            )
        return (image_files.unfitted(mask, (size[0], size[1]), self._fit) >= INSIDE).astype(np.uint8)

    def _check_spacing(self, path: Path) -> None:
        """Refuse a file that is taken in its own size, but whose voxels are of another than the data set's."""
        wanted = self.spec.spacing
        known = None if wanted is None else readers.spacing_of(path, path.name)
        if wanted is None or known is None:
            return
        found = known[-len(wanted) :]
        if not np.allclose(found, wanted, rtol=SAME_SPACING, atol=0):
            sizes = (" x ".join(f"{side:.3g}" for side in sides) for sides in (found, wanted))
            raise Unusable("voxels of {} mm; expected {} mm, as the data set's are (resample it)".format(*sizes))

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
            if values is None:
                found = [image_files.decoded(path, how)]
            else:
                found = [Image.fromarray(shares) for shares in self._from_values(values[None], plain=True)]
        else:
            slices = readers.read_slices(path, name)
            if slices[0].size > how.max_pixels:
                h, w = slices.shape[1:]
                raise Unusable(f"{w} x {h} pixels; expected at most {how.max_pixels:,} (max_pixels)")
            if slices[0].shape == self.spec.size:
                self._check_spacing(path)
            found = [Image.fromarray(shares) for shares in self._from_values(slices, plain=False)]
        if self._foreign and found[0].size != self.spec.size[::-1]:
            steps, side = ", ".join(self._foreign), self.spec.size[0]
            raise Unusable(
                f"{found[0].width} x {found[0].height} pixels, and a data set whose own steps ({steps}) new files cannot go"
                f" through; expected images that have gone through them, {side} x {side} pixels"
            )
        return found

    def _from_values(self, slices: Array, *, plain: bool) -> Array:
        """Return the values of a file, (d, h, w) in their own unit, as float32 in [0, 1]."""
        low, high = self.window or self._own_window(slices, plain)
        least, most = float(slices.min()), float(slices.max())
        if not (np.isfinite(least) and np.isfinite(most)):
            raise Unusable("NaN or infinite pixels; expected finite values")
        said = self.window or (not plain and self.spec.preparation.get("window"))
        if not said and not low <= least <= most <= high:
            found, expected = f"values from {least:g} to {most:g}", f"{low:g} to {high:g}, as in the data set"
            advice = "(--window LOW HIGH)"
            raise Unusable(f"{found}; expected {expected}, or the values that become black and white {advice}")
        shares = np.clip((slices.astype(np.float32) - low) / (high - low), 0, 1)
        return np.asarray(shares, np.float32)

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
