"""Random resized crops and mirror images of a whole batch at once, on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def crop_boxes(
    n: int, n_dims: int, scale: tuple[float, float], ratio: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw n boxes inside images whose every side is 1: their sides and centres, each (n, n_dims), axes in array order.

    A box has a share of the image's area or volume from U(scale). Its width over its height is e^r with r from
    U(-log ratio, log ratio); sides are cut at 1. Centres are uniform among those that keep the box inside.
    """
    low, high = scale
    share = low + (high - low) * torch.rand(n, 1, generator=generator)
    half = math.log(ratio) * (torch.rand(n, generator=generator) - 0.5)
    stretch = torch.zeros(n, n_dims)
    stretch[:, -1], stretch[:, -2] = half, -half
    sides = (share ** (1 / n_dims) * stretch.exp()).clamp(max=1)
    centres = sides / 2 + (1 - sides) * torch.rand(n, n_dims, generator=generator)
    return sides, centres


def cut_out(x: torch.Tensor, sides: torch.Tensor, centres: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Return x (n, c, ...) with each image's box stretched over its whole size, linear between pixels.

    `sides` and `centres` (n, n_dims) are those of `crop_boxes`; `mirrored` (n,) bool says which boxes are turned over
    from left to right. The result has the shape of x.
    """
    n, n_dims = sides.shape
    sign = torch.ones(n, n_dims)
    sign[mirrored, -1] = -1
    # affine_grid counts axes from the last to the first, and positions from -1 to 1
    theta = torch.cat([torch.diag_embed((sides * sign).flip(1)), (2 * centres - 1).flip(1)[:, :, None]], 2)
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_crops(
    x: torch.Tensor, scale: tuple[float, float], ratio: float, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Return a random crop of each image of x (n, c, h, w) or (n, c, d, h, w) in the size of x, half of them mirrored."""
    sides, centres = crop_boxes(len(x), x.dim() - 2, scale, ratio, generator)
    mirrored = torch.rand(len(x), generator=generator) < (0.5 if flip else 0.0)
    if bool((sides == 1).all()) and not bool(mirrored.any()):
        return x
    return cut_out(x, sides, centres, mirrored)
