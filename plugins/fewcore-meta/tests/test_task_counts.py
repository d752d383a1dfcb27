"""A run's report knows how many tasks each model was trained on: learners take them by way of a meta-learner, or alone."""

from __future__ import annotations

import pytest
import torch

from fewcore import pipeline
from fewcore.plugins import load_registry
from fewcore.reports.reporting import build_report
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store

PIPELINE = """
fewcore: 1
name: counts
labels: {number: 40, by: class}
splits: {test: 0.05, validation: 0.05}
stages:
  data:    {dataset: digits}
  net:     {backbone: conv4, filters: 2}
  parts:   {partitioner: random, n_parts: 3, n_partitions: 1}
  tasks:   {task_sampler: cluster-subsets, n_shot: 1, n_query: 2, swap_labels: false}
  endless: {task_sampler: episodes, n_way: 2, n_shot: 1, n_query: 1}
  meta:    {meta_learner: maml, iterations: 1, inner_steps: 1, tasks_per_step: 1, from: {tasks: tasks}}
  other:   {meta_learner: maml, iterations: 1, inner_steps: 1, tasks_per_step: 1, from: {tasks: endless}}
  tuned:   {learner: fine-tune, epochs: 1, from: {start: meta}}
  multi:   {learner: multi-task, epochs: 1, from: {tasks: tasks}}
  scratch: {learner: fine-tune, epochs: 1, from: {start: net}}
  without: {learner: fine-tune, epochs: 1, from: {start: other}}
  score:   {evaluator: classification, metrics: [accuracy]}
matrix: {stages.parts.n_parts: [3, 4]}
"""


@pytest.mark.slow
def test_the_report_counts_the_tasks_of_fixed_lists(tmp_path):
    (tmp_path / "p.yaml").write_text(PIPELINE)
    read = pipeline.load(tmp_path / "p.yaml", load_registry())
    session = Session(Store(tmp_path / "store"), torch.device("cpu"))
    result = Runner(read, session).run()
    assert not result.failures
    report = build_report(read, session, result, command="", seconds=0.0)
    found = {(count.stage, *count.conditions.values(), count.n) for count in report.task_counts}
    lists = {(stage, k, n) for stage in ("tuned", "multi") for k, n in ((3, 6), (4, 25))}
    assert found >= lists
    assert {stage for stage, *_ in found} == {"meta", "tuned", "multi"}
