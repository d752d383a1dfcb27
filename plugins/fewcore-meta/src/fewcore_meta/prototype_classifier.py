"""Classify by prototypes, which the support set may tune or unlabelled queries refine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fewcore_meta.prototypes import class_means

SINKHORN_STEPS = 50


@dataclass(frozen=True)
class PrototypeClassifier:
    """Classes stand for the means of their support features; a query goes to the nearest.

    Logits are minus squared Euclidean distances, or cosines, divided by the temperature. With `tune_steps`, the linear
    layer that these logits are is trained on the support set with Adam (ProtoTune). `queries` says what is known at test:
    each query `alone`; all of a task's queries `together`, whose soft assignments take part in the class means; or that
    they are `balanced` too, that is, as many of each class, so that assignments are those of optimal transport.

    Source: tuning: Medina, Devos, Grossglauser, arXiv:2006.11325; together: M. Ren et al., Meta-Learning for
    Semi-Supervised Few-Shot Classification, ICLR 2018, arXiv:1803.00676; balanced: Y. Hu, V. Gripon, S. Pateux, Leveraging
    the Feature Distribution in Transfer-based Few-Shot Learning, 2020, arXiv:2006.03806.
    Differs from the papers: full batches in tuning; logits are used at the scale at which the network was trained, and
    class means are replaced by the new ones, not moved towards them.
    """

    distance: Literal["euclidean", "cosine"] = "euclidean"
    temperature: float = 1.0
    tune_steps: int = 0
    tune_rate: float = 1e-3
    queries: Literal["alone", "together", "balanced"] = "alone"
    refine_steps: int = 10

    def logits(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """Return the logits (..., q, k) of queries (..., q, e) for prototypes (..., k, e)."""
        if self.distance == "cosine":
            query, prototypes = functional.normalize(query, dim=-1), functional.normalize(prototypes, dim=-1)
            return query @ prototypes.mT / self.temperature
        squares = query.square().sum(-1)[..., None] + prototypes.square().sum(-1)[..., None, :]
        return (2 * query @ prototypes.mT - squares) / self.temperature

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, known: Tensor, n_way: int) -> Tensor:
        """Return scores (t, q, k) from support features (t, s, e), labels (t, s) and queries (t, q, e), known (t, q)."""
        if self.tune_steps or self.queries == "alone":
            return self.tuned(support, labels, n_way)(query)
        if self.distance == "cosine":
            support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
        prototypes = class_means(support, labels, n_way)
        one_hot = functional.one_hot(labels, n_way).to(support.dtype)
        for _ in range(self.refine_steps):
            shares = self._assigned(self.logits(query, prototypes), known).exp() * known[..., None]
            counts = one_hot.sum(1) + shares.sum(1)
            prototypes = (one_hot.mT @ support + shares.mT @ query) / counts[..., None]
        return self._assigned(self.logits(query, prototypes), known)

    def tuned(self, support: Tensor, labels: Tensor, n_way: int) -> Callable[[Tensor], Tensor]:
        """Return the function from queries (t, q, e) to scores (t, q, k), each query alone; shapes as for `scores`."""

        def scaled(features: Tensor) -> Tensor:
            return functional.normalize(features, dim=-1) if self.distance == "cosine" else features

        support = scaled(support)
        prototypes = class_means(support, labels, n_way)
        if not self.tune_steps:
            return lambda query: self.logits(scaled(query), prototypes)
        weights, bias = self._tuned_layer(support, labels, prototypes)
        return lambda query: scaled(query) @ weights.mT + bias[:, None]

    def _assigned(self, logits: Tensor, known: Tensor) -> Tensor:
        """Return the logarithms of each query's shares in the classes, (t, q, k)."""
        shares = logits.log_softmax(-1)
        if self.queries == "together":
            return shares
        each = (known.sum(1) / logits.shape[-1]).log()[:, None, None]
        for _ in range(SINKHORN_STEPS):
            # Padding sends nothing; it must not take part in a class's sum.
            filled = shares.masked_fill(~known[..., None], -math.inf).logsumexp(1, keepdim=True)
            shares = (shares - torch.where(filled.isfinite(), filled - each, 0.0)).log_softmax(-1)
        return shares

    def _tuned_layer(self, support: Tensor, labels: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights (t, k, e) and biases (t, k) of a layer that starts as the prototypes and is trained on the support set."""
        if self.distance == "cosine":
            weights = functional.normalize(prototypes, dim=-1) / self.temperature
            bias = torch.zeros_like(prototypes[..., 0])
        else:
            weights, bias = 2 * prototypes / self.temperature, -prototypes.square().sum(-1) / self.temperature
        # The features may come from inference; what is trained must be tensors of their own.
        weights, bias = weights.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
        adam = torch.optim.Adam([weights, bias], lr=self.tune_rate)
        with torch.enable_grad():
            for _ in range(self.tune_steps):
                logits = support @ weights.mT + bias[:, None]
                loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
                adam.zero_grad()
                # A task's mean loss, added over tasks: each task is tuned as if alone.
                torch.autograd.backward(loss / labels.shape[1])
                adam.step()
        return weights.detach(), bias.detach()
