"""Training from scratch: what a few labelled images give without any meta-training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fewcore import (
    Array,
    Arrays,
    Backbone,
    Gather,
    ImageSet,
    Meta,
    Run,
    TaskBatch,
    TaskStream,
    child_seed,
    option,
    torch_generator,
)
from fewcore_meta.adaptation import VALUES_AT_ONCE, AdaptedPredictor, Parameters, TaskNetwork, parts_of, predictor_from
from fewcore_meta.task_scores import mean_accuracy

TUNED_ON = 100
"""Validation tasks of a way and shot on which a learning rate is judged, at most."""


@dataclass(frozen=True)
class Scratch:
    """A network with fresh random weights for each test task, trained on its support set alone.

    Full-batch gradient descent on the cross-entropy summed over classes (as in `maml`), all weights but those of batch
    norm. With `validation_tasks` and `validation` the learning rate is chosen for each way and shot, by the accuracy on
    at most 100 of these tasks; otherwise, and for other ways and shots, it is `learning_rate`. The first weights of task i
    depend on the stage's seed and i alone. Nothing is learnt from the training images.

    Source: K. Hsu, S. Levine, C. Finn, Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334 (appendix).
    Differs from the paper: each task starts from weights of its own; the paper's code starts all from the same
    (`shared: true`).
    """

    learning_rate: float = option(
        0.1,
        "step size where none is chosen, for the loss summed over classes",
        paper="tuned; 0.1 in a public script",
        low=0,
    )
    rates: tuple[float, ...] = option(
        (0.01, 0.03, 0.1, 0.3), "learning rates among which validation tasks choose", paper="tuned, not given"
    )
    steps: int = option(200, "gradient steps on each support set", paper="200", low=0)
    norm: Literal["transductive", "support"] = option(
        "transductive", "statistics of batch norm for queries: theirs or the support set's", paper="transductive"
    )
    shared: bool = option(False, "start all tasks from the same weights", paper="true in the code")

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) < 0:
            raise ValueError(f"rates: found {list(self.rates)}; expected at least one number, none below 0")

    def meta_train(
        self,
        images: ImageSet,
        backbone: Backbone,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> ScratchModel:
        """Return a model that trains on each support set; chooses learning rates where validation tasks are given."""
        seed = int(run.rng.integers(2**63))
        model = ScratchModel(self, backbone, images.shape, seed, {})
        if validation is None or validation_tasks is None:
            return model
        batches = [batch.part(0, TUNED_ON) for batch in validation_tasks.batches()]
        trials = [(batch, rate) for batch in batches for rate in self.rates]
        best: dict[tuple[int, int], tuple[float, float]] = {}
        for batch, rate in run.track(trials, name="choosing learning rates"):
            task = (batch.n_way, batch.n_shot)
            parts = parts_of(batch, images.shape, VALUES_AT_ONCE[run.device.type])
            accuracy = mean_accuracy(model.scores(parts, validation, run, rate), batch)
            if task not in best or accuracy > best[task][0]:
                best[task] = (accuracy, rate)
        return ScratchModel(self, backbone, images.shape, seed, {task: rate for task, (_, rate) in best.items()})


class ScratchModel:
    """Fresh weights for each task, and the learning rate for each way and shot; `rates` holds those that were chosen."""

    def __init__(
        self,
        options: Scratch,
        backbone: Backbone,
        shape: tuple[int, ...],
        seed: int,
        rates: Mapping[tuple[int, int], float],
    ) -> None:
        self.options, self.rates = options, dict(rates)
        self._backbone, self._shape, self._seed = backbone, tuple(shape), seed

    @property
    def norm(self) -> str:
        """Where batch norm takes its statistics: `transductive` or `support`."""
        return self.options.norm

    def _build(self, task: int | str, n_way: int) -> nn.Module:
        name = "shared" if self.options.shared else task
        return self._backbone.build(self._shape, n_way, torch_generator(child_seed(self._seed, name, n_way)))

    def _fresh(self, batch: TaskBatch, run: Run) -> tuple[TaskNetwork, Parameters]:
        networks = [self._build(int(task), batch.n_way) for task in batch.task]
        each = [dict(network.named_parameters()) for network in networks]
        stacked = {name: torch.stack([p[name].detach() for p in each]).to(run.device) for name in each[0]}
        return TaskNetwork(networks[0].to(run.device)), stacked

    def scores(self, parts: Iterable[TaskBatch], images: ImageSet, run: Run, rate: float) -> Array:
        """Return the logits (t, q, n_way) of the tasks of all parts after training with a learning rate; 0 for padding."""
        gather, made = Gather(images, run.device), []
        for part in parts:
            tasked, fresh = self._fresh(part, run)
            steps, norm = self.options.steps, self.options.norm
            made.append(tasked.classify(fresh, part, gather, inner_lr=rate, steps=steps, norm=norm))
        return np.concatenate(made)

    def _rate(self, n_way: int, n_shot: int) -> float:
        return self.rates.get((n_way, n_shot), self.options.learning_rate)

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return the logits (t, q, n_way) after training on each task's support set; 0 for padding."""
        parts = run.track(parts_of(batch, images.shape, VALUES_AT_ONCE[run.device.type]), name="tasks")
        return self.scores(parts, images, run, self._rate(batch.n_way, batch.n_shot))

    def adapt(self, support: ImageSet, run: Run) -> AdaptedPredictor:
        """Return a predictor trained on the images whose class is known; its shot is that of its smallest class.

        Raises:
            DataError: no image has a known class.

        """
        n_way = len(support.class_names)
        counts = np.bincount(support.labels[support.labels >= 0], minlength=n_way)
        tasked = TaskNetwork(self._build("support", n_way).to(run.device))
        rate = self._rate(n_way, int(counts.min()))
        return predictor_from(tasked, support, run, inner_lr=rate, steps=self.options.steps, norm=self.options.norm)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the seed, the options and the chosen rates; there are no weights."""
        rates = [[way, shot, rate] for (way, shot), rate in self.rates.items()]
        return {}, {"options": asdict(self.options), "shape": list(self._shape), "seed": self._seed, "rates": rates}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ScratchModel:
        """Build the model again; `inputs` holds the backbone."""
        options = Scratch(**{**meta["options"], "rates": tuple(meta["options"]["rates"])})
        rates = {(way, shot): rate for way, shot, rate in meta["rates"]}
        return cls(options, inputs["backbone"], tuple(meta["shape"]), meta["seed"], rates)
