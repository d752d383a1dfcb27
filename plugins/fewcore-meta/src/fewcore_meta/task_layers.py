"""Layers with parameters for each task: what the backbones that compute all tasks at once share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm(n_features: int, *, eps: float, scale: bool, flat: bool = False) -> _BatchNorm:
    """Return a batch norm with a learnt offset, for maps or with `flat` for vectors; its scale is learnt or fixed at 1."""
    norm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(n_features, eps=eps)
    if not scale:
        del norm.weight
        norm.register_buffer("weight", torch.ones(n_features))
    return norm


def repeated(parameter: Tensor, n_dims: int, n_tasks: int) -> Tensor:
    """Return the parameter with a leading t, whether it has one or is shared by all tasks."""
    return parameter if parameter.dim() == n_dims + 1 else parameter.expand(n_tasks, *parameter.shape)


def linear_head(parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Return the outputs (t, n, n_outputs) of each task's `head.weight` and `head.bias` for features (t, n, e)."""
    t = len(features)
    weight, bias = repeated(parameters["head.weight"], 2, t), repeated(parameters["head.bias"], 1, t)
    return torch.baddbmm(bias.unsqueeze(1), features, weight.transpose(1, 2))


def normalised(
    y: Tensor, scale: Tensor, offset: Tensor, norm: nn.Module, counted: Tensor | None, running: bool, momentum: float
) -> Tensor:
    """Return batch norm of (n, t*f, h, w) with scale and offset (t, f), task by task, as plain differentiable operations.

    Statistics are those of each task's images, or of those that `counted` (t, n) marks; with `running` the running
    averages of `norm`, which with a `momentum` above 0 follow the statistics of this batch, averaged over tasks.
    """
    assert isinstance(norm, _BatchNorm)
    t, f = scale.shape
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # torch refuses to normalise a single number
    if counted is None and not running and not momentum and y.numel() > y.shape[1]:
        gamma, beta = scale.flatten(), offset.flatten()
        plain: Tensor = functional.batch_norm(y, None, None, gamma, beta, True, 0.0, norm.eps)
        return plain
    tasks = y.view(len(y), t, f, *y.shape[2:])
    if running:
        mean, var = (v.view(1, 1, f, 1, 1) for v in (norm.running_mean, norm.running_var))
    else:
        n, _, _, h, w = tasks.shape
        share = torch.ones(t, n, dtype=y.dtype, device=y.device) if counted is None else counted.to(y.dtype)
        share = (share / share.sum(1, keepdim=True) / (h * w)).t().reshape(n, t, 1, 1, 1)
        mean = (tasks * share).sum((0, 3, 4), keepdim=True)
        var = ((tasks - mean).square() * share).sum((0, 3, 4), keepdim=True)
        if momentum:
            with torch.no_grad():
                norm.running_mean.lerp_(mean.detach().view(t, f).mean(0).to(norm.running_mean), momentum)
                norm.running_var.lerp_(var.detach().view(t, f).mean(0).to(norm.running_var), momentum)
    slope = (var + norm.eps).rsqrt() * scale.view(1, t, f, 1, 1)
    return ((tasks - mean) * slope + offset.view(1, t, f, 1, 1)).flatten(1, 2)
