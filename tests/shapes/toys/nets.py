"""A linear network, and what the toys compute with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fewcore import Array, ImageSet, option


class ToyNet(nn.Module):
    """Features are a linear function of the pixels; `head` maps them to outputs where there are some."""

    def __init__(self, body: torch.Tensor, head: torch.Tensor | None = None) -> None:
        super().__init__()
        self.body = nn.Parameter(body)
        self.head = nn.ParameterDict({} if head is None else {"weight": head})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (n, e), or outputs (n, k) where there is a head."""
        features = x.flatten(1) @ self.body
        return features @ self.head["weight"] if "weight" in self.head else features


@dataclass(frozen=True)
class Net:
    """Builds a linear network."""

    width: int = option(8, "features", low=1)

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        """Return a network drawn from `generator`."""
        body = torch.randn(int(np.prod(shape)), self.width, generator=generator)
        head = torch.randn(self.width, n_outputs, generator=generator) if n_outputs else None
        return ToyNet(body, head)


def flat(images: ImageSet) -> Array:
    """Return the pixels as rows, (n, d) float32."""
    return np.asarray(images.images.reshape(len(images), -1), dtype=np.float32)


def net_of(body: Array) -> ToyNet:
    """Return a network with a given body."""
    return ToyNet(torch.from_numpy(np.array(body, dtype=np.float32)))


def body_of(network: nn.Module) -> Array:
    """Return the body of a network, (d, e)."""
    found: Array = network.get_parameter("body").detach().numpy().copy()
    return found


def blind(images: ImageSet) -> None:
    """Refuse images that show what a stage without labels, or a model, may not see."""
    assert not images.targets, f"targets {sorted(images.targets)} are shown"
    assert not images.splits


def ridge(x: Array, y: Array, penalty: float = 1.0) -> Array:
    """Return the weights (d + 1, m) of a ridge regression of y (n, m) on x (n, d), the last row the intercept."""
    wide = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float64)
    found: Array = np.linalg.solve(wide.T @ wide + penalty * np.eye(wide.shape[1]), wide.T @ y)
    return found


def applied(x: Array, weights: Array) -> Array:
    """Return what `ridge`'s weights give for x, (n, m) float32."""
    return np.asarray(x @ weights[:-1] + weights[-1], dtype=np.float32)


def one_hot(labels: Array, k: int) -> Array:
    """Return 1 and -1 for each class, (n, k)."""
    return np.asarray(np.eye(k)[labels] * 2 - 1)
