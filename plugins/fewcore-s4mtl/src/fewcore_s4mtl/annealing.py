"""Training-signal annealing: how well a labelled image may be predicted at a step and still count in eq. 9."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Annealing = Literal["uda", "paper_global", "paper_in_epoch", "none"]

SCALE = 5.0
"""Of the logarithmic schedule in the code of Xie et al."""


@dataclass(frozen=True)
class Schedule:
    """The numbers on which the threshold depends: the length of training, the classes, and the training images."""

    kind: Annealing
    steps_per_epoch: int
    epochs: int
    n_classes: int
    n_images: int

    def threshold(self, step: int) -> float | None:
        """Return the threshold at a step, counted from 0; None where nothing is left out.

        `uda`: (1 - exp(-5 step / steps)) (1 - 1 / n) + 1 / n, as in the code of Xie et al. (arXiv:1904.12848). The paper
        prints 1 - exp(-(s e + 1) / (E N)) in front, with step s, epoch e, E epochs and N training images. Where s counts
        within the epoch, the threshold ends near 1 / n and supervision all but stops (0.530 for two classes, N = 713); where
        it counts from the start, it ends near 1.
        """
        if self.kind == "none":
            return None
        epoch, within = divmod(step, self.steps_per_epoch)
        if self.kind == "uda":
            progress = SCALE * step / (self.steps_per_epoch * self.epochs)
        else:
            s = step if self.kind == "paper_global" else within
            progress = (s * epoch + 1) / (self.epochs * self.n_images)
        least = 1 / self.n_classes
        return (1 - math.exp(-progress)) * (1 - least) + least
