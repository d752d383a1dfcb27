"""Kernels of support vector machines, in float64 on any device."""

from __future__ import annotations

from typing import Literal

import torch

Kernel = Literal["linear", "rbf"]


def kernel_matrix(rows: torch.Tensor, columns: torch.Tensor, kernel: Kernel, gamma: float) -> torch.Tensor:
    """Return K(x, z) for rows x (n, d) and columns z (m, d), (n, m): x^T z, or exp(-gamma |x - z|^2).

    Distances are made from differences of squared lengths, those below 0 by rounding being 0.
    """
    product = rows @ columns.mT
    if kernel == "linear":
        return product
    square = rows.square().sum(1)[:, None] + columns.square().sum(1) - 2 * product
    return torch.exp(-gamma * square.clamp(min=0))
