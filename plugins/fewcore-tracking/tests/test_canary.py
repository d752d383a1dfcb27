"""Names of patients stand in folders, files and columns; whatever a run logs, none reaches a tracker."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewcore.cli import main
from fewcore.tracking import forward

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow and TensorBoard

NAME = "Canary"
PIPELINE = """
fewcore: 1
name: tiny
matrix: {{stages.data.path: [{paths}]}}
stages:
  data:  {{dataset: folder, path: x, image_size: 8}}
  test:  {{task_sampler: episodes, split: test, n_way: 2, n_shot: 1, n_query: 1, n_tasks: 5}}
  embed: {{embedder: pixels}}
  knn:   {{meta_learner: knn}}
  score: {{evaluator: few-shot}}
"""


def images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("benign", "malignant"):
        (folder / kind).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{NAME}_{number}.png")
    return folder


@pytest.mark.parametrize("plain_name", [True, False], ids=["a name without a path", "paths"])
def test_no_name_reaches_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_name: bool) -> None:
    whole, broken = images(tmp_path / f"{NAME}-1"), images(tmp_path / f"{NAME}-2")
    (broken / "benign" / f"{NAME}_3.png").write_bytes(b"no image")
    paths = (whole, broken) if not plain_name else (whole.name, broken.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(forward, "EXIT_SECONDS", 120.0)  # a new store, on a machine that has other work
    (tmp_path / "tiny.yaml").write_text(PIPELINE.format(paths=", ".join(map(str, paths))))
    command = ["run", "tiny.yaml", "--out", "out", "--device", "cpu", "--track", "tensorboard"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--track", "mlflow:files=never,uri=sqlite:///store/mlflow.db"])
    assert ended.value.code == 3
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert f"{NAME}_3.png: no readable image" in log, "the error names the file, for the eyes of who runs it"
    assert "knn" in log, "the cell that can be run is run"
    assert '"metric": "accuracy"' in log
    kept = [path for place in ("out/tensorboard", "store") for path in (tmp_path / place).rglob("*") if path.is_file()]
    assert {"mlflow.db", "results.json"} <= {path.name for path in kept}
    for path in kept:
        assert NAME.encode() not in path.read_bytes(), path
    results = json.loads(next(path for path in kept if path.name == "results.json").read_text())
    assert results[0]["stages.data.path"].startswith("value ")
