"""The networks of BiGAN, with fully connected layers for small pictures or with those of AlexNet for crops of 64 x 64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from fewcore import ImageSet, Meta
from fewcore_embed.generative import CodeNetwork
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.layers import Conv2d, Deconv2d, Dense, n_units
from fewcore_embed.prepare import resized

SLOPE = 0.2
UNITS = 1024
SIDE = 64
SPREAD = 0.02
BN_EPS = 1e-8
CRITIC_FILTERS = (64, 128, 256, 512)
FIRST_MAP = 4
"""Side of the generator's first and the discriminator's last map."""


class Conditioning(Dense):
    """Adds a linear function of z (n, dim) to every pixel of h (n, channels, ...).

    Its weights are drawn k^2 times wider than others where h is the answer of kernels of k x k, as the authors' are.
    """

    def __init__(self, dim: int, channels: int, kernel: int = 1) -> None:
        super().__init__(dim, channels, bias=False)
        self.spread = SPREAD * kernel**2

    def add_to(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return h plus the function of z."""
        shift: torch.Tensor = self(z)
        return h + shift.reshape(*shift.shape, *[1] * (h.dim() - 2))


def _norm(units: int, *, affine: bool = False) -> nn.Module:
    return nn.BatchNorm1d(units, BN_EPS, affine=affine)


def _norm_maps(filters: int) -> nn.Module:
    return nn.BatchNorm2d(filters, BN_EPS)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(SLOPE, inplace=True)


def flat_encoder(n_pixels: int, dim: int, width: float) -> nn.Module:
    """Return the layers (n, ...) to (n, dim), fully connected, before the squashing."""
    units = n_units(UNITS, width)
    first = [nn.Flatten(), Dense(n_pixels, units, bias=False), _leaky()]
    return nn.Sequential(*first, Dense(units, units, bias=False), _norm(units), _leaky(), Dense(units, dim, bias=False))


