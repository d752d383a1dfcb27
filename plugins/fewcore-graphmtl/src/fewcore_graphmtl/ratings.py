"""From images, vectors and readers' ratings to regression problems: which rows, which features, which numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fewcore import Array, DataError, Embeddings, ImageSet, Target
from fewcore_graphmtl.inconsistency import Mode, inconsistency

Intercept = Literal["center", "none"]
CONSTANT = 1e-7
"""A feature whose spread is below this share of its largest value is constant: float32 keeps no more."""


def ratings_of(images: ImageSet, attribute: str, who: str) -> Target:
    """Return the target of ratings that has an attribute.

    Raises:
        DataError: there are no ratings, or none of this attribute.

    """
    found = {name: target for name, target in images.targets.items() if target.kind == "ratings"}
    for target in found.values():
        if attribute in target.names:
            return target
    if not found:
        kinds = ", ".join(f"{name} ({target.kind})" for name, target in images.targets.items()) or "no targets"
        raise DataError(f"{who}: found {kinds}; expected a target of kind ratings (a data set such as lidc has one)")
    raise DataError(f"{who}: attribute: {not_among(attribute, [n for t in found.values() for n in t.names])}")


def not_among(name: str, known: Iterable[str]) -> str:
    """Return the words that a name is not among those known, with the nearest."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"found '{name}'; expected one of: {', '.join(names) or 'none is left'}{hint}"


def mean_ratings(target: Target, attribute: str) -> tuple[Array, Array]:
    """Return the ratings (n, readers) of an attribute, and their mean (n,), NaN where no reader said anything."""
    ratings = target.values[:, :, target.names.index(attribute)].astype(np.float64)
    known = ~np.isnan(ratings)
    count = known.sum(1)
    sums = np.where(known, ratings, 0).sum(1)
    return ratings, np.divide(sums, count, out=np.full(len(ratings), np.nan), where=count > 0)


def feature_place(embeddings: Embeddings, feature: str, who: str) -> int:
    """Return which of the m features of vectors (n, m, e) belongs to an attribute, or -1 for vectors (n, e).

    Raises:
        DataError: the encoder names no features, or not this one.

    """
    if embeddings.vectors.ndim == 2:
        return -1
    names = tuple(getattr(embeddings.encoder, "target_names", ()))
    if len(names) != embeddings.vectors.shape[1]:
        raise DataError(
            f"{who}: found vectors {embeddings.vectors.shape} and {len(names)} names of targets; expected an encoder whose "
            "target_names say to which attribute each of the m features belongs"
        )
    if feature not in names:
        raise DataError(f"{who}: features: {not_among(feature, names)}")
    return names.index(feature)


def own_vectors(vectors: Array, place: int) -> Array:
    """Return the vectors (n, e) float64 of a task among (n, e) or (n, m, e)."""
    return np.asarray(vectors if place < 0 else vectors[:, place], np.float64)


def check_rows(images: ImageSet, embeddings: Embeddings, who: str) -> None:
    """Raise DataError where vectors are not those of the images, or not finite."""
    if not np.array_equal(images.ids, embeddings.ids):
        raise DataError(f"{who}: found vectors of other images; expected those of the stage's rows, in their order")
    if not np.isfinite(embeddings.vectors).all():
        bad = int((~np.isfinite(embeddings.vectors).reshape(len(embeddings), -1).all(1)).sum())
        raise DataError(f"{who}: found NaN or infinity in {bad} of {len(embeddings)} vectors; expected finite numbers")


@dataclass(frozen=True, eq=False)
class Task:
    """One attribute: vectors (n, e), mean ratings (n,) and disagreement (n,) of the rows that were rated.

    `place` says which of the encoder's features these are, -1 where it has one vector an image.
    """

    name: str
    place: int
    vectors: Array
    scores: Array
    psi: Array
    groups: Array

    def rows(self, chosen: Array) -> Task:
        """Return the task with some of its rows."""
        cut = (values[chosen] for values in (self.vectors, self.scores, self.psi, self.groups))
        return Task(self.name, self.place, *cut)


