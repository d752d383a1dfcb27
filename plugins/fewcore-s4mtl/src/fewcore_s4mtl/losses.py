"""The loss terms of S4MTL, each a function of its own; equation numbers are those of arXiv:2005.02523.

Masks are (n, k, h, w) in [0, 1] for k structures. Logits are (n, o): the classes first, "generated" last.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

DiceOver = Literal["image", "batch"]
DiceWeights = Literal["uniform", "inverse_volume"]
Pairing = Literal["literal", "batch_mean"]

SMOOTH = 1.0
"""Pixels added to both sides of the fraction of eq. 5, so that an empty mask that is predicted empty costs nothing."""


def segmentation_loss(
    truth: torch.Tensor, predicted: torch.Tensor, over: DiceOver = "image", weights: DiceWeights = "uniform"
) -> torch.Tensor:
    """Return eq. 5: 1 - TP / (TP + FP / 2 + FN / 2) with soft sums, a mean over structures (and over images).

    The middle term of the printed fraction multiplies "not k" with "not k"; that is a misprint for false positives, with which
    the loss is that of Dice. `over` says whose pixels are summed: each image's (Algorithm 1), or those of the whole batch.
    `inverse_volume` weighs each structure by one over its pixels, as the generalised Dice loss does with their square.
    """
    pixels = (2, 3) if over == "image" else (0, 2, 3)
    hit = (truth * predicted).sum(pixels)
    false = ((1 - truth) * predicted).sum(pixels)
    missed = (truth * (1 - predicted)).sum(pixels)
    loss = 1 - (hit + SMOOTH) / (hit + 0.5 * false + 0.5 * missed + SMOOTH)
    if weights == "uniform":
        return loss.mean()
    share = 1 / (truth.sum(pixels) + SMOOTH)
    return (loss * share / share.sum(-1, keepdim=True)).sum(-1).mean()


def divergence_loss(truth: torch.Tensor, predicted: torch.Tensor, eps: float) -> torch.Tensor:
    """Return eq. 6: the mean over pixels of |(y - p) log(y / p)|, y and p both kept within [eps, 1 - eps].

    `truth` holds masks of labelled images, `predicted` those of unlabelled ones, in pairs. No term is ever negative.
    """
    y, p = truth.clamp(eps, 1 - eps), predicted.clamp(eps, 1 - eps)
    return ((y - p) * (y.log() - p.log())).mean()


def paired(truth: torch.Tensor, pairing: Pairing) -> torch.Tensor:
    """Return the masks with which eq. 6 compares the unlabelled images: each labelled one's own, or their mean."""
    return truth if pairing == "literal" else truth.mean(0, keepdim=True).expand_as(truth)


def not_generated(logits: torch.Tensor) -> torch.Tensor:
    """Return log(1 - p of "generated") (n,), exact however close to 1 that probability is."""
    return logits[:, :-1].logsumexp(1) - logits.logsumexp(1)


def adversarial_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return -E log(1 - p of "generated"): eq. 7 and 8 in the generator's update, eq. 11 of true masks in the discriminator's."""
    return -not_generated(logits).mean()


def generated_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return -E log(p of "generated"): eq. 12 and 13, of predicted masks in the discriminator's update."""
    return -logits.log_softmax(1)[:, -1].mean()


def supervised_loss(
    logits: torch.Tensor, classes: torch.Tensor, n_classes: int, threshold: float | None
) -> torch.Tensor:
    """Return eq. 9: -E log p of the true class. Images whose class is predicted better than `threshold` are left out.

    What is compared with the threshold is the probability among the `n_classes` real classes; the mean is over the images
    that are left, and 0 where none is. `classes` is (n,).
    """
    losses = F.cross_entropy(logits, classes, reduction="none")
    if threshold is None:
        return losses.mean()
    with torch.no_grad():
        known = logits[:, :n_classes].softmax(1).gather(1, classes[:, None])[:, 0]
        kept = (known <= threshold).float()
    return (losses * kept).sum() / kept.sum().clamp(min=1)


def self_supervised_loss(logits: torch.Tensor, transformations: torch.Tensor) -> torch.Tensor:
    """Return eq. 10: -E log p of the transformation (n,) that the unlabelled image went through, a column of `logits`."""
    return F.cross_entropy(logits, transformations)
