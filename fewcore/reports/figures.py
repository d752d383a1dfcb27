"""The figures of a report: results, learning curves, what evaluators draw, and maps of embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fewcore.contracts import Array
from fewcore.metrics import Figure, MetricReport
from fewcore.reports.drawing import COLOURS, INK, MARKERS, Drawing, Key, Series, draw, page_colour, plot
from fewcore.reports.places import Place, places_by_tasks
from fewcore.reports.results import Column, Line, Results, paper_number, results_of, unlabelled
from fewcore.reports.tables import is_percent, number, short, words

if TYPE_CHECKING:
    from fewcore.reports.report import Picture, RunReport, StageRecord

MOST_LINES = 24
MOST_CURVES = 6
"""More curves than there are colours cannot be told apart in one panel."""
MOST_PANELS = 8
WIDE = 6.0
"""Inches beyond which a figure has a line of the page for itself."""


def result_drawings(report: RunReport) -> list[Drawing]:
    """Return the results as dots with intervals, a panel a column, or as lines where a number is varied; and as lines
    over the number of tasks to train on, where that varies.

    Where there are means over repeats, they are shown, and not the single repeats.
    """
    return [drawing for results in results_of(report) for drawing in _results_drawings(report, results)]


def _results_drawings(report: RunReport, results: Results) -> list[Drawing]:
    lines = [line for line in results.main if line.split == "test"] or list(results.main)
    columns = results.columns[:MOST_PANELS]
    by_tasks = places_by_tasks(report.task_counts, lines)
    drawings = [_along("number of tasks", column, by_tasks) for column in columns] if by_tasks else []
    if axis := _numeric_axis(lines):
        numbered = [line for line in lines if isinstance(line.conditions.get(axis), int | float)]
        places = [Place(line, axis, float(line.conditions[axis])) for line in numbered]
        return [*(_along(words(axis), column, places) for column in columns), *drawings]
    if len(lines) < 2 or len(lines) > MOST_LINES:
        return drawings
    return [*(_dots(report, column, lines) for column in columns), *drawings]


def _numeric_axis(lines: Sequence[Line]) -> str:
    for axis in dict.fromkeys(key for line in lines for key in line.conditions):
        values = {line.conditions[axis] for line in lines if isinstance(line.conditions.get(axis), int | float)}
        if len(values) >= 3:
            return axis
    return ""


def _along(x_label: str, column: Column, places: Sequence[Place]) -> Drawing:
    groups: dict[str, list[tuple[float, Any]]] = {}
    for place in places:
        if column in place.line.values:
            groups.setdefault(place.label, []).append((place.x, place.line.values[column]))
    series = []
    for label, points in groups.items():
        points.sort(key=lambda point: point[0])
        x = np.array([point[0] for point in points])
        y, low, high = (np.array(v, float) for v in zip(*((r.value, *r.ci95) for _, r in points), strict=True))
        series.append(Series(label, x, y, low=low, high=high, marks=True))
    percent = is_percent(column.metric, [float(v) for one in series for v in one.y])
    ends = "; ".join(f"{s.label} from {number(s.y[0], percent)} to {number(s.y[-1], percent)}" for s in series)
    alt = f"{column.label} along {x_label}: {ends}."
    title = f"{column.label} against {x_label}"
    return plot(title, series, x_label, words(column.metric) + (" (%)" if percent else ""), alt, percent=percent)


def _dots(report: RunReport, column: Column, lines: Sequence[Line]) -> Drawing:
    shown = [(line, line.values[column]) for line in lines if column in line.values][::-1]
    percent = is_percent(column.metric, [row.value for _, row in shown])
    scale = 100 if percent else 1
    papers = [paper_number(report, row) for _, row in shown]
    names = [short(name, 32) for name in _telling_names([line for line, _ in shown])]

    def paint(axes: Axes) -> None:
        for place, ((_, row), paper) in enumerate(zip(shown, papers, strict=True)):
            colour = COLOURS[0] if unlabelled(row) else COLOURS[1]
            axes.plot([scale * end for end in row.ci95], [place, place], color=colour, linewidth=2.2, alpha=0.45)
            axes.plot([scale * row.value], [place], "o", color=colour, markersize=5.5)
            if paper is not None:
                axes.plot([scale * float(paper["value"])], [place], "D", mfc="none", mec=INK, markersize=5.5)
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(words(column.metric) + (" (%)" if percent else ""))

    keys = [Key("no labels seen", page_colour(COLOURS[0]), "dot")] if any(unlabelled(row) for _, row in shown) else []
    keys += [Key("labels seen", page_colour(COLOURS[1]), "dot")] if any(not unlabelled(row) for _, row in shown) else []
    keys += [Key("paper", "currentColor", "ring")] if any(paper is not None for paper in papers) else []
    told = "; ".join(f"{name} {number(row.value, percent)}" for name, (_, row) in zip(names, shown, strict=True))
    svg = draw(paint, height=0.27 * len(shown) + 0.75)
    return Drawing(column.label, svg, f"{column.label}, with 95% intervals: {told}.", tuple(keys))


def _telling_names(lines: Sequence[Line]) -> list[str]:
    """Return a short name for each line: the model's, and in brackets what else tells it from the others."""
    told = [{"method": line.method, "split": line.split, **line.conditions, **line.repeats} for line in lines]
    names = []
    for line, own in zip(lines, told, strict=True):
        alike = [other for one, other in zip(lines, told, strict=True) if one.name == line.name]
        apart = [v for k, v in own.items() if any(other.get(k) != v for other in alike)]
        names.append(f"{line.name} [{', '.join(map(str, apart))}]" if apart else line.name)
    return names


