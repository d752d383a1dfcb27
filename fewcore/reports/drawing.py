"""Drawings: small inline SVGs that take the page's ink, so that they fit light, dark and paper.

Each panel is a drawing of its own, so that a phone shows one below the other instead of four too small to read. Legends
are the page's business: names come from strangers, and the page escapes them.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import EngFormatter, MaxNLocator

from fewcore.contracts import Array

# Okabe and Ito's colours, told apart by the colour-blind, without those that fade on white. The page puts its own
# `--c0` to `--c5` in their place: these on a light ground, lighter ones on a dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#7f7f7f")
MARKERS = {"dot": "o", "square": "s", "triangle": "^", "diamond": "D"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fewcore",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Key:
    """An entry of a legend: its name, its colour, and how it is drawn (`line`, `dashed`, `ring` or one of `MARKERS`)."""

    label: str
    colour: str
    shape: str = "line"


@dataclass(frozen=True)
class Drawing:
    """A figure for the page: an SVG, what it shows in words, its legend, and whether it is `wide`: a line for itself."""

    title: str
    svg: str
    alt: str
    keys: tuple[Key, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Series:
    """A line of a drawing; `thin` where it only stands behind another."""

    label: str
    x: Array
    y: Array
    thin: bool = False
    low: Array | None = None
    high: Array | None = None
    colour: int | None = None
    marks: bool = False


def page_colour(colour: str) -> str:
    """Return what the page calls one of `COLOURS`."""
    return f"var(--c{COLOURS.index(colour)})"


def draw(paint: Callable[[Axes], None], width: float = 4.4, height: float = 3.0) -> str:
    """Return an SVG of `width` x `height` inches into which `paint` has drawn; ink is the page's text colour."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The page's own fonts write the text; that matplotlib's lack a letter only makes a margin a little wrong.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        paint(axes)
        text = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return _for_page(text.getvalue())


def _for_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", svg, count=3)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    # Ids are one space for the whole page: those of one drawing get a name of their own.
    own = hashlib.sha256(svg.encode()).hexdigest()[:6]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>d{own}", svg)
    # Black is what matplotlib takes where nothing else is said: on a dark page it would not be seen.
    svg = svg.replace("xlink:href", "href").replace(INK, "currentColor").replace("#000000", "currentColor")
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--c{index})")
    return re.sub(r"\n\s*", "\n", svg).replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()


def plot(title: str, series: Sequence[Series], x_label: str, y_label: str, alt: str, **layout: Any) -> Drawing:
    """Return a drawing of lines. `layout`: `percent` for the y axis, `diagonal` for a line of chance, `steps` for x."""
    named = list(dict.fromkeys(one.label for one in series))

    def paint(axes: Axes) -> None:
        for one in series:
            index = named.index(one.label) if one.colour is None else one.colour
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            y = 100 * one.y if layout.get("percent") else one.y
            if one.low is not None and one.high is not None:
                scale = 100 if layout.get("percent") else 1
                axes.fill_between(one.x, scale * one.low, scale * one.high, color=colour, alpha=0.15, linewidth=0)
            look: dict[str, Any] = {"alpha": 0.3, "linewidth": 0.8} if one.thin else {"linestyle": dash}
            axes.plot(one.x, y, color=colour, marker="o" if one.marks else "", markersize=3.5, **look)
        if layout.get("diagonal"):
            axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.set_aspect("equal")
        if layout.get("steps"):
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel=x_label, ylabel=y_label)

    keys = []
    for index, label in enumerate(named):
        keys.append(
            Key(label, page_colour(COLOURS[index % len(COLOURS)]), "line" if index < len(COLOURS) else "dashed")
        )
    return Drawing(title, draw(paint, height=layout.get("height", 2.8)), alt, tuple(keys) if len(keys) > 1 else ())
