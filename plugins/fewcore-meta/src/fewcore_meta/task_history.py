"""A figure of meta-training on a fixed list of tasks: which were drawn when, and how much better each had become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fewcore import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BINS = 30
LARGEST_DOT = 60.0
"""Points squared."""
MOST_NAMES, NAME_POINTS = 25, 6


def names_of(tasks: Any) -> tuple[str, ...]:
    """Return the names of all tasks of a sampler with a fixed list: its own (`named(i)`), or their numbers."""
    named = getattr(tasks, "named", str)
    return tuple(named(i) for i in range(len(tasks)))


def rewards(history: Array) -> Array:
    """Return by how much the score of each drawn task changed since it was drawn before, (i, t); NaN the first time.

    `history` (i, 2, t) holds the tasks of each iteration and their scores. A score that is no number changes nothing.
    """
    last: dict[int, float] = {}
    made = np.full(history[:, 0].shape, np.nan)
    for place in np.ndindex(*made.shape):
        task, score = int(history[place[0], 0, place[1]]), float(history[place[0], 1, place[1]])
        if np.isfinite(score):
            made[place] = score - last.get(task, np.nan)
            last[task] = score
    return made


def binned(history: Array, n_tasks: int, n_bins: int) -> tuple[Array, Array]:
    """Return how often each of l tasks was drawn in each of `n_bins` spans of iterations, and its mean reward there; (l, b) both.

    The reward is NaN where none is known.
    """
    tasks = history[:, 0].astype(np.int64)
    spans = np.repeat(np.arange(len(tasks)) * n_bins // len(tasks), tasks.shape[1])
    place = tasks.ravel() * n_bins + spans
    size = n_tasks * n_bins
    found = rewards(history).ravel()
    known = np.isfinite(found)
    draws = np.bincount(place, minlength=size)
    total = np.bincount(place[known], found[known], minlength=size)
    counted = np.bincount(place[known], minlength=size)
    mean = np.divide(total, counted, out=np.full(size, np.nan), where=counted > 0)
    return draws.reshape(-1, n_bins), mean.reshape(-1, n_bins)


def draw_history(history: Array, names: Sequence[str], axes: Axes) -> str:
    """Draw a dot for each task and span of iterations, as large as it was drawn often there; return the caption.

    `names` are those of all tasks of the list. Of a long list tasks that were drawn often are named, as many as there is room for.
    """
    n_bins = min(MOST_BINS, len(history))
    draws, mean = binned(history, len(names), n_bins)
    task, span = np.nonzero(draws)
    reward = mean[task, span]
    known = np.isfinite(reward)
    size = LARGEST_DOT * draws[task, span] / draws.max()
    x = (span + 0.5) * len(history) / n_bins
    limit = float(np.abs(reward[known]).max()) if known.any() else 0.0
    axes.scatter(x[~known], task[~known], s=size[~known], facecolors="none", edgecolors="#888888", linewidths=0.6)
    dots = axes.scatter(
        x[known], task[known], s=size[known], c=reward[known], cmap="coolwarm_r", vmin=-limit or -1, vmax=limit or 1
    )
    assert axes.figure is not None
    axes.figure.colorbar(dots, ax=axes, label="change of the score")
    named: list[int] = []
    for i in np.argsort(-draws.sum(1), kind="stable").tolist():
        if all(abs(i - other) >= len(names) / MOST_NAMES for other in named):
            named.append(i)
    named.sort()
    axes.set_yticks(named, [names[i] for i in named], fontsize=NAME_POINTS)
    axes.set(xlabel="meta-iteration", ylabel="task", ylim=(-0.5, len(names) - 0.5))
    most = "" if len(named) == len(names) else " Some of those drawn often are named."
    return (
        f"{history[:, 0].size:,} tasks drawn over {len(history):,} meta-iterations, of a list of {len(names)}.{most} The larger a "
        "dot, the more often its task was drawn. Colour: how much the task's score on its queries had changed since it was "
        "drawn before, a ring where it was drawn for the first time."
    )
