"""The 2-D and 3-D networks of MONAI as backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from fewcore import DataError, option

MODELS = {
    "densenet121": ("DenseNet121", 1024),
    "densenet169": ("DenseNet169", 1664),
    "densenet201": ("DenseNet201", 1920),
    "resnet10": ("resnet10", 512),
    "resnet18": ("resnet18", 512),
    "resnet34": ("resnet34", 512),
    "resnet50": ("resnet50", 2048),
}
"""Name in a pipeline -> name in monai.networks.nets, and the number of features."""


class MonaiNetwork(nn.Module):
    """Images (n, c, h, w) or (n, c, d, h, w) to features (n, e), or by a linear `head` to outputs (n, n_outputs)."""

    def __init__(self, features: nn.Module, dim: int, n_outputs: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(dim, n_outputs) if n_outputs else nn.Identity()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e) or (n, n_outputs)."""
        outputs: torch.Tensor = self.head(self.features(x))
        return outputs


@dataclass(frozen=True)
class Monai:
    """A network of MONAI, for images or volumes as the data are, with a linear layer in place of its classifier.

    The number of spatial dimensions and of input channels are the images'. Initial weights are MONAI's, drawn from the
    given generator.

    Source: M. J. Cardoso and others: MONAI: An open-source framework for deep learning in healthcare, 2022,
    arXiv:2211.02701. DenseNet: G. Huang and others, arXiv:1608.06993; ResNet: K. He and others, arXiv:1512.03385.
    Differs from the paper: nothing known.
    """

    model: Literal["densenet121", "densenet169", "densenet201", "resnet10", "resnet18", "resnet34", "resnet50"] = (
        option("densenet121", "the network")
    )

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> MonaiNetwork:
        """Return the network for images of `shape` (c, h, w) or (c, d, h, w), on the CPU.

        Raises:
            DataError: the shape is neither, or the images are too small for the network.

        """
        if len(shape) not in (3, 4):
            raise DataError(f"monai: found images {shape}; expected (c, h, w) or (c, d, h, w)")
        seed = int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = MonaiNetwork(self._features(shape), MODELS[self.model][1], n_outputs)
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, *shape))
        except (RuntimeError, ValueError) as error:
            found = f"monai: {self.model} cannot take images {shape}: {error}"
            raise DataError(f"{found}; expected larger images (raise image_size, or choose resnet10)") from error
        return network.train()

    def _features(self, shape: tuple[int, ...]) -> nn.Module:
        from monai.networks import nets

        make: Any = getattr(nets, MODELS[self.model][0])
        dims, channels = len(shape) - 1, shape[0]
        if self.model.startswith("densenet"):
            network = make(spatial_dims=dims, in_channels=channels, out_channels=1)
            network.class_layers.out = nn.Identity()
        else:
            network = make(spatial_dims=dims, n_input_channels=channels, num_classes=1)
            network.fc = nn.Identity()
        assert isinstance(network, nn.Module)
        return network
