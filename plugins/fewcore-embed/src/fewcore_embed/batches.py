"""Vectors of many images, computed batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fewcore import Array, Gather, ImageSet, Run


@torch.no_grad()
def embedded(
    images: ImageSet, run: Run, batch_size: int, shape: tuple[int, ...], forward: Callable[[torch.Tensor], torch.Tensor]
) -> Array:
    """Return what `forward` makes of all images, (n, *shape) float32; it gets them as `Gather` gives them, on `run.device`."""
    gather = Gather(images, run.device)
    vectors = np.empty((len(images), *shape), np.float32)
    for start in run.track(range(0, len(images), batch_size), name="embed"):
        rows = np.arange(start, min(start + batch_size, len(images)))
        vectors[rows] = forward(gather(rows)).cpu().numpy()
    return vectors
