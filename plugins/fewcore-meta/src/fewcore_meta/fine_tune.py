"""Fine-tune a network on labelled images: from scratch, or from one that an embedder, meta-learner or learner trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from fewcore import (
    Array,
    Arrays,
    Backbone,
    DataError,
    Encoder,
    FewShotModel,
    Gather,
    ImageSet,
    ImageSpec,
    Meta,
    Predictions,
    Predictor,
    Run,
    load_module,
    module_arrays,
    option,
    torch_generator,
)
from fewcore_meta.exported import Scores
from fewcore_meta.supervised import Training, known_rows, probabilities

Start = Backbone | Encoder | FewShotModel | Predictor


def linear_layer(n_features: int, n_outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with PyTorch's usual first weights, drawn from a generator."""
    layer: nn.Linear = skip_init(nn.Linear, n_features, n_outputs)  # type: ignore[no-untyped-call]
    bound = 1 / math.sqrt(n_features)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


class WithHead(nn.Module):
    """A network and a linear layer on its outputs."""

    def __init__(self, network: nn.Module, n_features: int, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.network = network
        self.head = linear_layer(n_features, n_classes, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (n, k) for images (n, c, ...)."""
        return torch.as_tensor(self.head(self.network(x).flatten(1)))


def classifier(start: Any, shape: tuple[int, ...], n_classes: int, generator: torch.Generator) -> nn.Module:
    """Return a network with `n_classes` outputs for images of `shape`, with the weights of the start.

    A backbone is built. A trained network is copied. Its linear `head` is kept where it has as many outputs as there are
    classes, and replaced otherwise; a network without one, such as an encoder's, gets one behind its outputs.
    """
    if isinstance(start, Backbone):
        return start.build(shape, n_classes, generator)
    network = copy.deepcopy(getattr(start, "network", None))
    if not isinstance(network, nn.Module):
        raise DataError(
            f"fine-tune: found a start ({type(start).__name__}) without a network; expected a backbone, or an embedder, "
            "meta-learner or learner that trains one (acai, deepcluster, maml, protonets, fine-tune)"
        )
    network.requires_grad_(True).cpu().eval()
    head = getattr(network, "head", None)
    if isinstance(head, nn.Linear):
        if head.out_features != n_classes:
            network.head = linear_layer(head.in_features, n_classes, generator)
        return network
    with torch.no_grad():
        n_outputs = network(torch.zeros(1, *shape)).flatten(1).shape[1]
    return network if n_outputs == n_classes else WithHead(network, n_outputs, n_classes, generator)


class FineTunedPredictor:
    """A fine-tuned network. `facts` says which epoch and start were best on validation, and how good they were."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...], facts: Meta) -> None:
        self.network = network
        self.shape, self.facts = shape, facts

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return the probabilities of the classes as scores (n, k)."""
        if images.shape != self.shape:
            raise DataError(f"fine-tune: found images {images.shape}; expected {self.shape}, as in training")
        network = self.network.to(run.device)
        return Predictions(images.ids, probabilities(network, Gather(images, run.device), len(images)))

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to probabilities."""
        return Scores(self.network, lambda logits: logits.softmax(1))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights, the images' shape and the facts."""
        return module_arrays(self.network), {"shape": list(self.shape), "facts": self.facts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> FineTunedPredictor:
        """Build the predictor on the network of the start."""
        shape = tuple(meta["shape"])
        network = classifier(inputs["start"], shape, meta["facts"]["n_classes"], torch_generator(0))
        return cls(load_module(network, arrays).eval(), shape, meta["facts"])


@dataclass(frozen=True)
class FineTune:
    """A network trained on all labelled images from the weights of its start; the best epoch on validation is kept.

    The start is a backbone (from scratch), or whatever trained a network: an embedder, a meta-learner, a learner. A
    meta-learner may have kept snapshots of itself: each is fine-tuned, and the best on validation is kept. A network with
    as many outputs as there are classes keeps its head, another gets a new one. Where batch norm has no running statistics
    yet, as after `maml` (but for `norm: running`) and from scratch, they begin at those of the training images.

    The loss is the cross-entropy, in which all classes weigh the same however many images they have (`weighted`). After
    each epoch the validation images are classified by batch norm's running statistics; what counts is the area under the
    ROC curve of two classes, or the mean recall of more. The first of equally good epochs is kept.

    Source: G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task Design to Meta-Train Medical
    Image Classifiers, ISBI 2020, arXiv:1907.07816.

    Differs from the paper: it names no optimiser, rate, batch or number of epochs; ours are stated here.

    Raises:
        DataError: the start has no network; a class has no labelled training image or no validation image.
        NumericalError: the loss is no longer finite.

    """

    epochs: int = option(50, "passes over the labelled images", paper="not told", low=1)
    batch_size: int = option(16, "images of a step, about", unit="images", paper="not told", low=1)
    learning_rate: float = option(1e-4, "Adam's learning rate", paper="not told", low=0)
    weighted: bool = option(True, "let all classes weigh the same in the loss")

    def learn(self, start: Start, images: ImageSet, validation: ImageSet, run: Run) -> FineTunedPredictor:
        """Return the predictor that is best on the validation images."""
        rows = known_rows(images, "training", "fine-tune")
        validated = known_rows(validation, "validation", "fine-tune")
        training = Training(self.epochs, self.batch_size, self.learning_rate, self.weighted)
        found: list[tuple[nn.Module, Meta]] = []
        starts = [*getattr(start, "snapshots", ()), start]
        for number, one in enumerate(starts):
            network = classifier(one, images.shape, len(images.class_names), run.generator).to(run.device)
            name = "train" if len(starts) == 1 else f"start {number + 1} of {len(starts)}"
            best = training.best(network, images, rows, (validation, validated), name, run)
            load_module(network, best["arrays"])
            facts = {
                "score": best["score"],
                "epoch": best["epoch"],
                "start": number,
                "n_classes": len(images.class_names),
            }
            found.append((network.cpu().eval(), facts))
        network, facts = max(found, key=lambda one: float(one[1]["score"]))
        return FineTunedPredictor(network, images.shape, facts)
