"""What the discriminator's outputs mean: classes, "generated", transformations; three readings of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fewcore import Array

SelfSupervision = Literal["separate_head", "shared", "joint"]


@dataclass(frozen=True)
class Heads:
    """The columns of the discriminator's outputs (n, `size`).

    `separate_head`: a softmax over classes and "generated", and another over the transformations. `shared`, as eqs. 4 and 10
    are printed: transformation i is class i. `joint`: one softmax over classes, transformations and "generated".
    Without transformations there are the classes and "generated" alone.
    """

    n_classes: int
    n_transformations: int = 0
    reading: SelfSupervision = "separate_head"

    @property
    def size(self) -> int:
        """Number of outputs."""
        return self.n_classes + 1 + (0 if self.reading == "shared" else self.n_transformations)

    def diagnosis(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of the softmax in which the classes stand first and "generated" last."""
        return outputs[:, : self.n_classes + 1] if self.reading == "separate_head" else outputs

    def surrogate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of the softmax in which the transformations stand."""
        return outputs[:, self.n_classes + 1 :] if self.reading == "separate_head" else outputs

    def column(self, chosen: Array) -> Array:
        """Return the columns of `surrogate` that stand for transformations (n,)."""
        return np.asarray(chosen + (self.n_classes if self.reading == "joint" else 0))

    def classes(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classes alone, (n, n_classes), by which images are diagnosed."""
        return outputs[:, : self.n_classes]
