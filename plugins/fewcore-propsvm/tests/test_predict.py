"""Learners on new files: clusters bear no names of classes, which what has seen no label cannot know."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

import fewcore
from fewcore.cli import main

PIPELINE = """
fewcore: 1
name: clusters
target: class
stages:
  data:       {dataset: folder, path: set, grey: true, image_size: 8}
  pixels:     {embedder: pixels}
  parts:      {partitioner: kmeans, n_clusters: 2, min_size: 2}
  clustering: {learner: clustering}
  oriented:   {learner: orient, from: {start: clustering}}
"""


@pytest.mark.skipif(
    not (find_spec("fewcore_embed") and find_spec("fewcore_cluster")), reason="needs fewcore-embed and fewcore-cluster"
)
def test_clusters_are_numbered_and_only_orient_says_which_class_is_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "cache"))
    for name, grey in (("benign", 40), ("malignant", 200)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            pixels = grey + np.random.default_rng(i).integers(-20, 20, (8, 8))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    (tmp_path / "clusters.yaml").write_text(PIPELINE)
    with pytest.raises(SystemExit) as stop:
        main(["run", "clusters.yaml", "--out", "run", "--device", "cpu"])
    assert stop.value.code == 0
    blind = fewcore.load_model("run", "clustering", device="cpu")
    out = blind.predict("set").save("blind")
    head, *lines = (out / "predictions.csv").read_text().splitlines()
    assert head == "file,class,score class 1,score class 2"
    assert {line.split(",")[1] for line in lines} == {"class 1", "class 2"}
    assert blind.classes == ()
    assert fewcore.load_model("run", "oriented", device="cpu").classes == ("benign", "malignant")
