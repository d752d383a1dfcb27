"""A network with one hidden layer for each of many tasks, trained at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fewcore import Array, DataError, child_seed
from fewcore_meta.task_vectors import TaskVectors, accuracies

Setting = tuple[float, int]
"""Dropout rate and number of epochs."""

MAX_ELEMENTS = 2**22
WORD = 2**32


def _seeds(seed: int, task: Array, purpose: str) -> torch.Tensor:
    """Return a number for each task, (t,) int64 in [0, 2^32), that depends on model, task and purpose alone."""
    return torch.tensor([child_seed(seed, purpose, int(number)) % WORD for number in task])


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """Return 32-bit words, held in int64, stirred so that each bit depends on all bits (the finaliser of MurmurHash3)."""
    words = words ^ (words >> 16)
    words = (words * 0x85EBCA6B) & (WORD - 1)
    words = words ^ (words >> 13)
    words = (words * 0xC2B2AE35) & (WORD - 1)
    return words ^ (words >> 16)


def uniforms(seeds: torch.Tensor, count: int) -> torch.Tensor:
    """Return numbers in [0, 1), (t, count) float32: the same on every device and whatever other tasks are drawn beside.

    A generator for each task would take a call for each task and epoch; a hash of a counter draws all tasks in one
    computation. `seeds` (t,) int64 in [0, 2^32).
    """
    counter = _mixed((torch.arange(count, device=seeds.device) * 0x9E3779B9 + 1) & (WORD - 1))
    words = _mixed(_mixed(counter ^ seeds[:, None]) ^ _mixed(seeds[:, None] ^ 0x5851F42D))
    return (words >> 8).float() / 2**24


def _start(tasks: TaskVectors, seed: int, hidden: int) -> list[torch.Tensor]:
    """Return first weights: layers (t, e, h), (t, 1, h), (t, h, k), (t, 1, k), uniform in +-1/sqrt(inputs)."""
    seeds = _seeds(seed, tasks.task, "weights").to(tasks.support.device)
    width, t = tasks.support.shape[-1], len(tasks)
    shapes = [(width, hidden, width), (1, hidden, width), (hidden, tasks.n_way, hidden), (1, tasks.n_way, hidden)]
    sizes = [a * b for a, b, _ in shapes]
    drawn = torch.split(uniforms(seeds, sum(sizes)), sizes, 1)
    return [
        ((2 * numbers - 1) / inputs**0.5).reshape(t, a, b)
        for numbers, (a, b, inputs) in zip(drawn, shapes, strict=True)
    ]


def forward(weights: list[torch.Tensor], vectors: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return logits (t, n, k) of vectors (t, n, e); `mask` (t, n, h) scales the hidden units in training."""
    hidden = torch.baddbmm(weights[1], vectors, weights[0]).relu()
    if mask is not None:
        hidden = hidden * mask
    return torch.baddbmm(weights[3], hidden, weights[2])


def epochs(tasks: TaskVectors, seed: int, hidden: int, rate: float, dropout: float) -> Iterator[list[torch.Tensor]]:
    """Train without end, and yield the weights after each epoch: one full-batch step of Adam.

    The loss is summed over tasks and Adam works number by number, so each task is trained as if it were alone.
    """
    weights = [w.requires_grad_() for w in _start(tasks, seed, hidden)]
    adam = torch.optim.Adam(weights, lr=rate)
    seeds = _seeds(seed, tasks.task, "dropout").to(tasks.support.device)
    n, s = tasks.support.shape[:2]
    epoch = 0
    while True:
        epoch += 1
        mask = None
        if dropout:
            drawn = uniforms(_mixed(seeds ^ _mixed(torch.full_like(seeds, epoch))), s * hidden)
            mask = (drawn >= dropout).reshape(n, s, hidden) / (1 - dropout)
        with torch.enable_grad():
            logits = forward(weights, tasks.support, mask)
            loss = functional.cross_entropy(logits.flatten(0, 1), tasks.labels.flatten(), reduction="sum") / s
            adam.zero_grad()
            torch.autograd.backward(loss)
        adam.step()
        yield [w.detach() for w in weights]


