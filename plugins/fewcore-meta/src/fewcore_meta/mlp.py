"""One hidden layer on the support vectors, trained anew for each task, all tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from fewcore_meta.exported import Scores, tensor
from fewcore_meta.hidden_layer import Setting, Training, forward
from fewcore_meta.task_vectors import (
    Difficulty,
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


def _log_shares(weights: list[torch.Tensor], query: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities (1, q, k) float64 of queries (1, q, e)."""
    return torch.log_softmax(forward(weights, query).double(), -1)


class MlpPredictor:
    """The weights that were trained on a support set: layers (e, h), (1, h), (h, k), (1, k)."""

    def __init__(self, encoder: Encoder, weights: list[Array]) -> None:
        self._encoder = encoder
        self._weights = weights

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return the log-probabilities of the classes, (n, k)."""
        weights = [torch.from_numpy(np.array(w)).to(run.device)[None] for w in self._weights]
        vectors = embedded(self._encoder, images, run).to(run.device)
        return Predictions(images.ids, scores=chunked(vectors, lambda query: _log_shares(weights, query)))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to log-probabilities, through the encoder's."""
        weights = [tensor(w)[None] for w in self._weights]
        return Scores(network_for_export(self._encoder, spec), lambda vectors: _log_shares(weights, vectors[None])[0])

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights."""
        return {f"layer{i}": w for i, w in enumerate(self._weights)}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MlpPredictor:
        """Build the predictor from `to_arrays`' result."""
        return cls(inputs["embeddings"].encoder, [arrays[f"layer{i}"] for i in range(4)])


class MlpModel:
    """Dropout and epochs that were chosen, by way and shot. `norm` is `none`: nothing is normalised."""

    norm = "none"

    def __init__(self, encoder: Encoder, method: Mlp, seed: int, table: Mapping[Difficulty, Setting]) -> None:
        self._encoder = encoder
        self._method = method
        self._seed = seed
        self.table = dict(table)

    def setting(self, n_way: int, n_shot: int) -> Setting:
        """Return dropout and epochs: as tuned for the nearest way and shot, or the defaults."""
        method = self._method
        n_epochs = max(method.epochs) if method.leaky_early_stop else method.default_epochs
        return nearest_tuned(self.table, n_way, n_shot, (method.default_dropout, n_epochs))

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return log-probabilities, (t, q, k) float32.

        Raises:
            DataError: `leaky_early_stop` is asked for and the query labels are hidden.

        """
        tasks = task_vectors(self._encoder, batch, images, run)
        setting = self.setting(batch.n_way, batch.n_shot)
        training = self._method._training(self._seed)
        if self._method.leaky_early_stop:
            scores = training.leaky_scores(tasks, batch.query_labels, setting, self._method.patience)
        else:
            scores = training.scores(tasks, setting)
        return scores_array(scores, tasks.known)

    def adapt(self, support: ImageSet, run: Run) -> MlpPredictor:
        """Return a predictor for the classes of a labelled support set, trained for the chosen number of epochs.

        Raises:
            DataError: there are fewer than two classes, or a class has no image.

        """
        task = one_task(self._encoder, support, run)
        weights = self._method._training(self._seed).fit(task, self.setting(task.n_way, task.n_shot))
        return MlpPredictor(self._encoder, [w[0].cpu().numpy() for w in weights])

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the seed and the table of settings."""
        options = {name: getattr(self._method, name) for name in self._method.__dataclass_fields__}
        return {}, {"seed": self._seed, "options": options, "table": table_to_json(self.table)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MlpModel:
        """Build the model from `to_arrays`' result."""
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in meta["options"].items()}
        table = {key: (float(v[0]), int(v[1])) for key, v in table_from_json(meta["table"]).items()}
        return cls(inputs["embeddings"].encoder, Mlp(**options), meta["seed"], table)


@dataclass(frozen=True)
class Mlp:
    """One hidden layer with ReLU and dropout on the vectors, trained on each task's support set with full-batch Adam.

    All tasks train at once, each with weights and dropout masks of its own, drawn from the model's seed and the task's
    number. With validation tasks, dropout and the number of epochs are chosen for each way and shot by mean accuracy,
    the first of equally good pairs with dropouts and epochs in the order of the lists. A test task of another way or
    shot takes the pair of the nearest tuned ones (in ratios); without validation tasks it is `default_dropout` and
    `default_epochs`.

    Source: the baseline of K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334, section 4.

    Differs from the paper: its code stops when the loss of the *query set* has not fallen for two epochs, which looks
    at the answers. Here the epochs are fixed beforehand. `leaky_early_stop` does as the code does, up to the largest
    number of epochs, where query labels are known; in a pipeline they never are, and it stops with an error.

    Raises:
        ValueError: a list is empty, a dropout lies outside [0, 1), or epochs are not positive.

    """

    hidden: int = option(128, "hidden units", paper="128", low=1)
    learning_rate: float = option(1e-3, "step of Adam", paper="1e-3", low=0)
    dropouts: tuple[float, ...] = option((0.0, 0.25, 0.5), "shares of hidden units dropped, to choose from")
    epochs: tuple[int, ...] = option((25, 50, 100, 200, 500), "epochs to choose from", paper="at most 500")
    default_dropout: float = option(0.5, "dropout where no validation tasks choose it", low=0, high=0.99)
    default_epochs: int = option(200, "epochs where no validation tasks choose them", unit="epochs", low=1)
    leaky_early_stop: bool = option(False, "stop on the loss of the query set, for comparison", paper="true")
    patience: int = option(2, "epochs that `leaky_early_stop` waits", unit="epochs", paper="2", low=1)

    def __post_init__(self) -> None:
        if not self.dropouts or not all(0 <= d < 1 for d in self.dropouts):
            raise ValueError(f"dropouts: found {list(self.dropouts)}; expected one or more numbers in [0, 1)")
        if not self.epochs or min(self.epochs) < 1:
            raise ValueError(f"epochs: found {list(self.epochs)}; expected one or more positive integers")

    def _training(self, seed: int) -> Training:
        return Training(self.hidden, self.learning_rate, seed)

    def meta_train(
        self,
        embeddings: Embeddings,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> MlpModel:
        """Return the model; dropout and epochs are chosen on the validation tasks where there are some."""
        encoder = embeddings.encoder
        seed = int(run.rng.integers(2**63))
        training = self._training(seed)
        table: dict[Difficulty, Setting] = {}
        n_epochs = (max(self.epochs),) if self.leaky_early_stop else tuple(sorted(self.epochs))
        settings = [(dropout, count) for dropout in self.dropouts for count in n_epochs]
        for batch, images in validation_batches(validation, validation_tasks):
            tasks = task_vectors(encoder, batch, images, run)
            means: list[float] = []
            for dropout in run.track(self.dropouts, name=f"{batch.n_way}-way {batch.n_shot}-shot"):
                if self.leaky_early_stop:
                    means += [training.leaky_accuracy(tasks, batch.query_labels, (dropout, n_epochs[0]), self.patience)]
                else:
                    means += training.mean_accuracies(tasks, batch.query_labels, dropout, n_epochs)
            table[batch.n_way, batch.n_shot] = best_setting(settings, means)
        return MlpModel(encoder, self, seed, table)
