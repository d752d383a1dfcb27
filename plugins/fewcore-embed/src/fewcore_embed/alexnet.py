"""AlexNet with batch norm, as DeepCluster trains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fewcore import DataError, option
from fewcore_embed.layers import Conv2d, Dense, n_units

FILTERS = (96, 256, 384, 384, 256)
KERNELS = (5, 3, 3, 3)
POOLED_AFTER = (0, 1, 4)
UNITS = 4096
SMALL = 128
WEIGHT_SPREAD = 0.01
STEMS = {"11x11": (11, 4, 2), "5x5": (5, 2, 2)}
"""Size, stride and padding of the first convolution."""


def map_side(side: int, stem: str) -> int:
    """Return the side of the last map, after the first convolution and three 3 x 3 poolings of stride 2."""
    size, stride, padding = STEMS[stem]
    side = (side + 2 * padding - size) // stride + 1
    for _ in POOLED_AFTER:
        side = (side - 3) // 2 + 1 if side >= 3 else 0
    return max(side, 0)


class AlexNetNetwork(nn.Module):
    """Five convolutions with batch norm and ReLU, three of them pooled, two layers of units, and a linear `head`.

    Images (n, c, h, w) become outputs (n, n_outputs), or without a head the features (n, e) that leave the last ReLU.
    """

    def __init__(self, shape: tuple[int, ...], n_outputs: int, stem: str, width: float, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        filters = [n_units(number, width) for number in FILTERS]
        units = n_units(UNITS, width)
        before = shape[0]
        for index, number in enumerate(filters):
            size, stride, padding = STEMS[stem] if index == 0 else (KERNELS[index - 1], 1, KERNELS[index - 1] // 2)
            # no bias: batch norm would cancel it
            convolution = Conv2d(before, number, size, stride, padding, bias=False)
            layers += [convolution, nn.BatchNorm2d(number), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if index in POOLED_AFTER else []
            before = number
        self.features = nn.Sequential(*layers)
        pixels = math.prod(map_side(side, stem) for side in shape[1:])
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            Dense(before * pixels, units),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            Dense(units, units),
            nn.ReLU(),
        )
        self.head = Dense(units, n_outputs) if n_outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e) or (n, n_outputs)."""
        return self.head(self.classifier(self.features(x).flatten(1)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AlexNet:
    """AlexNet with batch norm in place of its local normalisation: 96, 256, 384, 384 and 256 filters, then 4096 units
    twice, each behind dropout.

    The first convolution is the paper's (11 x 11, stride 4) where the shorter side has at least 128 pixels: 6 x 6 x 256
    numbers remain of 224 x 224 pixels. Smaller images get one of 5 x 5 and stride 2, which leaves 3 x 3 x 256 of 64 x 64.
    DeepCluster's Sobel front end is an option of `deepcluster`.

    Source: A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS
    2012, doi:10.1145/3065386; filters, batch norm and first weights as in M. Caron, P. Bojanowski, A. Joulin, M. Douze:
    Deep Clustering for Unsupervised Learning of Visual Features, ECCV 2018, arXiv:1807.05520.

    Differs from the paper: convolutions have no bias, which batch norm cancels; the convolution for small images is ours,
    as K. Hsu, S. Levine, C. Finn (arXiv:1810.02334) do not tell theirs.

    Raises:
        DataError: the images are volumes, or too small for three poolings.

    """

    stem: Literal["auto", "11x11", "5x5"] = option("auto", "the first convolution; auto decides by size", paper="11x11")
    width: float = option(1.0, "share of the filters and units; 0.25 suits a CPU", low=0.01, high=4)
    dropout: float = option(0.5, "share of numbers left out before each layer of units", paper="0.5", low=0, high=0.95)

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> AlexNetNetwork:
        """Return the network for images of `shape` (c, h, w), on the CPU, its weights drawn from `generator`."""
        if len(shape) != 3:
            raise DataError(f"alexnet: found images {shape}; expected 2-D images (c, h, w)")
        stem = self.stem if self.stem != "auto" else "11x11" if min(shape[1:]) >= SMALL else "5x5"
        if not map_side(min(shape[1:]), stem):
            least = next(side for side in range(1, 1000) if map_side(side, stem))
            raise DataError(
                f"alexnet: found images {shape}; expected at least {least} pixels a side for the first convolution {stem}"
                + (" (type stem: 5x5, or set a larger image size)" if stem == "11x11" else " (set a larger image size)")
            )
        network = AlexNetNetwork(shape, n_outputs, stem, self.width, self.dropout)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                spread = (2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)) ** 0.5
                nn.init.normal_(module.weight, std=spread, generator=generator)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=WEIGHT_SPREAD, generator=generator)
                nn.init.zeros_(module.bias)
        return network
