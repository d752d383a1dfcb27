"""A narrow DenseNet of MONAI's blocks for images and volumes of any size: one network for all roles of a small data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fewcore import DataError, option

LEAST_SIDE = 2
"""Pixels below which no side of a map is halved."""
VECTOR = 16
"""Filters from which on channels that lie side by side are faster, by a quarter on a CPU; with fewer they are slower."""


def halved(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a map after a transition: each side is halved, rounded down, where 2 pixels are left of it."""
    return tuple(side // 2 if side // 2 >= LEAST_SIDE else side for side in size)


class DenseNetwork(nn.Module):
    """Images (n, c, h, w) or (n, c, d, h, w) to features (n, e), or by a linear `head` to outputs (n, n_outputs)."""

    def __init__(self, features: nn.Module, dim: int, n_outputs: int) -> None:
        super().__init__()
        self.features, self.dim = features, dim
        self.head = nn.Linear(dim, n_outputs) if n_outputs else nn.Identity()

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last map (n, e, h', w') or (n, e, d', h', w'); its mean over all pixels are the features."""
        found: torch.Tensor = self.features(x)
        return found.relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e) or (n, n_outputs)."""
        outputs: torch.Tensor = self.head(self.feature_map(x).flatten(2).mean(2))
        return outputs


@dataclass(frozen=True)
class DenseNet:
    """Dense blocks with transitions between them, whose features are the mean over the last map.

    The blocks and transitions are MONAI's, with its initial weights, drawn from the given generator. The first layer is a
    convolution of 3 x 3 (x 3), where MONAI's is one of 7 x 7 (x 7) with a pool. A transition halves each side of which 2
    pixels are left, so that volumes of few slices fit: of 50 x 100 x 100 voxels the last map is 3 x 3 x 3.

    Source: G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger: Densely Connected Convolutional Networks, CVPR 2017,
    arXiv:1608.06993; five blocks of two layers: G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro:
    Unsupervised Task Design to Meta-Train Medical Image Classifiers, ISBI 2020, arXiv:1907.07816; MONAI: M. J. Cardoso and
    others, 2022, arXiv:2211.02701.

    Differs from the paper: it gives neither widths nor the first layer nor how many slices are left; ours are stated here.

    Raises:
        DataError: the shape is neither of images nor of volumes, or a side has fewer than 2 pixels.

    """

    blocks: tuple[int, ...] = option((2, 2, 2, 2, 2), "dense layers of each block", paper="2, 2, 2, 2, 2")
    filters: int = option(16, "filters of the first layer", paper="not told", low=1)
    growth: int = option(16, "filters that each dense layer adds", paper="not told", low=1)
    bottleneck: int = option(
        1, "filters of a dense layer's 1 x 1 convolution, in multiples of growth", paper="not told; MONAI 4", low=1
    )
    stride: int = option(2, "stride of the first layer", paper="not told", low=1, high=2)

    def __post_init__(self) -> None:
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks: found {list(self.blocks)}; expected the layers of each block, 1 or more")

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> DenseNetwork:
        """Return the network for images of `shape` (c, h, w) or (c, d, h, w), on the CPU."""
        if len(shape) not in (3, 4) or min(shape[1:]) < LEAST_SIDE:
            raise DataError(
                f"densenet: found images {shape}; expected (c, h, w) or (c, d, h, w) with {LEAST_SIDE} pixels a side at least"
            )
        seed = int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = DenseNetwork(*self._features(shape), n_outputs)
        if min(self.filters, self.growth) >= VECTOR:
            layout = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
            network = network.to(memory_format=layout)
        return network.train()

    def _features(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """Return MONAI's DenseNet without its classifier, with our first layer and pools that fit the maps; and e."""
        from monai.networks.nets.densenet import DenseNet as MonaiDenseNet

        n_dims = len(shape) - 1
        features: Any = MonaiDenseNet(
            spatial_dims=n_dims,
            in_channels=shape[0],
            out_channels=1,
            init_features=self.filters,
            growth_rate=self.growth,
            block_config=self.blocks,
            bn_size=self.bottleneck,
        ).features
        conv, pool = (nn.Conv2d, nn.AvgPool2d) if n_dims == 2 else (nn.Conv3d, nn.AvgPool3d)
        features.conv0 = conv(shape[0], self.filters, 3, self.stride, 1, bias=False)
        nn.init.kaiming_normal_(features.conv0.weight)
        features.pool0 = nn.Identity()
        size = tuple(math.ceil(side / self.stride) for side in shape[1:])
        for number in range(1, len(self.blocks)):
            smaller = halved(size)
            kernel: Any = tuple(side // left for side, left in zip(size, smaller, strict=True))
            features.get_submodule(f"transition{number}").pool = pool(kernel)
            size = smaller
        return features, features.norm5.num_features
