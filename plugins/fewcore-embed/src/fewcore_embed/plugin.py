"""Announces the embedders and backbones. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


@hookimpl
def fewcore_embedders() -> list[Component]:
    """Offer the embedders."""
    here = "fewcore_embed"
    return [
        Component("acai", f"{here}.acai:Acai", "an autoencoder whose interpolations look real", "arXiv:1807.07543"),
        Component(
            "pixels",
            f"{here}.pixels:Pixels",
            "pixels, normalised by image and whitened (ZCA)",
            "doi:10.1007/978-3-642-35289-8_30",
        ),
        Component(
            "gist",
            f"{here}.gist:Gist",
            "answers of Gabor filters in each block of the picture (512 numbers)",
            "doi:10.1023/A:1011139631724",
        ),
        Component("whiten", f"{here}.whiten:Whiten", "vectors of another embedder, decorrelated and of equal spread"),
    ]


@hookimpl
def fewcore_backbones() -> list[Component]:
    """Offer the backbones."""
    return [Component("timm", "fewcore_embed.timm_backbone:Timm", "the 2-D networks of timm, by name")]
