"""What all trainings share: randomness, precision, learning rates, the order of images, and the choice on validation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fewcore import Array, Gather, ImageSet, Run, child_seed, numpy_generator
from fewcore_s4mtl.pixels import scaled

Precision = Literal["auto", "float32", "bfloat16"]
ChooseBy = Literal["mean", "each"]
METRIC_OF = {"masks": "dice", "classes": "accuracy"}
BETA2 = 0.999
VALIDATION_BATCH = 32


@dataclass(frozen=True)
class Course:
    """How long training goes on: `epochs` of `steps_per_epoch` steps, fewer where `patience` epochs bring nothing."""

    epochs: int
    steps_per_epoch: int
    patience: int

    @classmethod
    def of(cls, epochs: int, batch_size: int, patience: int, n_labelled: int, n_unlabelled: int) -> Course:
        """Return the course in which an epoch is a pass over the unlabelled images, or the labelled if they are more."""
        return cls(epochs, -(-max(n_labelled, n_unlabelled) // batch_size), patience)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Rate:
    """Adam's learning rate: `first`, times `decay` after every `decay_epochs`, at least `floor`."""

    first: float
    beta1: float
    decay: float
    decay_epochs: int
    floor: float = 0.0

    def at(self, epoch: int) -> float:
        """Return the rate in an epoch, counted from 0."""
        return max(self.first * self.decay ** (epoch // self.decay_epochs), min(self.floor, self.first))

    def adam(self, network: nn.Module) -> torch.optim.Adam:
        """Return the optimiser of a network that lies on its device."""
        return torch.optim.Adam(network.parameters(), self.first, (self.beta1, BETA2), fused=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: Rate, epoch: int) -> None:
    """Give an optimiser the learning rate of an epoch."""
    for group in optimiser.param_groups:
        group["lr"] = rate.at(epoch)


@contextmanager
def own_randomness(run: Run) -> Iterator[None]:
    """Let dropout, which draws from torch's global state, draw from `run.generator`; that state is put back after."""
    seed = int(torch.randint(2**62, (1,), generator=run.generator))
    cuda = run.device.type == "cuda"
    with torch.random.fork_rng(devices=[run.device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(run.device):
                torch.cuda.manual_seed(seed)
        yield


def mixed_precision(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which networks compute: bfloat16 needs no scaling of losses, which stay in float32."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = able if precision == "auto" else precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


class Passes:
    """Rows in a fresh order each pass; batches run on from one pass to the next, and depend on the step alone."""

    def __init__(self, rows: Array, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed

    def at(self, step: int) -> Array:
        """Return the rows of a step, (batch_size,)."""
        n = len(self.rows)
        places = step * self.batch_size + np.arange(self.batch_size)
        orders = {p: numpy_generator(child_seed(self.seed, p)).permutation(n) for p in np.unique(places // n).tolist()}
        return self.rows[[orders[place // n][place % n] for place in places.tolist()]]


class Choice:
    """The weights that did best on validation, of equals the first.

    `by` is `mean`: one set of weights, by the mean of pooled Dice and accuracy, or the one of them that the model makes; or
    `each`: for masks those of the best Dice and for classes those of the best accuracy. `state` is what a checkpoint keeps.
    """

    def __init__(
        self,
        model: nn.Module,
        validation: ImageSet,
        known: dict[str, Array],
        course: Course,
        run: Run,
        by: ChooseBy = "mean",
    ) -> None:
        self.model, self.validation, self.known, self.course, self.run = model, validation, known, course, run
        self.gather = Gather(validation, run.device)
        names = [METRIC_OF[name] for name in known] if by == "each" else ["mean"]
        self.state: dict[str, Any] = {name: {"score": -1.0, "epoch": -1, "weights": {}} for name in names}

    def ends(self, step: int) -> bool:
        """Look at the model where an epoch ends with `step`; return whether training is to end."""
        epoch, left = divmod(step + 1, self.course.steps_per_epoch)
        if left:
            return False
        metrics = self._metrics()
        self.run.log(**{f"validation_{name}": value for name, value in metrics.items()})
        scores = {**metrics, "mean": float(np.mean(list(metrics.values())))}
        for name, best in self.state.items():
            if scores[name] > best["score"]:
                weights = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
                best.update(score=scores[name], epoch=epoch, weights=weights)
        return bool(epoch - max(best["epoch"] for best in self.state.values()) >= self.course.patience)

    def best(self) -> tuple[nn.Module, nn.Module | None]:
        """Return the model with the weights that did best; and where masks have weights of their own, one with those."""
        own = None
        if {"dice", "accuracy"} <= self.state.keys():
            own = self._with("dice", copy.deepcopy(self.model))
        return self._with("accuracy" if own else next(iter(self.state)), self.model), own

    def _with(self, name: str, model: nn.Module) -> nn.Module:
        model.load_state_dict(self.state[name]["weights"])
        return model.eval()

    @torch.no_grad()
    def _metrics(self) -> dict[str, float]:
        self.model.eval()
        overlaps: list[Array] = []
        hits: list[Array] = []
        for start in range(0, len(self.validation), VALIDATION_BATCH):
            rows = np.arange(start, min(start + VALIDATION_BATCH, len(self.validation)))
            said = self.model(scaled(self.gather(rows), self.validation))
            if "masks" in self.known:
                overlaps.append(overlap(said.masks.cpu().numpy() > 0.5, self.known["masks"][rows]))
            if "classes" in self.known:
                hits.append(said.scores.argmax(1).cpu().numpy() == self.known["classes"][rows])
        self.model.train()
        metrics = {}
        if overlaps:
            both, all_pixels = np.sum(overlaps, 0)
            metrics["dice"] = float((2 * both / all_pixels).mean())
        if hits:
            metrics["accuracy"] = float(np.concatenate(hits)[self.known["classes"] >= 0].mean())
        return metrics


def overlap(predicted: Array, truth: Array) -> Array:
    """Return, for each structure, the pixels in both masks, and those in the one plus those in the other: (2, k).

    Masks are (n, k, h, w); images whose truth is NaN do not count.
    """
    known = ~np.isnan(truth[:, 0, 0, 0])
    inside, true = predicted[known], truth[known] > 0.5
    both = (inside & true).sum((0, 2, 3))
    return np.stack([both, inside.sum((0, 2, 3)) + true.sum((0, 2, 3))])
