"""Second-order gradients through an inner step in the memory of one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


class CheckpointedStep(torch.autograd.Function):
    """An inner step of which only the weights before it are kept: the backward pass makes its graph again.

    Source: T. Chen, B. Xu, C. Zhang, C. Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016, arXiv:1604.06174.
    """

    @staticmethod
    def forward(
        ctx: Any, step: Callable[..., Parameters], names: tuple[str, ...], *values: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the adapted parameters after `step`, in its order; `values` are all parameters before it, by `names`."""
        ctx.step, ctx.names = step, names
        ctx.save_for_backward(*values)
        return tuple(step(dict(zip(names, values, strict=True)), False).values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the parameters before the step, through its own gradients."""
        with torch.enable_grad():
            before = [value.detach().requires_grad_() for value in ctx.saved_tensors]
            after = ctx.step(dict(zip(ctx.names, before, strict=True)), True)
            made = torch.autograd.grad(list(after.values()), before, gradients, allow_unused=True)
        return None, None, *made
