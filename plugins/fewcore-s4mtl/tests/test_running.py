"""The learners in a pipeline: what fewcore hides from them, and what each row says that they saw."""

from __future__ import annotations

import pytest
import torch

from fewcore import PipelineError, pipeline
from fewcore.plugins import load_registry
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store

TEXT = """
fewcore: 1
name: seen
target: class
labels: {share: 0.5, by: class}
stages:
  data:    {dataset: phantom-chest, image_size: 16, n_train: 24, n_validation: 6, n_test: 6, films: 1}
  s4mtl:   {learner: s4mtl, width: 2, levels: 2, epochs: 1}
  u-mtl:   {learner: u-mtl, width: 2, levels: 2, epochs: 1}
  conv-net: {learner: conv-net, width: 2, levels: 2, epochs: 1}
  classes: {evaluator: classification, metrics: [accuracy]}
"""


def result_of(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    session = Session(Store(tmp_path / "store"), torch.device("cpu"))
    return Runner(pipeline.load(path, load_registry()), session).run()


def seen(result):
    """Return what each model's rows say that it saw; the majority, which the evaluator adds, saw nothing."""
    rows = [row for report in result.reports.values() for row in report.rows if row.seen]
    assert all(row.seen == {row.stage: row.seen for row in rows}[row.stage] for row in rows)
    return {row.stage: row.seen for row in rows}


def test_every_row_says_how_many_labels_of_which_split_were_used(tmp_path):
    result = result_of(tmp_path, TEXT)
    assert not result.failures
    assert seen(result) == dict.fromkeys(["s4mtl", "u-mtl", "conv-net"], "labels: 12 training + 6 validation")


def test_without_an_unlabelled_image_s4mtl_fails_alone_and_says_why(tmp_path):
    result = result_of(tmp_path, TEXT.replace("share: 0.5", "share: 1.0"))
    assert [failure.stage for failure in result.failures] == ["s4mtl"]
    assert "found no image without labels among 24" in str(result.failures[0])
    assert seen(result) == dict.fromkeys(["u-mtl", "conv-net"], "labels: 24 training + 6 validation")


def test_an_evaluator_that_a_learner_cannot_feed_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "p.yaml"
    head, _, _ = TEXT.partition("  s4mtl:")
    path.write_text(f"{head}  model: {{learner: u-net}}\n  score: {{evaluator: classification}}\n")
    with pytest.raises(
        PipelineError, match=r"stages\.score: the models make masks; expected a model that makes scores"
    ):
        pipeline.load(path, load_registry())
