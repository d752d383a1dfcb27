"""Announces the embedders and backbones. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl

ALEXNET = "doi:10.1145/3065386"


@hookimpl
def fewcore_embedders() -> list[Component]:
    """Offer the embedders."""
    here = "fewcore_embed"
    return [
        Component("acai", f"{here}.acai:Acai", "an autoencoder whose interpolations look real", "arXiv:1807.07543"),
        Component(
            "bigan",
            f"{here}.bigan:Bigan",
            "the encoder of a GAN that tells pairs of picture and code apart",
            "arXiv:1605.09782",
        ),
        Component(
            "infogan",
            f"{here}.infogan:Infogan",
            "sort and style that a GAN's generator puts into pictures, read off images",
            "arXiv:1606.03657",
        ),
        Component("vae", f"{here}.vae:Vae", "the posterior mean of a variational autoencoder", "arXiv:1312.6114"),
        Component(
            "pixels",
            f"{here}.pixels:Pixels",
            "pixels, normalised by image and whitened (ZCA)",
            "doi:10.1007/978-3-642-35289-8_30",
        ),
        Component(
            "c3d",
            f"{here}.c3d:C3d",
            "fc6 of a 3-D network for videos, with random weights or a file's",
            "arXiv:1412.0767",
        ),
        Component(
            "c3d-tuned",
            f"{here}.c3d_tuned:C3dTuned",
            "fc6 of C3D, tuned on the labels of a target or of each rated attribute",
            "arXiv:1801.03230",
            needs_labels=True,
        ),
        Component(
            "deepcluster",
            f"{here}.deepcluster:DeepCluster",
            "a network trained to tell apart the clusters of its own features",
            "arXiv:1807.05520",
        ),
        Component(
            "gist",
            f"{here}.gist:Gist",
            "answers of Gabor filters in each block of the picture (512 numbers)",
            "doi:10.1023/A:1011139631724",
        ),
        Component(
            "pca-whiten",
            f"{here}.pca_whiten:PcaWhiten",
            "the widest principal directions of another embedder's vectors, of equal spread",
            "arXiv:1807.05520",
        ),
        Component(
            "timm",
            f"{here}.timm_embedder:TimmEmbedder",
            "pooled features of timm's networks, by name",
            "doi:10.5281/zenodo.4414861",
        ),
        Component(
            "vgg",
            f"{here}.vgg:Vgg",
            "fc7 or fc8 of CNN-F, VGG-16 or VGG-19, with random weights or a file's",
            "arXiv:1405.3531",
        ),
        Component("whiten", f"{here}.whiten:Whiten", "vectors of another embedder, decorrelated and of equal spread"),
    ]


@hookimpl
def fewcore_backbones() -> list[Component]:
    """Offer the backbones."""
    return [
        Component(
            "alexnet", "fewcore_embed.alexnet:AlexNet", "AlexNet with batch norm, for large and small images", ALEXNET
        ),
        Component("timm", "fewcore_embed.timm_backbone:Timm", "the 2-D networks of timm, by name"),
    ]
