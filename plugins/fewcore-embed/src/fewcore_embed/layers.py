"""Layers whose weights come from a given generator or a file, and the rules by which they are drawn."""

from __future__ import annotations

import math

import torch
from torch import nn


class Dense(nn.Linear):
    """A fully connected layer, its weights still to be drawn or loaded."""

    def reset_parameters(self) -> None:
        """Draw nothing: torch would draw from global random state."""


class Conv2d(nn.Conv2d):
    """A 2-D convolution, its weights still to be drawn or loaded."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Deconv2d(nn.ConvTranspose2d):
    """A transposed 2-D convolution, its weights still to be drawn or loaded."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class Conv3d(nn.Conv3d):
    """A 3-D convolution, its weights still to be drawn or loaded."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def n_units(units: int, width: float) -> int:
    """Return the number of filters or units of a layer at a width."""
    return max(1, round(units * width))


def draw_weights(network: nn.Module, generator: torch.Generator, gain: float = 2.0) -> None:
    """Draw every kernel from N(0, gain / fan_in); biases are zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.weight[0].numel()), generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def draw_equal_weights(network: nn.Module, spread: float, generator: torch.Generator) -> None:
    """Draw every kernel from N(0, spread^2); biases are zero. Layers with a `spread` of their own have that."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=getattr(layer, "spread", spread), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
