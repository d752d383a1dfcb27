"""Components that claim to share tasks out among ranks, and do it wrongly in one way each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fewcore import Component, ImageSet, Offer, Predictions, Run, load_module, module_arrays, option
from fewcore.testing import ConformanceError, Setup
from fewcore.testing.rank_checks import ranks_make_one_model


class Trained:
    def __init__(self, network: nn.Linear) -> None:
        self.network = network

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        flat = torch.as_tensor(images.images).flatten(1).float()
        return Predictions(images.ids, scores=self.network(flat).detach().numpy())

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return module_arrays(self.network), {}

    @classmethod
    def from_arrays(cls, arrays: Any, meta: Any, inputs: Any) -> Trained:
        features = arrays["weight"].shape[1]
        return cls(load_module(nn.Linear(features, len(arrays["bias"])), arrays))


@dataclass(frozen=True)
class Shares:
    """Learns the mean pixel of the images, of which each rank looks at its share."""

    shares_tasks: ClassVar[bool] = True
    steps: int = option(3, "steps", low=1)

    def learn(self, images: ImageSet, run: Run) -> Trained:
        x = torch.as_tensor(images.images[:8]).flatten(1).double()
        network = nn.Linear(x.shape[1], 2).double()
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        for _ in run.loop(self.steps, network=network):
            network.zero_grad()
            (network(x[self.part(run, len(x))] / 255) - 1).square().sum().backward()
            self.meet(run, network)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 1e-4 * parameter.grad
        return Trained(network.float())

    def part(self, run: Run, n: int) -> slice:
        return run.ranks.share(n)

    def meet(self, run: Run, network: nn.Module) -> None:
        run.ranks.sum_gradients(network)


class Forgets(Shares):
    """Adds nothing up: each rank learns from its share alone."""

    def meet(self, run: Run, network: nn.Module) -> None:
        pass


class TakesAll(Shares):
    """Takes all tasks on each rank, so that they count twice."""

    def part(self, run: Run, n: int) -> slice:
        return slice(0, n)


class Leaves(Shares):
    """Adds up on the first rank alone."""

    def meet(self, run: Run, network: nn.Module) -> None:
        if run.ranks.leads:
            run.ranks.sum_gradients(network)


def check(cls: type[Any]) -> None:
    offer = Offer("learner", Component("thing", f"{__name__}:{cls.__name__}", "a thing", needs_labels=True), "x", "1")
    ranks_make_one_model(offer, Setup())


def test_a_component_that_shares_passes():
    check(Shares)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Forgets, "differs between two ranks.*run.ranks.share.*run.ranks.sum_gradients"),
        (TakesAll, "is not that of one process; expected the same numbers"),
        (Leaves, "ranks waited in vain; expected run.ranks.sum called equally often"),
    ],
)
def test_one_that_does_not_is_told_what_to_write(cls, message, monkeypatch):
    monkeypatch.setattr("fewcore.testing.rank_checks.SECONDS", 2.0)
    with pytest.raises(ConformanceError, match=f"(?s){message}"):
        check(cls)
