"""Prototypical networks: each query goes to the class whose mean support feature is nearest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

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
    ImageSpec,
    Meta,
    PipelineError,
    Predictions,
    Ranks,
    Run,
    TaskBatch,
    TaskStream,
    option,
)
from fewcore_meta.batch_norm import RunningAverages, embeds_alone, keep_statistics, norm_layers, statistics_of_first
from fewcore_meta.exported import Scores, refuse_transductive, tensor
from fewcore_meta.layout import placed, unplaced
from fewcore_meta.prototypes import (
    BLOCK,
    Features,
    FeaturesOf,
    Watch,
    class_means,
    nearness,
    network_arrays,
    network_from,
    task_scores,
    validation_accuracies,
)
from fewcore_meta.task_vectors import labelled_support


def _scores(n_way: int, support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor, _: object) -> torch.Tensor:
    """Return minus the squared distances (t, q, k) of query features (t, q, e) to the means of the support features."""
    return nearness(query, class_means(support, labels, n_way))


@torch.no_grad()
def _task_scores(
    network: nn.Module, norm: str, support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor, n_way: int
) -> torch.Tensor:
    """Return the scores (q, k) of one task's queries (q, c, h, w), embedded in one batch with its support set."""
    n_support = len(support)
    batch = torch.cat([support, query])
    with statistics_of_first(network, n_support if norm == "support" else len(batch)):
        features = network(batch)
    prototypes = class_means(features[None, :n_support], labels[None], n_way)
    return nearness(features[None, n_support:], prototypes)[0]


class ProtoNetsPredictor:
    """A network and a labelled support set, (s, c, h, w) float32, whose class means are the prototypes."""

    def __init__(self, network: nn.Module, norm: str, support: Array, labels: Array, n_way: int) -> None:
        self.network = network
        self._norm = norm
        self._support = support
        self._labels = labels
        self._n_way = n_way

    @torch.no_grad()
    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return minus the squared distances to the prototypes, (n, k).

        With transductive statistics all images are one batch with the support set, and each score depends on all.
        """
        network = self.network.to(run.device)
        gather = Gather(images, run.device)
        support = torch.from_numpy(np.array(self._support)).to(run.device)
        labels = torch.from_numpy(np.array(self._labels)).long().to(run.device)
        size = max(1, len(images)) if self._norm == "transductive" else BLOCK
        made = []
        for start in range(0, len(images), size):
            query = gather(np.arange(start, min(len(images), start + size)))
            if self._norm in ("support", "transductive"):
                made.append(_task_scores(network, self._norm, support, labels, query, self._n_way))
            else:
                network.eval()
                prototypes = class_means(network(support)[None], labels[None], self._n_way)
                made.append(nearness(network(query)[None], prototypes)[0])
        scores = torch.cat(made) if made else support.new_zeros(0, self._n_way)
        return Predictions(images.ids, scores=scores.cpu().numpy())

    @torch.no_grad()
    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to scores: the prototypes, and with norm `support` its statistics, are fixed.

        Raises:
            DataError: with `transductive` norm, scores depend on what else is asked.

        """
        refuse_transductive(self._norm, True, "protonets")
        network = copy.deepcopy(self.network).cpu().eval()
        support, labels = tensor(self._support), tensor(self._labels).long()
        if self._norm == "support":
            keep_statistics(network, support)
        prototypes = class_means(network(support)[None], labels[None], self._n_way)
        return Scores(network, lambda features: nearness(features[None], prototypes)[0])

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the network and the support set."""
        return network_arrays(self.network) | {"support": self._support, "labels": self._labels}, {
            "norm": self._norm,
            "n_way": self._n_way,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ProtoNetsPredictor:
        """Build the predictor from `to_arrays`' result."""
        network = network_from(arrays, inputs["backbone"], tuple(arrays["support"].shape[1:]))
        return cls(network, meta["norm"], arrays["support"], arrays["labels"], meta["n_way"])


