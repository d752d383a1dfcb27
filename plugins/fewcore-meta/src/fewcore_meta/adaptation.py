"""Adapt a network to many few-shot tasks at once by gradient descent, and classify their queries: for `maml` and `scratch`."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fewcore import (
    Array,
    Arrays,
    DataError,
    Gather,
    ImageSet,
    Meta,
    Predictions,
    Run,
    TaskBatch,
    load_module,
    module_arrays,
    torch_generator,
)
from fewcore_meta.batch_norm import norm_layers

Norm = Literal["transductive", "support", "running"]
Parameters = dict[str, Tensor]

VALUES_AT_ONCE = 2_000 * 28 * 28
"""Input values of the tasks that are classified at once: about 2,000 images of 28 x 28, some 300 MB within conv4."""
TRAINED_AT_ONCE = {"cpu": 250 * 28 * 28, "cuda": 20_000 * 28 * 28}
"""The same for a part of a meta-iteration, whose inner steps are all kept: what fits into a CPU's cache, or some GB."""
MOMENTUM = 0.1
"""How fast running averages follow the statistics of a batch, as in PyTorch."""


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each task, summed over classes: k times the mean, (t,), as in CACTUs' code.

    `logits` is (t, n, k), `labels` (t, n), -1 for what does not count.
    """
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none")
    known = (labels >= 0).sum(1)
    return logits.shape[-1] * each.view(labels.shape).sum(1) / known


def task_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right queries of each task, (t,), among those whose label is not -1."""
    known = labels >= 0
    right = (logits.argmax(-1) == labels) & known
    return right.sum(1) / known.sum(1)


