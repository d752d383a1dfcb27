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
    batches = [np.arange(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    for rows, x in zip(run.track(batches, name="embed"), gather.each(batches), strict=True):
        vectors[rows] = forward(x).cpu().numpy()
    return vectors
