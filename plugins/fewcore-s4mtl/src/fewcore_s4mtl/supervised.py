"""Training of the baselines U-Net, Conv-Net and U-MTL: on the labelled images alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewcore import Gather, ImageSet, Run
from fewcore_s4mtl.labelled import judged, labelled
from fewcore_s4mtl.models import Architecture, Kind, Shape, drawn
from fewcore_s4mtl.pixels import check_images, scaled
from fewcore_s4mtl.predictor import MasksAndClasses
from fewcore_s4mtl.terms import Terms, total
from fewcore_s4mtl.training import Choice, ChooseBy, Course, Precision, Rate, mixed_precision, own_randomness, set_rate

TermsOf = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], Terms]
"""From a model, images, masks and classes to the terms of its loss."""


@dataclass(frozen=True)
class Settings:
    """What a supervised training needs: see the options of `UMtl`. `needs` holds `class`, `mask` or both."""

    kind: Kind
    needs: tuple[str, ...]
    mask: str
    shape: Shape
    rate: Rate
    batch_size: int
    epochs: int
    patience: int
    precision: Precision
    zero_masks: int = 0
    choose: ChooseBy = "mean"


def train(
    terms_of: TermsOf, settings: Settings, images: ImageSet, validation: ImageSet, run: Run, who: str
) -> MasksAndClasses:
    """Train on the labelled images and return the model that did best on validation.

    An epoch has as many steps as that of S4MTL on the same images, so that few labels do not mean few steps.

    Raises:
        DataError: what cannot be learnt from; see `labelled`.
        NumericalError: the loss is NaN or infinite.

    """
    check_images(images, settings.shape.levels, who)
    known = labelled(images, settings.mask, settings.needs, who)
    truth = judged(validation, images, settings.mask, settings.needs, who)
    structures = known.structures or settings.zero_masks
    architecture = Architecture(settings.kind, images.shape[0], structures, known.n_classes, settings.shape)
    model = drawn(architecture, run)
    model.to(run.device).train()
    course = Course.of(settings.epochs, settings.batch_size, settings.patience, len(known.rows), len(known.rest))
    gather = Gather(images, run.device)
    masks = torch.from_numpy(known.masks).to(run.device)
    classes = torch.from_numpy(known.classes.astype(np.int64)).to(run.device)
    adam = settings.rate.adam(model)
    choice = Choice(model, validation, truth, course, run, settings.choose)
    for step in run.loop(course.steps, name="train", model=model, adam=adam, choice=choice.state):
        set_rate(adam, settings.rate, step // course.steps_per_epoch)
        places = run.rng.integers(len(known.rows), size=settings.batch_size)
        index = torch.as_tensor(places, device=run.device)
        with own_randomness(run), mixed_precision(settings.precision, run.device):
            terms = terms_of(model, scaled(gather(known.rows[places]), images), masks[index], classes[index])
        loss = total(terms)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        run.log(loss=loss.detach(), **{name: value.detach() for name, (_, value) in terms.items()})
        if choice.ends(step):
            break
    return MasksAndClasses(architecture, *choice.best(), images.shape)
