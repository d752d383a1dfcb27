"""The networks of ACAI: convolutions of 3 x 3 whose filters double at each scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fewcore_embed.layers import Conv2d

SLOPE = 0.2
LATENT_SIDE = 4
LAYOUT = torch.channels_last
"""Of what flows through the layers; measured on the CPU, a third faster than channels first."""


class Kernel(Conv2d):
    """A convolution that keeps the image's size, its weights still to be drawn or loaded."""

    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)


class Lift(nn.Module):
    """A 1 x 1 convolution without activation, then a 3 x 3 convolution with zero padding.

    Both are linear, so they are computed as one 3 x 3 convolution of the image and a plane of ones, which carries the
    first one's bias and ends, like the zero padding, at the border. That is the same function of the same parameters
    at a fifth of the cost.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.point = Kernel(channels, filters, 1)
        self.conv = Kernel(filters, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, filters, h, w) for x (n, channels, h, w)."""
        assert self.point.bias is not None
        point = torch.cat([self.point.weight.flatten(1), self.point.bias[:, None]], 1)
        kernel = torch.einsum("ofhw,fc->ochw", self.conv.weight, point).contiguous(memory_format=LAYOUT)
        plane = torch.cat([x, torch.ones_like(x[:, :1])], 1).contiguous(memory_format=LAYOUT)
        return F.conv2d(plane, kernel, self.conv.bias, padding=1)


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [Kernel(inputs, outputs), nn.LeakyReLU(SLOPE, inplace=True)]


def encoder_layers(channels: int, filters: int, latent: int, scales: int) -> nn.Sequential:
    """Return the encoder's (and the critic's) layers: (n, channels, s, s) -> (n, latent, s / 2^scales, s / 2^scales)."""
    layers: list[nn.Module] = [Lift(channels, filters), nn.LeakyReLU(SLOPE, inplace=True)]
    width = filters
    for scale in range(scales):
        if scale:
            layers += _conv(width, filters << scale)
        width = filters << scale
        layers += [*_conv(width, width), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, *_conv(width, filters << scales), Kernel(filters << scales, latent))


def decoder_layers(channels: int, filters: int, latent: int, scales: int) -> nn.Sequential:
    """Return the decoder's layers: (n, latent, s, s) -> (n, channels, s * 2^scales, s * 2^scales)."""
    layers: list[nn.Module] = []
    width = latent
    for scale in reversed(range(scales)):
        layers += [*_conv(width, filters << scale), *_conv(filters << scale, filters << scale)]
        layers += [nn.UpsamplingNearest2d(scale_factor=2)]
        width = filters << scale
    return nn.Sequential(*layers, *_conv(width, filters), Kernel(filters, channels))


class Frame(nn.Module):
    """Rescales images from [low, high] to [-1, 1] and pads them evenly to `side` with -1, the background."""

    def __init__(self, low: float, high: float, size: int, side: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        before = (side - size) // 2
        self.padding = [before, side - size - before] * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, c, side, side) in [-1, 1] for x (n, c, size, size) in [low, high]."""
        return F.pad((x - self.low) * (2 / (self.high - self.low)) - 1, self.padding, value=-1.0)


def n_scales(side: int) -> int:
    """Return how often images of a side, a power of two, are halved until the map is 4 x 4: 3 times for 32, 4 for 64."""
    return (side // LATENT_SIDE).bit_length() - 1


class AcaiNetwork(nn.Module):
    """Images (n, c, h, w), in their own range, to embeddings (n, e)."""

    def __init__(self, shape: tuple[int, ...], low: float, high: float, dim: int, filters: int) -> None:
        super().__init__()
        self.side = max(2 * LATENT_SIDE, 1 << (shape[-1] - 1).bit_length())
        self.scales = n_scales(self.side)
        self.latent = dim // LATENT_SIDE**2
        self.frame = Frame(low, high, shape[-1], self.side)
        self.layers = encoder_layers(shape[0], filters, self.latent, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e)."""
        codes: torch.Tensor = self.layers(self.frame(x))
        return codes.flatten(1)
