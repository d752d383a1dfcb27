"""The four-block convolutional network of the few-shot papers; it can compute many tasks at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from fewcore import DataError, option
from fewcore_meta.second_order import Plan, SupportGradient, fold, pool_features
from fewcore_meta.task_layers import batch_norm, linear_head, normalised, repeated


class Conv4Network(nn.Module):
    """Blocks of 3 x 3 convolution, batch norm and ReLU, each halving the map, then a linear head.

    As a plain module it maps (n, c, h, w) to (n, n_outputs), or to features (n, e) without a head, with batch
    statistics in training and running statistics in evaluation mode. `forward_tasks` and `loss_gradients` compute all
    tasks of a batch at once and ignore that mode.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        n_blocks: int,
        n_features: int,
        n_outputs: int,
        pools: bool,
        scale: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.pools, self.stride, self.eps, self.scale = pools, 1 if pools else 2, eps, scale
        blocks = []
        for index in range(n_blocks):
            # no bias: the batch norm that follows would cancel it
            entering = channels if index == 0 else filters
            # skip_init: torch's own first weights would be drawn from the global generator
            convolution = skip_init(nn.Conv2d, entering, filters, 3, stride=self.stride, padding=1, bias=False)  # type: ignore[no-untyped-call]
            norm = batch_norm(filters, eps=eps, scale=scale)
            blocks.append(nn.ModuleDict({"convolution": convolution, "norm": norm}))
        self.blocks = nn.ModuleList(blocks)
        self.head: nn.Linear | None = skip_init(nn.Linear, n_features, n_outputs) if n_outputs else None  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n, n_outputs), or features (n, e) without a head, for images (n, c, h, w)."""
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = block["norm"](block["convolution"](x)).relu()
            x = functional.max_pool2d(x, 2) if self.pools else x
        features = pool_features(x, 1, self.pools)[0]
        return features if self.head is None else self.head(features)

    @property
    def gradient_names(self) -> frozenset[str]:
        """The parameters whose gradients `loss_gradients` makes; none where batch norm has a scale or there is no head."""
        if self.scale or self.head is None:
            return frozenset()
        return frozenset(name for name, _ in self.named_parameters() if ".norm." not in name)

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
        t = len(x)
        z = fold(x)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, nn.ModuleDict)
            weight = repeated(parameters[f"blocks.{index}.convolution.weight"], 4, t).flatten(0, 1)
            y = functional.conv2d(z, weight, None, self.stride, 1, 1, t)
            norm = block["norm"]
            scale = parameters[f"blocks.{index}.norm.weight"] if self.scale else norm.get_buffer("weight")
            scale, offset = (repeated(v, 1, t) for v in (scale, parameters[f"blocks.{index}.norm.bias"]))
            z = normalised(y, scale, offset, norm, counted, running, momentum).relu_()
            z = functional.max_pool2d(z, 2) if self.pools else z
        features = pool_features(z, t, self.pools)
        return features if self.head is None else linear_head(parameters, features)

    def loss_gradients(
        self, parameters: Mapping[str, Tensor], x: Tensor, labels: Tensor, n_way: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (t,) of each task and its gradients, each with a leading t, by the parameters `gradient_names`.

        The loss is n_way times the mean cross-entropy of the first n_way outputs; x is (t, n, c, h, w), labels (t, n).
        Batch norm takes each task's statistics. The gradients, not the loss, can be differentiated once more, exactly
        and at about the price of two first-order passes.
        """
        assert self.head is not None
        t = len(x)
        names = [f"blocks.{index}.convolution.weight" for index in range(len(self.blocks))]
        weights = [repeated(parameters[name], 4, t) for name in names]
        offsets = [repeated(parameters[f"blocks.{i}.norm.bias"], 1, t) for i in range(len(self.blocks))]
        head, bias = repeated(parameters["head.weight"], 2, t), repeated(parameters["head.bias"], 1, t)
        spare = self.head.out_features - n_way
        one_hot = functional.one_hot(labels, n_way).to(x.dtype)
        plan = Plan(t, n_way, self.stride, self.pools, self.eps)
        inputs = (*weights, *offsets, head[:, :n_way], bias[:, :n_way])
        loss, *made, head_made, bias_made = SupportGradient.apply(plan, fold(x), one_hot, *inputs)
        if spare:
            head_made = functional.pad(head_made, (0, 0, 0, spare))
            bias_made = functional.pad(bias_made, (0, spare))
        return loss, dict(zip([*names, "head.weight", "head.bias"], [*made, head_made, bias_made], strict=True))


