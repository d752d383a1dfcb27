"""The learnt graph of attributes, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from fewcore_graphmtl.linear_ratings import LinearRatings


def draw_graph(predictor: LinearRatings) -> Figure:
    """Return a figure of the graph that graph-mtl learnt: attributes on a circle, the first on top; edges as lines.

    The width of an edge grows with the correlation of the coefficients, which stands beside it.

    Raises:
        ValueError: the predictor has no graph, because another learner made it.

    """
    if "edges" not in predictor.facts:
        raise ValueError(f"draw_graph: found the facts {sorted(predictor.facts)}; expected a predictor of graph-mtl")
    names = predictor.names
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    x, y = np.cos(angle), np.sin(angle)
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    correlation = np.asarray(predictor.facts["correlation"])
    for first, second in predictor.edges:
        i, j = names.index(first), names.index(second)
        strength = float(correlation[i, j])
        axes.plot(x[[i, j]], y[[i, j]], color="#0072b2", linewidth=1 + 3 * max(0.0, strength), alpha=0.6, zorder=1)
        middle = (0.55 * x[i] + 0.45 * x[j], 0.55 * y[i] + 0.45 * y[j])
        axes.annotate(f"{strength:.2f}", middle, ha="center", va="center", fontsize=7)
    axes.scatter(x, y, s=60, color="#d55e00", zorder=2)
    for name, a, b in zip(names, x, y, strict=True):
        axes.annotate(name, (1.17 * a, 1.12 * b), ha="center", va="center", fontsize=9)
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.35, 1.35), aspect="equal")
    axes.set_axis_off()
    plural = "" if len(predictor.edges) == 1 else "s"
    axes.set_title(f"{len(predictor.edges)} edge{plural} above {predictor.facts['threshold']}", fontsize=9)
    return figure
