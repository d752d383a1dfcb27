"""Announces the learners. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl

S4MTL = "arXiv:2005.02523"
BOTH = ("scores", "masks")


@hookimpl
def fewcore_learners() -> list[Component]:
    """Offer the learners."""
    here = "fewcore_s4mtl"
    return [
        Component(
            "s4mtl",
            f"{here}.s4mtl:S4mtl",
            "masks and classes from partly labelled images: adversarial, self-supervised",
            S4MTL,
            needs_labels=True,
            predicts=BOTH,
        ),
        Component(
            "s2mtl",
            f"{here}.s2mtl:S2mtl",
            "s4mtl without self-supervision and without the divergence of unlabelled masks",
            S4MTL,
            needs_labels=True,
            predicts=BOTH,
        ),
        Component(
            "u-mtl",
            f"{here}.u_mtl:UMtl",
            "a U-Net with a classifier on its bottleneck",
            "arXiv:1806.01313",
            needs_labels=True,
            predicts=BOTH,
        ),
        Component(
            "u-net",
            f"{here}.u_net:UNet",
            "masks by an encoder and decoder with skip connections",
            "arXiv:1505.04597",
            needs_labels=True,
            predicts=("masks",),
        ),
        Component(
            "conv-net",
            f"{here}.conv_net:ConvNet",
            "classes by the discriminator of s4mtl, without masks",
            S4MTL,
            needs_labels=True,
            predicts=("scores",),
        ),
    ]
