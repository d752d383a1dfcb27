"""How a network lies in memory: channels last while a CPU trains it, plain afterwards."""

from __future__ import annotations

import torch
from torch import nn


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device; on a CPU with channels last, in which 2-D convolutions are up to twice as fast."""
    network.to(device)
    if device.type == "cpu":
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)
    return network


def unplaced(network: nn.Module) -> nn.Module:
    """Lay a network out as one that is loaded again, so that both answer bit for bit the same."""
    return network.to(memory_format=torch.contiguous_format)
