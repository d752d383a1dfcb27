"""What DeepCluster puts before its network: each channel standardised and, where wanted, replaced by Sobel's two edge maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fewcore import DataError

EDGE_MAPS = 2
DIFFERENCE = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


def sobel_kernels() -> torch.Tensor:
    """Return Sobel's kernels for changes along the width and along the height, (2, 1, 3, 3)."""
    along_width = torch.tensor(DIFFERENCE)
    return torch.stack([along_width, along_width.T])[:, None]


class FrontEnd(nn.Module):
    """Images (n, c, h, w) or (n, c, d, h, w) less each channel's mean, divided by its standard deviation.

    With `sobel`, images (n, c, h, w) become edge maps (n, 2, h, w): the mean of the standardised channels under Sobel's
    two kernels, with a border of zeros. Nothing here is trained.
    """

    mean: torch.Tensor
    std: torch.Tensor
    kernels: torch.Tensor

    def __init__(self, shape: tuple[int, ...], *, sobel: bool) -> None:
        super().__init__()
        if sobel and len(shape) != 3:
            raise DataError(
                f"deepcluster: sobel: found images {shape}; expected (c, h, w) (set sobel: false for volumes)"
            )
        self.sobel = sobel
        self.shape = (EDGE_MAPS, *shape[1:]) if sobel else shape
        ones = (1,) * (len(shape) - 1)
        self.register_buffer("mean", torch.zeros(shape[0], *ones))
        self.register_buffer("std", torch.ones(shape[0], *ones))
        self.register_buffer("kernels", sobel_kernels() if sobel else torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the standardised images, or their edge maps."""
        x = (x - self.mean) / self.std
        return F.conv2d(x.mean(1, keepdim=True), self.kernels, padding=1) if self.sobel else x
