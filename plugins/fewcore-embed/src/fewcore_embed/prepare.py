"""How images are brought to what a method of others expects: grey, square, of a size, of finite numbers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from fewcore import DataError, ImageSet

LEAST_SIDE = 2


def check_images(images: ImageSet, method: str, n_dims: int = 2) -> None:
    """Refuse images that are no (c, h, w), or for `n_dims=3` no (c, d, h, w), or have a side of a single pixel.

    Raises:
        DataError: the images are volumes where slices are expected, or slices where volumes are; or too small.

    """
    shape = images.shape
    letters, advice = (
        ("2-D images (c, h, w)", "set crop: slice in the data set, or use c3d for volumes")
        if n_dims == 2
        else ("volumes (c, d, h, w)", "set crop: volume in the data set, or use vgg or timm for 2-D images")
    )
    if len(shape) != n_dims + 1:
        raise DataError(f"{method}: found images {shape}; expected {letters} ({advice})")
    if min(shape[1:]) < LEAST_SIDE:
        raise DataError(
            f"{method}: found images {shape}; expected at least {LEAST_SIDE} pixels a side (set a larger image size)"
        )


def check_finite(x: torch.Tensor, method: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: there is some.

    """
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"{method}: found NaN or infinity in the images; expected finite numbers")


def grey(x: torch.Tensor) -> torch.Tensor:
    """Return (n, h, w), the mean of the channels of x (n, c, h, w)."""
    return x.mean(1)


def squared(x: torch.Tensor) -> torch.Tensor:
    """Return the largest square at the centre of x (..., h, w): (..., s, s)."""
    height, width = x.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return x[..., top : top + side, left : left + side]


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return x (n, c, h, w) in the size (h', w'): bilinear, with a kernel that widens where the image shrinks."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


def check_channels(images: ImageSet, method: str) -> None:
    """Refuse images that are neither grey nor in colour.

    Raises:
        DataError: there are other than 1 or 3 channels.

    """
    if images.shape[0] not in (1, 3):
        raise DataError(f"{method}: found {images.shape[0]} channels; expected 1 (grey) or 3 (red, green, blue)")


def in_unit_range(x: torch.Tensor, images: ImageSet, method: str) -> torch.Tensor:
    """Return images as `Gather` gives them, brought from the range of the set's spec to [0, 1].

    Raises:
        DataError: the range is empty; NaN or infinity.

    """
    check_finite(x, method)
    if images.images.dtype == np.uint8:
        return x
    low, high = images.spec.value_range
    if not low < high:
        raise DataError(f"{method}: found value_range [{low:g}, {high:g}] in the images' spec; expected low < high")
    return (x - low) / (high - low)


def resized_volume(x: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Return x (n, c, d, h, w) in another size: means along axes that shrink, linear between voxels along others."""
    depth, height, width = (min(wanted, own) for wanted, own in zip(size, x.shape[2:], strict=True))
    shrunk = (depth, height, width)
    if shrunk != tuple(x.shape[2:]):
        x = F.adaptive_avg_pool3d(x, shrunk)
    if shrunk != size:
        x = F.interpolate(x, size, mode="trilinear", align_corners=False)
    return x


def coloured(x: torch.Tensor) -> torch.Tensor:
    """Return x (n, 3, h, w); a grey image (n, 1, h, w) has three equal channels."""
    return x.expand(-1, 3, -1, -1)
