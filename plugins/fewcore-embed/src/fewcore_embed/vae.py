"""A variational autoencoder: the mean of an image's posterior is its embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fewcore import Backbone, Gather, ImageSet, Meta, Run, option, torch_generator
from fewcore_embed.generative import CodeNetwork, GenerativeEncoder
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.layers import Conv2d, Conv3d, Dense, draw_weights
from fewcore_embed.passes import Passes
from fewcore_embed.prepare import check_images
from fewcore_embed.sheets import COLUMNS, Sheet

METHOD = "vae"
SLOPE = 0.2
GAIN = 1 / (1 + SLOPE**2)
LEAST_SIDE = 4
SAMPLES = 60


def pyramid(size: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the sizes (h, w) or (d, h, w) of the maps: sides above 4 are halved, rounded up, until none is left."""
    sizes = [size]
    while max(sizes[-1]) > LEAST_SIDE:
        sizes.append(tuple(-(-side // 2) if side > LEAST_SIDE else side for side in sizes[-1]))
    return sizes


def _conv(n_dims: int, inputs: int, outputs: int) -> list[nn.Module]:
    layer = Conv2d if n_dims == 2 else Conv3d
    return [layer(inputs, outputs, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]


def shrunk(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Return the means of blocks of x (n, c, ...), halved along each side that is longer than in `size`."""
    stride = [2 if side > wanted else 1 for side, wanted in zip(x.shape[2:], size, strict=True)]
    pool = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    # blocks at the far end of an odd side are averaged over what is there
    return pool(x, stride, stride, 0, ceil_mode=True, count_include_pad=False)


class VaeNetwork(CodeNetwork):
    """Images as `Gather` gives them, (n, c, h, w) or (n, c, d, h, w), to the means (n, dim) of their posteriors.

    `trunk` is a backbone's network, whose features stand for those of the own convolutions; None where there is none.
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, kind: ImageKind, options: Meta, trunk: nn.Module | None = None) -> None:
        super().__init__(kind, options)
        self.dim, filters = options["dim"], options["filters"]
        self.sizes, self.trunk = pyramid(kind.shape[1:]), trunk
        n_dims, inputs = len(kind.shape) - 1, kind.shape[0]
        self.blocks = nn.ModuleList()
        for scale in range(len(self.sizes) if trunk is None else 0):
            width = filters << scale
            self.blocks.append(nn.Sequential(*_conv(n_dims, inputs, width), *_conv(n_dims, width, width)))
            inputs = width
        flat = inputs * math.prod(self.sizes[-1]) if trunk is None else n_features(trunk, kind.shape)
        self.mean, self.log_variance = Dense(flat, self.dim), Dense(flat, self.dim)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def prepared(self, x: torch.Tensor) -> torch.Tensor:
        """Return images brought to [0, 1] and, for the Gaussian likelihood, standardised."""
        return (self.kind.in_unit_range(x) - self.centre) / self.spread

    def posterior(self, prepared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return means and logarithms of variances, each (n, dim), of prepared images."""
        h = prepared if self.trunk is None else self.trunk(prepared)
        for scale, block in enumerate(self.blocks):
            h = block(shrunk(h, self.sizes[scale]) if scale else h)
        h = h.flatten(1)
        return self.mean(h), self.log_variance(h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, dim)."""
        return self.posterior(self.prepared(x))[0]


def n_features(trunk: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the number of features of a network for images of a shape."""
    with torch.no_grad():
        found: torch.Tensor = trunk.eval()(torch.zeros(1, *shape))
    return int(found.flatten(1).shape[1])


class Trunk(nn.Module):
    """The part of a VAE that others start from: images, prepared as the VAE prepares them, to the backbone's features."""

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, network: VaeNetwork) -> None:
        super().__init__()
        self.kind, self.trunk = network.kind, network.trunk
        self.register_buffer("centre", network.centre)
        self.register_buffer("spread", network.spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e)."""
        assert self.trunk is not None
        features: torch.Tensor = self.trunk((self.kind.in_unit_range(x) - self.centre) / self.spread)
        return features.flatten(1)


class Decoder(nn.Module):
    """Codes (n, dim) to pictures as the network prepares them: their values, or logits of them."""

    def __init__(self, network: VaeNetwork) -> None:
        super().__init__()
        filters, channels, n_dims = network.options["filters"], network.kind.shape[0], len(network.sizes[0])
        widths = [filters << scale for scale in reversed(range(len(network.sizes)))]
        self.sizes = network.sizes[::-1]
        self.grid = (widths[0], *self.sizes[0])
        self.first = nn.Sequential(Dense(network.dim, math.prod(self.grid)), nn.LeakyReLU(SLOPE, inplace=True))
        self.blocks = nn.ModuleList()
        for inputs, width in zip([widths[0], *widths], widths, strict=False):
            self.blocks.append(nn.Sequential(*_conv(n_dims, inputs, width), *_conv(n_dims, width, width)))
        self.last = _conv(n_dims, widths[-1], channels)[0]

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return (n, c, h, w) or (n, c, d, h, w)."""
        h = self.first(z).unflatten(1, self.grid)
        for size, block in zip(self.sizes, self.blocks, strict=True):
            h = block(F.interpolate(h, size) if tuple(h.shape[2:]) != size else h)
        made: torch.Tensor = self.last(h)
        return made


def bernoulli_error(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return minus the log-likelihood of pixels x in [0, 1], summed over an image and averaged over the batch, in nats."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def gaussian_error(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return half the squared error, summed over an image and averaged over the batch."""
    return 0.5 * F.mse_loss(mean, x, reduction="sum") / len(x)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, variance) || N(0, 1)), summed over an image's dimensions and averaged over the batch, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


class Losses(NamedTuple):
    """The loss of a step and its two parts."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    divergence: torch.Tensor


def losses_of(
    network: VaeNetwork, decoder: nn.Module, x: torch.Tensor, noise: torch.Tensor, beta: float, *, bernoulli: bool
) -> Losses:
    """Return the losses of prepared images x; `noise` (n, dim) is standard normal."""
    mean, log_variance = network.posterior(x)
    made = decoder(mean + noise * (0.5 * log_variance).exp())
    error = bernoulli_error(x, made) if bernoulli else gaussian_error(x, made)
    apart = divergence(mean, log_variance)
    return Losses(error + beta * apart, error.detach(), apart.detach())


class VaeEncoder(GenerativeEncoder):
    """Embeds images with the means of a VAE's posteriors; `network` maps images to (n, dim), or with a backbone to its
    features (n, e).
    """

    method = METHOD
    builds = VaeNetwork
    codes: VaeNetwork

    @property
    def network(self) -> nn.Module:
        """The network, for stages that take it as their start: with a backbone the backbone's part alone."""
        return self.codes if self.codes.trunk is None else Trunk(self.codes)

    @classmethod
    def built(cls, kind: ImageKind, options: Meta, inputs: Mapping[str, Any]) -> VaeNetwork:
        """Return the network from the options that were saved, and the backbone where there was one."""
        trunk = inputs["backbone"].build(kind.shape, 0, torch_generator(0)) if options["has_backbone"] else None
        return VaeNetwork(kind, options, trunk)


@dataclass(frozen=True)
class Vae:
    """An encoder gives each image a normal distribution over codes, a decoder makes the image from a code drawn of it; the
    loss is the error of the decoded image plus `beta` times the distribution's divergence from the standard normal. The
    mean is the embedding. No label is read.

    At each scale two convolutions of 3 x 3, whose filters double where the image is halved, until no side is longer than
    4; the decoder mirrors them. Where `from:` names a backbone, its network stands in the place of the encoder's
    convolutions, and is what a learner gets that starts from the VAE; the decoder stays as it is. `bernoulli` takes pixels in [0, 1] as probabilities; `gaussian` takes pixels standardised
    by one mean and deviation of the training set. The report shows pictures with their reconstructions, and samples.

    Source: D. Kingma, M. Welling: Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114; convolutions, initial weights
    and learning rate as in D. Berthelot, C. Raffel, A. Roy, I. Goodfellow: Understanding and Improving Interpolation in
    Autoencoders via an Adversarial Regularizer, ICLR 2019, arXiv:1807.07543.

    Differs from the paper: the networks are those of Berthelot et al. without their first 1 x 1 convolution, with fully connected
    layers to and from the codes; images of any size, and volumes, are halved with the odd pixel kept.

    Raises:
        DataError: a side of one pixel; images outside the range of their spec, or with NaN.
        NumericalError: the loss is NaN or infinite.

    """

    dim: int = option(128, "length of an embedding", low=1)
    filters: int = option(16, "filters of the first convolutions, doubled at each scale", low=1)
    likelihood: Literal["bernoulli", "gaussian"] = option("bernoulli", "how an image's error is measured")
    beta: float = option(1.0, "weight of the divergence from the standard normal", low=0)
    steps: int = option(262_144, "training steps", unit="batches", paper="2^24 images", low=1)
    batch_size: int = option(64, "images of a step", unit="images", low=1)
    learning_rate: float = option(1e-4, "Adam's learning rate", low=0)

    def fit(self, images: ImageSet, run: Run, backbone: Backbone | None = None) -> VaeEncoder:
        """Train on the images and return the encoder; weights and codes are drawn from `run.generator`, the order of the
        images from `run.rng`.
        """
        check_images(images, METHOD, len(images.shape) - 1)
        trunk = None if backbone is None else backbone.build(images.shape, 0, run.generator)
        options = {"dim": self.dim, "filters": self.filters, "has_backbone": backbone is not None}
        network = VaeNetwork(ImageKind.of(images, METHOD), options, trunk)
        decoder = Decoder(network)
        for part in (network.blocks, network.mean, network.log_variance, decoder):
            draw_weights(part, run.generator, GAIN)
        for whole in (network, decoder):
            whole.to(run.device).train()
        gather = Gather(images, run.device)
        if self.likelihood == "gaussian":
            _standardise(network, gather, len(images))
        adam = torch.optim.Adam([*network.parameters(), *decoder.parameters()], self.learning_rate, fused=True)
        passes = Passes(int(run.rng.integers(2**62)), len(images), self.batch_size)
        for step in run.loop(self.steps, name="train", network=network, decoder=decoder, adam=adam):
            x = network.prepared(passes.images(step, gather))
            noise = torch.randn(len(x), self.dim, generator=run.generator).to(run.device)
            losses = losses_of(network, decoder, x, noise, self.beta, bernoulli=self.likelihood == "bernoulli")
            adam.zero_grad()
            torch.autograd.backward(losses.total)
            adam.step()
            run.log(loss=losses.total, reconstruction=losses.reconstruction, divergence=losses.divergence)
        sheet = self._sheet(network.eval(), decoder.eval(), gather(np.arange(COLUMNS) % len(images)), run)
        return VaeEncoder(network, sheet)

    @torch.no_grad()
    def _sheet(self, network: VaeNetwork, decoder: nn.Module, x: torch.Tensor, run: Run) -> Sheet:
        """Return a row of images x, one of their reconstructions, and samples."""
        codes = torch.randn(SAMPLES, self.dim, generator=run.generator).to(run.device)
        made = torch.cat([decoder(network(x)), decoder(codes)])
        made = made.sigmoid() if self.likelihood == "bernoulli" else made * network.spread + network.centre
        pictures = torch.cat([network.kind.in_unit_range(x), made])
        return Sheet.of(pictures, "training images; their reconstructions from the embedding; samples")


@torch.no_grad()
def _standardise(network: VaeNetwork, gather: Gather, n: int) -> None:
    """Give the network the mean and the deviation of all pixels in [0, 1]; those of a constant set are its value and 1."""
    parts = [np.arange(start, min(start + 256, n)) for start in range(0, n, 256)]
    total, squares, count = 0.0, 0.0, 0
    for rows in parts:
        x = network.kind.in_unit_range(gather(rows)).double()
        total, squares, count = total + float(x.sum()), squares + float(x.square().sum()), count + x.numel()
    mean = total / count
    variance = squares / count - mean**2
    network.centre.fill_(mean)
    network.spread.fill_(math.sqrt(variance) if variance > 1e-12 else 1.0)
