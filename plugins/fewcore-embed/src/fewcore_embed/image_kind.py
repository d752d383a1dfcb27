"""What the images are like on which a network was trained, and whether others are like them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from fewcore import DataError, ImageSet, Meta

CHUNK = 4096
ROUNDING = 1e-3
"""Share of the range by which a value may lie outside: what float16 makes of its ends."""


@dataclass(frozen=True)
class ImageKind:
    """Shape (c, h, w) or (c, d, h, w) of images and the range of what `Gather` gives of them."""

    shape: tuple[int, ...]
    value_range: tuple[float, float]

    @classmethod
    def of(cls, images: ImageSet, method: str) -> ImageKind:
        """Return what images are like.

        Raises:
            DataError: there are none; their range is empty; NaN, infinity or a value outside the range.

        """
        kind = cls._of(images)
        low, high = kind.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise DataError(f"{method}: found value_range [{low:g}, {high:g}] in the images' spec; expected low < high")
        if not len(images):
            raise DataError(f"{method}: found no images; expected at least one")
        kind._check_values(images, method)
        return kind

    @classmethod
    def _of(cls, images: ImageSet) -> ImageKind:
        if images.images.dtype == np.uint8:
            return cls(images.shape, (0.0, 1.0))
        low, high = images.spec.value_range
        return cls(images.shape, (float(low), float(high)))

    def check(self, images: ImageSet, method: str) -> None:
        """Refuse images that are unlike those of the training.

        Raises:
            DataError: another shape or range; NaN, infinity or a value outside the range.

        """
        found = self._of(images)
        if found != self:
            raise DataError(
                f"{method}: found images {found}; expected {self}, as in training (prepare both in the same way)"
            )
        self._check_values(images, method)

    def _check_values(self, images: ImageSet, method: str) -> None:
        if images.images.dtype == np.uint8:
            return
        low, high = self.value_range
        margin = ROUNDING * (high - low)
        for start in range(0, len(images), CHUNK):
            part = images.images[start : start + CHUNK]
            least, most = float(part.min()), float(part.max())
            if not (math.isfinite(least) and math.isfinite(most)):
                raise DataError(f"{method}: found NaN or infinity in the images; expected finite numbers")
            if least < low - margin or most > high + margin:
                raise DataError(
                    f"{method}: found values from {least:g} to {most:g} in the images; expected {low:g} to {high:g}, as "
                    "their spec says (correct its value_range)"
                )

    def in_unit_range(self, x: torch.Tensor) -> torch.Tensor:
        """Return images as `Gather` gives them, brought to [0, 1]."""
        low, high = self.value_range
        return x if self.value_range == (0.0, 1.0) else (x - low) / (high - low)

    def __str__(self) -> str:
        """Return shape and range for people."""
        return f"{self.shape} in [{self.value_range[0]:g}, {self.value_range[1]:g}]"

    def to_json(self) -> Meta:
        """Return the kind as JSON."""
        return {"shape": list(self.shape), "value_range": list(self.value_range)}

    @classmethod
    def from_json(cls, meta: Meta) -> ImageKind:
        """Build the kind from `to_json`'s result."""
        low, high = meta["value_range"]
        return cls(tuple(meta["shape"]), (low, high))
