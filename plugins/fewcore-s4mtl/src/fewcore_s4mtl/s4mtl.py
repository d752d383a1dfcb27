"""S4MTL: self-supervised, semi-supervised multi-task learning of masks and classes."""

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
from fewcore_s4mtl.transformations import ALL, Transformation

WHO = "s4mtl"


@dataclass(frozen=True)
class S4mtl:
    """A U-Net makes masks; a discriminator sees an image beside a mask and says the image's class, or that the mask was
    generated. Images without labels teach both: the U-Net by deceiving the discriminator and by a divergence between its masks
    and those of labelled images, the discriminator by telling generated masks and how an image was turned or mirrored. The class
    of a new image is read off the discriminator beside the predicted mask.

    An image is labelled where its class and its mask are known; one of which only one is known counts as not labelled, with a
    warning. An empty mask is a label. The epoch with the best mean of pooled Dice and accuracy on validation is kept; of few
    validation images accuracy is a matter of chance, and `choose: each` keeps two epochs, as single-task models do.

    Source: A.-A.-Z. Imran, C. Huang, H. Tang, W. Fan, Y. Xiao, D. Hao, Z. Qian, D. Terzopoulos: Partly Supervised Multitask
    Learning, 2020, arXiv:2005.02523. Annealing: Q. Xie, Z. Dai, E. Hovy, M.-T. Luong, Q. V. Le: Unsupervised Data Augmentation
    for Consistency Training, 2019, arXiv:1904.12848.

    Differs from the paper: transformations have a softmax of their own (`self_supervision`), since "not turned" is not
    "normal"; eq. 5 has false positives in its middle term and eq. 6 a mean instead of a sum; masks of turned images are turned
    back before eq. 6 (`kl_geometry`); annealing follows the code of Xie et al. (`annealing`); eq. 10 uses the predicted mask, since
    unlabelled images have no other. Networks, weights of the terms, and epochs are not given there.

    Raises:
        DataError: no masks of that name, or of another size than the images; no labelled image, a class without one, or a
            structure that is empty in all; no unlabelled image; images that are volumes, too small, not square where they are
            to be turned, or hold NaN; masks that are NaN in part or outside [0, 1].
        NumericalError: a loss is NaN or infinite.

    """

    mask: str = shared.mask()
    alpha: float = option(1.0, "weight of all terms of the unlabelled images", paper=shared.NOT_GIVEN, low=0)
    adversarial_weight: float = option(0.01, "weight of eqs. 7 and 8 for the U-Net", paper="small", low=0)
    kl_weight: float = option(0.1, "weight of eq. 6 for the U-Net", paper=shared.NOT_GIVEN, low=0)
    self_supervision: Literal["separate_head", "shared", "joint"] = option(
        "separate_head",
        "where transformations are told: a softmax of their own, the classes' logits, or one softmax with them",
        paper="shared",
    )
    transformations: tuple[Transformation, ...] = option(
        ALL, "what happens to unlabelled images; with shared logits, the first as many as there are classes"
    )
    annealing: Literal["uda", "paper_global", "paper_in_epoch", "none"] = option(
        "uda", "from which probability on a labelled image is left out of eq. 9", paper="paper_*"
    )
    kl_pairing: Literal["literal", "batch_mean"] = option(
        "literal", "masks in eq. 6: each labelled image's, or their mean over the batch"
    )
    kl_eps: float = option(
        0.01, "masks are kept within [eps, 1 - eps] in eq. 6", paper=shared.NOT_GIVEN, low=1e-7, high=0.49
    )
    kl_geometry: Literal["inverse", "upright", "none"] = option(
        "inverse", "masks of turned images in eq. 6: turned back, of the image before it was turned, or as they are"
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

    def __post_init__(self) -> None:
        if len(set(self.transformations)) < max(2, len(self.transformations)):
            raise ValueError(f"transformations: found {list(self.transformations)}; expected at least 2, each once")

    def learn(self, images: ImageSet, validation: ImageSet, run: Run) -> MasksAndClasses:
        """Train and return the predictor of masks and classes."""
        objective = Objective(
            self.alpha,
            self.adversarial_weight,
            self.kl_weight,
            self.self_supervision,
            self.transformations,
            self.annealing,
            self.kl_pairing,
            self.kl_eps,
            self.kl_geometry,
            self.cls_on_pred,
            self.dice_over,
            self.dice_weights,
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