def learning_drawings(stages: Iterable[StageRecord]) -> list[Drawing]:
    """Return the learning curves: for each stage losses in one panel, accuracies of training and validation in another."""
    groups: dict[tuple[str, str, str], dict[str, StageRecord]] = {}
    for stage in stages:
        for loop in dict.fromkeys(str(record.get("loop", "train")) for record in stage.records):
            # Cells that share a stage share its key; its curve is drawn once.
            groups.setdefault((stage.name, stage.component, loop), {})[stage.key] = stage
    drawings = []
    for (name, component, loop), runs in groups.items():
        logged = [[r for r in run.records if str(r.get("loop", "train")) == loop] for run in runs.values()]
        points = [run for run in logged if len(run) > 1]  # one point is no curve
        families: dict[str, list[str]] = {}
        for key in dict.fromkeys(key for run in points for r in run for key in r if key not in {"loop", "step"}):
            families.setdefault(key.rsplit("_", 1)[-1], []).append(key)
        title = name + (f" {component}" if component != name else "") + (f" ({loop})" if loop != "train" else "")
        drawings += [_family(title, family, keys, points) for family, keys in families.items()]
    return drawings


def _family(title: str, family: str, keys: Sequence[str], runs: Sequence[Sequence[Mapping[str, Any]]]) -> Drawing:
    series, told = [], []
    percent = is_percent(family, [float(r[key]) for run in runs for r in run for key in keys if r.get(key) is not None])
    for index, key in enumerate(keys):
        label = f"training {key}" if key == family and len(keys) > 1 else words(key)
        lines = [_points(run, key) for run in runs]
        lines = [(x, y) for x, y in lines if len(x)]
        if not lines:
            continue
        series += [Series(label, x, y, thin=True, colour=index) for x, y in lines if len(lines) > 1 or len(x) >= 40]
        x, y = _mean_curve(lines) if len(lines) > 1 else (lines[0][0], _smooth(lines[0][1]))
        series += [Series(label, x, y, colour=index)] if len(x) > 1 or len(lines) == 1 else []
        x, y = (x, y) if len(x) else lines[0]
        told.append(
            f"{label} from {number(y[0], percent)} at step {int(x[0])} to {number(y[-1], percent)} at step {int(x[-1])}"
        )
    alt = f"Learning curves of {title}: {'; '.join(told)}."
    what = words(keys[0]) if len(keys) == 1 else family
    return plot(
        f"{title}: {what}", series, "step", what + (" (%)" if percent else ""), alt, percent=percent, steps=True
    )


def _points(run: Sequence[Mapping[str, Any]], key: str) -> tuple[Array, Array]:
    pairs = [(float(r.get("step", 0)), float(r[key])) for r in run if r.get(key) is not None]
    pairs = [(x, y) for x, y in pairs if math.isfinite(y)]
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])