class TaskNetwork:
    """A network that is adapted to tasks: its logits and its gradients for t sets of parameters.

    A network with `forward_tasks(parameters, x, counted, running, momentum)`, such as `conv4`, computes all tasks at once,
    and where it has `loss_gradients` the inner gradients too. Any other is called task by task: in evaluation mode, but
    its batch norm with the statistics of the task. `adapted` are the names that the inner loop changes: all but those of
    batch norm, or with `head_only` those of the head.
    """

    def __init__(self, network: nn.Module, *, head_only: bool = False) -> None:
        self.network = network
        names = [name for name, _ in network.named_parameters()]
        normed = {id(p) for layer in norm_layers(network) for p in layer.parameters(recurse=False)}
        kept = {name for name, p in network.named_parameters() if id(p) in normed}
        self.adapted = tuple(n for n in names if (n.startswith("head.") if head_only else n not in kept))
        if not self.adapted:
            raise DataError("adaptation: found a backbone without parameters named 'head.*'; expected a linear head")
        forward = getattr(network, "forward_tasks", None)
        self.loops = forward is None or "counted" not in inspect.signature(forward).parameters
        self._fast = getattr(network, "gradient_names", None) == frozenset(self.adapted)
        if self.loops:
            network.eval()

    def say_if_it_loops(self) -> None:
        """Log that tasks are computed one by one, where they are."""
        if self.loops:
            text = "%s has no forward_tasks(parameters, x, counted, ...): its tasks are computed one by one"
            logging.getLogger("fewcore").warning(text, type(self.network).__name__)

    def parameters(self, n_tasks: int) -> Parameters:
        """Return the network's parameters, the adapted ones with a leading t."""
        return {
            name: p.expand(n_tasks, *p.shape) if name in self.adapted else p
            for name, p in self.network.named_parameters()
        }

    def logits(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        n_way: int,
        counted: Tensor | None = None,
        *,
        running: bool = False,
        momentum: float = 0.0,
    ) -> Tensor:
        """Return the first n_way outputs (t, n, n_way) for x (t, n, c, h, w).

        Batch norm takes the statistics of the images that `counted` (t, n) marks, or of all, task by task; with `running`
        the running averages, which with a `momentum` follow this batch.
        """
        if not self.loops:
            forward: Any = self.network.forward_tasks
            made: Tensor = forward(parameters, x, counted, running, momentum)
            return made[..., :n_way]
        shapes = {name: p.dim() for name, p in self.network.named_parameters()}
        outputs = []
        for task, images in enumerate(x):
            own = {name: p[task] if p.dim() > shapes[name] else p for name, p in parameters.items()}
            marked = torch.ones(len(images), device=x.device) if counted is None else counted[task]
            with _batch_statistics(self.network, None if running else marked, momentum / len(x)):
                outputs.append(functional_call(self.network, own, (images,)))
        return torch.stack(outputs)[..., :n_way]

    def gradients(
        self, parameters: Parameters, x: Tensor, labels: Tensor, n_way: int, *, running: bool, create_graph: bool
    ) -> Parameters:
        """Return the gradients of `task_loss` by the adapted parameters; differentiable with `create_graph`."""
        if not create_graph:
            parameters = {name: p.detach() for name, p in parameters.items()}
        if self._fast and not running:
            compute: Any = self.network.loss_gradients
            _, made = compute(parameters, x, labels, n_way)
            return dict(made)
        with torch.enable_grad():
            if not create_graph:
                parameters |= {name: parameters[name].requires_grad_() for name in self.adapted}
            loss = task_loss(self.logits(parameters, x, n_way, running=running), labels).sum()
            inputs = [parameters[name] for name in self.adapted]
            gradients = torch.autograd.grad(loss, inputs, create_graph=create_graph)
        return dict(zip(self.adapted, gradients, strict=True))

    def adapt(
        self,
        parameters: Parameters,
        x: Tensor,
        labels: Tensor,
        n_way: int,
        *,
        inner_lr: float,
        steps: int,
        running: bool = False,
        second_order: bool = False,
    ) -> Parameters:
        """Return the parameters after full-batch gradient descent on each task's support set.

        `second_order` keeps the graph through all steps; without it gradients are constants.
        """
        for _ in range(steps):
            made = self.gradients(parameters, x, labels, n_way, running=running, create_graph=second_order)
            parameters = parameters | {name: parameters[name] - inner_lr * g for name, g in made.items()}
        return parameters

    def query_logits(
        self,
        parameters: Mapping[str, Tensor],
        support: Tensor,
        query: Tensor,
        known: Tensor | None,
        n_way: int,
        norm: Norm,
        momentum: float = 0.0,
    ) -> Tensor:
        """Return logits (t, q, n_way); `known` (t, q) marks the queries that are no padding, None stands for all.

        With `transductive` statistics are those of the known queries, with `support` those of the support images, with
        `running` the running averages; a `momentum` lets these follow the known queries' statistics, which then count.
        """
        if norm == "support":
            marked = torch.zeros(len(query), support.shape[1] + query.shape[1], device=query.device)
            marked[:, : support.shape[1]] = 1
            both = self.logits(parameters, torch.cat([support, query], 1), n_way, marked)
            return both[:, support.shape[1] :]
        if norm == "running" and not momentum:
            return self.logits(parameters, query, n_way, running=True)
        return self.logits(parameters, query, n_way, known, momentum=momentum)

    @torch.no_grad()
    def classify(
        self,
        parameters: Parameters,
        batch: TaskBatch,
        gather: Gather,
        *,
        inner_lr: float,
        steps: int,
        norm: Norm,
    ) -> Array:
        """Return scores (t, q, n_way) float32: the logits after `steps` steps from `parameters`; 0 for padding."""
        support, query = gather(batch.support), gather(batch.query)
        labels = torch.tensor(batch.support_labels, device=gather.device).long()
        known = known_queries(batch, gather.device)
        running = norm == "running"
        parameters = self.adapt(
            parameters, support, labels, batch.n_way, inner_lr=inner_lr, steps=steps, running=running
        )
        logits = self.query_logits(parameters, support, query, known, batch.n_way, norm)
        return np.asarray(logits.float().cpu().numpy() * batch.query_known[..., None])


