"""The support gradient of a network of convolution blocks, for all tasks at once, and its exact derivative.

Reverse-mode differentiation of a gradient that autograd made walks a graph several times as large as the network. Here
the derivative of the gradient in a direction is computed forwards instead (a tangent through the forward and the backward
pass), which for batch norm and convolutions needs the same fused kernels as a first-order pass. Since the Hessian is
symmetric, that is the vector-Jacobian product that `backward` has to return.

Tasks are folded into channels: (t, n, c, h, w) becomes (n, t*c, h, w), convolutions are grouped, and batch norm over the
folded channels is batch norm of each task.

Source: B. A. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 1994,
doi:10.1162/neco.1994.6.1.147. Differs from the paper: nothing known; the derivatives of batch norm are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

aten = torch.ops.aten


@dataclass(frozen=True)
class Plan:
    """What the pass must know beside its tensors: t tasks, the classes of each, how blocks shrink, epsilon."""

    n_tasks: int
    n_way: int
    stride: int
    pools: bool
    eps: float


@dataclass
class Block:
    """What one block leaves behind for the passes that follow. M is the number of values behind a batch statistic.

    `normed` is the batch norm's output, `slope` 1/sqrt(var + eps), `gradient` the loss gradient at the convolution's output,
    `projection` the mean of (gradient at the normed values) x (normalised values).
    """

    entering: Tensor
    weight: Tensor
    offset: Tensor
    normed: Tensor
    slope: Tensor
    count: int
    pooled_from: Tensor | None
    gradient: Tensor = field(init=False)
    projection: Tensor = field(init=False)
    weight_gradient: Tensor = field(init=False)
    # of the tangent pass
    entering_dot: Tensor | None = None
    convolved_dot: Tensor = field(init=False)
    normalised_dot: Tensor = field(init=False)
    slope_dot: Tensor = field(init=False)


def fold(x: Tensor) -> Tensor:
    """Fold tasks into channels: (t, n, c, h, w) becomes (n, t*c, h, w), in the layout that is fastest on its device."""
    t, n, c, h, w = x.shape
    if x.device.type == "cpu":  # oneDNN computes grouped convolutions fastest with channels last
        return x.permute(1, 3, 4, 0, 2).contiguous().view(n, h, w, t * c).permute(0, 3, 1, 2)
    return x.transpose(0, 1).reshape(n, t * c, h, w)


def pool_features(z: Tensor, n_tasks: int, pools: bool) -> Tensor:
    """Return features (t, n, e) of the last map (n, t*c, h, w): flattened after max-pooling, else its mean."""
    n = z.shape[0]  # len() would be a constant in an exported network
    flat = z.reshape(n, n_tasks, -1) if pools else z.mean((2, 3)).view(n, n_tasks, -1)
    return flat.transpose(0, 1)


def _spread_features(f: Tensor, like: Tensor, pools: bool) -> Tensor:
    """Transpose of `pool_features`."""
    n, channels, h, w = like.shape
    rows = f.transpose(0, 1)
    if pools:
        return rows.reshape(n, channels, h, w)
    return (rows.reshape(n, channels, 1, 1) / (h * w)).expand(n, channels, h, w)


def _per_channel(v: Tensor) -> Tensor:
    return v.view(1, -1, 1, 1)


def _per_filter(v: Tensor) -> Tensor:
    return v.view(-1, 1, 1, 1)


def _project(block: Block, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Apply batch norm's Jacobian, which is symmetric, to v: slope * (v - mean v - a * mean(a v)), a normalised.

    Also returns sum(a v) and sum(v). The fused kernel of the backward pass does it; given the normed values, it must be told
    that their mean is the offset and their scale 1.
    """
    one = torch.ones_like(block.slope)
    made: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
        v, block.normed, block.slope, None, None, block.offset, one, True, 0.0, [True, True, True]
    )
    return made


