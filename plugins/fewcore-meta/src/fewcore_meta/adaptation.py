"""Adapt a network to many few-shot tasks at once by gradient descent, and classify their queries: for `maml` and `scratch`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from fewcore import (
    Array,
    Arrays,
    DataError,
    Gather,
    ImageSet,
    ImageSpec,
    Meta,
    Predictions,
    Run,
    TaskBatch,
    load_module,
    module_arrays,
    torch_generator,
)
from fewcore_meta.batch_norm import RunningAverages, batch_statistics, norm_layers, own_statistics
from fewcore_meta.checkpointed_step import CheckpointedStep
from fewcore_meta.exported import Scores, refuse_transductive
from fewcore_meta.said_once import say_once
from fewcore_meta.task_scores import task_loss

Norm = Literal["transductive", "support", "running"]
Parameters = dict[str, Tensor]

VALUES_AT_ONCE = {"cpu": 2_000 * 28 * 28, "cuda": 20_000 * 28 * 28}
"""Input values of the tasks that are classified at once: about 2,000 images of 28 x 28, some 300 MB within conv4."""
TRAINED_AT_ONCE = {"cpu": 250 * 28 * 28, "cuda": 20_000 * 28 * 28}
"""The same for a part of a meta-iteration, whose inner steps are all kept: what fits into a CPU's cache, or some GB."""
MOMENTUM = 0.1
"""How fast running averages follow the statistics of a batch, as in PyTorch."""


class TaskNetwork:
    """A network that is adapted to tasks: its logits and its gradients for t sets of parameters.

    A network with `forward_tasks(parameters, x, counted, running, momentum)`, such as `conv4`, computes all tasks at once,
    and where it has `loss_gradients` the inner gradients too. Any other is called task by task: in evaluation mode, but
    its batch norm with the statistics of the task. `adapted` are the names that the inner loop changes: all but those of
    batch norm, or with `head_only` those of the head.
    """

    def __init__(self, network: nn.Module, *, head_only: bool = False) -> None:
        self.network = network
        self._norms = norm_layers(network)
        names = [name for name, _ in network.named_parameters()]
        normed = {id(p) for layer in self._norms for p in layer.parameters(recurse=False)}
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
            name = type(self.network).__name__
            say_once(f"{name}: tasks are computed one after the other, as for every network without forward_tasks")

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
        averages = RunningAverages(self._norms) if momentum else None
        for task, images in enumerate(x):
            own = {name: p[task] if p.dim() > shapes[name] else p for name, p in parameters.items()}
            marked = torch.ones(len(images), device=x.device) if counted is None else counted[task]
            if running:
                statistics: AbstractContextManager[None] = nullcontext()
            elif counted is None and not momentum and all(isinstance(layer, _BatchNorm) for layer in self._norms):
                statistics = own_statistics(self._norms)
            else:
                statistics = batch_statistics(self._norms, marked, momentum)
            with statistics:
                outputs.append(functional_call(self.network, own, (images,)))
            if averages is not None:
                averages.add(1 / len(x))
        if averages is not None:
            averages.finish()
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
        checkpointing: bool = False,
    ) -> Parameters:
        """Return the parameters after full-batch gradient descent on each task's support set.

        `second_order` keeps the graph through all steps; without it gradients are constants. With `checkpointing` only the
        weights of each step are kept, and its graph is made again when it is needed.
        """

        def step(before: Parameters, create_graph: bool) -> Parameters:
            made = self.gradients(before, x, labels, n_way, running=running, create_graph=create_graph)
            return {name: before[name] - inner_lr * gradient for name, gradient in made.items()}

        for _ in range(steps):
            if second_order and checkpointing:
                after = CheckpointedStep.apply(step, tuple(parameters), *parameters.values())
                parameters = parameters | dict(zip(self.adapted, after, strict=True))
            else:
                parameters = parameters | step(parameters, second_order)
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
        n_rows = max(1, VALUES_AT_ONCE[run.device.type] // int(np.prod(self.shape)))
        size = len(images) if self.norm == "transductive" else n_rows
        rows = np.arange(len(images))
        parts = [rows[start : start + size] for start in range(0, len(images), max(1, size))]
        running, parameters = self.norm != "transductive", dict(self.network.named_parameters())
        made = [
            network.logits(parameters, gather(part[None]), n_way, running=running)[0].float().cpu() for part in parts
        ]
        scores = torch.cat(made).numpy() if made else np.zeros((0, n_way), np.float32)
        return Predictions(images.ids, scores=scores)

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to the logits of the support set's classes.

        Raises:
            DataError: with `transductive` norm, scores depend on what else is asked.

        """
        refuse_transductive(self.norm, bool(norm_layers(self.network)), "maml and scratch")
        n_way = len(self.class_names)
        return Scores(self.network, lambda outputs: outputs[:, :n_way])

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
