"""Masks that the tests make: discs of known overlap, and models that shift, miss or invent them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewcore import Outcome, Predictions, Seen, Target

SIDE = 16
N = 18


def discs(n: int = N, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return masks (n, side, side) bool of discs of several sizes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centre, radius = rng.uniform(6, side - 6, (n, 2, 1, 1)), rng.uniform(2.5, 4.5, (n, 1, 1))
    return np.asarray((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 <= radius**2)


def shifted(masks: np.ndarray, by: int) -> np.ndarray:
    """Return masks moved to the right, as probabilities."""
    return np.where(np.roll(masks, by, -1), 0.9, 0.1).astype(np.float32)


def outcome(
    stage: str = "net",
    by: int = 1,
    *,
    truth: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    names: tuple[str, ...] = ("lungs",),
    classes: np.ndarray | None = None,
    **more: Any,
) -> Outcome:
    """Return the outcome of a model that moves every mask by `by` pixels; truth (n, k, h, w) floats."""
    truth = discs()[:, None].astype(np.float32) if truth is None else truth
    predicted = shifted(np.nan_to_num(truth) > 0.5, by) if predicted is None else predicted
    n = len(truth)
    classes = np.arange(n) % 3 if classes is None else classes
    targets = {
        "class": Target("class", classes, ("normal", "tuberculosis", "nodule")),
        "mask": Target("masks", truth, names),
    }
    ids = more.pop("ids", np.arange(n))
    said = Predictions(ids, masks=predicted)
    fields: dict[str, Any] = {
        "groups": ids,
        "seen": Seen(labels={"train": 5, "validation": 3}),
        "truth": targets,
        "target": "class",
        **more,
    }
    return Outcome(stage, f"{stage}-method", said, fields.pop("split", "test"), ids, fields.pop("groups"), **fields)