class ProtoNetsModel:
    """A trained network. `norm` says where its batch norm takes its statistics; `none` where it has no batch norm."""

    def __init__(self, network: nn.Module, norm: str, shape: tuple[int, ...]) -> None:
        self.network = network
        self.norm = norm
        self._shape = shape
        self._features = FeaturesOf()

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return minus the squared distances to the prototypes, (t, q, k) float32; 0 for padding.

        With running statistics, each image is embedded once for all tasks of all batches of the same images.
        """
        by_task = self.norm in ("support", "transductive")
        return self._classify(batch, images, run, partial(run.track, name="tasks" if by_task else "images"))

    @torch.no_grad()
    def _classify(self, batch: TaskBatch, images: ImageSet, run: Run, watch: Watch = iter) -> Array:
        """Return what `classify` does, and let `watch` show it."""
        network = self.network.to(run.device)
        if self.norm in ("support", "transductive"):
            scores = self._task_by_task(network, batch, images, run, watch)
        else:
            features = self._features.setdefault(images, Features())
            score = partial(_scores, batch.n_way)
            scores = task_scores(features, network.eval(), batch, images, run.device, score, watch)
        known = torch.from_numpy(batch.query_known).to(run.device)
        return np.asarray(scores.masked_fill(~known[..., None], 0.0).cpu().numpy())

    def _task_by_task(
        self, network: nn.Module, batch: TaskBatch, images: ImageSet, run: Run, watch: Watch
    ) -> torch.Tensor:
        gather = Gather(images, run.device)
        labels = torch.from_numpy(np.array(batch.support_labels)).long().to(run.device)
        known = batch.query_known
        scores = torch.zeros(*batch.query.shape, batch.n_way, device=run.device)
        for i in watch(list(range(len(batch)))):
            support, query = gather(batch.support[i]), gather(batch.query[i][known[i]])
            where = torch.from_numpy(known[i]).to(run.device)
            scores[i, where] = _task_scores(network, self.norm, support, labels[i], query, batch.n_way)
        return scores

    def adapt(self, support: ImageSet, run: Run) -> ProtoNetsPredictor:
        """Return a predictor for the classes of a labelled support set.

        Raises:
            DataError: there are fewer than two classes, or a class has no image.

        """
        found = labelled_support(support)
        pixels = Gather(support, run.device)(found.rows).cpu().numpy()
        return ProtoNetsPredictor(self.network, self.norm, pixels, found.labels, found.n_way)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the network."""
        return network_arrays(self.network), {"norm": self.norm, "shape": list(self._shape)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ProtoNetsModel:
        """Build the model from `to_arrays`' result."""
        shape = tuple(meta["shape"])
        return cls(network_from(arrays, inputs["backbone"], shape), meta["norm"], shape)


@dataclass(frozen=True)
class ProtoNets:
    """A network in whose feature space each class is the mean of its support images.

    A query's logits are minus its squared Euclidean distances to the class means; the loss is the mean cross-entropy
    over the queries. In training, support and query images of a task are one batch, and batch norm takes the statistics
    of that batch and keeps running ones. At test, `norm` decides: `running` uses the running statistics, so that no
    query's score depends on other queries; `support` those of the task's support set; `transductive` those of all its
    images, as in training. The last iterate is the model: validation tasks draw a curve and choose nothing. Way and shot
    of test tasks are free.

    Source: J. Snell, K. Swersky, R. Zemel: Prototypical Networks for Few-shot Learning, NIPS 2017, arXiv:1703.05175;
    with the settings of K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334, appendix E.

    Differs from the paper: no schedule of the learning rate, as in CACTUs; `support` and `transductive` are ours.

    Raises:
        PipelineError: `norm` is `running` or `support`, but the network always normalises with the whole batch.

    """

    monitors: ClassVar[tuple[str, ...]] = ("validation_tasks", "validation")
    shares_tasks: ClassVar[bool] = True

    iterations: int = option(30_000, "steps of the optimiser", paper="30,000 on Omniglot, 60,000 elsewhere", low=1)
    tasks_per_step: int = option(1, "tasks whose gradients are averaged in a step", paper="1", low=1)
    learning_rate: float = option(1e-3, "step of Adam", paper="1e-3", low=0)
    norm: Literal["running", "support", "transductive"] = option(
        "running", "where batch norm takes its statistics at test", paper="running"
    )
    validate_every: int = option(1000, "steps from one point of the validation curve to the next", low=1)

    def meta_train(
        self,
        tasks: TaskStream,
        images: ImageSet,
        backbone: Backbone,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> ProtoNetsModel:
        """Return the trained model. Tasks come from one cursor, weights from `run.generator`."""
        network = placed(backbone.build(images.shape, 0, run.generator), run.device)
        gather = Gather(images, run.device)
        norm = self._norm_of(network, gather(np.array([0, len(images) - 1])))
        adam = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        cursor = tasks.start()
        for step in run.loop(self.iterations, network=network, optimiser=adam, tasks=cursor):
            network.train()
            batch = cursor.draw(self.tasks_per_step)
            loss, accuracy = self._step(network, adam, batch, gather, run.ranks)
            cursor.observe(batch, accuracy.cpu().numpy())
            run.log(loss=loss, accuracy=accuracy.mean())
            due = (step + 1) % self.validate_every == 0
            if due and validation is not None and validation_tasks is not None:
                # A model of its own: the features that it keeps are of this step's network.
                model = ProtoNetsModel(network, norm, images.shape)
                # Without `run.track`: a stop must wait for the loop, which saves.
                classify = partial(model._classify, images=validation, run=run)
                run.log(**validation_accuracies(classify, validation_tasks))
        return ProtoNetsModel(unplaced(network.eval()), norm, images.shape)

    def _norm_of(self, network: nn.Module, pair: torch.Tensor) -> str:
        """Return `norm`, or `none` where the network has no batch norm."""
        independent = embeds_alone(network, pair)
        if self.norm != "transductive" and not independent:
            raise PipelineError(
                f"protonets.norm: found '{self.norm}' with a backbone that always normalises with the whole batch; "
                "expected one that keeps running statistics (use norm: transductive, or another backbone)"
            )
        return self.norm if norm_layers(network) or not independent else "none"

    def _step(
        self, network: nn.Module, adam: torch.optim.Adam, batch: TaskBatch, gather: Gather, ranks: Ranks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step; return the mean loss and each task's share of right queries, (t,)."""
        adam.zero_grad()
        averages = RunningAverages(norm_layers(network))
        told = torch.zeros(2, len(batch), dtype=torch.float64, device=gather.device)
        for i in range(len(batch))[ranks.share(len(batch))]:
            # Padding is left out before the network, so that it enters no batch statistic either.
            known = batch.query_known[i]
            rows = np.concatenate([batch.support[i], batch.query[i][known]])
            features = network(gather(rows))[None]
            n_support = batch.support.shape[1]
            support_labels = torch.from_numpy(np.array(batch.support_labels[i])).long().to(gather.device)
            labels = torch.from_numpy(np.array(batch.query_labels[i][known])).long().to(gather.device)
            prototypes = class_means(features[:, :n_support], support_labels[None], batch.n_way)
            scores = nearness(features[:, n_support:], prototypes)[0]
            loss = functional.cross_entropy(scores, labels)
            torch.autograd.backward(loss / len(batch))
            told[:, i] = torch.stack([loss.detach(), (scores.argmax(-1) == labels).double().mean()])
            averages.add(1 / len(batch))
        ranks.sum_gradients(network, told, *averages.moves)
        averages.finish()
        adam.step()
        return told[0].mean(), told[1]
