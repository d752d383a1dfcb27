"""Options that several learners have, each described once. `name: type = shared.name()` in a component."""

from __future__ import annotations

from typing import Any

from fewcore import option

NOT_GIVEN = "not given"


def mask() -> Any:
    """Return the option that names the masks."""
    return option("mask", "the target of masks to learn")


def width() -> Any:
    """Return the option for the filters of the networks."""
    return option(32, "filters at full size, doubled at each level; 8 suits a CPU", paper=NOT_GIVEN, low=1)


def levels() -> Any:
    """Return the option for the depth of the networks."""
    return option(
        4, "times that the U-Net halves an image; the discriminator does once more", paper=NOT_GIVEN, low=1, high=7
    )


def dropout() -> Any:
    """Return the option for dropout."""
    return option(0.4, "share of the values left out after every convolution", low=0, high=0.95)


def upsampling() -> Any:
    """Return the option for the decoder."""
    return option("bilinear", "how the U-Net's decoder enlarges", paper=NOT_GIVEN)


def dice_over() -> Any:
    """Return the option for the pixels of eq. 5."""
    return option("image", "whose pixels eq. 5 sums: each image's, or the whole batch's, which suits rare structures")


def dice_weights() -> Any:
    """Return the option for the weights of eq. 5."""
    return option("uniform", "weights of the structures in eq. 5", paper=NOT_GIVEN)


def epochs() -> Any:
    """Return the option for the length of training."""
    return option(
        100,
        "passes over the images without labels, or over those with, whichever are more",
        unit="epochs",
        paper=NOT_GIVEN,
        low=1,
    )


def patience() -> Any:
    """Return the option for early stopping."""
    return option(
        20,
        "epochs without a better result on validation after which training ends",
        unit="epochs",
        paper=NOT_GIVEN,
        low=1,
    )


def batch_size() -> Any:
    """Return the option for the batch."""
    return option(16, "images of a batch, of labelled and of unlabelled ones each", unit="images", low=1)


def decay_epochs() -> Any:
    """Return the option for the pace of the decay."""
    return option(2, "epochs after which learning rates are multiplied by their decay", unit="epochs", low=1)


def precision() -> Any:
    """Return the option for mixed precision."""
    return option(
        "auto", "of the networks in training: bfloat16 where the device has it in hardware (CUDA), or as said"
    )


def choose() -> Any:
    """Return the option for the choice on validation."""
    return option(
        "mean",
        "epoch that is kept: of the best mean of Dice and accuracy; or each: masks of the best Dice, classes of the best accuracy",
        paper=NOT_GIVEN,
    )
