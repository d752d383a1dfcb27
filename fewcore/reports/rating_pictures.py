"""Pictures of what readers said: images by the level of each rated attribute, and how the mean ratings are spread."""

from __future__ import annotations

import warnings

import numpy as np
from matplotlib.axes import Axes

from fewcore.contracts import Array, ImageSet, Target
from fewcore.reports.drawing import COLOURS, draw
from fewcore.reports.report import Picture

PER_LEVEL = 8
BARS_A_LEVEL = 4


def rating_pictures(images: ImageSet, stage: str, rng: np.random.Generator) -> list[Picture]:
    """Return, of each target of kind `ratings`, a histogram of each attribute and a sheet of images by its levels."""
    made = []
    for target in images.targets.values():
        if target.kind != "ratings":
            continue
        for place, name in enumerate(target.names):
            means = mean_ratings(target, place)
            if not np.isnan(means).all():
                made.append(_histogram(name, means, stage))
                made.append(_levels(images, name, means, stage, rng))
    return made


def mean_ratings(target: Target, place: int) -> Array:
    """Return the mean over readers of one attribute, (n,), NaN where nobody rated it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an image that nobody rated
        return np.asarray(np.nanmean(target.values[:, :, place].astype(np.float64), 1))


def _histogram(name: str, means: Array, stage: str) -> Picture:
    known = means[~np.isnan(means)]
    low, high = np.floor(known.min()), np.ceil(known.max())
    edges = np.linspace(low, high, int(BARS_A_LEVEL * max(1, high - low)) + 1)

    def paint(axes: Axes) -> None:
        axes.hist(known, edges.tolist(), color=COLOURS[0])
        axes.set(xlabel=f"mean rating of {name}", ylabel="images")

    caption = f"{name}: mean ratings of {len(known)} images, {known.mean():.2f} on average"
    return Picture("histogram", name, stage, caption, svg=draw(paint, height=2.2))


def _levels(images: ImageSet, name: str, means: Array, stage: str, rng: np.random.Generator) -> Picture:
    known = np.flatnonzero(~np.isnan(means))
    level = np.floor(means[known] + 0.5).astype(int)  # a half counts upwards
    present, counts = np.unique(level, return_counts=True)
    rows = [np.sort(rng.permutation(known[level == value])[:PER_LEVEL]) for value in present]
    groups = np.repeat(np.arange(len(present)), [len(chosen) for chosen in rows])
    labels = tuple(f"{value} ({count} images)" for value, count in zip(present, counts, strict=True))
    caption = "Images by the mean of their ratings, rounded; drawn at random from all splits."
    return Picture(
        "data", f"By {name}", stage, caption, np.asarray(images.images[np.concatenate(rows)]), groups, labels
    )
