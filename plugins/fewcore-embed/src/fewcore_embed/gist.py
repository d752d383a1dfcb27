"""GIST: how strongly each part of a picture answers to edges of each scale and orientation."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from fewcore import Array, Arrays, ImageSet, Meta, Run, option
from fewcore_embed.batches import embedded
from fewcore_embed.prepare import check_finite, check_images, grey, resized, squared

PREFILTER_MARGIN = 5
MARGIN = 32
LEAST_CONTRAST = 0.2
RADIAL_WIDTH = 0.35
HIGHEST_FREQUENCY, SCALE_STEP = 0.3, 1.85
PIXELS_AT_ONCE = 2 * (128 + 2 * 32) ** 2
FILTERS_AT_ONCE = 8


@dataclass(frozen=True)
class GistSettings:
    """What the descriptor depends on; see the options of `Gist`."""

    size: int = 128
    n_blocks: int = 4
    orientations: tuple[int, ...] = (8, 8, 8, 8)
    cutoff: float = 4.0


def _frequencies(side: int) -> tuple[Array, Array]:
    """Return radius (cycles an image) and angle of each frequency of a side x side transform, float64.

    In numpy, since torch's vectorised atan2 errs by 1e-7 at the angle pi.
    """
    steps = np.fft.ifftshift(np.arange(side) - side // 2).astype(np.float64)
    down, across = np.meshgrid(steps, steps, indexing="ij")
    return np.hypot(down, across), np.arctan2(down, across)


@functools.lru_cache(maxsize=8)
def gabor_bank(side: int, orientations: tuple[int, ...]) -> torch.Tensor:
    """Return the transfer functions of the filters, (filters, side, side) float64: scale by scale, the finest first.

    With radius f and angle theta of a frequency, scale i from 0 and orientation j of o:
    exp(-3.5 (f / (side * 0.3 / 1.85^i) - 1)^2 - 2 pi (16 o^2 / 32^2) a^2), a = theta + pi j / o wrapped to [-pi, pi].
    """
    radius, angle = _frequencies(side)
    filters = []
    for i, o in enumerate(orientations):
        peak = side * HIGHEST_FREQUENCY / SCALE_STEP**i
        for j in range(o):
            turned = angle + math.pi * j / o
            turned = turned - 2 * math.pi * (turned > math.pi)
            sharpness = 2 * math.pi * (16 * o**2 / 32**2)
            filters.append(np.exp(-10 * RADIAL_WIDTH * (radius / peak - 1) ** 2 - sharpness * turned**2))
    return torch.from_numpy(np.stack(filters))


def _mirrored(x: torch.Tensor, margin: int) -> torch.Tensor:
    """Return x (n, s, s) continued on all sides as in a mirror that repeats the border pixel."""
    side = x.shape[-1]
    place = torch.arange(-margin, side + margin, device=x.device)
    place = torch.where(place < 0, -1 - place, torch.where(place >= side, 2 * side - 1 - place, place))
    return x[:, place][:, :, place]


def _low_pass(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    low: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(x) * kernel).real
    return low


def local_contrast(x: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Return x (n, s, s), from 0 to 255, with its local brightness and contrast evened out, (n, s, s).

    y = log(1 + x) less its low frequencies exp(-f^2 ln 2 / cutoff^2), divided by 0.2 + sqrt(|low frequencies of y^2|).
    """
    side = x.shape[-1]
    x = _mirrored(torch.log1p(x), PREFILTER_MARGIN)
    radius, _ = _frequencies(x.shape[-1])
    kernel = torch.from_numpy(np.exp(-(radius**2) * math.log(2) / cutoff**2)).to(x)
    x = x - _low_pass(x, kernel)
    x = x / (LEAST_CONTRAST + _low_pass(x.square(), kernel).abs().sqrt())
    inner = slice(PREFILTER_MARGIN, PREFILTER_MARGIN + side)
    return x[:, inner, inner]


