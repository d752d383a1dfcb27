"""ACAI: an autoencoder whose interpolations a critic cannot tell from reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fewcore import Array, Arrays, DataError, Gather, ImageSet, ImageSpec, Meta, Run, load_module, module_arrays, option
from fewcore_embed.acai_network import LATENT_SIDE, SLOPE, AcaiNetwork, decoder_layers, encoder_layers
from fewcore_embed.batches import embedded
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.layers import draw_weights
from fewcore_embed.passes import Passes

SMALLEST_SIDE = 4
EMBED_BATCH = 256


class AcaiEncoder:
    """Embeds images with the encoder half of an ACAI autoencoder; `network` maps images (n, c, h, w) to (n, e)."""

    def __init__(self, kind: ImageKind, dim: int, filters: int) -> None:
        self.kind, self.dim, self.filters = kind, dim, filters
        self.network = AcaiNetwork(kind.shape, *kind.value_range, dim, filters)

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the codes, (n, e) float32: channels first, then rows and columns of the 4 x 4 map.

        Raises:
            DataError: the images have another shape or range than those of the training, or hold NaN.

        """
        self.kind.check(images, "acai")
        network = self.network.to(run.device).eval()
        return embedded(images, run, EMBED_BATCH, (self.dim,), network)

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to codes."""
        return self.network

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights as arrays, and what the network is built from."""
        return module_arrays(self.network), {**self.kind.to_json(), "dim": self.dim, "filters": self.filters}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> AcaiEncoder:
        """Build the encoder from `to_arrays`' result."""
        encoder = cls(ImageKind.from_json(meta), meta["dim"], meta["filters"])
        load_module(encoder.network, arrays)
        return encoder


def _check(images: ImageSet) -> ImageKind:
    shape = images.shape
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < SMALLEST_SIDE:
        raise DataError(
            f"acai: found images {shape}; expected square images (c, h, h) of at least {SMALLEST_SIDE} pixels a side "
            "(set the data set's image size)"
        )
    return ImageKind.of(images, "acai")


class Losses(NamedTuple):
    """The losses of one step: the autoencoder's (which holds the reconstruction error) and the critic's."""

    autoencoder: torch.Tensor
    reconstruction: torch.Tensor
    critic: torch.Tensor


def fill_gradients(
    networks: tuple[nn.Module, nn.Module, nn.Module],
    x: torch.Tensor,
    alpha: torch.Tensor,
    interpolation_weight: float,
    gamma: float,
) -> Losses:
    """Add each loss's gradient to the `grad` of its own parameters, each forward pass being made once.

    `networks` are the encoder E, the decoder D and the critic, of whose map C is the mean; x is (n, c, s, s) in
    [-1, 1], alpha (n,) in [0, 0.5]. With h = E(x), x^ = D(h) and m = D(alpha h + (1 - alpha) h reversed):
    the autoencoder's loss is MSE(x, x^) + weight * mean C(m)^2, the critic's is
    mean (C(m) - alpha)^2 + mean C(x^ + gamma (x - x^))^2.
    """
    encoder, decoder, critic = networks
    h = encoder(x)
    share = alpha[:, None, None, None]
    restored = decoder(h)
    mixed = critic(decoder(share * h + (1 - share) * h.flip(0))).mean((1, 2, 3))
    reconstruction = F.mse_loss(restored, x)
    loss = reconstruction + interpolation_weight * mixed.square().mean()
    loss.backward(inputs=[*encoder.parameters(), *decoder.parameters()], retain_graph=True)
    blend = torch.lerp(restored.detach(), x, gamma)
    critic_loss = (mixed - alpha).square().mean() + critic(blend).mean((1, 2, 3)).square().mean()
    critic_loss.backward(inputs=list(critic.parameters()))
    return Losses(loss.detach(), reconstruction.detach(), critic_loss.detach())


@dataclass(frozen=True)
class Acai:
    """An autoencoder trained to make its decoded mixtures of two codes look unmixed to a critic, which tries to tell
    the share of the mixture. The code of an image is its embedding. No label is read.

    Images are rescaled to [-1, 1] (uint8 from [0, 255], others from their spec's range) and padded evenly with -1 to
    the next power of two. Embeddings have no activation and no fixed scale: whiten them before clustering (`whiten`).

    Source: D. Berthelot, C. Raffel, A. Roy, I. Goodfellow: Understanding and Improving Interpolation in Autoencoders
    via an Adversarial Regularizer, ICLR 2019, arXiv:1807.07543. Used on Omniglot as in K. Hsu, S. Levine, C. Finn:
    Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334.

    Differs from the paper: images come in shuffled passes over the whole set, not from a shuffle buffer; Adam adds its
    epsilon after the bias correction, as torch does. Where paper and authors' code differ (the critic regularises
    gamma x + (1 - gamma) x^, the mixing share is folded into [0, 0.5]) the code is followed.

    Raises:
        DataError: the images are not square, smaller than 4 pixels a side, or outside their range; the range is empty.
        NumericalError: a loss is NaN or infinite.

    """

    dim: int = option(256, "length of an embedding: channels times the 4 x 4 map", paper="256 or 32", low=16)
    filters: int = option(
        16, "filters of the first convolution, doubled at each scale", paper="16; 64 in colour", low=1
    )
    steps: int = option(262_144, "training steps", unit="batches", paper="2^24 images", low=1)
    batch_size: int = option(64, "images of a step", unit="images", low=2)
    learning_rate: float = option(1e-4, "Adam's learning rate, of autoencoder and critic", low=0)
    interpolation_weight: float = option(0.5, "weight of looking unmixed, beside the reconstruction", low=0)
    gamma: float = option(0.2, "share of the real image in what the critic must find unmixed", low=0, high=1)

    def __post_init__(self) -> None:
        if self.dim % LATENT_SIDE**2:
            raise ValueError(f"dim: found {self.dim}; expected a multiple of {LATENT_SIDE**2}, the size of the map")

    def fit(self, images: ImageSet, run: Run) -> AcaiEncoder:
        """Train on the images and return the encoder; weights and mixtures are drawn from `run.generator`, the order of
        the images from `run.rng`.
        """
        made = AcaiEncoder(_check(images), self.dim, self.filters)
        network = made.network
        build = (images.shape[0], self.filters, network.latent, network.scales)
        decoder, critic = decoder_layers(*build), encoder_layers(*build)
        for part in (network, decoder, critic):
            draw_weights(part, run.generator, 1 / (1 + SLOPE**2))
            part.to(run.device).train()
        coder = [*network.parameters(), *decoder.parameters()]
        adam = torch.optim.Adam(coder, self.learning_rate, fused=True)
        critic_adam = torch.optim.Adam(critic.parameters(), self.learning_rate, fused=True)
        networks = (network.layers, decoder, critic)
        gather = Gather(images, run.device)
        passes = Passes(int(run.rng.integers(2**62)), len(images), self.batch_size)
        state: dict[str, Any] = {
            "network": network,
            "decoder": decoder,
            "critic": critic,
            "adam": adam,
            "critic_adam": critic_adam,
        }
        for step in run.loop(self.steps, name="train", **state):
            x = network.frame(passes.images(step, gather))
            alpha = 0.5 - (torch.rand(self.batch_size, generator=run.generator) - 0.5).abs()
            critic_adam.zero_grad()
            adam.zero_grad()
            losses = fill_gradients(networks, x, alpha.to(run.device), self.interpolation_weight, self.gamma)
            adam.step()
            critic_adam.step()
            run.log(loss=losses.autoencoder, reconstruction=losses.reconstruction, critic=losses.critic)
        network.eval()
        return made
