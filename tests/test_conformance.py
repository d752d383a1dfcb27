"""The built-in components go through the same kit as a stranger's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fewcore import Offer
from fewcore.testing import conformance


def folder_of_images(folder: Path) -> dict[str, str | int]:
    """Write twelve images of each of two classes, and return the options that read them."""
    rng = np.random.default_rng(0)
    for name in ("benign", "malignant"):
        (folder / name).mkdir()
        for number in range(12):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return {"path": str(folder), "image_size": 8}


@conformance("fewcore", options={"folder": folder_of_images, "random": {"n_parts": 6, "n_partitions": 4}})
def test_conformance(offer: Offer, check: Callable[[Offer], None]) -> None:
    check(offer)
