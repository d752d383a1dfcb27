"""The terms of both updates of S4MTL and S2MTL (eqs. 1 and 2): what enters which, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from fewcore import Array
from fewcore_s4mtl import losses, transformations
from fewcore_s4mtl.annealing import Annealing
from fewcore_s4mtl.heads import Heads, SelfSupervision
from fewcore_s4mtl.losses import DiceOver, DiceWeights, Pairing
from fewcore_s4mtl.models import Adversarial
from fewcore_s4mtl.transformations import Transformation

Geometry = Literal["inverse", "upright", "none"]


@dataclass(frozen=True)
class Objective:
    """The weights of the terms, and how each is read. A `kl` of None leaves eq. 6 out; no `kinds`, eq. 10.

    With the reading `shared` the kinds are as many as the classes, and are found once these are known.
    """

    alpha: float
    adversarial: float
    kl: float | None
    reading: SelfSupervision = "separate_head"
    kinds: tuple[Transformation, ...] = ()
    annealing: Annealing = "uda"
    kl_pairing: Pairing = "literal"
    kl_eps: float = 1e-2
    kl_geometry: Geometry = "inverse"
    cls_on_pred: bool = False
    dice_over: DiceOver = "image"
    dice_weights: DiceWeights = "uniform"


class Batch(NamedTuple):
    """Labelled images with masks and classes, and unlabelled ones, each changed by its transformation.

    `chosen` (u,) says by which of the objective's `kinds`; `upright` are the unlabelled images before, where eq. 6 is to
    look at them.
    """

    x: torch.Tensor
    masks: torch.Tensor
    classes: torch.Tensor
    unlabelled: torch.Tensor
    chosen: Array
    upright: torch.Tensor | None


class Predicted(NamedTuple):
    """Masks that the generator makes of the labelled and the unlabelled images, and of these upright, where asked for."""

    labelled: torch.Tensor
    unlabelled: torch.Tensor
    upright: torch.Tensor | None

    def detached(self) -> Predicted:
        """Return the masks without a way back to the generator."""
        return Predicted(self.labelled.detach(), self.unlabelled.detach(), None)


Terms = dict[str, tuple[float, torch.Tensor]]
"""Each term of an update by name, with its weight."""


def generated(model: Adversarial, batch: Batch) -> Predicted:
    """Return the masks of all images of a batch, in one pass."""
    parts = [batch.x, batch.unlabelled] + ([batch.upright] if batch.upright is not None else [])
    made = model.generator(torch.cat(parts)).split([len(part) for part in parts])
    return Predicted(made[0], made[1], made[2] if len(made) > 2 else None)


def discriminator_terms(
    objective: Objective, model: Adversarial, batch: Batch, predicted: Predicted, threshold: float | None
) -> Terms:
    """Return the terms of the discriminator's update, eqs. 9 to 13. `predicted` must be detached."""
    heads: Heads = model.heads
    n = len(batch.x)
    images = torch.cat([batch.x, batch.x, batch.unlabelled])
    outputs = model.judged(images, torch.cat([batch.masks, predicted.labelled, predicted.unlabelled]))
    logits = heads.diagnosis(outputs)
    true, of_labelled, of_unlabelled = logits[:n], logits[n : 2 * n], logits[2 * n :]
    terms: Terms = {
        "supervised": (1.0, losses.supervised_loss(true, batch.classes, heads.n_classes, threshold)),
        "true": (1.0, losses.adversarial_loss(true)),
        "generated_labelled": (1.0, losses.generated_loss(of_labelled)),
        "generated_unlabelled": (objective.alpha, losses.generated_loss(of_unlabelled)),
    }
    if objective.kinds:
        columns = torch.as_tensor(heads.column(batch.chosen), device=outputs.device)
        surrogate = heads.surrogate(outputs)[2 * n :]
        terms["self_supervised"] = (objective.alpha, losses.self_supervised_loss(surrogate, columns))
    if objective.cls_on_pred:
        # Among the classes alone: eq. 12 says at the same time that this pair is generated.
        diagnosis = heads.classes(outputs)[n : 2 * n]
        on_predicted = losses.supervised_loss(diagnosis, batch.classes, heads.n_classes, threshold)
        terms["supervised_predicted"] = (1.0, on_predicted)
    return terms


def generator_terms(objective: Objective, model: Adversarial, batch: Batch, predicted: Predicted) -> Terms:
    """Return the terms of the generator's update, eqs. 5 to 8. The discriminator must be frozen."""
    n = len(batch.x)
    outputs = model.judged(
        torch.cat([batch.x, batch.unlabelled]), torch.cat([predicted.labelled, predicted.unlabelled])
    )
    logits = model.heads.diagnosis(outputs)
    terms: Terms = {
        "segmentation": (
            1.0,
            losses.segmentation_loss(batch.masks, predicted.labelled, objective.dice_over, objective.dice_weights),
        ),
        "adversarial_labelled": (objective.adversarial, losses.adversarial_loss(logits[:n])),
        "adversarial_unlabelled": (
            objective.alpha * objective.adversarial,
            losses.adversarial_loss(logits[n:]),
        ),
    }
    if objective.kl is not None:
        truth = losses.paired(batch.masks, objective.kl_pairing)
        apart = losses.divergence_loss(truth, _compared(objective, batch, predicted), objective.kl_eps)
        terms["divergence"] = (objective.alpha * objective.kl, apart)
    return terms


def _compared(objective: Objective, batch: Batch, predicted: Predicted) -> torch.Tensor:
    """Return the unlabelled masks as eq. 6 sees them: changed back, of the upright images, or as they are."""
    if predicted.upright is not None:
        return predicted.upright
    if objective.kl_geometry == "none" or not objective.kinds:
        return predicted.unlabelled
    return transformations.restored(predicted.unlabelled, objective.kinds, batch.chosen)


def total(terms: Terms) -> torch.Tensor:
    """Return the weighted sum of the terms of an update."""
    return torch.stack([weight * value for weight, value in terms.values()]).sum()
