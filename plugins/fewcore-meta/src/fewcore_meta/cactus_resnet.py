"""The residual network with which CACTUs meta-learns on ImageNet; it can compute many tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from fewcore import DataError, option
from fewcore_meta.second_order import fold, pool_features
from fewcore_meta.task_layers import batch_norm, linear_head, normalised, repeated

STEM = 64
Layer = Callable[[str, Tensor], Tensor]


class CactusResNetwork(nn.Module):
    """A 7 x 7 convolution of stride 2, pre-activation residual blocks with pooling before each, the mean, a linear head.

    As a plain module it maps (n, c, h, w) to (n, n_outputs), or to features (n, e) without a head.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], n_layers: int, n_outputs: int, eps: float) -> None:
        super().__init__()
        self.n_layers = n_layers

        # skip_init: torch's own first weights would be drawn from the global generator
        def convolution(entering: int, leaving: int, side: int, **more: object) -> nn.Module:
            made: nn.Module = skip_init(nn.Conv2d, entering, leaving, side, **more)  # type: ignore[no-untyped-call]
            return made

        self.stem = convolution(channels, STEM, 7, stride=2, padding=3)
        blocks = []
        for entering, width in pairwise((STEM, *widths)):
            block: dict[str, nn.Module] = {"shortcut": convolution(entering, width, 1, bias=False)}
            for layer in range(n_layers):
                inside = entering if layer == 0 else width
                block[f"norm{layer}"] = batch_norm(inside, eps=eps, scale=False)
                block[f"convolution{layer}"] = convolution(inside, width, 3, padding=1)
            blocks.append(nn.ModuleDict(block))
        self.blocks = nn.ModuleList(blocks)
        self.head: nn.Linear | None = skip_init(nn.Linear, widths[-1], n_outputs) if n_outputs else None  # type: ignore[no-untyped-call]

    def _last_map(self, z: Tensor, convolve: Layer, normalise: Layer) -> Tensor:
        z = convolve("stem", z)
        for index in range(len(self.blocks)):
            z = functional.max_pool2d(z, 2)
            block, y = f"blocks.{index}", z
            for layer in range(self.n_layers):
                y = convolve(f"{block}.convolution{layer}", normalise(f"{block}.norm{layer}", y).relu())
            z = convolve(f"{block}.shortcut", z) + y
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n, n_outputs), or features (n, e) without a head, for images (n, c, h, w)."""

        def apply(name: str, z: Tensor) -> Tensor:
            made: Tensor = self.get_submodule(name)(z)
            return made

        features = self._last_map(x, apply, apply).mean((2, 3))
        return features if self.head is None else self.head(features)

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

        def convolve(name: str, z: Tensor) -> Tensor:
            layer = self.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            assert isinstance(layer.padding, tuple)
            weight = repeated(parameters[f"{name}.weight"], 4, t).flatten(0, 1)
            bias = repeated(parameters[f"{name}.bias"], 1, t).flatten() if layer.bias is not None else None
            return functional.conv2d(z, weight, bias, layer.stride, layer.padding, 1, t)

        def normalise(name: str, z: Tensor) -> Tensor:
            norm = self.get_submodule(name)
            scale, offset = (repeated(v, 1, t) for v in (norm.get_buffer("weight"), parameters[f"{name}.bias"]))
            return normalised(z, scale, offset, norm, counted, running, momentum)

        features = pool_features(self._last_map(fold(x), convolve, normalise), t, pools=False)
        return features if self.head is None else linear_head(parameters, features)


@dataclass(frozen=True)
class CactusResNet:
    """The residual network of CACTUs' ImageNet experiment, for colour images of 224 x 224.

    A 7 x 7 convolution of stride 2 to 64 channels; then blocks, each after 2 x 2 max-pooling, of parts of batch norm, ReLU
    and 3 x 3 convolution, with a 1 x 1 convolution beside them as the shortcut; then the mean over the last map. Batch
    norm has a learnt offset, which `maml` does not adapt, and no scale.

    Source: K. Hsu, S. Levine, C. Finn, Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, appendix G;
    K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    Differs from the paper: its Table 11 says five residual blocks where its code has four, as here; padding is symmetric
    where TensorFlow pads strided convolutions at the bottom and right only.

    Raises:
        ValueError: there is no block, or one without channels.

    """

    widths: tuple[int, ...] = option((64, 128, 256, 512), "channels of each residual block", paper="64, 128, 256, 512")
    n_layers: int = option(2, "convolutions of a residual block", paper="2", low=1)
    eps: float = option(1e-3, "epsilon of batch norm", paper="1e-3", low=1e-12)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths: found {list(self.widths)}; expected one or more positive numbers of channels")

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        """Return a `CactusResNetwork` for images (c, h, w), its weights drawn from `generator`: Glorot's uniform, biases 0.

        Raises:
            DataError: images have not three dimensions, or nothing is left of them after the last pooling.

        """
        if len(shape) != 3:
            raise DataError(f"cactus-resnet: found images of shape {shape}; expected (c, h, w)")
        least = 2 ** (len(self.widths) + 1) - 1
        if min(shape[1:]) < least:
            raise DataError(
                f"cactus-resnet: found images of {shape[1]} x {shape[2]} pixels and {len(self.widths)} blocks; expected at "
                f"least {least} x {least} (fewer widths, or larger images)"
            )
        network = CactusResNetwork(shape[0], self.widths, self.n_layers, n_outputs, self.eps)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return network
