"""Train a network on labelled images and keep the epoch that is best on validation: for `fine-tune`, `mil` and `multi-task`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewcore import Array, DataError, Gather, ImageSet, Run, auc, child_seed, module_arrays, numpy_generator
from fewcore_meta.batch_norm import begin_statistics

VALUES_AT_ONCE = 2**24
"""Input values that are looked at together: 64 MB of float32."""

Loss = Callable[[nn.Module, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""From a network, images (n, c, ...), their classes (n,) and weights of the classes (k,): the loss and logits (n, k)."""


def cross_entropy(network: nn.Module, x: Tensor, wanted: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of the network's logits, and these."""
    logits: Tensor = network(x)
    return functional.cross_entropy(logits, wanted, weight=weights), logits


@dataclass(frozen=True)
class Training:
    """How a network is trained on labelled images."""

    epochs: int
    batch_size: int
    learning_rate: float
    weighted: bool = True
    loss: Loss = cross_entropy

    def best(
        self,
        network: nn.Module,
        images: ImageSet,
        rows: Array,
        validation: tuple[ImageSet, Array],
        name: str,
        run: Run,
    ) -> dict[str, Any]:
        """Train a network; return the arrays, the score and the number of its best epoch on validation."""
        labels, weights = class_labels(images, rows, run.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        gather, best = Gather(images, run.device), BestOnValidation(network, *validation, run.device)
        epoch_of = Epochs(len(rows), self.batch_size, int(run.rng.integers(2**62)))
        begin_statistics(network, gather(rows[: at_once(gather)]))
        state: dict[str, Any] = {"network": network, "optimiser": optimiser, "best": best.state}
        for step in run.loop(self.epochs * epoch_of.n_batches, name=name, **state):
            batch = epoch_of.batch(step)
            network.train()
            wanted = labels[torch.from_numpy(batch).to(run.device)]
            x = gather(rows[batch], then=rows[epoch_of.batch(step + 1)])
            loss, logits = self.loss(network, x, wanted, weights if self.weighted else None)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            run.log(loss=loss, accuracy=(logits.argmax(1) == wanted).float().mean())
            if epoch_of.ends(step):
                run.log(validation=best.judge(network, epoch_of.number(step)))
        return best.state


def probabilities(network: nn.Module, gather: Gather, n: int) -> Array:
    """Return the probability of each class for images 0 to n - 1, (n, k) float32, by running statistics."""
    network.eval()
    batches = np.array_split(np.arange(n), math.ceil(n / at_once(gather)))
    with torch.no_grad():
        parts = [network(x).softmax(1).cpu() for x in gather.each(batches)]
    return np.asarray(torch.cat(parts).numpy())


def at_once(gather: Gather) -> int:
    """Return how many images are looked at together."""
    return max(1, VALUES_AT_ONCE // math.prod(gather.shape))


class Epochs:
    """Passes over n images in batches of about `batch_size`, shuffled anew in each: step by step, from a seed."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self._n, self._seed = n, seed
        self.n_batches = math.ceil(n / batch_size)

    def number(self, step: int) -> int:
        """Return the epoch of a step, from 1."""
        return step // self.n_batches + 1

    def ends(self, step: int) -> bool:
        """Return whether a step is the last of its epoch."""
        return (step + 1) % self.n_batches == 0

    def batch(self, step: int) -> Array:
        """Return the images of a step. Batches are equally large: one of a single image would have no batch statistics."""
        order = numpy_generator(child_seed(self._seed, self.number(step))).permutation(self._n)
        return np.array_split(order, self.n_batches)[step % self.n_batches]


class BestOnValidation:
    """Keeps the weights that are best on the labelled validation images `rows`.

    `state` holds the `score`, the `epoch` and the `arrays`; a loop can save it.
    """

    def __init__(self, network: nn.Module, validation: ImageSet, rows: Array, device: torch.device) -> None:
        self._images, self._rows, self._gather = validation, rows, Gather(validation, device)
        self.state: dict[str, Any] = {"score": -math.inf, "epoch": 0, "arrays": module_arrays(network)}

    def judge(self, network: nn.Module, epoch: int) -> float:
        """Return the score of a network; keep its weights where it is better than all before."""
        scores = probabilities(network, self._gather, len(self._images))
        score = validation_score(scores, self._images, self._rows)
        if score > self.state["score"]:
            self.state |= {"score": score, "epoch": epoch, "arrays": module_arrays(network)}
        return score


def class_labels(images: ImageSet, rows: Array, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes of rows, (m,), and weights (k,) by which all classes weigh the same in a cross-entropy."""
    labels = torch.from_numpy(images.labels[rows].astype(np.int64)).to(device)
    return labels, (len(rows) / torch.bincount(labels)).float()


def validation_score(scores: Array, images: ImageSet, rows: Array) -> float:
    """Return the area under the ROC curve of two classes, or the mean recall of more, over the labelled rows."""
    labels = images.labels[rows]
    if len(images.class_names) == 2:
        return auc(scores[rows, 1], labels == 1)
    right = scores[rows].argmax(1) == labels
    return float(np.mean([right[labels == k].mean() for k in range(len(images.class_names))]))


def known_rows(images: ImageSet, split: str, method: str) -> Array:
    """Return the rows of images whose class is known, for a method.

    Raises:
        DataError: a class is not among them.

    """
    rows = np.flatnonzero(images.labels >= 0)
    counts = np.bincount(images.labels[rows], minlength=len(images.class_names))
    missing = [name for name, n in zip(images.class_names, counts, strict=True) if not n]
    if missing:
        raise DataError(
            f"{method}: found no labelled {split} image of {', '.join(missing)}; expected every class in both training "
            "and validation (choose other splits or labels, or fewer classes)"
        )
    return rows
