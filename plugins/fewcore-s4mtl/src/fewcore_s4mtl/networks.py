"""The mask generator and the class discriminator of S4MTL, of blocks of MONAI; the baselines are made of the same two."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.networks.blocks.convolutions import Convolution
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn

Upsampling = Literal["bilinear", "transposed"]

NORM = ("instance", {"affine": True})
SLOPE = 0.2
_MODE = {"bilinear": "nontrainable", "transposed": "deconv"}


class Dropout(nn.Module):
    """`nn.Dropout`, with 16 random bits a value on a CPU, where drawing is most of its time: a quarter of the seconds."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.bound = round(p * 2**16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with a share p of its values 0, the others scaled; in evaluation x itself."""
        if not self.training or not self.bound:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= self.bound - 2**15
        return (x * kept) * (2**16 / (2**16 - self.bound))


def _replace_dropout(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, name, Dropout(child.p))


class Generator(nn.Module):
    """A U-Net: images (n, c, h, w) to probabilities (n, k, h, w), one for each structure and pixel.

    Two 3 x 3 convolutions a level, each with instance norm, dropout and ReLU; filters double where the image is halved,
    from `width` to `width` * 2 ** `levels`.
    """

    def __init__(
        self, channels: int, structures: int, width: int, levels: int, dropout: float, upsampling: Upsampling
    ) -> None:
        super().__init__()
        block: dict[str, Any] = {"act": ("relu", {"inplace": True}), "norm": NORM, "bias": False, "dropout": dropout}
        widths = [width << level for level in range(levels + 1)]
        self.first = TwoConv(2, channels, width, **block)
        self.downs = nn.ModuleList(Down(2, a, b, **block) for a, b in itertools.pairwise(widths))
        pairs = [(widths[level], widths[level - 1]) for level in range(levels, 0, -1)]
        self.ups = nn.ModuleList(
            UpCat(2, below, skip, skip, **block, upsample=_MODE[upsampling]) for below, skip in pairs
        )
        self.last = nn.Conv2d(width, structures, 1)
        self.bottleneck_width = widths[-1]
        _replace_dropout(self)

    def encoded(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of each level, the bottleneck's last."""
        features = [self.first(x)]
        for down in self.downs:
            features.append(down(features[-1]))
        return features

    def decoded(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the probabilities that the features of all levels make."""
        x = features[-1]
        for up, skip in zip(self.ups, reversed(features[:-1]), strict=True):
            x = up(x, skip)
        logits: torch.Tensor = self.last(x)
        return logits.float().sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, k, h, w) float32."""
        return self.decoded(self.encoded(x))


class Discriminator(nn.Module):
    """Images, with masks beside their channels, to logits (n, outputs): convolutions of stride 2, a mean, a linear layer.

    Each 3 x 3 convolution has instance norm, dropout and a leaky ReLU, from `width` filters to `width` * 2 ** `levels`.
    The last one has no norm: the mean over an instance-normed map would be the same for all images but for the ReLU.
    """

    def __init__(self, channels: int, outputs: int, width: int, levels: int, dropout: float) -> None:
        super().__init__()
        widths = [channels, *(width << level for level in range(levels + 1))]
        act = ("leakyrelu", {"negative_slope": SLOPE, "inplace": True})
        self.blocks = nn.Sequential(
            *(
                Convolution(
                    2,
                    a,
                    b,
                    strides=2,
                    act=act,
                    norm=None if number == levels else NORM,
                    dropout=dropout,
                    bias=number == levels,
                )
                for number, (a, b) in enumerate(itertools.pairwise(widths))
            )
        )
        self.head = nn.Linear(widths[-1], outputs)
        _replace_dropout(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, outputs) float32 of images and masks (n, channels, h, w)."""
        logits: torch.Tensor = self.head(self.blocks(x).mean((2, 3)))
        return logits.float()
