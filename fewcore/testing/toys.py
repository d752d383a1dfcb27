"""Tiny inputs of every kind, on which a component can be tried in milliseconds: images, vectors, tasks, networks, outcomes.

Nothing is drawn from global random state; equal arguments give equal toys. Rows and ids differ, as they do in real use,
so that a component that mixes them up is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fewcore.contracts import (
    Array,
    Arrays,
    Embeddings,
    ImageSet,
    ImageSpec,
    Meta,
    Partitions,
    Predictions,
    Target,
    TaskBatch,
)
from fewcore.metrics import Outcome
from fewcore.run import Run
from fewcore.seeds import child_seed, numpy_generator, torch_generator

SEED = 7
N_CLASSES = 6
PER_CLASS = {"train": 12, "validation": 8, "test": 8}
FIRST_ID = {"train": 100, "validation": 300, "test": 500}
DIM = 8
SHAPE = (1, 16, 16)
UNKNOWN = (3, 17)
"""Rows of the training set whose targets nobody knows."""


def toy_images(split: str = "train", shape: tuple[int, ...] = SHAPE, *, targets: bool = False) -> ImageSet:
    """Return images (n, *shape) uint8 in six classes, two of a group beside each other: 72 to train, 48 otherwise.

    With `targets` it has one of each kind: `class`, `masks` (n, 2, ...), `ratings` (n, 3, 2) with gaps and
    `attributes` (n, 4); in the training set two images are unknown. Without, they are hidden, as fewcore hides them.
    """
    rng = numpy_generator(child_seed(SEED, "images", split))
    per_class = PER_CLASS[split]
    n = N_CLASSES * per_class
    classes = np.repeat(np.arange(N_CLASSES), per_class)
    pattern = numpy_generator(child_seed(SEED, "patterns")).random((N_CLASSES, *shape))
    pixels = 0.7 * pattern[classes] + 0.3 * rng.random((n, *shape))
    # Whole pairs are shuffled, so that groups stay side by side and classes do not.
    order = (2 * rng.permutation(n // 2)[:, None] + np.arange(2)).reshape(-1)
    spec = ImageSpec(shape[1:], shape[0], (0, 255))
    ids = FIRST_ID[split] + np.arange(n)
    images = (255 * pixels[order]).astype(np.uint8)
    shown = _targets(classes[order], shape, rng, split) if targets else {}
    return ImageSet(images, ids, ids // 2, spec, shown, {}, "class", {}, f"toy {split}")


def _targets(classes: Array, shape: tuple[int, ...], rng: np.random.Generator, split: str) -> dict[str, Target]:
    n = len(classes)
    masks = np.zeros((n, 2, *shape[1:]), np.float32)
    masks[..., : shape[-1] // 2] = 1
    masks[:, 1] = 1 - masks[:, 1]
    ratings = rng.integers(1, 6, (n, 3, 2)).astype(np.float32)
    ratings[::4, 2] = np.nan
    attributes = np.stack([classes >> bit & 1 for bit in range(3)] + [rng.integers(0, 2, n)], 1)
    classes = classes.copy()
    if split == "train":
        rows = list(UNKNOWN)
        masks[rows], ratings[rows], attributes[rows], classes[rows] = np.nan, np.nan, -1, -1
    return {
        "class": Target("class", classes, tuple("abcdef")),
        "masks": Target("masks", masks, ("left", "right")),
        "ratings": Target("ratings", ratings, ("size", "edge"), (1.0, 5.0)),
        "attributes": Target("attributes", attributes, ("low", "middle", "high", "none")),
    }


def hide(images: ImageSet) -> ImageSet:
    """Return the set without its targets, as fewcore gives it to a component that does not say `needs_labels`."""
    return replace(images, targets={}, splits={})


def take(images: ImageSet, rows: Array) -> ImageSet:
    """Return some rows of a set, in the order of `rows`."""
    targets = {name: replace(target, values=target.values[rows]) for name, target in images.targets.items()}
    cut = (images.images[rows], images.ids[rows], images.groups[rows])
    return ImageSet(*cut, images.spec, targets, {}, images.target, {}, images.source)


def _linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    # A new layer draws its first weights from global random state, which is put back here.
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(n_inputs, n_outputs)


class ToyEncoder:
    """A linear map of the pixels to 8 numbers. It has clusters of its own, and is a network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.dim = DIM

    @classmethod
    def of_shape(cls, shape: tuple[int, ...] = SHAPE) -> ToyEncoder:
        """Return the encoder for images of a shape."""
        linear = _linear(math.prod(shape), DIM)
        nn.init.normal_(linear.weight, std=0.1, generator=torch_generator(SEED))
        nn.init.zeros_(linear.bias)
        return cls(nn.Sequential(nn.Flatten(), linear).eval())

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return vectors (n, 8) float32."""
        pixels = torch.from_numpy(images.images.astype(np.float32)) / 255
        with torch.no_grad():
            # One image at a time: a matrix product may round otherwise for another number of rows.
            vectors = [self.network.to("cpu")(image[None]) for image in pixels]
        return np.asarray(torch.cat(vectors).numpy())

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels in [0, 1] to vectors."""
        return self.network

    def assign(self, vectors: Array) -> Array:
        """Return the cluster of each vector, (n,): its largest coordinate."""
        return np.asarray(vectors[:, :N_CLASSES].argmax(1))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights."""
        return {name: values.numpy().copy() for name, values in self.network.state_dict().items()}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ToyEncoder:
        """Build the encoder from `to_arrays`' result."""
        n_inputs = arrays["1.weight"].shape[1]
        network = nn.Sequential(nn.Flatten(), _linear(n_inputs, DIM)).eval()
        network.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
        return cls(network)


