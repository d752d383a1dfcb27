"""The kit's check of `network_for_export`: what is broken is told, what is right and what is refused in words is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fewcore import Component, DataError, Embeddings, ImageSpec, Offer, Run, network_for_export, option
from fewcore.testing import ConformanceError, Setup, checks_for
from fewcore.testing.toy_models import ToyPredictor
from fewcore.testing.toys import DIM, N_CLASSES


class ForExport(nn.Module):
    """Minus squared distances to class means, with a fault."""

    def __init__(self, encoder: nn.Module, means: torch.Tensor, fault: str) -> None:
        super().__init__()
        self.encoder, self.means, self.fault = encoder, means, fault

    def forward(self, pixels: torch.Tensor) -> Any:
        vectors = self.encoder(pixels)
        vectors = vectors - vectors.mean(0) if self.fault == "batch" else vectors
        scores = -(vectors[:, None] - self.means).square().sum(-1)
        if self.fault == "tensor":
            return scores
        if self.fault == "name":
            return {"logits": scores}
        return {"scores": scores[:1] if self.fault == "rows" else scores}


class Predicts(ToyPredictor):
    fault = ""

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        if self.fault == "refused":
            raise DataError("export: found scores that depend on other images; expected norm: running")
        if self.fault == "raises":
            raise ValueError("no weights")
        encoder = network_for_export(self._encoder, spec)
        return ForExport(encoder, torch.from_numpy(self._means).float(), self.fault)

    def to_arrays(self):
        arrays, meta = super().to_arrays()
        return arrays, {**meta, "fault": self.fault}

    @classmethod
    def from_arrays(cls, arrays, meta, inputs):
        made = super().from_arrays(arrays, meta, inputs)
        made.fault = meta["fault"]
        return made


@dataclass(frozen=True)
class Learner:
    """A learner whose network for export has a fault."""

    fault: str = option("", "what is wrong")

    def learn(self, embeddings: Embeddings, run: Run) -> Predicts:
        made = Predicts(embeddings.encoder, np.linspace(0, 1, N_CLASSES * DIM).reshape(N_CLASSES, DIM))
        made.fault = self.fault
        return made


@pytest.mark.parametrize(
    "fault, message",
    [
        ("", ""),
        ("refused", ""),
        ("raises", "network_for_export failed on toy inputs with ValueError: no weights"),
        ("tensor", "found a network for export that makes Tensor; expected a dict of tensors named scores"),
        ("name", "found a network for export that makes logits; expected a dict of tensors named scores"),
        ("rows", "found scores of the network for export that are no tensor of"),
        ("batch", "found other scores of the network for export; expected those of predict"),
    ],
)
def test_a_network_for_export_that_says_something_else_is_told(fault: str, message: str) -> None:
    component = Component("thing", f"{__name__}:{Learner.__name__}", "a thing", predicts=("scores",))
    offer, found = Offer("learner", component, "fewcore-x", "1"), {}
    for check in checks_for("learner"):
        if check.__name__ != "runs_on_cuda":
            try:
                check(offer, Setup(options={"fault": fault}))
            except ConformanceError as error:
                found[check.__name__] = str(error)
    assert set(found) == ({"exported_network_agrees"} if message else set()), found
    assert message in found.get("exported_network_agrees", "")
