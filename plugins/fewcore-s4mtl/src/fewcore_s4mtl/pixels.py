"""How images enter the networks: finite numbers in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch

from fewcore import DataError, ImageSet

CHUNK = 256


def check_images(images: ImageSet, levels: int, who: str) -> None:
    """Refuse images from which networks of so many levels cannot learn.

    Raises:
        DataError: the images are volumes, too small, or hold NaN.

    """
    shape, least = images.shape, 2 ** (levels + 2)
    if len(shape) != 3:
        raise DataError(f"{who}: found images {shape}; expected 2-D images (c, h, w) (set crop: slice in the data set)")
    if min(shape[1:]) < least:
        most = max(1, min(shape[1:]).bit_length() - 3)
        raise DataError(
            f"{who}: found images {shape[1]} x {shape[2]}; expected at least {least} pixels a side for {levels} levels (type"
            f" levels: {most}, or a larger image size)"
        )
    check_finite(images, who)


def check_finite(images: ImageSet, who: str) -> None:
    """Refuse NaN and infinity, and a range of values that is empty.

    Raises:
        DataError: naming the first image of the kind.

    """
    if images.images.dtype == np.uint8:
        return
    low, high = images.spec.value_range
    if not low < high:
        raise DataError(f"{who}: found value_range [{low:g}, {high:g}] in the images' spec; expected low < high")
    for start in range(0, len(images), CHUNK):
        finite = np.isfinite(images.images[start : start + CHUNK]).all((1, 2, 3))
        if not finite.all():
            number = images.ids[start + int(np.flatnonzero(~finite)[0])]
            raise DataError(f"{who}: found NaN or infinity in image {number}; expected finite numbers")


def scaled(x: torch.Tensor, images: ImageSet) -> torch.Tensor:
    """Return images as `Gather` gives them, brought from the range of the set's spec to [-1, 1]."""
    if images.images.dtype == np.uint8:
        return 2 * x - 1
    low, high = images.spec.value_range
    return (2 / (high - low)) * (x - low) - 1
