"""Multiple-instance learning: an image is as malignant as its most malignant place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fewcore import Array, DataError, ImageSet, Meta, Predictor, Run, load_module, option
from fewcore_meta.fine_tune import FineTunedPredictor
from fewcore_meta.supervised import Training, known_rows


class InstanceNetwork(nn.Module):
    """Images to logits (n, k), by the places of the last map: 0 for the first class, and for each other the most that its
    logit exceeds the first's at any place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def evidence(self, x: Tensor) -> Tensor:
        """Return how much each place of images (n, c, ...) speaks for each class but the first, (n, k - 1, m places)."""
        found: Any = self.network
        places = found.feature_map(x).flatten(2).transpose(1, 2)
        logits = found.head(places)
        made: Tensor = (logits[..., 1:] - logits[..., :1]).transpose(1, 2)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, k)."""
        return logits_of(self.evidence(x))


def logits_of(evidence: Tensor) -> Tensor:
    """Return logits (n, k) of evidence (n, k - 1, m): 0, and the largest over the places."""
    return functional.pad(evidence.amax(2), (1, 0))


def instance_loss(evidence: Tensor, wanted: Tensor, weights: Tensor | None, sparsity: float) -> Tensor:
    """Return the cross-entropy of the largest evidence, plus `sparsity` times the mean probability at all other places."""
    probability = evidence.sigmoid()
    others = probability.sum(2) - probability.amax(2)
    fewer = others.mean() / max(1, evidence.shape[2] - 1)
    return functional.cross_entropy(logits_of(evidence), wanted, weight=weights) + sparsity * fewer


def instances_of(start: Any) -> InstanceNetwork:
    """Return a copy of a predictor's network that looks at places.

    Raises:
        DataError: it has no network with a `feature_map` and a linear head on the map's mean.

    """
    network = getattr(start, "network", None)
    ok = isinstance(getattr(network, "head", None), nn.Linear) and hasattr(network, "feature_map")
    if not (isinstance(network, nn.Module) and ok):
        raise DataError(
            f"mil: found a start ({type(network if network is not None else start).__name__}) without places; expected a "
            "predictor that fine-tune trained from a backbone with feature_map(x), such as densenet"
        )
    return InstanceNetwork(copy.deepcopy(network).requires_grad_(True).cpu())


class MilPredictor(FineTunedPredictor):
    """A network that judges the places of an image."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MilPredictor:
        """Build the predictor on the network of the start."""
        network = load_module(instances_of(inputs["start"]), arrays)
        return cls(network.eval(), tuple(meta["shape"]), meta["facts"])


@dataclass(frozen=True)
class Mil:
    """A trained network that goes on learning with the places of its last map as instances of a bag.

    The network's linear head, which was trained on the mean over the map, is put on each place. The first class is what is
    everywhere (no finding); an image has another class as far as its most suspicious place has it (max pooling). The
    loss is the cross-entropy of that place, all classes weighing the same, plus `sparsity` times the mean probability of
    the other classes at all other places, since a finding is small. The best epoch on validation is kept, as in
    `fine-tune`.

    Source: W. Zhu, Q. Lou, Y. S. Vang, X. Xie: Deep Multi-instance Networks with Sparse Label Assignment for Whole
    Mammogram Classification, MICCAI 2017, arXiv:1705.08550 (sparse); as a baseline that starts from a network trained from
    scratch: G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task Design to Meta-Train
    Medical Image Classifiers, ISBI 2020, arXiv:1907.07816.

    Differs from the paper: it says no more than that the network is fine-tuned with multiple-instance learning; places
    other than the largest are penalised by their mean, not their sum, so that `sparsity` does not depend on the map.

    Raises:
        DataError: the start has no `feature_map`; a class has no labelled training image or no validation image.
        NumericalError: the loss is no longer finite.

    """

    epochs: int = option(50, "passes over the labelled images", paper="not told", low=1)
    batch_size: int = option(16, "images of a step, about", unit="images", paper="not told", low=1)
    learning_rate: float = option(1e-4, "Adam's learning rate", paper="not told", low=0)
    sparsity: float = option(1e-3, "weight of the mean probability at all other places", paper="not told", low=0)

    def learn(self, start: Predictor, images: ImageSet, validation: ImageSet, run: Run) -> MilPredictor:
        """Return the predictor that is best on the validation images."""
        rows = known_rows(images, "training", "mil")
        validated = known_rows(validation, "validation", "mil")
        network = instances_of(start).to(run.device)
        training = Training(self.epochs, self.batch_size, self.learning_rate, loss=self._loss)
        best = training.best(network, images, rows, (validation, validated), "train", run)
        load_module(network, best["arrays"])
        facts = {"n_classes": len(images.class_names), "score": best["score"], "epoch": best["epoch"]}
        return MilPredictor(network.cpu().eval(), images.shape, facts)

    def _loss(self, network: Any, x: Tensor, wanted: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        evidence = network.evidence(x)
        return instance_loss(evidence, wanted, weights, self.sparsity), logits_of(evidence)
