"""The U-Net baseline: the generator of S4MTL, trained on labelled images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from fewcore import ImageSet, Run, option
from fewcore_s4mtl import shared_options as shared
from fewcore_s4mtl.losses import segmentation_loss
from fewcore_s4mtl.models import Shape, UNetNetwork
from fewcore_s4mtl.predictor import MasksAndClasses
from fewcore_s4mtl.supervised import Settings, train
from fewcore_s4mtl.terms import Terms
from fewcore_s4mtl.training import Rate

WHO = "u-net"


@dataclass(frozen=True)
class UNet:
    """The generator of `s4mtl` alone, trained by eq. 5 on the images whose mask is known. It makes masks, no classes.

    Source: O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
    arXiv:1505.04597; as a baseline of A.-A.-Z. Imran and others: Partly Supervised Multitask Learning, 2020, arXiv:2005.02523.

    Differs from the paper: it is the later authors' network: half-width images are padded, norm is by instance, the loss that of
    Dice, and no image is distorted. An epoch has as many steps as that of `s4mtl`.

    Raises:
        DataError: no masks of that name, or of another size than the images; no image with a mask, or a structure that is
            empty in all; images that are volumes, too small or hold NaN; masks that are NaN in part or outside [0, 1].
        NumericalError: the loss is NaN or infinite.

    """

    mask: str = shared.mask()
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
    precision: Literal["auto", "float32", "bfloat16"] = shared.precision()

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> MasksAndClasses:
        """Train and return the predictor of masks."""
        settings = Settings(
            "u-net",
            ("mask",),
            self.mask,
            Shape(self.width, self.levels, self.dropout, self.upsampling),
            Rate(self.learning_rate, self.beta1, self.decay, self.decay_epochs),
            self.batch_size,
            self.epochs,
            self.patience,
            self.precision,
        )
        return train(self._terms, settings, images, validation, run, WHO)

    def _terms(self, model: UNetNetwork, x: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor) -> Terms:
        predicted = model.generator(x)
        return {"segmentation": (1.0, segmentation_loss(masks, predicted, self.dice_over, self.dice_weights))}