class FlatGenerator(nn.Module):
    """Codes z (n, dim) to pictures (n, c, h, w) in (0, 1), fully connected."""

    def __init__(self, shape: tuple[int, ...], dim: int, width: float) -> None:
        super().__init__()
        self.shape, units = shape, n_units(UNITS, width)
        self.first = nn.Sequential(Dense(dim, units, bias=False), _norm(units), nn.ReLU(inplace=True))
        self.second, self.of_z = Dense(units, units, bias=False), Conditioning(dim, units)
        self.last = nn.Sequential(
            _norm(units), nn.ReLU(inplace=True), Dense(units, math.prod(shape), bias=False), nn.Sigmoid()
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the pictures."""
        made: torch.Tensor = self.last(self.of_z.add_to(self.second(self.first(z)), z))
        return made.reshape(-1, *self.shape)


class FlatDiscriminator(nn.Module):
    """Pictures (n, c, h, w) and codes (n, dim) to logits (n,) of coming from the data, fully connected."""

    def __init__(self, n_pixels: int, dim: int, width: float) -> None:
        super().__init__()
        units = n_units(UNITS, width)
        self.first = nn.Sequential(nn.Flatten(), Dense(n_pixels, units, bias=False), _leaky())
        self.second, self.of_z = Dense(units, units, bias=False), Conditioning(dim, units)
        self.last = nn.Sequential(_norm(units), _leaky(), Dense(units, 1, bias=False))

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.last(self.of_z.add_to(self.second(self.first(x)), z))
        return logits[:, 0]


def _filters(filters: int, width: float) -> int:
    """Return an even number of filters, as two groups share them."""
    return 2 * n_units(filters // 2, width)


def alexnet_encoder(channels: int, dim: int, width: float) -> nn.Module:
    """Return the layers (n, channels, 64, 64) to (n, dim), those of AlexNet with padded pools, before the squashing."""
    first, second, third, last = (_filters(f, width) for f in (96, 256, 384, 256))

    def block(inputs: int, outputs: int, kernel: int, groups: int) -> list[nn.Module]:
        conv = Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        return [conv, _norm_maps(outputs), _leaky()]

    layers = [Conv2d(channels, first, 11, stride=4, padding=5, bias=False), _leaky(), nn.MaxPool2d(3, 2, padding=1)]
    layers += [*block(first, second, 5, 2), nn.MaxPool2d(3, 2, padding=1)]
    layers += [*block(second, third, 3, 1), *block(third, third, 3, 2), *block(third, last, 3, 2)]
    return nn.Sequential(*layers, nn.Flatten(), Dense(last * FIRST_MAP**2, dim, bias=False))


class ConvGenerator(nn.Module):
    """Codes z (n, dim) to pictures (n, channels, 64, 64) in (-1, 1)."""

    def __init__(self, channels: int, dim: int, width: float) -> None:
        super().__init__()
        filters = [n_units(f, width) for f in reversed(CRITIC_FILTERS)]
        units = filters[0] * FIRST_MAP**2
        self.first = nn.Sequential(Dense(dim, units, bias=False), _norm(units, affine=True), nn.ReLU(inplace=True))
        self.convs, self.of_z, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in pairwise(filters):
            self.convs.append(Deconv2d(inputs, outputs, 5, 2, padding=2, output_padding=1, bias=False))
            self.of_z.append(Conditioning(dim, outputs, 5))
            self.norms.append(_norm_maps(outputs))
        self.last = Deconv2d(filters[-1], channels, 5, 2, padding=2, output_padding=1, bias=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the pictures."""
        h = self.first(z).unflatten(1, (-1, FIRST_MAP, FIRST_MAP))
        for conv, of_z, norm in zip(self.convs, self.of_z, self.norms, strict=True):
            assert isinstance(of_z, Conditioning)
            h = torch.relu_(norm(of_z.add_to(conv(h), z)))
        return 2 * torch.sigmoid(self.last(h)) - 1


class ConvDiscriminator(nn.Module):
    """Pictures (n, channels, 64, 64) and codes (n, dim) to logits (n,) of coming from the data."""

    def __init__(self, channels: int, dim: int, width: float) -> None:
        super().__init__()
        filters = [n_units(f, width) for f in CRITIC_FILTERS]
        self.first = nn.Sequential(Conv2d(channels, filters[0], 5, 2, padding=2, bias=False), _leaky())
        self.convs, self.of_z, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in pairwise(filters):
            self.convs.append(Conv2d(inputs, outputs, 5, 2, padding=2, bias=False))
            self.of_z.append(Conditioning(dim, outputs, 5))
            self.norms.append(nn.Sequential(_norm_maps(outputs), _leaky()))
        self.last = Dense(filters[-1] * FIRST_MAP**2, 1, bias=False)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        h = self.first(x)
        for conv, of_z, norm in zip(self.convs, self.of_z, self.norms, strict=True):
            assert isinstance(of_z, Conditioning)
            h = norm(of_z.add_to(conv(h), z))
        logits: torch.Tensor = self.last(h.flatten(1))
        return logits[:, 0]


def cut(x: torch.Tensor, top: torch.Tensor, left: torch.Tensor, side: int) -> torch.Tensor:
    """Return from each picture of x (n, c, h, w) the square whose upper left corner is at top, left (n,)."""
    along = torch.arange(side)
    rows, columns = top[:, None] + along, left[:, None] + along
    image = torch.arange(len(x), device=x.device)[:, None, None]
    cut_out = x.movedim(1, -1)[image, rows.to(x.device)[:, :, None], columns.to(x.device)[:, None, :]]
    return cut_out.movedim(-1, 1)


class BiganNetwork(CodeNetwork):
    """Images as `Gather` gives them, (n, c, h, w), to codes (n, dim) in (-1, 1).

    `prepared` brings images to [0, 1] for fully connected layers. For those of AlexNet their shorter side becomes
    `short_side`, of which 64 x 64 pixels are cut, and values become -1 to 1.
    """

    def __init__(self, kind: ImageKind, options: Meta) -> None:
        super().__init__(kind, options)
        self.dim, self.short_side = options["dim"], options["short_side"]
        self.flat = options["network"] == "permutation-invariant"
        if self.flat:
            self.layers = flat_encoder(math.prod(kind.shape), self.dim, options["width"])
        else:
            self.layers = alexnet_encoder(kind.shape[0], self.dim, options["width"])

    def prepared(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return what the layers see: crops at random with a generator, else from the centre."""
        x = self.kind.in_unit_range(x)
        if self.flat:
            return x
        height, width = x.shape[-2:]
        factor = self.short_side / min(height, width)
        x = 2 * resized(x, (max(SIDE, round(height * factor)), max(SIDE, round(width * factor)))) - 1
        room = torch.tensor([x.shape[-2] - SIDE, x.shape[-1] - SIDE])[:, None].expand(2, len(x))
        corners = room // 2 if generator is None else (torch.rand(room.shape, generator=generator) * (room + 1)).long()
        return cut(x, corners[0], corners[1], SIDE)

    def codes(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the codes of prepared images."""
        logits: torch.Tensor = self.layers(prepared)
        return 2 * torch.sigmoid(logits) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, dim)."""
        return self.codes(self.prepared(x))


class Pair(NamedTuple):
    """The generator of pictures from codes, and the discriminator of pairs of both."""

    generator: nn.Module
    discriminator: nn.Module


def build_pair(network: BiganNetwork) -> Pair:
    """Return the generator and the discriminator that belong to an encoder."""
    kind, dim, width = network.kind, network.dim, network.options["width"]
    if network.flat:
        return Pair(FlatGenerator(kind.shape, dim, width), FlatDiscriminator(math.prod(kind.shape), dim, width))
    return Pair(ConvGenerator(kind.shape[0], dim, width), ConvDiscriminator(kind.shape[0], dim, width))


def network_for(images: ImageSet) -> str:
    """Return the network that `auto` stands for: alexnet for pictures of at least 64 pixels a side."""
    return "alexnet" if min(images.shape[1:]) >= SIDE else "permutation-invariant"
