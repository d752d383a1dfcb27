"""Box plots that evaluators can draw: boxes side by side, a colour a name, a place a condition or a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fewcore.contracts import Array
from fewcore.metrics import Figure
from fewcore.reports.tables import number, short, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 6
WIDTH = 0.8
"""Share of a place that its boxes fill."""


def box_figure(
    title: str,
    boxes: Mapping[tuple[str, str], Array],
    *,
    x_label: str,
    y_label: str,
    percent: bool = False,
    note: str = "",
) -> Figure:
    """Return a figure of box plots: `boxes` maps (place on the x axis, name in the legend) to numbers (n,).

    Places and names stand in the order in which they first come; a pair that is missing leaves a gap. A box spans the
    quartiles with the median as a line, whiskers reach to the last number within 1.5 box heights, others are dots. NaN
    is left out. `percent` shows shares in percent; `note` is added to what is said of the figure.
    """
    known = {key: np.asarray(values, np.float64) for key, values in boxes.items()}
    known = {key: values[np.isfinite(values)] for key, values in known.items()}
    known = {key: values for key, values in known.items() if len(values)}
    places = list(dict.fromkeys(place for place, _ in known))
    names = list(dict.fromkeys(name for _, name in known))
    told = []
    for name in names:
        own = [(place, float(np.median(known[place, name]))) for place in places if (place, name) in known]
        told.append(
            (f"{name} " if name else "") + ", ".join(f"{number(middle, percent)} at {place}" for place, middle in own)
        )
    alt = f"{title}. Medians: {'; '.join(told)}. Boxes are quartiles, whiskers reach 1.5 box heights."
    width = max(4.4, 0.9 + 0.22 * len(known) + 0.18 * len(places))

    def draw(axes: Axes) -> None:
        _paint(axes, known, places, names, 100.0 if percent else 1.0)
        axes.set(xlabel=words(x_label), ylabel=words(y_label) + (" (%)" if percent else ""))

    legend = tuple((name, f"C{index % COLOURS}", "square") for index, name in enumerate(names))
    return Figure(title, f"{alt} {note}".strip(), draw, legend if len(names) > 1 else (), (min(width, 9.0), 3.2))


def _paint(
    axes: Axes, boxes: Mapping[tuple[str, str], Array], places: list[str], names: list[str], scale: float
) -> None:
    step = WIDTH / max(1, len(names))
    for index, name in enumerate(names):
        own = [place for place in places if (place, name) in boxes]
        at = [places.index(place) + (index - (len(names) - 1) / 2) * step for place in own]
        colour = f"C{index % COLOURS}"
        line = {"color": colour, "linewidth": 1.0}
        axes.boxplot(
            [scale * boxes[place, name] for place in own],
            positions=at,
            widths=0.8 * step,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 0.45, "linewidth": 1.0},
            medianprops={"color": "black", "linewidth": 1.4},
            whiskerprops=line,
            capprops=line,
            flierprops={"marker": ".", "markersize": 3, "markerfacecolor": colour, "markeredgecolor": "none"},
        )
    axes.set_xticks(range(len(places)), [short(place, 18) for place in places])
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.grid(visible=False, axis="x")
