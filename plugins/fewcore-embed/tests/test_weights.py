"""Files of weights: what is in them decides the key of every result that they have a part in."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from fewcore import DataError, pipeline
from fewcore.plugins import load_registry
from fewcore.session import Session
from fewcore.store import Store
from fewcore_embed.weights import fill, read_weights

TEXT = """fewcore: 1
name: weights
stages:
  data: {dataset: digits}
  made: STAGE
  model: {meta_learner: LEARNER}
  tasks: {task_sampler: episodes, n_way: 5, from: parts}
  test: {task_sampler: episodes, split: test, n_way: 5, n_tasks: 10}
  pixels: {embedder: pixels}
  parts: {partitioner: kmeans, n_clusters: 20, from: pixels}
  score: {evaluator: few-shot}
"""
STAGES = {
    "timm backbone": ("{backbone: timm, weights: FILE}", "protonets, from: {backbone: made}"),
    "timm": ("{embedder: timm, weights: FILE}", "knn, from: {embeddings: made}"),
    "vgg": ("{embedder: vgg, weights: FILE}", "knn, from: {embeddings: made}"),
    "c3d": ("{embedder: c3d, weights: FILE}", "knn, from: {embeddings: made}"),
    "c3d-tuned": ("{embedder: c3d-tuned, target: '', weights: FILE}", "knn, from: {embeddings: made}"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_another_content_is_another_key(tmp_path, stage):
    made, learner = STAGES[stage]
    file, path = tmp_path / "w.safetensors", tmp_path / "p.yaml"
    path.write_text(TEXT.replace("STAGE", made).replace("LEARNER", learner).replace("FILE", str(file)))
    read = pipeline.load(path, load_registry())
    session = Session(Store(tmp_path / "store"), torch.device("cpu"))
    keys = []
    for number, time in ((0.0, 1), (0.0, 2), (1.0, 3)):
        save_file({"x": torch.full((2,), number)}, file)
        os.utime(file, (time, time))
        ((cell, stages),) = read.cells
        nodes = session.plan(cell, stages)
        keys.append((nodes["made"].key, nodes["model"].key))
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[2][0]
    assert keys[0][1] != keys[2][1]
    file.unlink()
    with pytest.raises(DataError, match=r"^stages.made: .*No such file.*; expected a file that can be read$"):
        session.plan(cell, stages)


def test_tensors_come_back_as_they_were_written(tmp_path):
    held = {"a.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), "b": torch.arange(3)}
    save_file(held, tmp_path / "w.safetensors")
    save_file({f"module.{name}": value for name, value in held.items()}, tmp_path / "parallel.safetensors")
    for name in ("w.safetensors", "parallel.safetensors"):
        read = read_weights(str(tmp_path / name), "", "m")
        assert set(read) == set(held)
        assert all(torch.equal(read[key], value) for key, value in held.items())


def test_torchs_own_files_are_refused_since_they_may_hold_code(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"expected an existing \.safetensors file .*convert it with"):
        read_weights(str(tmp_path / "w.pth"), "", "m")


def test_a_network_takes_what_it_needs_in_its_own_dtype():
    network = torch.nn.Linear(3, 2, bias=False)
    fill(network, {"weight": torch.ones(2, 3, dtype=torch.float16), "other": torch.ones(1)}, "file", "m")
    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight, torch.ones(2, 3))
