"""Training of S4MTL and S2MTL: both updates, and the loop of Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from fewcore import Array, DataError, Gather, ImageSet, Run
from fewcore_s4mtl import transformations
from fewcore_s4mtl.annealing import Schedule
from fewcore_s4mtl.labelled import Labelled, judged, labelled
from fewcore_s4mtl.models import Adversarial, Architecture, Shape, drawn
from fewcore_s4mtl.pixels import check_images, scaled
from fewcore_s4mtl.predictor import MasksAndClasses
from fewcore_s4mtl.terms import Batch, Objective, discriminator_terms, generated, generator_terms, total
from fewcore_s4mtl.training import (
    Choice,
    ChooseBy,
    Course,
    Passes,
    Precision,
    Rate,
    mixed_precision,
    own_randomness,
    set_rate,
)

Unlabelled = Literal["rest", "all"]
NEEDS = ("class", "mask")


@dataclass(frozen=True)
class Settings:
    """What training needs beside the objective: see the options of `S4mtl`."""

    mask: str
    shape: Shape
    unlabelled: Unlabelled
    generator: Rate
    discriminator: Rate
    batch_size: int
    epochs: int
    patience: int
    precision: Precision
    choose: ChooseBy = "mean"


class Updates:
    """One step of Algorithm 1 after another: the discriminator's update, then the generator's.

    The generator is run once for both; in between the discriminator has changed, and judges anew.
    """

    def __init__(self, objective: Objective, model: Adversarial, settings: Settings, device: torch.device) -> None:
        self.objective, self.model, self.settings, self.device = objective, model, settings, device
        self.generator = settings.generator.adam(model.generator)
        self.discriminator = settings.discriminator.adam(model.discriminator)

    def rates(self, epoch: int) -> None:
        """Set the learning rates of an epoch."""
        set_rate(self.generator, self.settings.generator, epoch)
        set_rate(self.discriminator, self.settings.discriminator, epoch)

    def step(self, batch: Batch, threshold: float | None) -> dict[str, torch.Tensor]:
        """Make both updates; return the losses and their terms."""
        with mixed_precision(self.settings.precision, self.device):
            predicted = generated(self.model, batch)
            of_d = discriminator_terms(self.objective, self.model, batch, predicted.detached(), threshold)
        loss_d = total(of_d)
        self._update(self.discriminator, loss_d)
        self.model.discriminator.requires_grad_(False)
        with mixed_precision(self.settings.precision, self.device):
            of_g = generator_terms(self.objective, self.model, batch, predicted)
        loss_g = total(of_g)
        self._update(self.generator, loss_g)
        self.model.discriminator.requires_grad_(True)
        terms = {name: value.detach() for name, (_, value) in {**of_d, **of_g}.items()}
        return {"discriminator": loss_d.detach(), "generator": loss_g.detach(), **terms}

    @staticmethod
    def _update(adam: torch.optim.Adam, loss: torch.Tensor) -> None:
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()


class Batches:
    """Draws batches: labelled images with replacement, unlabelled ones pass by pass, each with its transformation."""

    def __init__(
        self, objective: Objective, images: ImageSet, known: Labelled, pool: Array, batch_size: int, run: Run
    ) -> None:
        self.objective, self.images, self.known, self.run = objective, images, known, run
        self.batch_size = batch_size
        self.gather = Gather(images, run.device)
        self.masks = torch.from_numpy(known.masks).to(run.device)
        self.classes = torch.from_numpy(known.classes.astype(np.int64)).to(run.device)
        self.passes = Passes(pool, batch_size, int(run.rng.integers(2**62)))

    def draw(self, step: int) -> Batch:
        """Return the batch of a step."""
        rng, kinds = self.run.rng, self.objective.kinds
        places = rng.integers(len(self.known.rows), size=self.batch_size)
        index = torch.as_tensor(places, device=self.run.device)
        chosen = rng.integers(len(kinds), size=self.batch_size) if kinds else np.zeros(self.batch_size, np.int64)
        x = scaled(self.gather(self.known.rows[places]), self.images)
        upright = scaled(self.gather(self.passes.at(step)), self.images)
        changed = transformations.transformed(upright, kinds, chosen) if kinds else upright
        keep = bool(kinds) and self.objective.kl is not None and self.objective.kl_geometry == "upright"
        return Batch(x, self.masks[index], self.classes[index], changed, chosen, upright if keep else None)


def train(
    objective: Objective, settings: Settings, images: ImageSet, validation: ImageSet, run: Run, who: str
) -> MasksAndClasses:
    """Train on the images and return the model that did best on validation.

    Raises:
        DataError: what cannot be learnt from; see `labelled`.
        NumericalError: a loss is NaN or infinite.

    """
    check_images(images, settings.shape.levels, who)
    known = labelled(images, settings.mask, NEEDS, who)
    truth = judged(validation, images, settings.mask, NEEDS, who)
    pool = unlabelled_rows(images, known, settings.unlabelled, who)
    objective = _for_data(objective, images, known, who)
    architecture = Architecture(
        "adversarial",
        images.shape[0],
        known.structures,
        known.n_classes,
        settings.shape,
        len(objective.kinds),
        objective.reading,
    )
    model: Adversarial = drawn(architecture, run)
    model.to(run.device).train()
    course = Course.of(settings.epochs, settings.batch_size, settings.patience, len(known.rows), len(pool))
    schedule = Schedule(objective.annealing, course.steps_per_epoch, course.epochs, known.n_classes, len(images))
    batches = Batches(objective, images, known, pool, settings.batch_size, run)
    updates = Updates(objective, model, settings, run.device)
    choice = Choice(model, validation, truth, course, run, settings.choose)
    state = {"generator_adam": updates.generator, "discriminator_adam": updates.discriminator, "choice": choice.state}
    for step in run.loop(course.steps, name="train", model=model, **state):
        updates.rates(step // course.steps_per_epoch)
        with own_randomness(run):
            said = updates.step(batches.draw(step), schedule.threshold(step))
        run.log(**said)
        if choice.ends(step):
            break
    return MasksAndClasses(architecture, *choice.best(), images.shape)


def _for_data(objective: Objective, images: ImageSet, known: Labelled, who: str) -> Objective:
    """Return the objective with the transformations that suit the classes and the images."""
    if objective.kinds and objective.reading == "shared":
        objective = replace(objective, kinds=transformations.for_classes(known.n_classes, who))
    transformations.check_sides(objective.kinds, images.shape[1:], who)
    return objective


def unlabelled_rows(images: ImageSet, known: Labelled, which: Unlabelled, who: str) -> Array:
    """Return the rows whose images serve without labels: those that have none, or all.

    Raises:
        DataError: all images are labelled.

    """
    if which == "all":
        return np.arange(len(images))
    if not len(known.rest):
        raise DataError(
            f"{who}: found no image without labels among {len(images)}; expected some (type labels: {{share: 0.5, by: class}},"
            " or unlabelled: all)"
        )
    return known.rest