def task_of(images: ImageSet, embeddings: Embeddings, attribute: str, feature: str, who: str) -> Task | None:
    """Return the task of an attribute, learnt from the features of `feature`, or None where no reader rated it."""
    ratings, scores = mean_ratings(ratings_of(images, attribute, who), attribute)
    known = np.flatnonzero(~np.isnan(scores))
    if not len(known):
        return None
    place = feature_place(embeddings, feature, who)
    vectors = embeddings.vectors if place < 0 else embeddings.vectors[:, place]
    return Task(attribute, place, vectors[known], scores[known], inconsistency(ratings[known]), images.groups[known])


def rated(task: Task | None, attribute: str, images: ImageSet, who: str) -> Task:
    """Return the task, or raise DataError where nobody rated it."""
    if task is None:
        raise DataError(
            f"{who}: found no rating of '{attribute}' in {len(images)} training images; expected at least one (look at "
            "the labels of the pipeline file, or choose another attribute)"
        )
    return task


@dataclass(frozen=True, eq=False)
class Design:
    """What a solver gets of a task: x (n, d) and y (n,); and how weights for x become weights for vectors."""

    x: Array
    y: Array
    mean: Array
    scale: Array
    varies: Array
    level: float
    shift: float

    def unscaled(self, w: Array) -> tuple[Array, float]:
        """Return weights (d,) for vectors as the encoder makes them, and the number to be added.

        A feature that is constant in this task gets none, whatever its neighbours in a graph say.
        """
        w = np.where(self.varies, w, 0.0)
        own = w / self.scale
        return own, float(self.level - self.mean @ own + self.shift * w.sum())


def design(task: Task, mode: Mode, intercept: Intercept) -> Design:
    """Return the problem of one task: features of spread 1 (0 where constant), and centred unless `intercept` is none.

    `inverse-weight` multiplies rows by the root of 1 / Psi over its mean, so that penalties weigh what they weigh without
    it, after centring by weighted means; the literal modes add Psi to all features.
    """
    vectors = task.vectors.astype(np.float64)
    weight = 1 / task.psi if mode == "inverse-weight" else np.ones(len(task.scores))
    share = weight / weight.sum()
    weight = share * len(share)
    middle, spread, varies = vectors.mean(0), vectors.std(0), _varies(vectors)
    if intercept == "center":
        mean, level, scale = share @ vectors, float(share @ task.scores), spread
    else:
        mean, level, scale = np.zeros_like(middle), 0.0, np.sqrt(middle**2 + spread**2)
        varies = scale > 0
    scale = np.where(varies, scale, 1.0)
    x = np.where(varies, (vectors - mean) / scale, 0.0)
    y = task.scores - level
    shift = 0.0
    if mode == "inverse-weight":
        x, y = x * np.sqrt(weight)[:, None], y * np.sqrt(weight)
    elif mode != "none":
        x = np.where(varies, x + task.psi[:, None], 0.0)
        shift = float(task.psi.mean()) if mode == "literal-mean-at-test" else 0.0
    return Design(x, y, mean, scale, varies, level, shift)


def _varies(vectors: Array) -> Array:
    """Return which features (d,) of vectors (n, d) are not constant."""
    return np.asarray(np.std(vectors, 0, dtype=np.float64) > CONSTANT * np.abs(vectors).max(0))


def check_learnable(tasks: Sequence[Task], who: str) -> None:
    """Raise DataError where no feature of any task varies, so that nothing can be learnt from it."""
    if not any(_varies(task.vectors).any() for task in tasks):
        raise DataError(
            f"{who}: found {tasks[0].vectors.shape[1]} features, all constant on {len(tasks[0].scores)} rated images; "
            "expected features that vary (look at the embedder)"
        )
