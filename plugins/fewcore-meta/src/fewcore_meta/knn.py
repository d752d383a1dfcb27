"""k nearest neighbours: the vote of the nearest support vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fewcore import (
    Array,
    Arrays,
    Embeddings,
    Encoder,
    ImageSet,
    ImageSpec,
    Meta,
    Predictions,
    Run,
    TaskBatch,
    TaskStream,
    network_for_export,
    option,
)
from fewcore_meta.exported import Scores, distances, tensor
from fewcore_meta.task_vectors import (
    Difficulty,
    TaskVectors,
    accuracies,
    best_setting,
    chunked,
    embedded,
    nearest_tuned,
    one_task,
    scores_array,
    table_from_json,
    table_to_json,
    task_vectors,
    validation_batches,
)

MAX_ELEMENTS = 2**23


def _distances(support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distance of each query to each support vector, (t, q, s) float64.

    Differences are taken, not |a|^2 - 2ab + |b|^2: equal vectors must be equally far.
    """
    return torch.cdist(query.double(), support.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _nearness(distances: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """Return for each class a number in [0, 1/2] that falls with the distance of its nearest vector, (t, q, k)."""
    far = torch.full((*distances.shape[:2], n_way), torch.inf, dtype=distances.dtype, device=distances.device)
    index = labels[:, None].expand_as(distances)
    nearest = far.scatter_reduce(-1, index, distances, "amin")
    scale = distances.mean(-1, keepdim=True).clamp(min=torch.finfo(distances.dtype).tiny)
    # A support set may lack a class (its nearest vector is infinitely far): nearness 0.
    return 0.5 * scale / (scale + nearest)


def _votes(tasks: TaskVectors, wanted: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """Yield the scores (t, q, k) float64 for each number of neighbours in `wanted`, which rises.

    A score is the share of the k nearest that are of the class, and less than half a vote more for the nearness of the
    class's nearest vector, which parts ties.
    """
    distances = _distances(tasks.support, tasks.query)
    near = _nearness(distances, tasks.labels, tasks.n_way)
    order = distances.argsort(dim=-1, stable=True)[..., : wanted[-1]]
    label_of = tasks.labels[:, None].expand_as(distances).gather(-1, order)
    votes = torch.zeros_like(near)
    done = 0
    for k in wanted:
        new = label_of[..., done:k]
        votes = votes.scatter_add(-1, new, torch.ones_like(new, dtype=votes.dtype))
        done = k
        yield (votes + near) / k


def _parts(tasks: TaskVectors) -> Iterator[TaskVectors]:
    """Yield the tasks, as many at a time as keep the distances within memory."""
    return tasks.parts(MAX_ELEMENTS // max(1, tasks.query.shape[1] * tasks.support.shape[1]))


class KnnPredictor:
    """Support vectors (s, e), their labels (s,) and how many of them vote."""

    def __init__(self, encoder: Encoder, support: Array, labels: Array, n_way: int, n_neighbours: int) -> None:
        self._encoder = encoder
        self._support = support
        self._labels = labels
        self._n_way = n_way
        self._n_neighbours = n_neighbours

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return the share of the votes for each class, (n, k)."""
        support = torch.from_numpy(np.array(self._support)).to(run.device)[None]
        labels = torch.from_numpy(np.array(self._labels)).long().to(run.device)[None]

        def score(query: torch.Tensor) -> torch.Tensor:
            known = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device)
            task = TaskVectors(support, labels, query, known, np.zeros(1, np.int64), self._n_way, 1)
            return next(_votes(task, (self._n_neighbours,)))

        vectors = embedded(self._encoder, images, run).to(run.device)
        return Predictions(images.ids, scores=chunked(vectors, score))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to the shares of the votes, through the encoder's.

        Of vectors that are equally far, which one votes is not settled in such a file.
        """
        support, labels, k = tensor(self._support).double(), tensor(self._labels).long(), self._n_neighbours

        def score(vectors: torch.Tensor) -> torch.Tensor:
            far = distances(vectors.double(), support)
            voters = functional.one_hot(labels[far.topk(k, largest=False).indices], self._n_way).sum(1)
            return (voters + _nearness(far[None], labels[None], self._n_way)[0]) / k

        return Scores(network_for_export(self._encoder, spec), score)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the support vectors and labels."""
        meta = {"n_way": self._n_way, "n_neighbours": self._n_neighbours}
        return {"support": self._support, "labels": self._labels}, meta

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> KnnPredictor:
        """Build the predictor from `to_arrays`' result."""
        encoder = inputs["embeddings"].encoder
        return cls(encoder, arrays["support"], arrays["labels"], meta["n_way"], meta["n_neighbours"])


class KnnModel:
    """The numbers of neighbours that were chosen, by way and shot. `norm` is `none`: nothing is normalised."""

    norm = "none"

    def __init__(self, encoder: Encoder, default: int, table: Mapping[Difficulty, int]) -> None:
        self._encoder = encoder
        self._default = default
        self.table = dict(table)

    def n_neighbours(self, n_way: int, n_shot: int, n_support: int) -> int:
        """Return how many of `n_support` vectors vote: as tuned for the nearest way and shot, or the default."""
        return min(nearest_tuned(self.table, n_way, n_shot, self._default), n_support)

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return the shares of the votes, (t, q, k) float32; ties go to the class of the nearest vector."""
        tasks = task_vectors(self._encoder, batch, images, run)
        wanted = self.n_neighbours(batch.n_way, batch.n_shot, batch.support.shape[1])
        scores = torch.cat([next(_votes(part, (wanted,))) for part in _parts(tasks)])
        return scores_array(scores, tasks.known)

    def adapt(self, support: ImageSet, run: Run) -> KnnPredictor:
        """Return a predictor for the classes of a labelled support set.

        Raises:
            DataError: there are fewer than two classes, or a class has no image.

        """
        task = one_task(self._encoder, support, run)
        vectors, labels = task.support[0].cpu().numpy(), task.labels[0].cpu().numpy()
        wanted = self.n_neighbours(task.n_way, task.n_shot, len(labels))
        return KnnPredictor(self._encoder, vectors, labels, task.n_way, wanted)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the table of numbers of neighbours."""
        return {}, {"default": self._default, "table": table_to_json(self.table)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> KnnModel:
        """Build the model from `to_arrays`' result."""
        return cls(inputs["embeddings"].encoder, meta["default"], table_from_json(meta["table"]))


@dataclass(frozen=True)
class Knn:
    """Each query goes to the class that has most of its k nearest support vectors (Euclidean distance).

    With validation tasks, k is chosen for each way and shot among the odd numbers up to way x shot, by mean accuracy,
    the smallest of equally good ones. A test task of another way or shot takes the k of the nearest tuned ones (in
    ratios), at most its number of support images; without validation tasks k is `n_neighbours`. A tie goes to the class
    whose nearest vector is nearer, then to the smaller label. The score of a class is its share of the votes, plus less
    than half a vote that grows with the nearness of its nearest vector, so that queries can be ranked at k = 1, too.

    Source: the baseline of K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334, section 4.

    Differs from the paper: its scripts fix k = 1 for Omniglot; the rule for ties is ours, as the paper has none.
    """

    deterministic: ClassVar[bool] = True

    n_neighbours: int = option(1, "neighbours that vote where no validation tasks choose it", low=1)

    def meta_train(
        self,
        embeddings: Embeddings,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> KnnModel:
        """Return the model; k is chosen on the validation tasks where there are some."""
        encoder = embeddings.encoder
        table: dict[Difficulty, int] = {}
        for batch, images in validation_batches(validation, validation_tasks):
            wanted = tuple(range(1, batch.n_way * batch.n_shot + 1, 2))
            means = _mean_accuracies(task_vectors(encoder, batch, images, run), batch.query_labels, wanted)
            table[batch.n_way, batch.n_shot] = best_setting(wanted, means)
        return KnnModel(encoder, self.n_neighbours, table)


def _mean_accuracies(tasks: TaskVectors, query_labels: Array, wanted: tuple[int, ...]) -> list[float]:
    """Return the mean accuracy over tasks for each number of neighbours."""
    totals = torch.zeros(len(wanted), dtype=torch.float64)
    start = 0
    for part in _parts(tasks):
        labels = query_labels[start : start + len(part)]
        totals += torch.stack([accuracies(scores, labels).sum().cpu() for scores in _votes(part, wanted)])
        start += len(part)
    means: list[float] = (totals / len(tasks)).tolist()
    return means
