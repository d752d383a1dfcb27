"""The U-MTL baseline: a U-Net with a classifier on its bottleneck, trained on labelled images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from fewcore import ImageSet, Run, option
from fewcore_s4mtl import shared_options as shared
from fewcore_s4mtl.losses import segmentation_loss
from fewcore_s4mtl.models import Shape, UMtlNetwork
from fewcore_s4mtl.predictor import MasksAndClasses
from fewcore_s4mtl.supervised import Settings, train
from fewcore_s4mtl.terms import Terms
from fewcore_s4mtl.training import Rate

WHO = "u-mtl"


@dataclass(frozen=True)
class UMtl:
    """The generator of `s4mtl` with a linear classifier on the mean of its bottleneck, trained by eq. 5 and cross-entropy on
    the images whose class and mask are known. One of which only one is known counts as not labelled, with a warning.

    Source: S. Mehta, E. Mercan, J. Bartlett, D. Weaver, J. Elmore, L. Shapiro: Y-Net: Joint Segmentation and Classification for
    Diagnosis of Breast Biopsy Images, MICCAI 2018, arXiv:1806.01313; as a baseline of A.-A.-Z. Imran and others: Partly
    Supervised Multitask Learning, 2020, arXiv:2005.02523.

    Differs from the paper: the network is that of the later authors; they say no more of the classifier than that it branches
    off the bottleneck. An epoch has as many steps as that of `s4mtl`.

    Raises:
        DataError: no masks of that name, or of another size than the images; no labelled image, a class without one, or a
            structure that is empty in all; images that are volumes, too small or hold NaN; masks that are NaN in part or outside
            [0, 1].
        NumericalError: the loss is NaN or infinite.

    """

    mask: str = shared.mask()
    class_weight: float = option(1.0, "weight of the cross-entropy beside eq. 5", paper=shared.NOT_GIVEN, low=0)
    dice_over: Literal["image", "batch"] = shared.dice_over()
    dice_weights: Literal["uniform", "inverse_volume"] = shared.dice_weights()
    width: int = shared.width()
    levels: int = shared.levels()
    dropout: float = shared.dropout()
    upsampling: Literal["bilinear", "transposed"] = shared.upsampling()
    learning_rate: float = option(2e-3, "Adam's learning rate", low=0)
    beta1: float = option(0.9, "Adam's first momentum", low=0, high=0.999)
    decay: float = option(0.9, "factor of the learning rate", low=0, high=1)
    decay_epochs: int = shared.decay_epochs()
    batch_size: int = shared.batch_size()
    epochs: int = shared.epochs()
    patience: int = shared.patience()
    choose: Literal["mean", "each"] = shared.choose()
    precision: Literal["auto", "float32", "bfloat16"] = shared.precision()

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> MasksAndClasses:
        """Train and return the predictor of masks and classes."""
        settings = Settings(
            "u-mtl",
            ("class", "mask"),
            self.mask,
            Shape(self.width, self.levels, self.dropout, self.upsampling),
            Rate(self.learning_rate, self.beta1, self.decay, self.decay_epochs),
            self.batch_size,
            self.epochs,
            self.patience,
            self.precision,
            choose=self.choose,
        )
        return train(self._terms, settings, images, validation, run, WHO)

    def _terms(self, model: UMtlNetwork, x: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor) -> Terms:
        predicted, logits = model.outputs(x)
        return {
            "segmentation": (1.0, segmentation_loss(masks, predicted, self.dice_over, self.dice_weights)),
            "classification": (self.class_weight, F.cross_entropy(logits, classes)),
        }