def gist(x: torch.Tensor, settings: GistSettings) -> torch.Tensor:
    """Return the descriptors (n, filters * n_blocks^2) of grey images x (n, s, s), in x's dtype and on its device.

    Each filter's blocks stand together, down the columns first. An image without any contrast gives zeros.
    """
    least, most = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    contrast = most - least
    x = (x - least) * torch.where(contrast > 0, 255 / contrast, 0)
    x = _mirrored(local_contrast(x, settings.cutoff), MARGIN)
    bank = gabor_bank(x.shape[-1], settings.orientations).to(x)
    spectrum = torch.fft.fft2(x)[:, None]
    # A few filters at a time, so that what they give stays in the processor's cache.
    answers = [_block_means(spectrum * part, settings) for part in torch.split(bank, FILTERS_AT_ONCE)]
    return torch.cat(answers, 1).flatten(1)


def _block_means(spectrum: torch.Tensor, settings: GistSettings) -> torch.Tensor:
    """Return the mean magnitude in each block, (n, filters, columns, rows), of images given by their transforms."""
    inner = slice(MARGIN, MARGIN + settings.size)
    grid = (settings.n_blocks, settings.size // settings.n_blocks)
    # The second half of the inverse transform is that of the kept columns alone, which are laid side by side first.
    columns = torch.fft.ifft(spectrum, dim=-1)[..., inner].transpose(-1, -2).contiguous()
    answers = torch.fft.ifft(columns, dim=-1)[..., inner].abs()
    means: torch.Tensor = answers.unflatten(-1, grid).unflatten(-3, grid).mean((-3, -1))
    return means


class GistEncoder:
    """Embeds 2-D images as GIST descriptors. Nothing in it is fitted."""

    def __init__(self, settings: GistSettings) -> None:
        self.settings = settings

    @property
    def dim(self) -> int:
        """Number of filters times number of blocks; 512 by default."""
        return sum(self.settings.orientations) * self.settings.n_blocks**2

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the descriptors, (n, e) float32, computed in float64.

        Raises:
            DataError: the images are volumes, have a side of one pixel, or hold NaN or infinity.

        """
        check_images(images, "gist")
        batch = max(1, PIXELS_AT_ONCE // (self.settings.size + 2 * MARGIN) ** 2)

        def descriptors(x: torch.Tensor) -> torch.Tensor:
            x = x.double()
            check_finite(x, "gist")
            square = resized(squared(grey(x))[:, None], (self.settings.size,) * 2)[:, 0]
            return gist(square, self.settings)

        return embedded(images, run, batch, (self.dim,), descriptors)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the settings."""
        return {}, asdict(self.settings)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> GistEncoder:
        """Build the encoder from `to_arrays`' result."""
        return cls(GistSettings(**{**meta, "orientations": tuple(meta["orientations"])}))


@dataclass(frozen=True)
class Gist:
    """The spatial envelope of a picture: the mean answer of Gabor filters of several scales and orientations in each
    block of a grid. Local brightness and contrast are evened out first.

    Colour images become grey, the mean of their channels; the largest square at the centre is resized and spread over
    [0, 255]. Nothing is fitted and no image is asked for, so that one encoder serves all folds.

    Source: A. Oliva, A. Torralba: Modeling the Shape of the Scene: A Holistic Representation of the Spatial Envelope,
    International Journal of Computer Vision, 2001, doi:10.1023/A:1011139631724; settings and order of the numbers as in
    the authors' program.

    Differs from the paper: the square is cut before the resizing, not after it, and at the border the resizing kernel
    is cut off instead of mirrored; an image without contrast gives zeros, where the authors' program divides by zero.

    Raises:
        DataError: volumes; images of a single pixel a side; NaN or infinity.

    """

    size: int = option(128, "side of the resized image", unit="pixels", paper="128 or 256", low=MARGIN, high=1024)
    n_blocks: int = option(4, "blocks of the grid along each side", low=1, high=32)
    orientations: tuple[int, ...] = option((8, 8, 8, 8), "orientations at each scale, from fine to coarse", low=1)
    cutoff: float = option(4.0, "frequency at which half of the local mean is removed", unit="cycles an image", low=0.1)

    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size % self.n_blocks or self.size % 2:
            raise ValueError(f"size: found {self.size}; expected an even multiple of n_blocks ({self.n_blocks})")
        if not self.orientations:
            raise ValueError("orientations: found none; expected a number for each scale, such as [8, 8, 8, 8]")

    def fit(self, run: Run) -> GistEncoder:
        """Return the encoder."""
        return GistEncoder(GistSettings(self.size, self.n_blocks, self.orientations, self.cutoff))
