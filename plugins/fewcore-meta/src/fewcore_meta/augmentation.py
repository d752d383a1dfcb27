"""Random views of images: affine and elastic distortions, crops and flips in one interpolation, and jitter of colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CONTROL_POINTS = 5
"""Control points a side of an elastic distortion."""
ASPECT = 4 / 3
"""Largest ratio of the sides of a crop, to those of the image."""
LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to the brightness."""
CHROMA = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
"""The two axes of colour, in red, green and blue; with the brightness, YIQ."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What was drawn for n views, on the CPU.

    `matrices` (n, 2, 3) take a place of the view to one of the image, x before y, both in [-1, 1]; `bends` (n, 2, p, p) are
    displacements at p x p control points in the same unit; `colours` (n, 4) hold factors of brightness, contrast and
    saturation and the angle of hue in radians; `greys` (n,) says which views lose their colours.
    """

    matrices: Tensor
    bends: Tensor | None = None
    colours: Tensor | None = None
    greys: Tensor | None = None

    def repeated(self, index: int, n: int) -> Draws:
        """Return the draws of view `index` for n images."""
        parts = (self.matrices, self.bends, self.colours, self.greys)
        return Draws(*(None if p is None else p[index : index + 1].expand(n, *p.shape[1:]) for p in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Distortion:
    """How far a view may be from its image. The default changes nothing.

    `rotate` and `shear` are the greatest angles in degrees, `shift` the greatest shift as a share of the side, `zoom` the
    greatest factor by which height and width grow or shrink, each on its own. `elastic` is the standard deviation of the
    displacement at the control points, as a share of the side, bicubic between them. `crop` is the least share of the
    area that a random rectangle keeps, `flip` mirrors half of the views left to right. `jitter` is SimCLR's strength s of
    colour distortion: brightness, contrast and saturation change by factors in 1 +- 0.8 s, hue by a turn of up to 0.2 s;
    a share `grey` of the views loses its colours. What lies outside the image continues its border.

    Source: elastic distortions: P. Y. Simard, D. Steinkraus, J. C. Platt, Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis, ICDAR 2003, doi:10.1109/ICDAR.2003.1227801; crops and colours: T. Chen, S.
    Kornblith, M. Norouzi, G. Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020,
    arXiv:2002.05709.
    Differs from the papers: a bicubic surface through random control points instead of smoothed noise; hue is turned in
    YIQ; colours change in one order; no blur.
    """

    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 1.0
    shear: float = 0.0
    elastic: float = 0.0
    crop: float = 1.0
    flip: bool = False
    jitter: float = 0.0
    grey: float = 0.0

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator, turned: Tensor | None = None) -> Draws:
        """Return draws for n views of images of `size` (h, w), from `generator`, which is on the CPU.

        `turned` (n,) are degrees by which each is turned beside what is drawn.
        """

        def spread(*shape: int) -> Tensor:
            return 2 * torch.rand(n, *shape, generator=generator) - 1

        angle, slant = (math.radians(limit) * spread() for limit in (self.rotate, self.shear))
        if turned is not None:
            angle = angle + turned.deg2rad()
        factors, offset = torch.exp(math.log(self.zoom) * spread(2)), 2 * self.shift * spread(2)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(n, 2, 2)
        lean = torch.eye(2).repeat(n, 1, 1)
        lean[:, 0, 1] = slant.tan()
        # The matrix is meant in pixels: in units of the half sides, a turn of an oblong image would also shear it.
        sides = torch.tensor([size[1], size[0]], dtype=torch.float32)
        linear = (turn @ lean * factors[:, None]) * sides / sides[:, None]
        window = torch.ones(n, 2)
        centre = torch.zeros(n, 2)
        if self.crop < 1:
            area, aspect = self.crop + (1 - self.crop) * (spread() + 1) / 2, torch.exp(math.log(ASPECT) * spread())
            window = torch.stack([area * aspect, area / aspect], -1).sqrt().clamp(max=1)
            centre = (1 - window) * spread(2)
        if self.flip:
            window = window * torch.stack([torch.where(spread() < 0, -1.0, 1.0), torch.ones(n)], -1)
        matrices = torch.cat([window[..., None] * linear, (window * offset + centre)[..., None]], -1)
        bends = None
        if self.elastic:
            # Displacements are in [-1, 1] as places are, so that a side is 2.
            shape = (n, 2, CONTROL_POINTS, CONTROL_POINTS)
            bends = 2 * self.elastic * torch.randn(shape, generator=generator)
        colours = None
        if self.jitter:
            limits = self.jitter * torch.tensor([0.8, 0.8, 0.8, 0.2 * 2 * math.pi])
            colours = limits * spread(4) + torch.tensor([1.0, 1.0, 1.0, 0.0])
        greys = torch.rand(n, generator=generator) < self.grey if self.grey else None
        return Draws(matrices, bends, colours, greys)


def distorted(images: Tensor, draws: Draws, value_range: tuple[float, float]) -> Tensor:
    """Return the views (n, c, h, w) of images (n, c, h, w) whose values lie in `value_range`, on their device."""
    device = images.device
    grid = functional.affine_grid(draws.matrices.to(device), list(images.shape), align_corners=False)
    if draws.bends is not None:
        bends = functional.interpolate(
            draws.bends.to(device), size=images.shape[2:], mode="bicubic", align_corners=True
        )
        grid = grid + bends.permute(0, 2, 3, 1)
    views = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if draws.colours is not None:
        views = _recoloured(views, draws.colours.to(device), value_range)
    if draws.greys is not None:
        views = torch.where(draws.greys.to(device)[:, None, None, None], _brightness(views), views)
    return views


def _brightness(images: Tensor) -> Tensor:
    """Return the brightness of images (n, c, h, w), (n, 1, h, w): of three channels weighted, else their mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _recoloured(images: Tensor, colours: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Return images with other brightness, contrast and, where there are three channels, saturation and hue."""
    low, high = value_range
    brightness, contrast, saturation, hue = (column[:, None, None, None] for column in colours.unbind(1))
    images = low + (images - low) * brightness.clamp(min=0)
    level = _brightness(images).mean((2, 3), keepdim=True)
    images = level + (images - level) * contrast.clamp(min=0)
    if images.shape[1] == 3:
        base = torch.tensor([LUMA, *CHROMA], device=images.device)
        luma, first, second = torch.einsum("ij,njhw->inhw", base, images)[:, :, None].unbind(0)
        saturation, cos, sin = saturation.clamp(min=0), hue.cos(), hue.sin()
        turned = torch.cat(
            [luma, saturation * (cos * first - sin * second), saturation * (sin * first + cos * second)], 1
        )
        images = torch.einsum("ij,njhw->nihw", torch.linalg.inv(base), turned)
    return images.clamp(low, high)