def toy_embeddings(images: ImageSet) -> Embeddings:
    """Return the vectors (n, 8) float32 of images and the encoder that made them."""
    encoder = ToyEncoder.of_shape(images.shape)
    return Embeddings(encoder.embed(images, Run()), images.ids, encoder)


def toy_partitions(split: str = "train") -> Partitions:
    """Return two partitions of the toy images of a split into six equal parts each; a few images are in no part."""
    n = N_CLASSES * PER_CLASS[split]
    rng = numpy_generator(child_seed(SEED, "partitions", split))
    parts = np.stack([rng.permutation(np.arange(n) % N_CLASSES) for _ in range(2)])
    parts[0, rng.integers(n)] = parts[1, rng.integers(n)] = -1
    return Partitions(parts, FIRST_ID[split] + np.arange(n), np.array([0.25, 0.75]))


@dataclass(frozen=True)
class ToyStream:
    """Tasks from partitions: 3-way 2-shot with three queries a class. In every other task one query is padding."""

    partitions: Partitions
    n_tasks: int = 4
    n_way: tuple[int, ...] = (3,)
    n_shot: tuple[int, ...] = (2,)
    n_query: int = 3

    def at(self, numbers: range) -> TaskBatch:
        """Return the tasks of these numbers."""
        way, shot = self.n_way[0], self.n_shot[0]
        rows = np.empty((len(numbers), way, shot + self.n_query), np.int64)
        for place, number in enumerate(numbers):
            rng = numpy_generator(child_seed(SEED, "task", number))
            parts = self.partitions.parts[rng.choice(len(self.partitions), p=self.partitions.weights)]
            for label, part in enumerate(rng.permutation(np.unique(parts[parts >= 0]))[:way]):
                rows[place, label] = rng.permutation(np.flatnonzero(parts == part))[: shot + self.n_query]
        t = len(numbers)
        query = rows[:, :, shot:].reshape(t, -1)
        query_labels = np.tile(np.repeat(np.arange(way), self.n_query), (t, 1))
        odd = np.array(numbers, dtype=np.int64) % 2 == 1
        query[odd, -1] = query_labels[odd, -1] = -1
        support_labels = np.tile(np.repeat(np.arange(way), shot), (t, 1))
        support = rows[:, :, :shot].reshape(t, -1)
        return TaskBatch(support, support_labels, query, query_labels, np.array(numbers), way, shot)

    def start(self) -> ToyCursor:
        """Return a cursor at task 0."""
        return ToyCursor(self)

    def batches(self) -> Iterator[TaskBatch]:
        """Yield the finite tasks as one batch."""
        yield self.at(range(self.n_tasks))


class ToyCursor:
    """A place in a `ToyStream`."""

    def __init__(self, stream: ToyStream) -> None:
        self._stream = stream
        self._place = 0

    def draw(self, t: int) -> TaskBatch:
        """Return the next t tasks."""
        self._place += t
        return self._stream.at(range(self._place - t, self._place))

    def observe(self, batch: TaskBatch, scores: Array) -> None:
        """Do nothing."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the number of the next task."""
        return {"place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place."""
        self._place = int(state["place"])


def toy_tasks(split: str = "train") -> ToyStream:
    """Return a stream of tasks on the toy images of a split."""
    return ToyStream(toy_partitions(split))


def hide_queries(batch: TaskBatch) -> TaskBatch:
    """Return tasks without their query labels, as a model gets them."""
    return replace(batch, query_labels=np.full_like(batch.query_labels, -1))


@dataclass(frozen=True)
class ToyBackbone:
    """Two linear layers with `width` hidden units: the smallest network with features and a head."""

    width: int = 12

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        """Return the network: features (n, width), or (n, n_outputs) where there are outputs."""
        network = nn.Sequential()
        network.add_module("flatten", nn.Flatten())
        network.add_module("features", _linear(math.prod(shape), self.width))
        network.add_module("relu", nn.ReLU())
        if n_outputs:
            network.add_module("head", _linear(self.width, n_outputs))
        for name, parameter in network.named_parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator) if "weight" in name else nn.init.zeros_(parameter)
        return network


def toy_outcomes() -> tuple[Outcome, ...]:
    """Return the outcomes of two models with everything that models make, and of two few-shot models, on test rows."""
    images = toy_images("test", (1, 8, 8), targets=True)
    batch = toy_tasks("test").at(range(20))
    made = []
    for number, stage in enumerate(("first", "second")):
        rng = numpy_generator(child_seed(SEED, "outcome", number))
        truth = images.targets
        scores = rng.random((len(images), N_CLASSES)) + 0.5 * np.eye(N_CLASSES)[truth["class"].values]
        masks = 0.6 * truth["masks"].values + 0.4 * rng.random(truth["masks"].values.shape)
        values = np.nanmean(truth["ratings"].values, 1) + rng.normal(size=(len(images), 2))
        said = Predictions(images.ids, scores.astype(np.float32), masks.astype(np.float32), values, ("size", "edge"))
        made.append(Outcome(stage, f"toy-{stage}", said, "test", images.ids, images.groups, truth, "class"))
        one_hot = np.where(batch.query_known[..., None], np.eye(batch.n_way)[batch.query_labels], 0)
        few = (rng.random(one_hot.shape) + 0.5 * one_hot).astype(np.float32)
        tasks = np.arange(len(batch))
        conditions = {"way": batch.n_way, "shot": batch.n_shot}
        outcome = Outcome(f"few-{stage}", f"few-{stage}", Predictions(tasks, few), "test", tasks, tasks)
        made.append(replace(outcome, query_labels=batch.query_labels, conditions=conditions))
    return tuple(made)
