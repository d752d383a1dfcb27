"""A linear classifier on the support vectors: multinomial logistic regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

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
from fewcore_meta import logistic
from fewcore_meta.exported import Scores, tensor
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


def _scores(query: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the classes, (t, q, k) float64."""
    return torch.log_softmax(query.double() @ weights + bias[:, None], -1)


def _task_scores(tasks: TaskVectors, cost: float) -> torch.Tensor:
    """Fit every task on its support set and return the scores of its queries, (t, q, k) float64."""
    weights, bias = logistic.fit(tasks.support, tasks.labels, tasks.n_way, cost)
    return _scores(tasks.query, weights, bias)


class LinearPredictor:
    """The weights (e, k) and biases (k,) that were fitted to a support set."""

    def __init__(self, encoder: Encoder, weights: Array, bias: Array) -> None:
        self._encoder = encoder
        self._weights = weights
        self._bias = bias

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return the log-probabilities of the classes, (n, k)."""
        weights = torch.from_numpy(np.array(self._weights)).to(run.device)[None]
        bias = torch.from_numpy(np.array(self._bias)).to(run.device)[None]
        vectors = embedded(self._encoder, images, run).to(run.device)
        return Predictions(images.ids, scores=chunked(vectors, lambda query: _scores(query, weights, bias)))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to log-probabilities, through the encoder's."""
        weights, bias = tensor(self._weights)[None], tensor(self._bias)[None]
        return Scores(network_for_export(self._encoder, spec), lambda vectors: _scores(vectors[None], weights, bias)[0])

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights and biases."""
        return {"weights": self._weights, "bias": self._bias}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> LinearPredictor:
        """Build the predictor from `to_arrays`' result."""
        return cls(inputs["embeddings"].encoder, arrays["weights"], arrays["bias"])


class LinearModel:
    """The penalties that were chosen, by way and shot. `norm` is `none`: nothing is normalised."""

    norm = "none"

    def __init__(self, encoder: Encoder, default: float, table: Mapping[Difficulty, float]) -> None:
        self._encoder = encoder
        self._default = default
        self.table = dict(table)

    def cost(self, n_way: int, n_shot: int) -> float:
        """Return C: as tuned for the nearest way and shot, or the default."""
        return nearest_tuned(self.table, n_way, n_shot, self._default)

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return log-probabilities, (t, q, k) float32."""
        tasks = task_vectors(self._encoder, batch, images, run)
        return scores_array(_task_scores(tasks, self.cost(batch.n_way, batch.n_shot)), tasks.known)

    def adapt(self, support: ImageSet, run: Run) -> LinearPredictor:
        """Return a predictor for the classes of a labelled support set.

        Raises:
            DataError: there are fewer than two classes, or a class has no image.

        """
        task = one_task(self._encoder, support, run)
        weights, bias = logistic.fit(task.support, task.labels, task.n_way, self.cost(task.n_way, task.n_shot))
        return LinearPredictor(self._encoder, weights[0].cpu().numpy(), bias[0].cpu().numpy())

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the table of penalties."""
        return {}, {"default": self._default, "table": table_to_json(self.table)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> LinearModel:
        """Build the model from `to_arrays`' result."""
        return cls(inputs["embeddings"].encoder, meta["default"], table_from_json(meta["table"]))


@dataclass(frozen=True)
class Linear:
    """Multinomial logistic regression with an L2 penalty, fitted to each task's support vectors.

    Each task minimises C times the cross-entropy, summed over its support set, plus half the squared weights; biases
    are free. All tasks are solved at once, to within 1e-10 of the least objective. With validation tasks C is chosen for
    each way and shot from `grid` by mean accuracy, the smallest of equally good ones. A test task of another way or shot
    takes the C of the nearest tuned ones (in ratios); without validation tasks C is `default_c`.

    Source: the baseline of K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334, section 4. Solver: D. C. Liu, J. Nocedal: On the limited memory BFGS method for large scale
    optimization, Mathematical Programming 45, 1989, doi:10.1007/BF01589116.

    Differs from the paper: its code stops a stochastic solver after 1000 passes; this one goes to the optimum. Two
    classes have two rows of weights like any other number; scikit-learn's single row has the same optimum at 2 C.

    Raises:
        ValueError: the grid is empty, or a C is not positive.

    """

    deterministic: ClassVar[bool] = True

    default_c: float = option(1.0, "C where no validation tasks choose it", paper="1", low=1e-6)
    grid: tuple[float, ...] = option(
        (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3), "values of C from which validation tasks choose"
    )

    def __post_init__(self) -> None:
        if not self.grid or min(self.grid) <= 0:
            raise ValueError(f"grid: found {list(self.grid)}; expected one or more positive numbers")

    def meta_train(
        self,
        embeddings: Embeddings,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> LinearModel:
        """Return the model; C is chosen on the validation tasks where there are some."""
        encoder = embeddings.encoder
        table: dict[Difficulty, float] = {}
        grid = tuple(sorted(self.grid))
        for batch, images in validation_batches(validation, validation_tasks):
            tasks = task_vectors(encoder, batch, images, run)
            name = f"{batch.n_way}-way {batch.n_shot}-shot"
            means = [
                float(accuracies(_task_scores(tasks, cost), batch.query_labels).mean())
                for cost in run.track(grid, name=name)
            ]
            table[batch.n_way, batch.n_shot] = best_setting(grid, means)
        return LinearModel(encoder, self.default_c, table)