def _mean_curve(lines: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return the mean of curves over the steps that all of them have: runs that stop early do not bend its end."""
    steps = reduce(np.intersect1d, [x for x, _ in lines])
    return steps, np.mean([y[np.searchsorted(x, steps)] for x, y in lines], 0)


def _smooth(y: Array) -> Array:
    """Return the running mean over a twentieth of the curve; its ends average what there is."""
    half = len(y) // 40
    return np.array([y[max(0, i - half) : i + half + 1].mean() for i in range(len(y))])


def curve_drawings(reports: Mapping[str, MetricReport]) -> list[Drawing]:
    """Return the curves that evaluators made, those with equal axes in one drawing."""
    groups: dict[tuple[str, str, str], list[Series]] = {}
    for evaluator, made in reports.items():
        for name, curve in made.curves.items():
            x, y = np.asarray(curve["x"], float).ravel(), np.asarray(curve["y"], float).ravel()
            axes = (evaluator, str(curve.get("x_label", "")), str(curve.get("y_label", "")))
            groups.setdefault(axes, []).append(Series(name, x, y))
    drawings = []
    for (evaluator, x_label, y_label), series in groups.items():
        chance = all(word in f"{x_label} {y_label}".lower() for word in ("false positive", "true positive"))
        common, named = _common_parts([one.label for one in series])
        title = f"{evaluator}: {y_label} against {x_label}" + (f" ({common})" if common else "")
        series = [replace(one, label=label) for one, label in zip(series, named, strict=True)]
        n_panels = -(-len(series) // MOST_CURVES)
        for members in np.array_split(np.arange(len(series)), n_panels):
            part = [series[i] for i in members]
            alt = f"{title} for {', '.join(one.label for one in part)}."
            height = 3.9 if chance else 2.8
            drawings.append(plot(title, part, x_label, y_label, alt, diagonal=chance, height=height))
    return drawings


def _common_parts(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Return what all of several labels say, such as `roc of model, fold all 4`, and each label without it."""
    parts = [label.split(", ") for label in labels]
    common = [part for part in parts[0] if all(part in other for other in parts)] if len(parts) > 1 else []
    own = [", ".join(part for part in one if part not in common) for one in parts]
    return (", ".join(common), own) if all(own) and len(set(own)) == len(set(labels)) else ("", list(labels))


def evaluator_drawings(reports: Mapping[str, MetricReport]) -> tuple[list[Drawing], list[str]]:
    """Return the figures that evaluators draw, and what is to be said of those that failed: they harm nothing."""
    drawings, failed = [], []
    for evaluator, made in reports.items():
        for figure in made.figures:
            try:
                svg = draw(_painter(figure), *figure.size)
            except Exception as error:  # a stranger's code: whatever it raises
                failed.append(f"{evaluator} could not draw '{figure.title}': {type(error).__name__}: {error}")
                continue
            keys = tuple(Key(name, _named_colour(colour), shape) for name, colour, shape in figure.legend)
            drawings.append(Drawing(figure.title, svg, figure.alt, keys, wide=figure.size[0] > WIDE))
    return drawings, failed


def _painter(figure: Figure) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        figure.draw(axes)

    return paint


def _named_colour(colour: str) -> str:
    return "currentColor" if colour == "black" else page_colour(COLOURS[int(colour[1:])])


def map_drawing(picture: Picture) -> Drawing:
    """Return the 2-D map of an embedding, a dot an image, coloured and shaped by group."""
    points = np.asarray(picture.points, float)
    groups = np.zeros(len(points), int) if picture.groups is None else np.asarray(picture.groups)
    present = [int(group) for group in np.unique(groups)]

    def look(group: int) -> tuple[str, str]:
        if group < 0:
            return COLOURS[-1], "dot"
        return COLOURS[group % (len(COLOURS) - 1)], list(MARKERS)[group // (len(COLOURS) - 1) % len(MARKERS)]

    def paint(axes: Axes) -> None:
        for group in present:
            colour, shape = look(group)
            own = points[groups == group]
            axes.scatter(own[:, 0], own[:, 1], s=11, c=colour, marker=MARKERS[shape], alpha=0.75, linewidths=0)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)

    names = {
        group: picture.labels[group]
        if 0 <= group < len(picture.labels)
        else "in no part"
        if group < 0
        else f"group {group}"
        for group in present
    }
    keys = tuple(Key(names[g], page_colour(look(g)[0]), look(g)[1]) for g in present) if 1 < len(present) <= 20 else ()
    many = f"; {len(present)} groups share {len(COLOURS) - 1} colours" if len(present) > len(COLOURS) - 1 else ""
    alt = f"{picture.title}: {len(points)} images in {len(present)} groups{many}. {picture.caption}"
    return Drawing(picture.title, draw(paint, 5.4, 4.4), alt, keys)