@dataclass(frozen=True)
class Training:
    """How a task's network is trained, for all tasks the same."""

    hidden: int
    rate: float
    seed: int

    def fit(self, tasks: TaskVectors, setting: Setting) -> list[torch.Tensor]:
        """Return the weights after the setting's epochs."""
        dropout, n_epochs = setting
        trained = epochs(tasks, self.seed, self.hidden, self.rate, dropout)
        return [next(trained) for _ in range(n_epochs)][-1]

    def parts(self, tasks: TaskVectors) -> Iterator[TaskVectors]:
        """Yield the tasks, as many at a time as keep weights and hidden units within memory."""
        width, s, q = tasks.support.shape[-1], tasks.support.shape[1], tasks.query.shape[1]
        return tasks.parts(MAX_ELEMENTS // (self.hidden * (width + s + q)))

    def scores(self, tasks: TaskVectors, setting: Setting) -> torch.Tensor:
        """Return log-probabilities of the queries, (t, q, k)."""
        made = [forward(self.fit(part, setting), part.query) for part in self.parts(tasks)]
        return torch.log_softmax(torch.cat(made).double(), -1)

    def mean_accuracies(
        self, tasks: TaskVectors, query_labels: Array, dropout: float, n_epochs: tuple[int, ...]
    ) -> list[float]:
        """Return the mean accuracy over tasks after each of the numbers of epochs, which rise, of one training."""
        totals = torch.zeros(len(n_epochs), dtype=torch.float64)
        start = 0
        for part in self.parts(tasks):
            labels = query_labels[start : start + len(part)]
            start += len(part)
            trained = epochs(part, self.seed, self.hidden, self.rate, dropout)
            for epoch in range(1, n_epochs[-1] + 1):
                weights = next(trained)
                if epoch in n_epochs:
                    scores = forward(weights, part.query)
                    totals[n_epochs.index(epoch)] += accuracies(scores, labels).sum().cpu()
        means: list[float] = (totals / len(tasks)).tolist()
        return means

    def leaky_accuracy(self, tasks: TaskVectors, query_labels: Array, setting: Setting, patience: int) -> float:
        """Return the mean accuracy over tasks of `leaky_scores`."""
        return float(accuracies(self.leaky_scores(tasks, query_labels, setting, patience), query_labels).mean())

    def leaky_scores(self, tasks: TaskVectors, query_labels: Array, setting: Setting, patience: int) -> torch.Tensor:
        """Return log-probabilities of the queries at the epoch where their own loss stopped to fall, (t, q, k)."""
        if not (query_labels >= 0).any():
            raise DataError(
                "mlp: found hidden query labels with leaky_early_stop, which stops on the loss of the queries; expected "
                "known ones (fewcore hides them in every pipeline: set leaky_early_stop: false)"
            )
        labels = torch.from_numpy(np.array(query_labels)).long().to(tasks.query.device)
        made, start = [], 0
        for part in self.parts(tasks):
            made.append(self._leaky_part(part, labels[start : start + len(part)], setting, patience))
            start += len(part)
        return torch.log_softmax(torch.cat(made).double(), -1)

    def _leaky_part(self, tasks: TaskVectors, labels: torch.Tensor, setting: Setting, patience: int) -> torch.Tensor:
        dropout, n_epochs = setting
        least = torch.full((len(tasks),), torch.inf, device=labels.device)
        waited = torch.zeros(len(tasks), dtype=torch.long, device=labels.device)
        kept = tasks.query.new_zeros(*tasks.query.shape[:2], tasks.n_way)
        trained = epochs(tasks, self.seed, self.hidden, self.rate, dropout)
        for _ in range(n_epochs):
            running = waited < patience
            if not bool(running.any()):
                break
            logits = forward(next(trained), tasks.query)
            losses = functional.cross_entropy(logits.mT, labels, ignore_index=-1, reduction="none").sum(1)
            kept = torch.where(running[:, None, None], logits, kept)
            waited = torch.where(running, torch.where(losses < least, 0, waited + 1), waited)
            least = torch.minimum(least, losses)
        return kept