def _channel_dot(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Return the sum of a*b over all but channels, in one pass: the gradient of a batch norm's scale at mean 0, var 1."""
    zero, one = torch.zeros_like(like), torch.ones_like(like)
    made = aten.native_batch_norm_backward(a, b, one, None, None, zero, one, True, 0.0, [False, True, False])
    summed: Tensor = made[1]
    return summed


def _unpool(block: Block, g: Tensor) -> Tensor:
    if block.pooled_from is None:
        return g
    shape = block.normed
    made: Tensor = aten.max_pool2d_with_indices_backward(
        g.contiguous(memory_format=_layout(shape)), shape, [2, 2], [2, 2], [0, 0], [1, 1], False, block.pooled_from
    )
    return made


def _folded(weight: Tensor) -> Tensor:
    """Fold tasks into filters: (t, f, c, 3, 3) becomes (t*f, c, 3, 3)."""
    return weight.flatten(0, 1).contiguous(memory_format=_layout(weight))


def _by_task(plan: Plan, v: Tensor) -> Tensor:
    return v.view(plan.n_tasks, -1, *v.shape[1:])


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.device.type == "cpu" else torch.contiguous_format


def _pool_like(block: Block, v: Tensor) -> Tensor:
    if block.pooled_from is None:
        return v
    picked = block.pooled_from
    return v.flatten(2).gather(2, picked.flatten(2)).view(picked.shape).contiguous(memory_format=_layout(v))


def _convolution_backward(
    plan: Plan, g: Tensor, x: Tensor | None, w: Tensor, *, need_input: bool, need_weight: bool
) -> Any:
    s = [plan.stride, plan.stride]
    mask = [need_input, need_weight, False]
    return aten.convolution_backward(g, x, w, None, s, [1, 1], [1, 1], False, [0, 0], plan.n_tasks, mask)[:2]


def _forward(plan: Plan, x: Tensor, weights: list[Tensor], offsets: list[Tensor]) -> tuple[list[Block], Tensor]:
    blocks = []
    for weight, offset in zip(weights, offsets, strict=True):
        y = functional.conv2d(x, weight, None, plan.stride, 1, 1, plan.n_tasks)
        normed, _, slope = torch.native_batch_norm(y, None, offset, None, None, True, 0.0, plan.eps)
        z, picked = normed.relu(), None
        if plan.pools:
            z, picked = functional.max_pool2d_with_indices(z, [2, 2])
        blocks.append(Block(x, weight, offset, normed, slope, y.numel() // y.shape[1], picked))
        x = z
    return blocks, x


def _backward(plan: Plan, blocks: list[Block], g: Tensor) -> list[Tensor]:
    """Return the gradients of the convolutions' weights from that of the last map; leaves what the tangent needs."""
    gradients = []
    for block in reversed(blocks):
        block.gradient, dot, _ = _project(block, aten.threshold_backward(_unpool(block, g), block.normed, 0))
        block.projection = dot / block.count
        g, made = _convolution_backward(
            plan, block.gradient, block.entering, block.weight, need_input=block is not blocks[0], need_weight=True
        )
        # an alias, since what `forward` returns knows its node: a node that knew it too would be a cycle, freed late
        block.weight_gradient = made.detach()
        gradients.append(made)
    return gradients[::-1]


def _forward_dot(plan: Plan, blocks: list[Block], weights_dot: list[Tensor]) -> Tensor:
    """Return the tangent of the last map where the weights move along `weights_dot`."""
    x_dot: Tensor | None = None
    z_dot = blocks[0].entering
    for block, weight_dot in zip(blocks, weights_dot, strict=True):
        y_dot = functional.conv2d(block.entering, weight_dot, None, plan.stride, 1, 1, plan.n_tasks)
        if x_dot is not None:
            y_dot += functional.conv2d(x_dot, block.weight, None, plan.stride, 1, 1, plan.n_tasks)
        block.entering_dot, block.convolved_dot = x_dot, y_dot
        block.normalised_dot, dot, _ = _project(block, y_dot)
        block.slope_dot = block.slope * dot / block.count  # minus the relative change of the slope
        z_dot = _pool_like(block, aten.threshold_backward(block.normalised_dot, block.normed, 0))
        x_dot = z_dot
    return z_dot


def _backward_dot(
    plan: Plan, blocks: list[Block], weights_dot: list[Tensor], g_dot: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tangents of the gradients of weights and offsets.

    With a the normalised values, g the gradient at the normed values, s the slope, y the convolution's output, and means over
    each channel, the gradient at y is G = s * (g - mean g - a mean(a g)); along a direction,
    dG = J(dg) - s mean(a dy) G - s (da mean(a g) + a mean(G dy)), J as in `_project`. The second term scales G by
    channel, so it goes into the weights instead of into a pass over the map.
    """
    made = []
    for block, weight_dot in zip(reversed(blocks), reversed(weights_dot), strict=True):
        projected, _, offset_dot = _project(block, aten.threshold_backward(_unpool(block, g_dot), block.normed, 0))
        along = block.slope * _channel_dot(block.gradient, block.convolved_dot, block.slope) / block.count
        moved = torch.addcmul(_per_channel(along * block.offset), block.normed, _per_channel(-along))
        moved.addcmul_(block.normalised_dot, _per_channel(-block.slope * block.projection)).add_(projected)
        scale = _per_filter(block.slope_dot)
        inner = block is not blocks[0]
        g_dot, w_dot = _convolution_backward(
            plan, moved, block.entering, block.weight, need_input=inner, need_weight=True
        )
        w_dot.addcmul_(block.weight_gradient, scale, value=-1)
        if inner:
            turned = torch.addcmul(weight_dot, block.weight, scale, value=-1)
            more, w_more = _convolution_backward(
                plan, block.gradient, block.entering_dot, turned, need_input=True, need_weight=True
            )
            g_dot += more
            w_dot += w_more
        made.append((w_dot, offset_dot))
    made.reverse()
    return [w for w, _ in made], [o for _, o in made]


class SupportGradient(torch.autograd.Function):
    """Gradient of n_way times the mean cross-entropy, with respect to convolution weights and the linear head.

    `apply(plan, x, labels, *parameters)`: x (n, t*c, h, w) folded, labels one-hot (t, n, k); parameters are L weights
    (t, f, c, 3, 3), L offsets (t, f), the head's weight (t, k, e) and bias (t, k). Returns the loss (t,), which carries
    no gradient, then L + 2 gradients, which can be differentiated once with respect to all parameters.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, labels: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Compute loss and gradients."""
        parameters = tuple(p.detach() for p in parameters)
        depth = len(parameters) // 2 - 1
        head, bias = parameters[2 * depth :]
        weights = [_folded(weight) for weight in parameters[:depth]]
        offsets = [offset.flatten() for offset in parameters[depth : 2 * depth]]
        blocks, z = _forward(plan, x, weights, offsets)
        features = pool_features(z, plan.n_tasks, plan.pools)
        log_p = (torch.baddbmm(bias.unsqueeze(1), features, head.transpose(1, 2))).log_softmax(-1)
        p = log_p.exp()
        rate = plan.n_way / features.shape[1]
        g_logits = (p - labels) * rate
        g_map = _spread_features(g_logits @ head, z, plan.pools)
        gradients = _backward(plan, blocks, g_map)
        ctx.plan, ctx.blocks, ctx.last = plan, blocks, z
        ctx.head, ctx.features, ctx.p, ctx.g_logits, ctx.rate = head, features, p, g_logits, rate
        loss = -(labels * log_p).sum((1, 2)) * rate
        ctx.mark_non_differentiable(loss)
        return (
            loss,
            *(_by_task(plan, g) for g in gradients),
            g_logits.transpose(1, 2) @ features,
            g_logits.sum(1),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _loss: Tensor, *directions: Tensor) -> tuple[Tensor | None, ...]:
        """Return the Hessian times `directions` (Pearlmutter's R-operator)."""
        plan, blocks = ctx.plan, ctx.blocks
        weights_dot, (head_dot, bias_dot) = [_folded(v) for v in directions[:-2]], directions[-2:]
        z_dot = _forward_dot(plan, blocks, weights_dot)
        features_dot = pool_features(z_dot, plan.n_tasks, plan.pools)
        logits_dot = features_dot @ ctx.head.transpose(1, 2) + ctx.features @ head_dot.transpose(1, 2)
        logits_dot += bias_dot.unsqueeze(1)
        p_dot = ctx.p * (logits_dot - (ctx.p * logits_dot).sum(-1, keepdim=True))
        g_logits_dot = p_dot * ctx.rate
        head_made = g_logits_dot.transpose(1, 2) @ ctx.features + ctx.g_logits.transpose(1, 2) @ features_dot
        g_features_dot = g_logits_dot @ ctx.head + ctx.g_logits @ head_dot
        g_map_dot = _spread_features(g_features_dot, ctx.last, plan.pools)
        weights_made, offsets_made = _backward_dot(plan, blocks, weights_dot, g_map_dot)
        made = [_by_task(plan, v) for v in (*weights_made, *offsets_made)]
        return None, None, None, *made, head_made, g_logits_dot.sum(1)
