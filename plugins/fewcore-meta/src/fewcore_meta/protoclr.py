"""ProtoCLR: prototypical networks without labels, each image of a step a class of its own and its distorted copies queries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewcore import (
    Array,
    Backbone,
    DataError,
    FewShotModel,
    Gather,
    ImageSet,
    PipelineError,
    Run,
    TaskStream,
    load_module,
    module_arrays,
    option,
)
from fewcore_meta.augmentation import Distortion, distorted
from fewcore_meta.batch_norm import embeds_alone, norm_layers
from fewcore_meta.layout import placed, unplaced
from fewcore_meta.neighbours import mutual_neighbours
from fewcore_meta.protoclr_model import ProtoClrModel
from fewcore_meta.prototype_classifier import PrototypeClassifier
from fewcore_meta.prototypes import BLOCK, validation_accuracies


@dataclass(frozen=True)
class ProtoClr:
    """A network in whose feature space distorted copies of an image are nearer to it than to the other images of a step.

    Every step takes `n_images` images; each is a class with itself as the only support image, and `n_views` distorted
    copies are its queries. Logits are minus squared Euclidean distances to the supports (or cosines), over the
    temperature; the loss is the mean cross-entropy over queries, minimised by Adam. All images of a step are one batch
    for batch norm; at test its running statistics serve, so that each image is embedded alone. With `turn`, each class
    of a step is an image turned by 0, 90, 180 or 270 degrees. With `neighbours`, from `neighbours_after` of the steps
    on, a query may be a copy of a mutual nearest neighbour of the image instead of the image itself; neighbours are
    found among all training images anew every `refresh` steps, and no label is read. With `start`, training begins with
    the network of another few-shot model of the same backbone; with `iterations: 0` beside it, only what is done at test
    differs.

    At test a query goes to the nearest class mean. `test_views` fixed distortions of each image, the first of them none,
    are averaged into its feature. `tune_steps` trains the linear layer that the class means are on the support set
    (ProtoTune). `queries` says what a score may know: the query `alone`; the other queries of its task (`together`); or
    also that each class has as many queries (`balanced`). The last two are printed as norm `transductive`.

    Source: C. Medina, A. Devos, M. Grossglauser, Self-Supervised Prototypical Transfer Learning for Few-Shot
    Classification, 2020, arXiv:2006.11325. Neighbours: D. Dwibedi, Y. Aytar, J. Tompson, P. Sermanet, A. Zisserman, With a
    Little Help from My Friends, ICCV 2021, arXiv:2104.14548. Queries together: see `prototype_classifier`.
    Differs from the paper: the distortions (see `augmentation`); `turn`, `neighbours`, `test_views` and `queries` are
    additions; neighbours are mutual and found among all images, not in a queue; ProtoTune takes full batches.

    Raises:
        ValueError: both `tune_steps` and another `queries` than `alone` are asked for.

    """

    monitors: ClassVar[tuple[str, ...]] = ("validation_tasks", "validation")

    iterations: int = option(20_000, "steps of the optimiser; 0 takes the network as it starts", low=0)
    n_images: int = option(50, "images of a step, each a class of its own", paper="50", low=2)
    n_views: int = option(3, "distorted copies of each image, its queries", paper="3", low=1)
    learning_rate: float = option(1e-3, "step of Adam", paper="1e-3, halved every 25,000 steps", low=0)
    schedule: Literal["constant", "cosine"] = option(
        "cosine", "the learning rate over the steps: as it is, or falling to 0 along half a cosine"
    )
    distance: Literal["euclidean", "cosine"] = option(
        "euclidean", "what is near: squared Euclidean distance, or the angle", paper="euclidean"
    )
    temperature: float = option(1.0, "logits are divided by it", paper="1", low=1e-6)
    distort_support: bool = option(False, "distort the support images of training, too", paper="false")
    turn: bool = option(False, "turn each image of a step by a multiple of 90 degrees", paper="false")
    rotate: float = option(15.0, "greatest rotation of a view", unit="degrees", low=0, high=180)
    shift: float = option(0.1, "greatest shift of a view, as a share of the side", low=0, high=1)
    zoom: float = option(1.25, "greatest factor by which height and width of a view grow or shrink", low=1)
    shear: float = option(15.0, "greatest shear of a view", unit="degrees", low=0, high=80)
    elastic: float = option(0.03, "standard deviation of the elastic displacement, as a share of the side", low=0)
    crop: float = option(1.0, "least share of the area that a view keeps; 1 crops nothing", low=0.01, high=1)
    flip: bool = option(False, "mirror half of the views left to right")
    jitter: float = option(0.0, "strength s of SimCLR's colour distortion; 0 leaves colours alone", low=0)
    grey: float = option(0.0, "share of views without colours", low=0, high=1)
    neighbours: int = option(0, "nearest neighbours whose copies may be queries, where mutual", paper="0", low=0)
    neighbours_after: float = option(0.3, "share of the steps after which neighbours take part", low=0, high=1)
    refresh: int = option(1000, "steps after which neighbours are found anew", low=1)
    test_views: int = option(1, "fixed distortions of each image whose features are averaged at test", paper="1", low=1)
    tune_steps: int = option(0, "steps on the support set at test", paper="15 epochs in batches of 5", low=0)
    tune_rate: float = option(1e-3, "step of Adam on the support set", paper="1e-3", low=0)
    queries: Literal["alone", "together", "balanced"] = option(
        "alone", "what a query's score may know of the others of its task", paper="alone"
    )
    refine_steps: int = option(10, "steps in which queries move the class means, unless they stand alone", low=1)
    validate_every: int = option(1000, "steps from one point of the validation curve to the next", low=1)

    def __post_init__(self) -> None:
        if self.tune_steps and self.queries != "alone":
            raise ValueError(
                f"tune_steps: found {self.tune_steps} with queries: {self.queries}; expected 0, or queries: alone"
            )

    def _distortion(self) -> Distortion:
        names = ("rotate", "shift", "zoom", "shear", "elastic", "crop", "flip", "jitter", "grey")
        return Distortion(**{name: getattr(self, name) for name in names})

    def _classifier(self) -> PrototypeClassifier:
        names = ("distance", "temperature", "tune_steps", "tune_rate", "queries", "refine_steps")
        return PrototypeClassifier(**{name: getattr(self, name) for name in names})

    def meta_train(
        self,
        images: ImageSet,
        backbone: Backbone,
        run: Run,
        start: FewShotModel | None = None,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> ProtoClrModel:
        """Return the trained model. The validation tasks draw a curve and choose nothing.

        Raises:
            DataError: images are no (c, h, w), there are fewer than two of them, `grey` is asked of images without
                three channels, or the network of `start` is not the backbone's.
            PipelineError: the network normalises with the whole batch at test.

        """
        self._check(images)
        network = backbone.build(images.shape, 0, run.generator)
        if start is not None:
            _begin_with(network, start)
        placed(network, run.device)
        model = self._model(network, images, run)
        adam = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        gather = Gather(images, run.device)
        # A row of an image's neighbours, -1 where there is none; all -1 until they are first found.
        near = np.full((len(images), min(self.neighbours, len(images) - 1)), -1, dtype=np.int64)
        for step in run.loop(self.iterations, network=network, optimiser=adam, neighbours=near):
            if self._finds_neighbours(step):
                near[:] = self._neighbours(network, gather, len(images))
            network.train()
            for group in adam.param_groups:
                group["lr"] = self._rate(step)
            loss, accuracy = self._step(network, adam, gather, near, model.value_range, run)
            run.log(loss=loss, accuracy=accuracy)
            due = (step + 1) % self.validate_every == 0
            if due and validation is not None and validation_tasks is not None:
                # A model of its own: the features that it keeps are of this step's network.
                # Nothing watches: a stop must wait for the loop, which saves.
                scores = partial(model.anew().scores, images=validation, run=run)
                run.log(**validation_accuracies(scores, validation_tasks))
        unplaced(network.eval())
        return model.anew()

    def _check(self, images: ImageSet) -> None:
        if len(images.shape) != 3:
            raise DataError(f"protoclr: found images of shape {images.shape}; expected (c, h, w)")
        if len(images) < 2:
            raise DataError(f"protoclr: found {len(images)} training images; expected at least two")
        if self.grey and images.shape[0] != 3:
            raise DataError(
                f"protoclr.grey: found {self.grey} with images of {images.shape[0]} channels; expected three (set grey: 0)"
            )

    def _model(self, network: nn.Module, images: ImageSet, run: Run) -> ProtoClrModel:
        pair = Gather(images, run.device)(np.array([0, len(images) - 1]))
        if not embeds_alone(network, pair):
            raise PipelineError(
                "protoclr: found a backbone that always normalises with the whole batch; expected one that keeps running "
                "statistics (use another backbone)"
            )
        norm = "transductive" if self.queries != "alone" else "running" if norm_layers(network) else "none"
        seed = int(run.rng.integers(2**63))
        spec = images.spec.value_range
        value_range = (0.0, 1.0) if images.images.dtype == np.uint8 else (float(spec[0]), float(spec[1]))
        return ProtoClrModel(
            network, images.shape, value_range, norm, seed, self.test_views, self._distortion(), self._classifier()
        )

    def _rate(self, step: int) -> float:
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.iterations))

    def _finds_neighbours(self, step: int) -> bool:
        first = math.ceil(self.neighbours_after * self.iterations)
        return self.neighbours > 0 and step >= first and (step - first) % self.refresh == 0

    @torch.no_grad()
    def _neighbours(self, network: nn.Module, gather: Gather, n: int) -> Array:
        network.eval()
        spans = np.split(np.arange(n), np.arange(BLOCK, n, BLOCK))
        vectors = torch.cat([network(gather(span)) for span in spans])
        return mutual_neighbours(vectors, min(self.neighbours, n - 1)).cpu().numpy()

    def _queries(self, rows: Array, near: Array, run: Run) -> Array:
        """Return the image of which each query is a view, (n_images, n_views): `rows` themselves, or neighbours of theirs.

        Each image and each of its mutual neighbours is as likely.
        """
        choices = np.concatenate([rows[:, None], near[rows]], 1)
        # Those that are no neighbours stand behind the others.
        choices = np.take_along_axis(choices, np.argsort(choices < 0, axis=1, kind="stable"), 1)
        counts = (choices >= 0).sum(1, keepdims=True)
        picked = (run.rng.random((len(rows), self.n_views)) * counts).astype(np.int64)
        return np.take_along_axis(choices, picked, 1)

    def _step(
        self,
        network: nn.Module,
        adam: torch.optim.Adam,
        gather: Gather,
        near: Array,
        value_range: tuple[float, float],
        run: Run,
    ) -> tuple[Tensor, Tensor]:
        """Take one step; return the mean loss and the share of queries that are nearest to their image."""
        rows = run.rng.choice(len(near), min(self.n_images, len(near)), replace=False)
        support, query = gather(rows), gather(self._queries(rows, near, run)).flatten(0, 1)
        size, distortion = (support.shape[-2], support.shape[-1]), self._distortion()
        turned = None
        if self.turn:
            turned = 90.0 * torch.randint(4, (len(rows),), generator=run.generator)
        if self.distort_support or turned is not None:
            own = distortion if self.distort_support else Distortion()
            support = distorted(support, own.draw(len(support), size, run.generator, turned), value_range)
        turns = None if turned is None else turned.repeat_interleave(self.n_views)
        query = distorted(query, distortion.draw(len(query), size, run.generator, turns), value_range)
        features = network(torch.cat([support, query]))
        logits = self._classifier().logits(features[len(rows) :], features[: len(rows)])
        labels = torch.arange(len(rows), device=gather.device).repeat_interleave(self.n_views)
        loss = functional.cross_entropy(logits, labels)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        return loss.detach(), (logits.argmax(-1) == labels).float().mean()


def _begin_with(network: nn.Module, start: FewShotModel) -> None:
    """Fill the network with the weights of a few-shot model's.

    Raises:
        DataError: the model has no network, or one with other parameters.

    """
    other = getattr(start, "network", None)
    if not isinstance(other, nn.Module):
        raise DataError(f"protoclr: found {type(start).__name__} as start; expected a model that has a network")
    arrays = {name: values for name, values in module_arrays(other).items() if not name.startswith("head.")}
    shapes, own = ({name: v.shape for name, v in a.items()} for a in (arrays, module_arrays(network)))
    if shapes != own:
        differ = sorted(name for name in {*shapes, *own} if shapes.get(name) != own.get(name))
        raise DataError(
            f"protoclr: found a start whose network differs in {', '.join(differ[:3])}; expected the same backbone "
            "(give both stages one backbone)"
        )
    load_module(network, arrays)
