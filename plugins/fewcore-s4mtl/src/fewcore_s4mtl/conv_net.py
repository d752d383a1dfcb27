"""The Conv-Net baseline: the discriminator of S4MTL without masks, trained on labelled images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from fewcore import ImageSet, Run, option
from fewcore_s4mtl import shared_options as shared
from fewcore_s4mtl.models import ConvNetNetwork, Shape
from fewcore_s4mtl.predictor import MasksAndClasses
from fewcore_s4mtl.supervised import Settings, train
from fewcore_s4mtl.terms import Terms
from fewcore_s4mtl.training import Rate

WHO = "conv-net"


@dataclass(frozen=True)
class ConvNet:
    """The discriminator of `s4mtl` alone, trained by cross-entropy on the images whose class is known; it sees no mask. It
    makes classes, no masks.

    Source: a baseline of A.-A.-Z. Imran, C. Huang, H. Tang, W. Fan, Y. Xiao, D. Hao, Z. Qian, D. Terzopoulos: Partly Supervised
    Multitask Learning, 2020, arXiv:2005.02523.

    Differs from the paper: nothing known; it says no more than that the network is the discriminator. An epoch has as many
    steps as that of `s4mtl`.

    Raises:
        DataError: no image with a class, a class without an image, or images that are volumes, too small or hold NaN.
        NumericalError: the loss is NaN or infinite.

    """

    zero_mask: bool = option(
        False, "keep the discriminator's channel of the mask, zero throughout", paper=shared.NOT_GIVEN
    )
    width: int = shared.width()
    levels: int = shared.levels()
    dropout: float = shared.dropout()
    learning_rate: float = option(1e-4, "Adam's learning rate", low=0)
    beta1: float = option(0.6, "Adam's first momentum", low=0, high=0.999)
    decay: float = option(0.5, "factor of the learning rate", low=0, high=1)
    lr_floor: float = option(0.0, "least learning rate", paper="0", low=0)
    decay_epochs: int = shared.decay_epochs()
    batch_size: int = shared.batch_size()
    epochs: int = shared.epochs()
    patience: int = shared.patience()
    precision: Literal["auto", "float32", "bfloat16"] = shared.precision()

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> MasksAndClasses:
        """Train and return the predictor of classes."""
        settings = Settings(
            "conv-net",
            ("class",),
            "",
            Shape(self.width, self.levels, self.dropout),
            Rate(self.learning_rate, self.beta1, self.decay, self.decay_epochs, self.lr_floor),
            self.batch_size,
            self.epochs,
            self.patience,
            self.precision,
            int(self.zero_mask),
        )
        return train(self._terms, settings, images, validation, run, WHO)

    @staticmethod
    def _terms(model: ConvNetNetwork, x: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor) -> Terms:  # noqa: ARG004
        return {"classification": (1.0, F.cross_entropy(model.logits(x), classes))}
