"""Runs pipelines of toy components, and keeps what was spied on their way."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toys

from fewcore import MetricReport, pipeline
from fewcore.pipeline import Pipeline
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store

SHAPES = Path(__file__).parent
SMALL = """
name: small
target: malignant
stages:
  data: {dataset: toy-patients}
  net: {backbone: net}
  model: {learner: fine-tune, from: {start: net}}
  score: {evaluator: classification, metrics: [accuracy]}
"""
"""A pipeline of one learner."""
CPU = torch.device("cpu")


def warm_up() -> None:
    """Import what the first run would have to wait for; torch's optimisers import a compiler."""
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for offer in toys.registry().offers:
        offer.load()


def load(name: str, **changes: Any) -> Pipeline:
    """Read and check one of the shapes."""
    return pipeline.load(SHAPES / f"{name}.yaml", toys.registry(), overrides=changes)


def load_text(tmp_path: Path, text: str, **changes: Any) -> Pipeline:
    """Read and check a pipeline that is written out."""
    path = tmp_path / "pipeline.yaml"
    path.write_text("fewcore: 1\n" + text)
    return pipeline.load(path, toys.registry(), overrides=changes)


class Ran:
    """A run of a pipeline with what was spied on its way."""

    def __init__(self, pipe, root, **more):
        self.spied = []
        self.session = Session(Store(root), CPU, spy=lambda *what: self.spied.append(what), **more)
        self.said: list[str] = []
        self.result = Runner(pipe, self.session, self.said.append).run()
        self.stages = Counter(name for name, _ in self.session.computed)
        self.cells = self.result.nodes

    def row(self, **wanted):
        found = [r for report in self.result.reports.values() for r in report.rows if matches(r, wanted)]
        assert len(found) == 1, found
        return found[0]

    def value(self, stage, cell=0):
        return self.session.value(self.cells[cell][stage])

    def table(self, cell=0, data="data"):
        return self.session.table(self.cells[cell][data])


def matches(row, wanted):
    facts = {"stage": row.stage, "metric": row.metric, **row.conditions, **row.repeats}
    return all(facts.get(name.replace("__", ".")) == value for name, value in wanted.items())


def as_json(reports: dict[str, MetricReport]) -> str:
    rows = {name: [[*map(repr, r.rows)], [*map(repr, r.comparisons)]] for name, r in reports.items()}
    arrays = {n: {k: np.asarray(v).tolist() for k, v in r.arrays.items()} for n, r in reports.items()}
    return json.dumps([rows, arrays], sort_keys=True)
