"""What `protoclr` makes: a network whose features, averaged over fixed views, are classified by prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewcore import Array, Arrays, Gather, ImageSet, ImageSpec, Meta, Predictions, Run, TaskBatch, torch_generator
from fewcore_meta.augmentation import Distortion, Draws, distorted
from fewcore_meta.exported import Scores, refuse_transductive, tensor
from fewcore_meta.prototype_classifier import PrototypeClassifier
from fewcore_meta.prototypes import BLOCK, Features, FeaturesOf, Watch, network_arrays, network_from, task_scores
from fewcore_meta.task_vectors import labelled_support


class ProtoClrModel:
    """A network, the views that are averaged into a feature, and how features are classified.

    `norm` is `running` or `none` (each query alone), or `transductive` where the queries of a task are classified together.
    The views are the same for all images: a feature depends on its image and nothing else.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        value_range: tuple[float, float],
        norm: str,
        seed: int,
        n_views: int,
        distortion: Distortion,
        classifier: PrototypeClassifier,
    ) -> None:
        self.network, self.norm, self.value_range = network, norm, value_range
        self._shape, self._seed, self._n_views = tuple(shape), seed, n_views
        self._distortion, self._classifier = distortion, classifier
        self._features = FeaturesOf()

    def anew(self) -> ProtoClrModel:
        """Return the model with the network as it is now, that remembers no feature."""
        return ProtoClrModel(
            self.network,
            self._shape,
            self.value_range,
            self.norm,
            self._seed,
            self._n_views,
            self._distortion,
            self._classifier,
        )

    def _draws(self) -> Draws | None:
        """Return the draws of all views but the first, which is the image itself; None where that is the only one."""
        if self._n_views == 1:
            return None
        size = (self._shape[-2], self._shape[-1])
        return self._distortion.draw(self._n_views - 1, size, torch_generator(self._seed))

    @torch.no_grad()
    def _embed(self, images: Tensor, draws: Draws | None) -> Tensor:
        """Return the features (n, e) of images (n, c, h, w), averaged over views."""
        features: Tensor = self.network(images)
        for index in range(self._n_views - 1):
            assert draws is not None
            view = distorted(images, draws.repeated(index, images.shape[0]), self.value_range)
            features = features + self.network(view)
        return features / self._n_views

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return the logits (t, q, k) float32, or where queries stand together log-shares; 0 for padding."""
        return self.scores(batch, images, run, partial(run.track, name="images"))

    def scores(self, batch: TaskBatch, images: ImageSet, run: Run, watch: Watch = iter) -> Array:
        """Return what `classify` does, and let `watch` show it."""
        self.network.to(run.device).eval()
        draws = self._draws()
        known = torch.from_numpy(batch.query_known).to(run.device)

        def score(support: Tensor, labels: Tensor, query: Tensor, marked: Tensor) -> Tensor:
            return self._classifier.scores(support, labels, query, marked, batch.n_way)

        features = self._features.setdefault(images, Features())
        scores = task_scores(features, lambda x: self._embed(x, draws), batch, images, run.device, score, watch)
        return np.asarray(scores.float().masked_fill(~known[..., None], 0.0).cpu().numpy())

    def adapt(self, support: ImageSet, run: Run) -> ProtoClrPredictor:
        """Return a predictor for the classes of a labelled support set.

        Raises:
            DataError: there are fewer than two classes, or a class has no image.

        """
        found = labelled_support(support)
        pixels = Gather(support, run.device)(found.rows).cpu().numpy()
        return ProtoClrPredictor(self.anew(), pixels, found.labels, found.n_way)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the network, the seed of the views and what is done at test."""
        return network_arrays(self.network), {
            "shape": list(self._shape),
            "value_range": list(self.value_range),
            "norm": self.norm,
            "seed": self._seed,
            "n_views": self._n_views,
            "distortion": asdict(self._distortion),
            "classifier": asdict(self._classifier),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ProtoClrModel:
        """Build the model from `to_arrays`' result; `inputs` holds the backbone."""
        shape, (low, high) = tuple(meta["shape"]), meta["value_range"]
        network = network_from(arrays, inputs["backbone"], shape)
        distortion, classifier = Distortion(**meta["distortion"]), PrototypeClassifier(**meta["classifier"])
        return cls(network, shape, (low, high), meta["norm"], meta["seed"], meta["n_views"], distortion, classifier)


class Views(nn.Module):
    """From images to the features of a model on the CPU, averaged over its views."""

    def __init__(self, model: ProtoClrModel) -> None:
        super().__init__()
        self.network = model.network.cpu().eval()
        self._embed, self._draws = model._embed, model._draws()

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, e)."""
        return self._embed(images, self._draws)


class ProtoClrPredictor:
    """A model and a labelled support set, (s, c, h, w) float32 and (s,)."""

    def __init__(self, model: ProtoClrModel, support: Array, labels: Array, n_way: int) -> None:
        self._model, self._support, self._labels, self._n_way = model, support, labels, n_way

    @torch.no_grad()
    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return the scores of the classes, (n, k). With norm `transductive` all images are the queries of one task."""
        model = self._model
        model.network.to(run.device).eval()
        draws, gather = model._draws(), Gather(images, run.device)
        labels = torch.from_numpy(np.array(self._labels)).long().to(run.device)[None]
        pixels = torch.from_numpy(np.array(self._support)).to(run.device)
        support = torch.cat([model._embed(part, draws) for part in torch.split(pixels, BLOCK)])[None]
        rows = [np.arange(start, min(len(images), start + BLOCK)) for start in range(0, len(images), BLOCK)]
        if not rows:
            return Predictions(images.ids, scores=np.zeros((0, self._n_way), np.float32))
        query = torch.cat([model._embed(gather(part), draws) for part in rows])[None]
        known = torch.ones(query.shape[:2], dtype=torch.bool, device=run.device)
        scores = model._classifier.scores(support, labels, query, known, self._n_way)[0]
        return Predictions(images.ids, scores=scores.float().cpu().numpy())

    @torch.no_grad()
    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to scores: views and class means are fixed.

        Raises:
            DataError: with norm `transductive`, scores depend on what else is asked.

        """
        model = self._model
        refuse_transductive(model.norm, True, "protoclr")
        views = Views(model)
        support, labels = views(tensor(self._support))[None], tensor(self._labels).long()[None]
        classify = model._classifier.tuned(support, labels, self._n_way)
        return Scores(views, lambda features: classify(features[None])[0])

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the model and the support set."""
        arrays, meta = self._model.to_arrays()
        return arrays | {"support": self._support, "labels": self._labels}, {"model": meta, "n_way": self._n_way}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ProtoClrPredictor:
        """Build the predictor from `to_arrays`' result."""
        model = ProtoClrModel.from_arrays(arrays, meta["model"], inputs)
        return cls(model, arrays["support"], arrays["labels"], meta["n_way"])
