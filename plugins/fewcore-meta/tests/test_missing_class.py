"""Two classes of which a split has one alone are refused before anything is trained, not hours later by a learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fewcore import pipeline
from fewcore.plugins import load_registry
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store

PIPELINE = """
fewcore: 1
name: few
target: TARGET
labels: LABELS
splits: SPLITS
stages:
  data:  DATA
  net:   {backbone: conv4, filters: 2}
  tuned: {learner: fine-tune, epochs: 1, from: {start: net}}
  score: {evaluator: classification, metrics: [auc]}
"""


SEVENS = '{of: digit, positive: ["7"]}'


def ran(tmp_path, labels="{share: 1.0}", splits="{seed: 0}", target=SEVENS, data="{dataset: digits}"):
    text = PIPELINE
    for name, value in (("LABELS", labels), ("SPLITS", splits), ("TARGET", target), ("DATA", data)):
        text = text.replace(name, value)
    path = tmp_path / "p.yaml"
    path.write_text(text)
    session = Session(Store(tmp_path / "store"), torch.device("cpu"))
    result = Runner(pipeline.load(path, load_registry()), session).run()
    return result, [title for title, _ in session.computed]


def test_all_splits_that_lack_a_class_are_told_before_training(tmp_path):
    for name, n in (("benign", 40), ("malignant", 1)):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(256, size=(8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "scans" / name / f"{i}.png")
    data = f"{{dataset: folder, path: {tmp_path / 'scans'}, image_size: 8}}"
    result, computed = ran(tmp_path, splits="{test: 0.3, validation: 0.3}", target="class", data=data)
    assert computed == ["data"]
    (failure,) = result.failures
    assert failure.stage == "data"
    told = {str(problem) for problem in failure.error.problems}
    # Wherever the one image is, two of the three splits lack it.
    assert len(told) == 2
    assert told < {
        f"stages.data: no {split} image with the label malignant among {n}; expected both classes of 'class' in each "
        "split (another splits.seed, other shares, or more labels)"
        for split, n in (("training", 20), ("validation", 9), ("test", 12))
    }


@pytest.mark.parametrize(
    ("labels", "splits"), [("{share: 1.0}", "{seed: 0}"), ("{number: 100}", "{test: 0.3, validation: 0.1}")]
)
def test_splits_with_both_classes_are_trained_on(tmp_path, labels, splits):
    result, computed = ran(tmp_path, labels, splits)
    assert not result.failures
    assert "tuned" in computed


def test_a_fold_may_lack_a_class_where_folds_are_judged_together(tmp_path):
    # 600 folds of 1,797 digits hold three images each.
    result, _ = ran(tmp_path, splits="{folds: 600, fold: 0, validation: 0.1}")
    assert not result.failures


def test_missing_test_rows_are_told_before_training(tmp_path):
    data = "{dataset: phantom-breast, n_train: 4, n_validation: 3, n_test: 0, size: 16, depth: 8}"
    result, computed = ran(tmp_path, target="malignant", data=data)
    assert computed == ["data"]
    (failure,) = result.failures
    assert str(failure.error).startswith("stages.tuned: found no test rows; expected splits with test")
