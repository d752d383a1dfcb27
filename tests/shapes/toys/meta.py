"""Meta-learners: a trained network and the baselines, all of them by distance to class means or neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from fewcore import (
    Array,
    Arrays,
    Backbone,
    Embeddings,
    Encoder,
    Gather,
    ImageSet,
    Meta,
    Partitions,
    Predictions,
    Run,
    TaskBatch,
    TaskStream,
    option,
)
from toys.nets import ToyNet, blind, body_of, flat, net_of


def _scores(vectors: Array, batch: TaskBatch) -> Array:
    """Return minus the squared distance of each query to each class mean, (t, q, k) float32."""
    members = np.eye(batch.n_way)[batch.support_labels]
    means = np.einsum("tsk,tse->tke", members, vectors[batch.support]) / members.sum(1)[:, :, None]
    distances = ((vectors[batch.query][:, :, None] - means[:, None]) ** 2).sum(-1)
    return np.asarray(-distances, dtype=np.float32)


def _check(batch: TaskBatch, images: ImageSet) -> None:
    """Refuse a batch that shows its query labels, or images that show their targets."""
    blind(images)
    assert (batch.query_labels == -1).all(), "query labels are shown"
    assert batch.query.max() < len(images)


class MeansPredictor:
    """Scores by distance to the class means of a support set."""

    def __init__(self, body: Array, means: Array) -> None:
        self.network = net_of(body)
        self._arrays = {"body": body, "means": means}

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k)."""
        blind(images)
        vectors = flat(images) @ self._arrays["body"]
        scores = -((vectors[:, None] - self._arrays["means"]) ** 2).sum(-1)
        return Predictions(images.ids, scores=scores.astype(np.float32))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return body and means."""
        return self._arrays, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MeansPredictor:
        """Build the predictor."""
        return cls(arrays["body"], arrays["means"])


class NetModel:
    """A network and earlier states of it."""

    def __init__(self, bodies: Array, norm: str, drawn: Array) -> None:
        self.network: ToyNet = net_of(bodies[-1])
        self.norm = norm
        self.snapshots = tuple(NetModel(body[None], norm, drawn) for body in bodies[:-1])
        self.drawn = drawn
        self._bodies = bodies

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return scores (t, q, k)."""
        _check(batch, images)
        return _scores(flat(images) @ self._bodies[-1], batch)

    def adapt(self, support: ImageSet, run: Run) -> MeansPredictor:
        """Return a predictor for the classes of a support set."""
        vectors = flat(support) @ self._bodies[-1]
        means = np.stack([vectors[support.labels == k].mean(0) for k in range(len(support.class_names))])
        return MeansPredictor(self._bodies[-1], means)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the bodies, the last one last."""
        return {"bodies": self._bodies, "drawn": self.drawn}, {"norm": self.norm}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> NetModel:
        """Build the model."""
        return cls(arrays["bodies"], meta["norm"], arrays["drawn"])


def _trained(
    tasks: TaskStream, images: ImageSet, network: torch.nn.Module, run: Run, *, steps: int, each: int, snapshot: int
) -> tuple[Array, Array]:
    """Train a network on tasks; return its bodies at the snapshots and at the end, and which tasks were drawn."""
    blind(images)
    gather = Gather(images, run.device)
    network = network.to(run.device)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    cursor = tasks.start()
    bodies: list[Any] = []
    drawn: list[Any] = []
    for step in run.loop(steps, network=network, optimiser=optimiser, tasks=cursor, bodies=bodies, drawn=drawn):
        batch = cursor.draw(each)
        assert max(batch.query.max(), batch.support.max()) < len(images)
        drawn.extend(batch.task.tolist())
        losses, right = [], []
        for x, y, z, w in _per_task(batch, gather, network):
            means = torch.stack([x[y == k].mean(0) for k in range(batch.n_way)])
            logits = -(torch.cdist(z, means) ** 2)
            losses.append(torch.nn.functional.cross_entropy(logits, w))
            right.append(float((logits.argmax(1) == w).float().mean()))
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cursor.observe(batch, np.array(right))
        run.log(loss=loss, accuracy=float(np.mean(right)))
        if snapshot and (step + 1) % snapshot == 0 and step + 1 < steps:
            bodies.append(body_of(network))
    return np.stack([*bodies, body_of(network)]), np.array(drawn)


def _per_task(
    batch: TaskBatch, gather: Gather, network: torch.nn.Module
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    for number in range(len(batch)):
        known = batch.query_known[number]
        yield (
            network(gather(batch.support[number])),
            torch.from_numpy(np.array(batch.support_labels[number])),
            network(gather(batch.query[number][known])),
            torch.from_numpy(np.array(batch.query_labels[number][known])),
        )


@dataclass(frozen=True)
class Maml:
    """Trains a network on tasks."""

    steps: int = option(6, "steps", low=1)
    inner_steps: int = option(5, "inner steps", low=1)
    tasks_per_step: int = option(4, "tasks of a step", low=1)
    first_order: bool = option(False, "leave second derivatives out")
    snapshot_every: int = option(0, "steps between snapshots; 0 for none", low=0)
    norm: Literal["transductive", "support", "running"] = option("transductive", "how batch norm takes its statistics")

    limits_way: ClassVar[bool] = True
    monitors: ClassVar[tuple[str, ...]] = ("validation_tasks",)

    def meta_train(
        self,
        tasks: TaskStream,
        images: ImageSet,
        validation: ImageSet | None,
        backbone: Backbone,
        run: Run,
        validation_tasks: TaskStream | None = None,
    ) -> NetModel:
        """Return the model."""
        if validation is not None:
            blind(validation)
            for batch in validation_tasks.batches() if validation_tasks else ():
                assert batch.query.max() < len(validation)
        network = backbone.build(images.shape, 0, run.generator)
        plan = {"steps": self.steps, "each": self.tasks_per_step, "snapshot": self.snapshot_every}
        return NetModel(*_by_norm(_trained(tasks, images, network, run, **plan), self.norm))


def _by_norm(trained: tuple[Array, Array], norm: str) -> tuple[Array, str, Array]:
    return trained[0], norm, trained[1]


@dataclass(frozen=True)
class ProtoNets:
    """The same with fewer options."""

    steps: int = option(6, "steps", low=1)
    norm: Literal["transductive", "support", "running"] = option("running", "how batch norm takes its statistics")

    def meta_train(self, tasks: TaskStream, images: ImageSet, backbone: Backbone, run: Run) -> NetModel:
        """Return the model."""
        network = backbone.build(images.shape, 0, run.generator)
        return NetModel(
            *_by_norm(_trained(tasks, images, network, run, steps=self.steps, each=2, snapshot=0), self.norm)
        )


@dataclass(frozen=True)
class Scratch:
    """A network that nothing has trained."""

    steps: int = option(5, "steps on the support of a task", low=1)

    def meta_train(
        self,
        images: ImageSet,
        validation: ImageSet | None,
        backbone: Backbone,
        run: Run,
        validation_tasks: TaskStream | None = None,
    ) -> NetModel:
        """Return the model."""
        blind(images)
        body = body_of(backbone.build(images.shape, 0, run.generator))
        return NetModel(body[None], "none", np.zeros(0, np.int64))


class EncoderModel:
    """Class means, or the nearest of k supports, in an encoder's space."""

    norm = "none"

    def __init__(self, encoder: Encoder, k: int) -> None:
        self.k = k
        self._encoder = encoder

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return scores (t, q, k)."""
        _check(batch, images)
        return _scores(self._encoder.embed(images, run), batch)

    def adapt(self, support: ImageSet, run: Run) -> MeansPredictor:
        """Refuse: no shape asks for it."""
        raise NotImplementedError

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return k; the encoder stays where it is."""
        return {}, {"k": self.k}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> EncoderModel:
        """Build the model on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, meta["k"])


@dataclass(frozen=True)
class Knn:
    """Neighbours of embeddings; their number is chosen on validation tasks."""

    deterministic: ClassVar[bool] = True

    def meta_train(
        self,
        embeddings: Embeddings,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> EncoderModel:
        """Return the model."""
        right = {1: 0.0}
        if validation_tasks is not None:
            assert validation is not None
            blind(validation)
            vectors = embeddings.encoder.embed(validation, run)
            for batch in validation_tasks.batches():
                right[batch.n_shot] = float((_scores(vectors, batch).argmax(-1) == batch.query_labels).mean())
        return EncoderModel(embeddings.encoder, max(right, key=lambda k: right[k]))


@dataclass(frozen=True)
class ClusterMatching:
    """Class means in the space in which clusters were found."""

    deterministic: ClassVar[bool] = True

    def meta_train(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> EncoderModel:
        """Return the model."""
        assert np.array_equal(partitions.ids, embeddings.ids)
        return EncoderModel(embeddings.encoder, len(partitions))
