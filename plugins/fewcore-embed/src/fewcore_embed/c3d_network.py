"""The network of C3D: eight 3-D convolutions and a layer of features, fc6."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from fewcore_embed.layers import Dense, n_units

FILTERS = {
    "conv1": 64,
    "conv2": 128,
    "conv3a": 256,
    "conv3b": 256,
    "conv4a": 512,
    "conv4b": 512,
    "conv5a": 512,
    "conv5b": 512,
}
POOLED_AFTER = ("conv1", "conv2", "conv3b", "conv4b", "conv5b")
FEATURES = 4096
COLOURS = 3
DROPOUT = 0.5
SIZE = (16, 112, 112)
LEAST_SIZE = (16, 16, 16)
LAYOUT = torch.channels_last_3d
"""Of what flows through the layers; measured on the CPU, a quarter faster than channels first."""


class Kernel(nn.Conv3d):
    """A convolution of 3 x 3 x 3 that keeps the size, its weights still to be drawn or loaded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def reset_parameters(self) -> None:
        """Draw nothing: torch would draw from global random state."""


def _pooled(x: torch.Tensor, after: str) -> torch.Tensor:
    """Return the maxima of blocks of 2 x 2 x 2: the first pool keeps the depth, the last takes one pixel beyond each side."""
    if after == "conv1":
        return F.max_pool3d(x, (1, 2, 2))
    return F.max_pool3d(x, 2, padding=(0, 1, 1) if after == "conv5b" else 0)


def grid(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return what five pools leave of a size: (d', h', w'); at least (16, 16, 16) leaves something."""
    depth, height, width = size
    return depth // 16, (height // 16) // 2 + 1, (width // 16) // 2 + 1


class C3dNetwork(nn.Module):
    """Volumes (n, 3 or 1, d, h, w) of one size to the features fc6 (n, e), rectified unless `relu` is false.

    A volume of one channel counts as one with three equal channels. Layers have the names of the published weights.
    """

    def __init__(self, size: tuple[int, int, int], width: float, *, relu: bool = True) -> None:
        super().__init__()
        self.size, self.width, self.relu = size, width, relu
        inputs = COLOURS
        for name, filters in FILTERS.items():
            self.add_module(name, Kernel(inputs, n_units(filters, width)))
            inputs = n_units(filters, width)
        self.dim = n_units(FEATURES, width)
        self.fc6 = Dense(inputs * math.prod(grid(size)), self.dim)
        self.to(memory_format=LAYOUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e)."""
        x = x.contiguous(memory_format=LAYOUT)
        for name in FILTERS:
            layer = cast("Kernel", getattr(self, name))
            weight = layer.weight.sum(1, keepdim=True) if x.shape[1] == 1 and name == "conv1" else layer.weight
            x = F.conv3d(x, weight, layer.bias, padding=1)
            if name in POOLED_AFTER:
                x = _pooled(x, name)
            # After the pool there is an eighth to rectify, with the same result.
            x = F.relu_(x)
        x = self.fc6(x.contiguous().flatten(1))
        return F.relu_(x) if self.relu else x


class C3dClassifier(nn.Module):
    """C3D with the rest of its layers and one output: logits (n,) of being positive."""

    def __init__(self, features: C3dNetwork) -> None:
        super().__init__()
        self.features = features
        self.fc7 = Dense(features.dim, features.dim)
        self.fc8 = Dense(features.dim, 1)

    def forward(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Return logits (n,); `kept` (2, n, e) says which units of fc6 and fc7 are not dropped."""
        x = F.relu(self.features(x)) * kept[0] / (1 - DROPOUT)
        x = F.relu(self.fc7(x)) * kept[1] / (1 - DROPOUT)
        logits: torch.Tensor = self.fc8(x)[:, 0]
        return logits
