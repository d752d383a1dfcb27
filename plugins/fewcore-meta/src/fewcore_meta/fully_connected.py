"""Fully connected layers, for meta-learning on embeddings; they can compute many tasks at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from fewcore import option
from fewcore_meta.task_layers import batch_norm, linear_head, normalised, repeated

Norm = Literal["batch", "layer", "none"]


class FullyConnectedNetwork(nn.Module):
    """Layers of a linear map, a norm and ReLU, then a linear head; images count as vectors of all their values.

    As a plain module it maps (n, c, h, w) to (n, n_outputs), or to features (n, e) without a head.
    """

    def __init__(self, widths: tuple[int, ...], n_outputs: int, norm: Norm, scale: bool, eps: float) -> None:
        super().__init__()
        self.norm, self.scale, self.eps = norm, scale, eps
        layers = []
        for entering, width in pairwise(widths):
            # skip_init: torch's own first weights would be drawn from the global generator
            # no bias before a batch norm, which would cancel it
            linear = skip_init(nn.Linear, entering, width, bias=norm != "batch")  # type: ignore[no-untyped-call]
            layer = {"linear": linear}
            if norm == "batch":
                layer["norm"] = batch_norm(width, eps=eps, scale=scale, flat=True)
            layers.append(nn.ModuleDict(layer))
        self.layers = nn.ModuleList(layers)
        self.head: nn.Linear | None = skip_init(nn.Linear, widths[-1], n_outputs) if n_outputs else None  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n, n_outputs), or features (n, e) without a head, for images (n, c, h, w)."""
        z = x.flatten(1)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            z = layer["linear"](z)
            z = (layer["norm"](z) if self.norm == "batch" else self._by_vector(z)).relu()
        return z if self.head is None else self.head(z)

    def _by_vector(self, z: Tensor) -> Tensor:
        return functional.layer_norm(z, z.shape[-1:], eps=self.eps) if self.norm == "layer" else z

    def forward_tasks(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        counted: Tensor | None = None,
        running: bool = False,
        momentum: float = 0.0,
    ) -> Tensor:
        """Return outputs (t, n, n_outputs), or features (t, n, e) without a head, of all tasks at once.

        `parameters` are those of `named_parameters`, each with a leading t or, where all tasks share it, without; x is
        (t, n, c, h, w). Batch norm takes the statistics of each task, of the images that `counted` (t, n) marks, or of
        all; with `running` it takes the running averages. With a `momentum` above 0 these follow the statistics of
        this batch, averaged over tasks. The result can be differentiated as often as wanted.
        """
        t, n = x.shape[:2]
        z = x.flatten(2)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleDict)
            name = f"layers.{index}"
            z = z @ repeated(parameters[f"{name}.linear.weight"], 2, t).mT
            if self.norm == "batch":
                norm = layer["norm"]
                scale = parameters[f"{name}.norm.weight"] if self.scale else norm.get_buffer("weight")
                scale, offset = (repeated(v, 1, t) for v in (scale, parameters[f"{name}.norm.bias"]))
                folded = z.transpose(0, 1).reshape(n, -1, 1, 1)
                made = normalised(folded, scale, offset, norm, counted, running, momentum)
                z = made.view(n, t, -1).transpose(0, 1)
            else:
                z = self._by_vector(z + repeated(parameters[f"{name}.linear.bias"], 1, t)[:, None])
            z = z.relu()
        return z if self.head is None else linear_head(parameters, z)


@dataclass(frozen=True)
class FullyConnected:
    """Hidden layers of a linear map, a norm and ReLU, on all values of an image: for embeddings that stand for images.

    The defaults are the network with which CACTUs meta-learns on embeddings of MNIST: two layers of 64 units, weights from
    a normal distribution of standard deviation 0.01 cut at two, batch norm with an offset that is learnt and not adapted.

    Source: K. Hsu, S. Levine, C. Finn, Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, appendix D.
    Differs from the paper: linear maps before a batch norm have no bias, which it would cancel; layer norm is ours.

    Raises:
        ValueError: there is no hidden layer, or one without units.

    """

    hidden: tuple[int, ...] = option((64, 64), "units of each hidden layer", paper="64, 64")
    norm: Literal["batch", "layer", "none"] = option(
        "batch", "what each layer is normalised by: its batch, its own values, or nothing", paper="batch"
    )
    scale: bool = option(False, "learn a scale (gamma) beside the offset of batch norm", paper="false")
    eps: float = option(1e-3, "epsilon of the norm", paper="1e-3", low=1e-12)
    initial: Literal["small", "kaiming"] = option(
        "small", "first weights: a normal distribution of 0.01 cut at two, or of sqrt(2 / inputs)", paper="small"
    )

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden: found {list(self.hidden)}; expected one or more positive numbers of units")

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        """Return a `FullyConnectedNetwork` for images of any shape, its weights drawn from `generator`."""
        widths = (math.prod(shape), *self.hidden)
        network = FullyConnectedNetwork(widths, n_outputs, self.norm, self.scale, self.eps)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                spread = 0.01 if self.initial == "small" else math.sqrt(2 / module.in_features)
                nn.init.trunc_normal_(module.weight, 0.0, spread, -2 * spread, 2 * spread, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return network
