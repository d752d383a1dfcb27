"""How a network lies in memory: channels last while a CPU trains it, plain afterwards."""

from __future__ import annotations

import torch
from torch import nn


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device; on a CPU with channels last, in which 2-D convolutions are up to twice as fast."""
    if device.type == "cpu" and any(isinstance(layer, nn.Conv2d) for layer in network.modules()):
        return network.to(memory_format=torch.channels_last)
    return network.to(device)


def unplaced(network: nn.Module) -> nn.Module:
    """Lay a network out as one that is loaded again, so that both answer bit for bit the same."""
    return network.to(memory_format=torch.contiguous_format)
