"""The images of each training step: one shuffled pass over the set after the other."""

from __future__ import annotations

import numpy as np
import torch

from fewcore import Array, Gather, child_seed, numpy_generator


class Passes:
    """Rows of each step, a pure function of seed and step: passes over all n images follow each other without a gap, and
    every step has `batch_size` images.
    """

    def __init__(self, seed: int, n: int, batch_size: int) -> None:
        self.seed, self.n, self.batch_size = seed, n, batch_size
        self._orders: dict[int, Array] = {}

    def images(self, step: int, gather: Gather) -> torch.Tensor:
        """Return the images of a step, (batch_size, c, ...); those of the next may be read meanwhile."""
        return gather(self.at(step), then=self.at(step + 1))

    def at(self, step: int) -> Array:
        """Return the rows of a step, (batch_size,)."""
        epochs, places = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), self.n)
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        self._orders = {epoch: self._orders.get(epoch, np.empty(0, np.int64)) for epoch in needed}
        for epoch in needed:
            if not len(self._orders[epoch]):
                self._orders[epoch] = numpy_generator(child_seed(self.seed, epoch)).permutation(self.n)
        return np.concatenate([self._orders[epoch][places[epochs == epoch]] for epoch in needed])
