"""ACAI: an autoencoder whose interpolations a critic cannot tell from reconstructions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fewcore import (
    Array,
    Arrays,
    DataError,
    Gather,
    ImageSet,
    Meta,
    Run,
    child_seed,
    load_module,
    module_arrays,
    numpy_generator,
    option,
)
from fewcore_embed.batches import embedded
from fewcore_embed.layers import Conv2d

SLOPE = 0.2
LATENT_SIDE = 4
SMALLEST_SIDE = 4
EMBED_BATCH = 256
LAYOUT = (
    torch.channels_last
)  # of what flows through the layers; measured on the CPU, a third faster than channels first


class Kernel(Conv2d):
    """A convolution that keeps the image's size, its weights still to be drawn or loaded."""

    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)


class Lift(nn.Module):
    """A 1 x 1 convolution without activation, then a 3 x 3 convolution with zero padding.

    Both are linear, so they are computed as one 3 x 3 convolution of the image and a plane of ones, which carries the
    first one's bias and ends, like the zero padding, at the border. That is the same function of the same parameters
    at a fifth of the cost.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.point = Kernel(channels, filters, 1)
        self.conv = Kernel(filters, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, filters, h, w) for x (n, channels, h, w)."""
        assert self.point.bias is not None
        point = torch.cat([self.point.weight.flatten(1), self.point.bias[:, None]], 1)
        kernel = torch.einsum("ofhw,fc->ochw", self.conv.weight, point).contiguous(memory_format=LAYOUT)
        plane = torch.cat([x, torch.ones_like(x[:, :1])], 1).contiguous(memory_format=LAYOUT)
        return F.conv2d(plane, kernel, self.conv.bias, padding=1)


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [Kernel(inputs, outputs), nn.LeakyReLU(SLOPE, inplace=True)]


def encoder_layers(channels: int, filters: int, latent: int, scales: int) -> nn.Sequential:
    """Return the encoder's (and the critic's) layers: (n, channels, s, s) -> (n, latent, s / 2^scales, s / 2^scales)."""
    layers: list[nn.Module] = [Lift(channels, filters), nn.LeakyReLU(SLOPE, inplace=True)]
    width = filters
    for scale in range(scales):
        if scale:
            layers += _conv(width, filters << scale)
        width = filters << scale
        layers += [*_conv(width, width), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, *_conv(width, filters << scales), Kernel(filters << scales, latent))


def decoder_layers(channels: int, filters: int, latent: int, scales: int) -> nn.Sequential:
    """Return the decoder's layers: (n, latent, s, s) -> (n, channels, s * 2^scales, s * 2^scales)."""
    layers: list[nn.Module] = []
    width = latent
    for scale in reversed(range(scales)):
        layers += [*_conv(width, filters << scale), *_conv(filters << scale, filters << scale)]
        layers += [nn.UpsamplingNearest2d(scale_factor=2)]
        width = filters << scale
    return nn.Sequential(*layers, *_conv(width, filters), Kernel(filters, channels))


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every kernel from N(0, 1 / ((1 + slope^2) fan_in)); biases are zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=((1 + SLOPE**2) * fan_in) ** -0.5, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class Frame(nn.Module):
    """Rescales images from [low, high] to [-1, 1] and pads them evenly to `side` with -1, the background."""

    def __init__(self, low: float, high: float, size: int, side: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        before = (side - size) // 2
        self.padding = [before, side - size - before] * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, c, side, side) in [-1, 1] for x (n, c, size, size) in [low, high]."""
        return F.pad((x - self.low) * (2 / (self.high - self.low)) - 1, self.padding, value=-1.0)


class AcaiNetwork(nn.Module):
    """Images (n, c, h, w), in their own range, to embeddings (n, e)."""

    def __init__(self, shape: tuple[int, ...], low: float, high: float, dim: int, filters: int) -> None:
        super().__init__()
        self.side = max(2 * LATENT_SIDE, 1 << (shape[-1] - 1).bit_length())
        self.scales = (self.side // LATENT_SIDE).bit_length() - 1
        self.latent = dim // LATENT_SIDE**2
        self.frame = Frame(low, high, shape[-1], self.side)
        self.layers = encoder_layers(shape[0], filters, self.latent, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e)."""
        codes: torch.Tensor = self.layers(self.frame(x))
        return codes.flatten(1)


