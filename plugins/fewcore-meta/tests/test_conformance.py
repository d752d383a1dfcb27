from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from data_layouts import write_celeba, write_imagenet, write_mini_imagenet, write_mnist
from PIL import Image
from test_mil import Places

from fewcore import Partitions, Run
from fewcore.testing import conformance
from fewcore_meta.cluster_subsets import ClusterSubsets
from fewcore_meta.fine_tune import FineTune
from fewcore_meta.protoclr import ProtoClr


def small_omniglot(folder: Path) -> dict[str, Any]:
    """Write eight characters in Omniglot's layout; returns the options that read them."""
    rng = np.random.default_rng(0)
    for part, count in (("images_background", 5), ("images_evaluation", 3)):
        for number in range(count):
            place = folder / part / f"Alphabet_of_{part}" / f"character{number + 1:02d}"
            place.mkdir(parents=True)
            for drawing in range(20):
                pixels = rng.integers(0, 2, (105, 105), dtype=np.uint8) * 255
                Image.fromarray(pixels).convert("1").save(place / f"{number:04d}_{drawing + 1:02d}.png")
    return {"path": str(folder), "complete": False, "protocol": "lake", "validation_characters": 2}


OPTIONS = {
    "celeba": write_celeba,
    "imagenet": write_imagenet,
    "mini-imagenet": write_mini_imagenet,
    "mnist": write_mnist,
    "attribute-tasks": {"attributes": [0, 4], "n_shot": 2, "n_query": 3, "n_tasks": 20},
    "cactus-resnet": {"widths": [4, 6]},
    "cluster-subsets": {"n_shot": 2, "n_query": 3, "n_tasks": 20},
    "fine-tune": {"epochs": 2},
    "maml": {"iterations": 3, "test_steps": 2},
    "multi-task": {"epochs": 2},
    "mil": {"epochs": 2},
    "mlp": {"epochs": [2], "dropouts": [0.0], "default_epochs": 2},
    "omniglot": small_omniglot,
    "protoclr": {"iterations": 3, "neighbours": 2, "neighbours_after": 0.0, "test_views": 2},
    "protonets": {"iterations": 3},
    "scratch": {"steps": 3},
}


def with_start(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with a start whose network is the backbone's."""
    return {**given, "start": ProtoClr(iterations=1).meta_train(given["images"], given["backbone"], Run())}


def with_fixed_tasks(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with a fixed list of tasks between three parts of the images."""
    ids = given["images"].ids
    sampler = ClusterSubsets(n_shot=2, n_query=3, swap_labels=False)
    parts = (np.arange(len(ids)) % 3).astype(np.int8)[None]
    return {**given, "tasks": sampler.tasks(Partitions(parts, ids), Run())}


def with_places(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with a start whose network has a map with places."""
    start = FineTune(epochs=1).learn(Places(), given["images"], given["validation"], Run())
    return {**given, "start": start}


INPUTS = {"mil": with_places, "multi-task": with_fixed_tasks, "protoclr": with_start}


@conformance("fewcore-meta", options=OPTIONS, inputs=INPUTS)
def test_conformance(offer, check):
    check(offer)
