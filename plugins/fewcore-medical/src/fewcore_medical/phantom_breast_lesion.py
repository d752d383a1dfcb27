"""Lesions of a phantom's breast: their shape, their margin, and how contrast agent comes into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fewcore import Array
from fewcore_medical.phantom_anatomy import ramp
from fewcore_medical.phantom_breast_tissue import Numbers, Places, before_wall, field, inside

BOTH: Mapping[str, tuple[float, float]] = {
    "radius": (0.20, 0.36),  # of the ball of the same volume
    "long": (0.8, 1.25),
    "wide": (0.8, 1.25),
    "most": (0.60, 1.05),  # what is taken up in the end
}
"""Range of each number of any lesion."""

BENIGN: Mapping[str, tuple[float, float]] = {
    "lobes": (0.0, 0.30),
    "spikes": (0.0, 0.10),
    "edge": (0.03, 0.07),  # width of the margin
    "core": (-0.30, 0.15),  # how much less the middle takes up than the rim, where above 0
    "uneven": (0.00, 0.15),
    "septa": (-0.30, 0.50),  # how dark the walls between lobes are, where above 0
    "seconds": (55.0, 150.0),  # time constant of uptake
}
"""Range of each number of a benign lesion."""

MALIGNANT: Mapping[str, tuple[float, float]] = {
    "lobes": (0.10, 0.70),
    "spikes": (0.50, 1.50),
    "edge": (0.04, 0.12),
    "core": (-0.15, 0.60),
    "uneven": (0.05, 0.35),
    "septa": (-0.30, 0.00),
    "seconds": (40.0, 120.0),
}
"""Range of each number of a malignant lesion."""

RANGES = {"benign": {**BOTH, **BENIGN}, "malignant": {**BOTH, **MALIGNANT}}
LOBES, SPIKES = 4, 12
LOBE, SPIKE = 4.0, 45.0
"""How narrow lobes and spikes are: concentrations of von Mises-Fisher bumps on the sphere."""
FIRST = 90.0
"""When the first volume after the injection is taken, in seconds."""
TEXTURE = 12
"""How many independent places across a volume the unevenness of uptake has."""
TRIES = 200


@dataclass(frozen=True, eq=False)
class Surface:
    """How far a lesion reaches in each direction, as a multiple of its radius, times `scale`.

    1 plus bumps: `heights` (k,) of `narrow` (k,) bumps around unit vectors `towards` (k, 3), z, y, x.
    """

    towards: Array
    heights: Array
    narrow: Array
    scale: float = 1.0

    def reach(self, directions: Array) -> Array:
        """Return the reach in unit directions (..., 3), (...)."""
        cosines = directions @ self.towards.T
        return np.asarray(self.scale * (1 + np.exp(self.narrow * (cosines - 1)) @ self.heights))


def drawn(kind: str, rng: np.random.Generator) -> dict[str, float]:
    """Return the numbers of a lesion, `benign` or `malignant`, uniform in their ranges."""
    return {name: rng.uniform(low, high) for name, (low, high) in RANGES[kind].items()}


def uptake(most: float, seconds: float) -> float:
    """Return what has been taken up when the first volume is taken: most * (1 - exp(-time / seconds))."""
    return float(most * (1 - np.exp(-FIRST / seconds)))


def surface(numbers: Numbers, rng: np.random.Generator) -> Surface:
    """Return a surface of lobes and spikes that holds as much as a ball: both kinds of lesions are equally large."""
    towards = _unit(rng.standard_normal((LOBES + SPIKES, 3)))
    heights = np.repeat([numbers["lobes"], numbers["spikes"]], [LOBES, SPIKES]) * rng.uniform(0.3, 1, LOBES + SPIKES)
    narrow = np.repeat([LOBE, SPIKE], [LOBES, SPIKES])
    rough = Surface(towards, heights, narrow)
    everywhere = _unit(rng.standard_normal((2000, 3)))
    return Surface(towards, heights, narrow, float(np.mean(rough.reach(everywhere) ** 3) ** (-1 / 3)))


def place(radius: float, p: Numbers, side: int, rng: np.random.Generator) -> Array:
    """Return a middle z, y, x at which a lesion lies in the breast, before its wall; or the best of some."""
    tried = rng.uniform(-0.8, 0.8, (TRIES, 3))
    at = (tried[:, 0], tried[:, 1], tried[:, 2])
    room = np.minimum(inside(p, at), before_wall(p, side, at)) - radius
    fits = np.flatnonzero(room > 0)
    return np.asarray(tried[fits[0] if len(fits) else int(room.argmax())])


def with_lesion(values: Array, kind: str, p: Numbers, side: int, at: Places, rng: np.random.Generator) -> Array:
    """Return a volume (d, h, w) with a lesion, `benign` or `malignant`, in the place of what was there."""
    numbers = drawn(kind, rng)
    middle = place(numbers["radius"], p, side, rng)
    made = surface(numbers, rng)
    texture = field(values.shape, TEXTURE, rng)
    stretch = (1.0, numbers["long"], numbers["wide"])
    keep = float(np.cbrt(np.prod(stretch)))
    off = [(axis - m) * keep / s / numbers["radius"] for axis, m, s in zip(at, middle, stretch, strict=True)]
    out = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2)
    # Only voxels near the lesion are looked at: no spike is longer than that.
    near = np.nonzero(out < made.scale * (1 + made.heights.max() + made.heights[:LOBES].sum()) + 1)
    vectors = np.stack([np.broadcast_to(axis, out.shape)[near] for axis in off], axis=-1)
    far = out[near]
    reach = made.reach(vectors / np.maximum(far, 1e-6)[:, None])
    share = ramp(numbers["radius"] * (reach - far), numbers["edge"])
    bright = 1 + numbers["uneven"] * texture[near]
    bright = bright - max(numbers["core"], 0.0) * np.clip(1.4 - 2 * far / reach, 0, 1)
    walls = np.abs(vectors @ made.towards[0]) < 0.12
    bright = bright - max(numbers["septa"], 0.0) * walls
    values = values.copy()
    values[near] += share * (uptake(numbers["most"], numbers["seconds"]) * bright - values[near])
    return values


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
