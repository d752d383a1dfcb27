"""The predictor of graph-mtl, which knows and draws its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewcore_graphmtl.linear_ratings import LinearRatings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class GraphRatings(LinearRatings):
    """Weights learnt along a graph of attributes; `facts` holds its `edges`, `correlation` and `threshold` too."""

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """The pairs of attributes that the graph joins."""
        return tuple((str(a), str(b)) for a, b in self.facts["edges"])

    def draw(self, axes: Axes) -> str:
        """Draw the attributes on a circle, the first on top, and the edges with the correlation of the coefficients,
        with which their width grows. Returns the caption.
        """
        names = self.names
        angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
        x, y = np.cos(angle), np.sin(angle)
        correlation = np.asarray(self.facts["correlation"])
        for first, second in self.edges:
            i, j = names.index(first), names.index(second)
            strength = float(correlation[i, j])
            axes.plot(x[[i, j]], y[[i, j]], color="#0072b2", linewidth=1 + 3 * max(0.0, strength), alpha=0.6, zorder=1)
            middle = (0.55 * x[i] + 0.45 * x[j], 0.55 * y[i] + 0.45 * y[j])
            axes.annotate(f"{strength:.2f}", middle, ha="center", va="center", fontsize=7)
        axes.scatter(x, y, s=60, color="#d55e00", zorder=2)
        for name, a, b in zip(names, x, y, strict=True):
            side = "center" if abs(a) < 0.1 else "left" if a > 0 else "right"
            axes.annotate(name, (1.1 * a, 1.13 * b), ha=side, va="center", fontsize=9)
        axes.set(xlim=(-1.9, 1.9), ylim=(-1.35, 1.35), aspect="equal")
        axes.set_axis_off()
        if self.facts["threshold"] >= 1:
            return f"no edges among {len(names)} attributes: the folds chose no graph"
        plural = "" if len(self.edges) == 1 else "s"
        return f"{len(self.edges)} edge{plural} of a correlation above {self.facts['threshold']:g} among {len(names)} attributes"
