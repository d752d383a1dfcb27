"""One network that learns several tasks at the same time, with a head for each: what meta-training is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fewcore import (
    Array,
    Backbone,
    DataError,
    Gather,
    ImageSet,
    Meta,
    Run,
    TaskBatch,
    TaskStream,
    load_module,
    option,
    torch_generator,
)
from fewcore_meta.batch_norm import begin_statistics
from fewcore_meta.fine_tune import FineTunedPredictor, WithHead, linear_layer
from fewcore_meta.supervised import BestOnValidation, Epochs, at_once, class_labels, known_rows


def trunk_with_head(backbone: Backbone, shape: tuple[int, ...], n_classes: int, generator: torch.Generator) -> WithHead:
    """Return the backbone's features with a linear layer for the classes."""
    trunk = backbone.build(shape, 0, generator).eval()
    with torch.no_grad():
        n_features = trunk(torch.zeros(1, *shape)).flatten(1).shape[1]
    return WithHead(trunk, n_features, n_classes, generator)


class MultiTaskPredictor(FineTunedPredictor):
    """A network that several tasks have trained, with the head of the classes that are asked for."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MultiTaskPredictor:
        """Build the predictor on the backbone."""
        shape = tuple(meta["shape"])
        network = trunk_with_head(inputs["backbone"], shape, meta["facts"]["n_classes"], torch_generator(0))
        return cls(load_module(network, arrays).eval(), shape, meta["facts"])


@dataclass(frozen=True)
class MultiTask:
    """One trunk with a head for each task of a sampler and one for the classes: all are learnt together.

    The loss of a step is the sum of cross-entropies, of a batch of labelled images under the classes' own head and of
    `tasks_per_step` tasks under theirs (support and query alike). After each pass over the labelled images the validation
    images are classified, as in `fine-tune`; the best pass is kept, and the heads of the tasks are dropped.

    Source: the baseline `multi-task` of G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task
    Design to Meta-Train Medical Image Classifiers, ISBI 2020, arXiv:1907.07816.

    Differs from the paper: it gives no details; a head has two outputs, and each class weighs the same in its own loss.

    Raises:
        DataError: the sampler has no fixed list of tasks or swaps their labels; a class has no labelled training image or
            no validation image.
        NumericalError: the loss is no longer finite.

    """

    epochs: int = option(50, "passes over the labelled images", paper="not told", low=1)
    batch_size: int = option(16, "labelled images of a step, about", unit="images", paper="not told", low=1)
    tasks_per_step: int = option(4, "tasks of a step", paper="not told", low=1)
    learning_rate: float = option(1e-4, "Adam's learning rate", paper="not told", low=0)

    def learn(
        self, backbone: Backbone, images: ImageSet, tasks: TaskStream, validation: ImageSet, run: Run
    ) -> MultiTaskPredictor:
        """Return the predictor that is best on the validation images."""
        rows = known_rows(images, "training", "multi-task")
        validated = known_rows(validation, "validation", "multi-task")
        network = trunk_with_head(backbone, images.shape, len(images.class_names), run.generator)
        heads = linear_layer(network.head.in_features, 2 * _number_of(tasks), run.generator)
        both = nn.ModuleList([network, heads]).to(run.device)
        optimiser, cursor = torch.optim.Adam(both.parameters(), lr=self.learning_rate), tasks.start()
        gather, best = Gather(images, run.device), BestOnValidation(network, validation, validated, run.device)
        labels, weights = class_labels(images, rows, run.device)
        epoch_of = Epochs(len(rows), self.batch_size, int(run.rng.integers(2**62)))
        begin_statistics(network, gather(rows[: at_once(gather)]))
        state: dict[str, Any] = {"networks": both, "optimiser": optimiser, "tasks": cursor, "best": best.state}
        for step in run.loop(self.epochs * epoch_of.n_batches, **state):
            batch, drawn = epoch_of.batch(step), _Drawn(cursor.draw(self.tasks_per_step))
            both.train()
            features = network.network(gather(np.concatenate([rows[batch], drawn.rows]))).flatten(1)
            logits, wanted = network.head(features[: len(batch)]), labels[torch.from_numpy(batch).to(run.device)]
            loss = functional.cross_entropy(logits, wanted, weight=weights) + drawn.loss(heads, features[len(batch) :])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            run.log(loss=loss, accuracy=(logits.argmax(1) == wanted).float().mean())
            if epoch_of.ends(step):
                run.log(validation=best.judge(network, epoch_of.number(step)))
        load_module(network, best.state["arrays"])
        facts = {"n_classes": len(images.class_names), "score": best.state["score"], "epoch": best.state["epoch"]}
        return MultiTaskPredictor(network.cpu().eval(), images.shape, facts)


class _Drawn:
    """Images of several tasks, support and query alike: their rows (m,), one task after the other."""

    def __init__(self, batch: TaskBatch) -> None:
        known = [np.concatenate([np.ones(batch.support.shape[1], bool), queries]) for queries in batch.query_known]
        self._tasks = batch.task.tolist()
        self._members = [r[k] for r, k in zip(np.concatenate([batch.support, batch.query], 1), known, strict=True)]
        sides = np.concatenate([batch.support_labels, batch.query_labels], 1)
        self._sides = [torch.from_numpy(s[k].astype(np.int64)) for s, k in zip(sides, known, strict=True)]
        self.rows = np.concatenate(self._members)

    def loss(self, heads: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """Return the sum of the tasks' cross-entropies, each under its own two outputs, for features (m, e)."""
        parts = heads(features).split([len(members) for members in self._members])
        losses = [
            functional.cross_entropy(outputs[:, 2 * task : 2 * task + 2], side.to(features.device))
            for task, outputs, side in zip(self._tasks, parts, self._sides, strict=True)
        ]
        return torch.stack(losses).sum()


def _number_of(tasks: TaskStream) -> int:
    """Return how many tasks a sampler has; their labels must stay where they are."""
    n_tasks, options = len(tasks) if isinstance(tasks, Sized) else 0, getattr(tasks, "options", None)
    if not n_tasks or getattr(options, "swap_labels", True) or tuple(tasks.n_way) != (2,):
        raise DataError(
            "multi-task: found a sampler without a fixed list of two-way tasks whose labels stay; expected cluster-subsets "
            "with swap_labels: false"
        )
    if (order := getattr(options, "order", "random")) in ("curriculum", "bandit"):
        raise DataError(
            f"multi-task: found tasks in the order {order}, which follows how well single tasks are learnt, and all are learnt "
            "together; expected order: random or round-robin"
        )
    return n_tasks
