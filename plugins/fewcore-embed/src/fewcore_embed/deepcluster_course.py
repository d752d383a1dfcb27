"""The course of a DeepCluster training, epoch by epoch, and which epoch was kept: for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewcore import Array, Arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Course:
    """What was measured of the clusterings after epochs 1 to m: `nmi` (m,) with the clusters before; `silhouette` (m,), and
    whether the clusters were large enough to be chosen, `eligible` (m,) bool, both empty where nothing was chosen by it.
    `chosen` is the epoch that was kept, from 1.
    """

    nmi: Array
    silhouette: Array
    eligible: Array
    chosen: int

    def draw(self, axes: Axes) -> str:
        """Draw the silhouette by epoch, or else the mutual information; return the caption."""
        by_silhouette = len(self.silhouette) > 0
        values = self.silhouette if by_silhouette else self.nmi
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color="C0")
        if by_silhouette:
            out = ~self.eligible.astype(bool)
            axes.plot(epochs[out], values[out], linestyle="", marker="x", color="C1")
        kept = (epochs == self.chosen).nonzero()[0]
        axes.plot(epochs[kept], values[kept], linestyle="", marker="o", color="C0", markersize=7)
        name = "mean silhouette" if by_silhouette else "normalised mutual information with the epoch before"
        axes.set(xlabel="epoch", ylabel=name)
        small = " Crosses: some cluster was too small to be chosen." if by_silhouette else ""
        return f"{name[0].upper()}{name[1:]} of the clusters by epoch; the dot is epoch {self.chosen}, which was kept.{small}"

    def to_arrays(self) -> Arrays:
        """Return all of it as named arrays."""
        return {
            "nmi": self.nmi,
            "silhouette": self.silhouette,
            "eligible": self.eligible,
            "chosen": np.array([self.chosen]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Course:
        """Build the course from `to_arrays`' result."""
        nmi, silhouette, eligible = (np.array(arrays[name]) for name in ("nmi", "silhouette", "eligible"))
        return cls(nmi, silhouette, eligible, int(arrays["chosen"][0]))
