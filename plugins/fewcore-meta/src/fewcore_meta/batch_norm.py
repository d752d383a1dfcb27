"""Where a network's batch norm takes its statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def norm_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers that normalise with statistics of a batch: torch's own, and whatever keeps running statistics."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) or isinstance(getattr(layer, "running_mean", None), torch.Tensor)
    ]


@torch.no_grad()
def embeds_alone(network: nn.Module, pair: torch.Tensor) -> bool:
    """Return whether the network in evaluation mode, in which it is left, embeds an image as if nothing stood beside it.

    `pair` holds two different images, (2, c, h, w).
    """
    network.eval()
    together, alone = network(pair)[:1], network(pair[[0, 0]])[:1]
    return torch.allclose(together, alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def keep_statistics(network: nn.Module, images: torch.Tensor) -> None:
    """Let the statistics of images (n, c, ...) be the running ones, layer by layer, each of the layers before as they then are."""
    layers = [layer for layer in norm_layers(network) if isinstance(layer.running_mean, torch.Tensor)]
    hooks = [layer.register_forward_pre_hook(_take_statistics(len(images))) for layer in layers]
    network.eval()
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def begin_statistics(network: nn.Module, images: torch.Tensor) -> None:
    """Let running statistics begin at those of images (n, c, ...), where no image has moved them yet.

    A network fresh from its backbone, or meta-trained by the statistics of batches, has the mean 0 and the variance 1 in
    every layer, and averages need dozens of steps to leave them behind: so long its running statistics would misjudge it.
    """
    layers = [layer for layer in norm_layers(network) if isinstance(layer.running_mean, torch.Tensor)]
    if layers and not any(layer.running_mean.any() or (layer.running_var != 1).any() for layer in layers):  # type: ignore[operator,union-attr]
        keep_statistics(network, images)


def _take_statistics(n_rows: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Return a hook that makes the statistics of a layer's first `n_rows` inputs its running ones."""

    def take(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0][:n_rows]
        axes = [0, *range(2, rows.ndim)]
        # Biased, as batch norm normalises in training; the running variance that it keeps is the unbiased one.
        variance, mean = torch.var_mean(rows, axes, correction=0)
        with torch.no_grad():
            layer.running_mean.copy_(mean)  # type: ignore[operator]
            layer.running_var.copy_(variance)  # type: ignore[operator]

    return take


@contextmanager
def statistics_of_first(network: nn.Module, n_rows: int) -> Iterator[None]:
    """Normalise every image of a batch with the statistics of its first `n_rows` images, layer by layer.

    The network is in evaluation mode inside; running statistics and modes are as before afterwards. Layers without
    running statistics go on using those of the whole batch.
    """
    layers = [layer for layer in norm_layers(network) if isinstance(layer.running_mean, torch.Tensor)]
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    modes = {module: module.training for module in network.modules()}
    hooks = [layer.register_forward_pre_hook(_take_statistics(n_rows)) for layer in layers]
    network.eval()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, values in zip(buffers, before, strict=True):
                buffer.copy_(values)


class RunningAverages:
    """The running averages of layers, moved by a meta-batch as if by one batch: each part of its tasks moves them from
    where they were before, and they go on by the mean of these moves. So it does not matter how tasks are dealt out to
    parts and to ranks.

    `moves` are the moves so far, for `Ranks.sum`.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        kept = [getattr(layer, name, None) for layer in layers for name in RUNNING]
        self._buffers = [buffer for buffer in kept if isinstance(buffer, torch.Tensor)]
        self._before = [buffer.clone() for buffer in self._buffers]
        self.moves = [torch.zeros_like(buffer, dtype=torch.get_default_dtype()) for buffer in self._buffers]

    @torch.no_grad()
    def add(self, share: float) -> None:
        """Count a move with a weight, and put the averages back to where they were."""
        for move, buffer, before in zip(self.moves, self._buffers, self._before, strict=True):
            move.add_(buffer - before, alpha=share)
            buffer.copy_(before)

    @torch.no_grad()
    def finish(self) -> None:
        """Move the averages by the mean that was counted."""
        for buffer, before, move in zip(self._buffers, self._before, self.moves, strict=True):
            # Batch norm counts its batches in an integer: tasks of one meta-batch count as one.
            buffer.copy_(before + (move if buffer.is_floating_point() else move.round()))


@contextmanager
def own_statistics(layers: Sequence[Any]) -> Iterator[None]:
    """Let torch's batch norm take the statistics of the batch, in its own fast code, and leave running averages alone."""
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance


@contextmanager
def batch_statistics(layers: Sequence[nn.Module], marked: torch.Tensor, momentum: float) -> Iterator[None]:
    """Let batch norm take the statistics of the images that `marked` (n,) marks, as plain operations.

    With a `momentum`, running averages follow them.
    """

    def normalise(layer: Any, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> torch.Tensor:
        x, axes = inputs[0], [0, *range(2, inputs[0].dim())]
        share = marked.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        share = share / (share.sum() * x[0, 0].numel())
        mean = (x * share).sum(axes, keepdim=True)
        var = ((x - mean).square() * share).sum(axes, keepdim=True)
        if momentum and layer.running_mean is not None:
            with torch.no_grad():
                layer.running_mean.lerp_(mean.detach().flatten(), momentum)
                layer.running_var.lerp_(var.detach().flatten(), momentum)
        y: torch.Tensor = (x - mean) * (var + layer.eps).rsqrt()
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if layer.weight is not None:
            y = y * layer.weight.view(shape)
        return y if layer.bias is None else y + layer.bias.view(shape)

    hooks = [layer.register_forward_hook(normalise) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
