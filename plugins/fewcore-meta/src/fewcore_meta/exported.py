"""Networks for `fewcore export`: the features of a network, and what a predictor makes of them, in plain operations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fewcore import Array, DataError


class Scores(nn.Module):
    """From pixels (n, c, ...) to scores (n, k): `score` of the outputs of `network`."""

    def __init__(self, network: nn.Module, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.score = network, score

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the scores."""
        return {"scores": self.score(self.network(pixels))}


def tensor(array: Array) -> Tensor:
    """Return a copy of an array on the CPU."""
    return torch.from_numpy(np.array(array))


def distances(queries: Tensor, others: Tensor) -> Tensor:
    """Return the Euclidean distances (..., q, m) of queries (..., q, e) to others (..., m, e), as `torch.cdist` does.

    ONNX has no cdist.
    """
    return (queries[..., :, None, :] - others[..., None, :, :]).square().sum(-1).sqrt()


def refuse_transductive(norm: str, normalises: bool, method: str) -> None:
    """Refuse a predictor whose batch norm takes the statistics of all images that are asked together.

    Raises:
        DataError: as said.

    """
    if norm == "transductive" and normalises:
        raise DataError(
            f"export: found {method} with norm: transductive, whose score of an image depends on the others that are asked; "
            "expected norm: running or support (use fewcore predict, or run again with another norm)"
        )
