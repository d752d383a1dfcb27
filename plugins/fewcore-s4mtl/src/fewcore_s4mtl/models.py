"""The five models: what is made of the generator and the discriminator, and what each says of images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from fewcore import Meta, Run
from fewcore_s4mtl.heads import Heads, SelfSupervision
from fewcore_s4mtl.networks import Discriminator, Generator, Upsampling

Kind = Literal["adversarial", "u-mtl", "u-net", "conv-net"]


class Said(NamedTuple):
    """What a model says of images: probabilities of masks (n, k, h, w) and of classes (n, n_classes), where it makes them."""

    masks: torch.Tensor | None
    scores: torch.Tensor | None


@dataclass(frozen=True)
class Shape:
    """Of both networks: filters at full size, times that the U-Net halves an image, dropout, and how it enlarges."""

    width: int
    levels: int
    dropout: float
    upsampling: Upsampling = "bilinear"


@dataclass(frozen=True)
class Architecture:
    """Everything that a model is built from. Without masks `structures` is 0, without classes `n_classes`."""

    kind: Kind
    channels: int
    structures: int
    n_classes: int
    shape: Shape
    n_transformations: int = 0
    reading: SelfSupervision = "separate_head"

    def to_json(self) -> Meta:
        """Return the architecture as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, meta: Meta) -> Architecture:
        """Return the architecture that `to_json` described."""
        return cls(**{**meta, "shape": Shape(**meta["shape"])})

    def generator(self) -> Generator:
        """Return a fresh generator."""
        shape = self.shape
        return Generator(self.channels, self.structures, shape.width, shape.levels, shape.dropout, shape.upsampling)

    def discriminator(self, outputs: int) -> Discriminator:
        """Return a fresh discriminator of images with masks beside them."""
        shape = self.shape
        return Discriminator(self.channels + self.structures, outputs, shape.width, shape.levels, shape.dropout)


class Adversarial(nn.Module):
    """The generator and the discriminator of S4MTL and S2MTL."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads = Heads(architecture.n_classes, architecture.n_transformations, architecture.reading)
        self.generator = architecture.generator()
        self.discriminator = architecture.discriminator(self.heads.size)

    def judged(self, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the discriminator's outputs (n, heads.size) for pairs of images and masks."""
        outputs: torch.Tensor = self.discriminator(torch.cat([x, masks], 1))
        return outputs

    def forward(self, x: torch.Tensor) -> Said:
        """Return masks, and classes of the images beside the masks that were predicted for them."""
        masks = self.generator(x)
        return Said(masks, self.heads.classes(self.judged(x, masks)).softmax(1))


class UMtlNetwork(nn.Module):
    """The generator with a linear classifier on the mean of its bottleneck."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.generator = architecture.generator()
        self.head = nn.Linear(self.generator.bottleneck_width, architecture.n_classes)

    def outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities of masks and logits of classes."""
        features = self.generator.encoded(x)
        return self.generator.decoded(features), self.head(features[-1].mean((2, 3))).float()

    def forward(self, x: torch.Tensor) -> Said:
        """Return masks and classes."""
        masks, logits = self.outputs(x)
        return Said(masks, logits.softmax(1))


class UNetNetwork(nn.Module):
    """The generator alone."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.generator = architecture.generator()

    def forward(self, x: torch.Tensor) -> Said:
        """Return masks."""
        return Said(self.generator(x), None)


class ConvNetNetwork(nn.Module):
    """The discriminator alone, for images without masks, or with masks that are zero throughout."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.empty = architecture.structures
        self.discriminator = architecture.discriminator(architecture.n_classes)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of the classes (n, n_classes)."""
        if self.empty:
            x = torch.cat([x, x.new_zeros(len(x), self.empty, *x.shape[2:])], 1)
        logits: torch.Tensor = self.discriminator(x)
        return logits

    def forward(self, x: torch.Tensor) -> Said:
        """Return classes."""
        return Said(None, self.logits(x).softmax(1))


Model = Adversarial | UMtlNetwork | UNetNetwork | ConvNetNetwork

_KINDS: dict[str, Any] = {
    "adversarial": Adversarial,
    "u-mtl": UMtlNetwork,
    "u-net": UNetNetwork,
    "conv-net": ConvNetNetwork,
}


def bare(architecture: Architecture) -> Any:
    """Return the model with weights that mean nothing; global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return _KINDS[architecture.kind](architecture)


def drawn(architecture: Architecture, run: Run) -> Any:
    """Return the model with torch's initial weights, drawn from `run.generator`, on the CPU."""
    seed = int(torch.randint(2**62, (1,), generator=run.generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _KINDS[architecture.kind](architecture)
