"""The vectors of tasks' images, and the choice of a setting by way and shot: what the baselines on embeddings share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from fewcore import Array, DataError, Encoder, ImageSet, PipelineError, Run, TaskBatch, TaskStream

T = TypeVar("T")
Difficulty = tuple[int, int]
"""Way and shot of a task."""

QUERY_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """Tasks as vectors on a device: support (t, s, e), labels (t, s) from 0 to n_way - 1, query (t, q, e), all float32.

    `known` (t, q) is false where a query is padding. `task` (t,) numbers the tasks.
    """

    support: torch.Tensor
    labels: torch.Tensor
    query: torch.Tensor
    known: torch.Tensor
    task: Array
    n_way: int
    n_shot: int

    def __len__(self) -> int:
        return len(self.support)

    def parts(self, size: int) -> Iterator[TaskVectors]:
        """Yield the tasks, `size` at a time."""
        for start in range(0, len(self), max(1, size)):
            cut = slice(start, start + max(1, size))
            tensors = (self.support[cut], self.labels[cut], self.query[cut], self.known[cut])
            yield TaskVectors(*tensors, self.task[cut], self.n_way, self.n_shot)


def embedded(encoder: Encoder, images: ImageSet, run: Run) -> torch.Tensor:
    """Return the vectors of all images, (n, e) float32 on the host.

    Raises:
        DataError: the encoder makes several vectors an image.

    """
    vectors = encoder.embed(images, run)
    if vectors.ndim != 2:
        raise DataError(
            f"embeddings: found {vectors.shape[1]} vectors an image, shape {vectors.shape}; expected one, (n, e) "
            "(use an embedder that makes one vector an image)"
        )
    return torch.from_numpy(np.array(vectors, dtype=np.float32))


def task_vectors(encoder: Encoder, batch: TaskBatch, images: ImageSet, run: Run) -> TaskVectors:
    """Return a batch of tasks as vectors on the run's device; padding gets the first image's vector."""
    vectors = embedded(encoder, images, run).to(run.device)

    def take(rows: Array) -> torch.Tensor:
        index = torch.from_numpy(np.maximum(rows, 0)).long().to(run.device)
        return vectors[index.reshape(-1)].reshape(*rows.shape, -1)

    labels = torch.from_numpy(np.array(batch.support_labels)).long().to(run.device)
    known = torch.from_numpy(batch.query_known).to(run.device)
    return TaskVectors(take(batch.support), labels, take(batch.query), known, batch.task, batch.n_way, batch.n_shot)


def scores_array(scores: torch.Tensor, known: torch.Tensor) -> Array:
    """Return scores (t, q, k) as float32 on the host, 0 for padding."""
    return np.asarray(scores.float().masked_fill(~known[..., None], 0.0).cpu().numpy())


def accuracies(scores: torch.Tensor, query_labels: Array) -> torch.Tensor:
    """Return each task's share of right queries, (t,) float64, from scores (t, q, k) and labels (t, q), -1 for padding.

    Equal scores count for the smallest label, as everywhere.
    """
    labels = torch.from_numpy(np.array(query_labels)).long().to(scores.device)
    known = labels >= 0
    right = (scores.argmax(-1) == labels) & known
    return right.sum(1).double() / known.sum(1).clamp(min=1)


def validation_batches(
    validation: ImageSet | None, validation_tasks: TaskStream | None
) -> Iterator[tuple[TaskBatch, ImageSet]]:
    """Yield the validation tasks, one batch for each way and shot, with the images that they count.

    Raises:
        PipelineError: there are validation tasks, but not the validation rows that they count.

    """
    if validation_tasks is None:
        return
    if validation is None:
        raise PipelineError(
            "validation_tasks: found tasks without the images that they count; expected validation rows "
            "(give the data set a validation split, or leave validation_tasks out)"
        )
    for batch in validation_tasks.batches():
        yield batch, validation


def best_setting(settings: Sequence[T], means: Sequence[float]) -> T:
    """Return the setting with the highest mean accuracy, the first of several that are equally good."""
    # The rounding of a sum over tasks must not choose.
    top = max(means) - 1e-9
    return next(setting for setting, mean in zip(settings, means, strict=True) if mean >= top)


def nearest_tuned(table: Mapping[Difficulty, T], n_way: int, n_shot: int, default: T) -> T:
    """Return the setting that was tuned for the way and shot nearest to those asked, or the default where none was.

    Nearness is measured in ratios, |log way ratio| + |log shot ratio|; of two equally near the smaller way, then the
    smaller shot.
    """
    if not table:
        return default

    def distance(difficulty: Difficulty) -> tuple[float, int, int]:
        way, shot = difficulty
        return abs(math.log(way / n_way)) + abs(math.log(shot / n_shot)), way, shot

    return table[min(table, key=distance)]


def table_to_json(table: Mapping[Difficulty, T]) -> list[list[object]]:
    """Return a table of tuned settings as JSON: [way, shot, setting] each."""
    return [[way, shot, value] for (way, shot), value in sorted(table.items())]


def table_from_json(rows: Sequence[Sequence[T]]) -> dict[Difficulty, T]:
    """Return the table that `table_to_json` wrote."""
    return {(int(way), int(shot)): value for way, shot, value in rows}  # type: ignore[call-overload]


@dataclass(frozen=True, eq=False)
class LabelledSupport:
    """A labelled support set: rows (s,) of the images whose class is known, and their labels (s,) from 0 to n_way - 1."""

    rows: Array
    labels: Array
    n_way: int
    n_shot: int


def labelled_support(support: ImageSet) -> LabelledSupport:
    """Return the labelled rows of a support set. `n_shot` is the mean number of images of a class, rounded.

    Raises:
        DataError: there are fewer than two classes, or a class has no image.

    """
    labels = np.asarray(support.labels)
    names = support.class_names
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    if len(names) < 2:
        raise DataError(f"support: found {len(names)} classes; expected at least two")
    if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
        raise DataError(f"support: found no image of {', '.join(empty)}; expected one or more of each class")
    rows = np.flatnonzero(labels >= 0)
    return LabelledSupport(rows, labels[rows], len(names), max(1, round(len(rows) / len(names))))


def one_task(encoder: Encoder, support: ImageSet, run: Run) -> TaskVectors:
    """Return a labelled support set as one task without queries."""
    found = labelled_support(support)
    vectors = embedded(encoder, support, run)[torch.from_numpy(found.rows)].to(run.device)[None]
    labels = torch.from_numpy(found.labels).long().to(run.device)[None]
    nothing = vectors[:, :0]
    known = torch.zeros(1, 0, dtype=torch.bool, device=run.device)
    return TaskVectors(vectors, labels, nothing, known, np.zeros(1, np.int64), found.n_way, found.n_shot)


def chunked(vectors: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor]) -> Array:
    """Return `score` of the queries (n, e) of one task, taken as (1, q, e) some thousands at a time: (n, k) float32."""
    made = [score(part[None])[0].float().cpu() for part in torch.split(vectors, QUERY_CHUNK)]
    return np.asarray(torch.cat(made).numpy())
