"""S2MTL: S4MTL without self-supervision and without the divergence of unlabelled masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewcore import ImageSet, Run, option
from fewcore_s4mtl import shared_options as shared
from fewcore_s4mtl.adversarial import Settings, train
from fewcore_s4mtl.models import Shape
from fewcore_s4mtl.predictor import MasksAndClasses
from fewcore_s4mtl.terms import Objective
from fewcore_s4mtl.training import Rate

WHO = "s2mtl"


@dataclass(frozen=True)
class S2mtl:
    """`s4mtl` without eqs. 6 and 10: unlabelled images, as they are, teach the U-Net by deceiving the discriminator alone, and
    the discriminator by telling generated masks.

    Source: A.-A.-Z. Imran, C. Huang, H. Tang, W. Fan, Y. Xiao, D. Hao, Z. Qian, D. Terzopoulos: Partly Supervised Multitask
    Learning, 2020, arXiv:2005.02523.

    Differs from the paper: as `s4mtl` does; the paper says no more of this baseline than what it lacks.

    Raises:
        DataError, NumericalError: as `s4mtl`.

    """

    mask: str = shared.mask()
    alpha: float = option(1.0, "weight of all terms of the unlabelled images", paper=shared.NOT_GIVEN, low=0)
    adversarial_weight: float = option(0.01, "weight of eqs. 7 and 8 for the U-Net", paper="small", low=0)
    annealing: Literal["uda", "paper_global", "paper_in_epoch", "none"] = option(
        "uda", "from which probability on a labelled image is left out of eq. 9", paper="paper_*"
    )
    cls_on_pred: bool = option(False, "add eq. 9 for labelled images beside predicted masks, among the classes alone")
    unlabelled: Literal["rest", "all"] = option(
        "rest", "images that serve without labels: those that have none, or all"
    )
    dice_over: Literal["image", "batch"] = shared.dice_over()
    dice_weights: Literal["uniform", "inverse_volume"] = shared.dice_weights()
    width: int = shared.width()
    levels: int = shared.levels()
    dropout: float = shared.dropout()
    upsampling: Literal["bilinear", "transposed"] = shared.upsampling()
    g_learning_rate: float = option(2e-3, "Adam's learning rate of the U-Net", low=0)
    g_beta1: float = option(0.9, "Adam's first momentum of the U-Net", low=0, high=0.999)
    g_decay: float = option(0.9, "factor of the U-Net's learning rate", low=0, high=1)
    d_learning_rate: float = option(1e-4, "Adam's learning rate of the discriminator", low=0)
    d_beta1: float = option(0.6, "Adam's first momentum of the discriminator", low=0, high=0.999)
    d_decay: float = option(0.5, "factor of the discriminator's learning rate", low=0, high=1)
    d_lr_floor: float = option(
        0.0, "least learning rate of the discriminator, which else stops learning", paper="0", low=0
    )
    decay_epochs: int = shared.decay_epochs()
    batch_size: int = shared.batch_size()
    epochs: int = shared.epochs()
    patience: int = shared.patience()
    choose: Literal["mean", "each"] = shared.choose()
    precision: Literal["auto", "float32", "bfloat16"] = shared.precision()

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> MasksAndClasses:
        """Train and return the predictor of masks and classes."""
        objective = Objective(
            self.alpha,
            self.adversarial_weight,
            None,
            annealing=self.annealing,
            cls_on_pred=self.cls_on_pred,
            dice_over=self.dice_over,
            dice_weights=self.dice_weights,
        )
        settings = Settings(
            self.mask,
            Shape(self.width, self.levels, self.dropout, self.upsampling),
            self.unlabelled,
            Rate(self.g_learning_rate, self.g_beta1, self.g_decay, self.decay_epochs),
            Rate(self.d_learning_rate, self.d_beta1, self.d_decay, self.decay_epochs, self.d_lr_floor),
            self.batch_size,
            self.epochs,
            self.patience,
            self.precision,
            choose=self.choose,
        )
        return train(objective, settings, images, validation, run, WHO)