@contextmanager
def _batch_statistics(network: nn.Module, marked: Tensor | None, momentum: float) -> Iterator[None]:
    """Let batch norm take the statistics of the images that `marked` (n,) marks, as plain operations; None changes nothing.

    With a `momentum`, running averages follow them.
    """

    def normalise(layer: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        x, axes = inputs[0], [0, *range(2, inputs[0].dim())]
        assert marked is not None
        share = marked.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        share = share / (share.sum() * x[0, 0].numel())
        mean = (x * share).sum(axes, keepdim=True)
        var = ((x - mean).square() * share).sum(axes, keepdim=True)
        if momentum and layer.running_mean is not None:
            with torch.no_grad():
                layer.running_mean.lerp_(mean.detach().flatten(), momentum)
                layer.running_var.lerp_(var.detach().flatten(), momentum)
        y: Tensor = (x - mean) * (var + layer.eps).rsqrt()
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if layer.weight is not None:
            y = y * layer.weight.view(shape)
        return y if layer.bias is None else y + layer.bias.view(shape)

    hooks = [] if marked is None else [layer.register_forward_hook(normalise) for layer in norm_layers(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def known_queries(batch: TaskBatch, device: torch.device) -> Tensor | None:
    """Return 1 for each query that is an image and 0 for padding, (t, q); None where there is no padding."""
    if batch.query_known.all():
        return None
    return torch.tensor(batch.query_known, dtype=torch.float32, device=device)


def parts_of(batch: TaskBatch, shape: tuple[int, ...], values_at_once: int) -> list[TaskBatch]:
    """Return the batch in parts of at most `values_at_once` input values, or of one task; images have `shape`."""
    per_task = (batch.support.shape[1] + batch.query.shape[1]) * int(np.prod(shape))
    size = max(1, values_at_once // per_task)
    return [batch.part(start, start + size) for start in range(0, len(batch), size)]


def mean_accuracy(scores: Array, batch: TaskBatch) -> float:
    """Return the share of right queries, averaged over tasks; `batch` holds the query labels, padding does not count."""
    right = scores.argmax(-1) == batch.query_labels
    return float(np.mean([r[k].mean() for r, k in zip(right, batch.query_known, strict=True)]))


@torch.no_grad()
def predictor_from(
    tasked: TaskNetwork, support: ImageSet, run: Run, *, inner_lr: float, steps: int, norm: Norm
) -> AdaptedPredictor:
    """Return a predictor with the weights after `steps` steps from the network's own, on the images of known class.

    Raises:
        DataError: no image has a known class.

    """
    rows = np.flatnonzero(support.labels >= 0)
    if not len(rows):
        raise DataError("adapt: found no image with a known class; expected some of each class")
    n_way = len(support.class_names)
    x = Gather(support, run.device)(rows[None])
    labels = torch.tensor(support.labels[rows][None], device=run.device).long()
    parameters = tasked.adapt(
        tasked.parameters(1), x, labels, n_way, inner_lr=inner_lr, steps=steps, running=norm == "running"
    )
    network = copy.deepcopy(tasked.network)
    for name, own in network.named_parameters():
        own.copy_(parameters[name].reshape(own.shape))
    if norm == "support":  # the predictor has no support set any more: its statistics become the running ones
        TaskNetwork(network).logits(dict(network.named_parameters()), x, n_way, momentum=1.0)
    return AdaptedPredictor(network, support.shape, support.class_names, norm)


class AdaptedPredictor:
    """A network with the weights that it has after adaptation to one support set.

    With `transductive` norm all images of a call are normalised together, so that scores depend on what else is asked;
    with `support` and `running` they do not.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], class_names: tuple[str, ...], norm: Norm) -> None:
        self.network, self.shape, self.class_names, self.norm = network, shape, class_names, norm

    @torch.no_grad()
    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k): the logits of the classes of the support set."""
        network = TaskNetwork(self.network.to(run.device))
        gather, n_way = Gather(images, run.device), len(self.class_names)
        n_rows = max(1, VALUES_AT_ONCE // int(np.prod(self.shape)))
        size = len(images) if self.norm == "transductive" else n_rows
        rows = np.arange(len(images))
        parts = [rows[start : start + size] for start in range(0, len(images), max(1, size))]
        running, parameters = self.norm != "transductive", dict(self.network.named_parameters())
        made = [
            network.logits(parameters, gather(part[None]), n_way, running=running)[0].float().cpu() for part in parts
        ]
        scores = torch.cat(made).numpy() if made else np.zeros((0, n_way), np.float32)
        return Predictions(images.ids, scores=scores)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return weights and running statistics, and what the network is built from."""
        n_outputs = dict(self.network.named_parameters())["head.bias"].numel()
        names = {"shape": list(self.shape), "class_names": list(self.class_names), "norm": self.norm}
        return module_arrays(self.network), {**names, "n_outputs": n_outputs}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> AdaptedPredictor:
        """Build the predictor again; `inputs` holds the backbone."""
        shape = tuple(meta["shape"])
        network = inputs["backbone"].build(shape, meta["n_outputs"], torch_generator(0))
        return cls(load_module(network, arrays), shape, tuple(meta["class_names"]), meta["norm"])
