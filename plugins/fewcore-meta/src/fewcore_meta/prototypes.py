"""Class means as classifiers, and the features from which they are taken: for `protonets` and `protoclr`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fewcore import (
    Array,
    Arrays,
    Backbone,
    Gather,
    ImageSet,
    TaskBatch,
    TaskStream,
    load_module,
    module_arrays,
    torch_generator,
)
from fewcore_meta.task_vectors import accuracies

BLOCK = 256
"""Images that are embedded at a time. Blocks are fixed, so that a feature does not depend on what else is asked for."""
MAX_ELEMENTS = 2**24

Embed = Callable[[torch.Tensor], torch.Tensor]
"""Features (n, e) of images (n, c, h, w), each of its image alone."""
Watch = Callable[[list[int]], Iterable[int]]
"""Gives what it gets, one by one, and may show how far that is."""
Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Scores (t, q, k) from support features (t, s, e), their labels (t, s), queries (t, q, e) and which are no padding (t, q)."""


def class_means(support: torch.Tensor, labels: torch.Tensor, n_way: int) -> torch.Tensor:
    """Return the mean of each class's features, (t, k, e), of support features (t, s, e) and labels (t, s)."""
    one_hot = functional.one_hot(labels, n_way).to(support.dtype)
    return one_hot.mT @ support / one_hot.sum(1)[..., None].clamp(min=1)


def nearness(query: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Return minus the squared Euclidean distance of queries (t, q, e) to prototypes (t, k, e): (t, q, k)."""
    return -(query[:, :, None] - prototypes[:, None]).square().sum(-1)


class Features:
    """The features of a set's images, computed block by block when they are asked for, each once."""

    def __init__(self) -> None:
        self._vectors: torch.Tensor | None = None
        self._known = np.zeros(0, dtype=bool)

    @torch.no_grad()
    def of(
        self, rows: Array, embed: Embed, images: ImageSet, device: torch.device, watch: Watch = iter
    ) -> torch.Tensor:
        """Return the features of `rows` (...) as (..., e); `watch` is told of each block that is embedded."""
        n_blocks = -(-len(images) // BLOCK)
        if self._vectors is None or self._vectors.device.type != device.type:
            self._vectors = None
            self._known = np.zeros(n_blocks, dtype=bool)
        blocks = np.unique(rows // BLOCK)
        if missing := blocks[~self._known[blocks]].tolist():
            gather = Gather(images, device)
            for block in watch(missing):
                span = np.arange(block * BLOCK, min(len(images), (block + 1) * BLOCK))
                made = embed(gather(span))
                if self._vectors is None:
                    self._vectors = made.new_zeros(len(images), made.shape[1])
                self._vectors[span[0] : span[-1] + 1] = made
                self._known[block] = True
        assert self._vectors is not None
        index = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
        return self._vectors[index.reshape(-1)].reshape(*rows.shape, -1)


FeaturesOf = weakref.WeakKeyDictionary[ImageSet, Features]
"""The features of each set of images, for as long as somebody holds the set."""


def task_scores(
    features: Features,
    embed: Embed,
    batch: TaskBatch,
    images: ImageSet,
    device: torch.device,
    score: Score,
    watch: Watch = iter,
) -> torch.Tensor:
    """Return the scores (t, q, k) of tasks whose images are embedded one by one; those of padding mean nothing."""
    labels = torch.from_numpy(np.array(batch.support_labels)).long().to(device)
    known = torch.from_numpy(batch.query_known).to(device)
    query = np.where(batch.query >= 0, batch.query, batch.support[:, :1])
    features.of(np.concatenate([batch.support, query], 1), embed, images, device, watch)
    dim = features.of(batch.support[:1, :1], embed, images, device).shape[-1]
    size = max(1, MAX_ELEMENTS // max(1, dim * (batch.query.shape[1] * batch.n_way + batch.support.shape[1])))
    made = []
    for start in range(0, len(batch), size):
        cut = slice(start, start + size)
        support = features.of(batch.support[cut], embed, images, device)
        made.append(score(support, labels[cut], features.of(query[cut], embed, images, device), known[cut]))
    return torch.cat(made)


def network_arrays(network: nn.Module) -> Arrays:
    """Return a network's parameters and buffers, each name after `network.`."""
    return {f"network.{name}": values for name, values in module_arrays(network).items()}


def network_from(arrays: Mapping[str, Array], backbone: Backbone, shape: tuple[int, ...]) -> nn.Module:
    """Return the network, in evaluation mode, that `network_arrays` saved among other arrays."""
    network = backbone.build(shape, 0, torch_generator(0))
    prefix = "network."
    return load_module(network, {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}).eval()


def validation_accuracies(classify: Callable[[TaskBatch], Array], tasks: TaskStream) -> dict[str, float]:
    """Return the mean accuracy for each way and shot of the validation tasks, named for the log."""
    found = {}
    for batch in tasks.batches():
        name = f"validation_accuracy_{batch.n_way}_way_{batch.n_shot}_shot"
        found[name] = float(accuracies(torch.from_numpy(classify(batch)), batch.query_labels).mean())
    return found