def _map_size(side: int, n_blocks: int, pools: bool) -> int:
    for _ in range(n_blocks):
        side = side // 2 if pools else -(-side // 2)
    return side


@dataclass(frozen=True)
class Conv4:
    """The network of MAML and of prototypical networks: four blocks of 3 x 3 convolution, batch norm and ReLU.

    The defaults are MAML's network for Omniglot: 32 filters, convolutions of stride 2, the mean over the last map, and a
    batch norm whose offset is learnt but not adapted, without a scale. Prototypical networks' is `{filters: 64,
    downsample: pool, scale: true, eps: 1e-5, initial: torch}`; MAML's for colour images of 84 x 84 is `{downsample: pool,
    head: xavier}`.

    Source: C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
    arXiv:1703.03400; J. Snell, K. Swersky, R. Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017,
    arXiv:1703.05175; details as in K. Hsu, S. Levine, C. Finn, Unsupervised Learning via Meta-Learning, ICLR 2019,
    arXiv:1810.02334.
    Differs from the paper: convolutions have no bias, because batch norm with batch statistics cancels it exactly;
    padding is symmetric where TensorFlow pads stride-2 convolutions at the bottom and right only.
    """

    filters: int = option(32, "filters of each convolution", paper="32 (MAML), 64 (prototypical networks)", low=1)
    n_blocks: int = option(4, "blocks of convolution, batch norm and ReLU; each halves the map", paper="4", low=1)
    downsample: Literal["stride", "pool"] = option(
        "stride",
        "how a block halves the map: stride 2 and the mean over the last map, or 2 x 2 max-pooling and all of it",
        paper="stride for 28 x 28 with MAML, else pool",
    )
    scale: bool = option(False, "learn a scale (gamma) beside the offset of batch norm", paper="false for MAML")
    eps: float = option(1e-3, "epsilon of batch norm", paper="1e-3 (MAML), 1e-5 (prototypical networks)", low=1e-12)
    initial: Literal["xavier", "torch"] = option(
        "xavier", "first convolution weights: Glorot's uniform, or PyTorch's default", paper="xavier for MAML"
    )
    head: Literal["normal", "xavier"] = option(
        "normal", "first head weights: N(0, 1), or Glorot's uniform", paper="normal for 28 x 28, else xavier"
    )

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        """Return a `Conv4Network` for images (c, h, w), its weights drawn from `generator`.

        Raises:
            DataError: images have not three dimensions, or nothing is left of them after the last pooling.

        """
        if len(shape) != 3:
            raise DataError(f"conv4: found images of shape {shape}; expected (c, h, w)")
        pools = self.downsample == "pool"
        sizes = [_map_size(side, self.n_blocks, pools) for side in shape[1:]]
        if min(sizes) == 0:
            found = f"found images of {shape[1]} x {shape[2]} pixels and {self.n_blocks} blocks that pool"
            least = 2**self.n_blocks
            raise DataError(
                f"conv4: {found}; expected at least {least} x {least} (fewer n_blocks, or downsample: stride)"
            )
        n_features = self.filters * (math.prod(sizes) if pools else 1)
        network = Conv4Network(
            shape[0], self.filters, self.n_blocks, n_features, n_outputs, pools, self.scale, self.eps
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and self.initial == "xavier":
                nn.init.xavier_uniform_(module.weight, generator=generator)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                if self.head == "normal":
                    nn.init.normal_(module.weight, generator=generator)
                else:
                    nn.init.xavier_uniform_(module.weight, generator=generator)
        return network