class AcaiEncoder:
    """Embeds images with the encoder half of an ACAI autoencoder; `network` maps images (n, c, h, w) to (n, e)."""

    def __init__(self, shape: tuple[int, ...], value_range: tuple[float, float], dim: int, filters: int) -> None:
        self.shape, self.value_range, self.filters = shape, value_range, filters
        self.dim = dim
        self.network = AcaiNetwork(shape, *value_range, dim, filters)

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the codes, (n, e) float32: channels first, then rows and columns of the 4 x 4 map.

        Raises:
            DataError: the images have another shape or range than those of the training.

        """
        found = (images.shape, _value_range(images))
        if found != (self.shape, self.value_range):
            raise DataError(
                f"acai: found images {_text(*found)}; expected {_text(self.shape, self.value_range)}, as in training "
                "(prepare both in the same way)"
            )
        network = self.network.to(run.device).eval()
        return embedded(images, run, EMBED_BATCH, (self.dim,), network)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights as arrays, and what the network is built from."""
        meta = {"shape": list(self.shape), "value_range": list(self.value_range)}
        return module_arrays(self.network), {**meta, "dim": self.dim, "filters": self.filters}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> AcaiEncoder:
        """Build the encoder from `to_arrays`' result."""
        low, high = meta["value_range"]
        encoder = cls(tuple(meta["shape"]), (low, high), meta["dim"], meta["filters"])
        load_module(encoder.network, arrays)
        return encoder


def _text(shape: tuple[int, ...], value_range: tuple[float, float]) -> str:
    return f"{shape} in [{value_range[0]:g}, {value_range[1]:g}]"


def _value_range(images: ImageSet) -> tuple[float, float]:
    """Return the range of what `Gather` gives."""
    if images.images.dtype == np.uint8:
        return (0.0, 1.0)
    low, high = images.spec.value_range
    return (float(low), float(high))


def _check(images: ImageSet) -> None:
    shape, (low, high) = images.shape, _value_range(images)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < SMALLEST_SIDE:
        raise DataError(
            f"acai: found images {shape}; expected square images (c, h, h) of at least {SMALLEST_SIDE} pixels a side "
            "(set the data set's image size)"
        )
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DataError(f"acai: found value_range [{low:g}, {high:g}] in the images' spec; expected low < high")
    if not len(images):
        raise DataError("acai: found no images; expected at least one")


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


class _Order:
    """The images of each step: one shuffled pass over the set after the other, a pure function of seed and step."""

    def __init__(self, seed: int, n: int, batch_size: int) -> None:
        self.seed, self.n, self.batch_size = seed, n, batch_size
        self.passes: dict[int, Array] = {}

    def at(self, step: int) -> Array:
        epochs, rows = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), self.n)
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        self.passes = {epoch: self.passes.get(epoch, np.empty(0, np.int64)) for epoch in needed}
        for epoch in needed:
            if not len(self.passes[epoch]):
                self.passes[epoch] = numpy_generator(child_seed(self.seed, epoch)).permutation(self.n)
        return np.array([self.passes[int(epoch)][row] for epoch, row in zip(epochs, rows, strict=True)])


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
        DataError: the images are not square, or smaller than 4 pixels a side; their range is empty.
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
        _check(images)
        channels = images.shape[0]
        made = AcaiEncoder(images.shape, _value_range(images), self.dim, self.filters)
        network = made.network
        build = (channels, self.filters, network.latent, network.scales)
        decoder, critic = decoder_layers(*build), encoder_layers(*build)
        for part in (network, decoder, critic):
            _draw_weights(part, run.generator)
            part.to(run.device).train()
        coder = [*network.parameters(), *decoder.parameters()]
        adam = torch.optim.Adam(coder, self.learning_rate, fused=True)
        critic_adam = torch.optim.Adam(critic.parameters(), self.learning_rate, fused=True)
        networks = (network.layers, decoder, critic)
        gather = Gather(images, run.device)
        order = _Order(int(run.rng.integers(2**62)), len(images), self.batch_size)
        state: dict[str, Any] = {
            "network": network,
            "decoder": decoder,
            "critic": critic,
            "adam": adam,
            "critic_adam": critic_adam,
        }
        for step in run.loop(self.steps, name="train", **state):
            x = network.frame(gather(order.at(step)))
            alpha = 0.5 - (torch.rand(self.batch_size, generator=run.generator) - 0.5).abs()
            critic_adam.zero_grad()
            adam.zero_grad()
            losses = fill_gradients(networks, x, alpha.to(run.device), self.interpolation_weight, self.gamma)
            adam.step()
            critic_adam.step()
            run.log(loss=losses.autoencoder, reconstruction=losses.reconstruction, critic=losses.critic)
        network.eval()
        return made
