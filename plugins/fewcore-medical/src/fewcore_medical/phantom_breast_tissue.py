"""The breasts of a phantom as a subtraction volume shows them: parenchyma, vessels, nipple, chest wall, heart, and noise.

Lengths are halves of a volume's side; x runs to the patient's left, y to the back, z to the head, 0 is the middle. Volumes are
(d, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fewcore import Array
from fewcore_medical.phantom_anatomy import pixel_places, ramp
from fewcore_medical.phantom_film import bumps

PATIENT: Mapping[str, tuple[float, float]] = {
    "width": (0.78, 1.00),  # half of a breast's width
    "height": (0.78, 1.00),
    "reach": (1.05, 1.45),  # from the chest wall to the nipple
    "wall": (0.50, 0.72),  # y of the chest wall
    "slant": (-0.25, 0.05),  # how the wall falls back to the side
    "gland": (-0.9, 0.6),  # how much of a breast is parenchyma
    "enhancement": (0.03, 0.25),  # uptake of the parenchyma, minimal to marked
    "patchy": (0.2, 1.0),
    "vessels": (0.25, 0.90),
    "nipple": (0.20, 0.95),
    "muscle": (0.02, 0.15),
    "heart": (0.10, 0.60),
    "gain": (0.75, 1.20),
    "noise": (0.02, 0.05),
}
"""Range of each number of a patient."""

BREAST: Mapping[str, tuple[float, float]] = {
    "shift_x": (-0.08, 0.08),
    "shift_z": (-0.08, 0.08),
    "scale": (0.93, 1.07),
    "more": (0.85, 1.15),  # of the parenchyma's uptake
    "skin": (-0.15, 0.20),  # bright or dark, where the patient moved between the two images
}
"""Range of each number in which a patient's breasts differ."""

FOCI = 5
"""Most foci in a breast: enhancing dots that are smaller than any lesion."""
FIELDS = {"gland": 4, "patches": 9, "vessels": 5}
"""How many independent places across a volume each random field has."""

Numbers = Mapping[str, float]
Places = tuple[Array, Array, Array]


def places(shape: tuple[int, int, int]) -> Places:
    """Return the middles of a volume's voxels, z (d, 1, 1), y (1, h, 1) and x (1, 1, w), from -1 to 1."""
    z, y, x = (pixel_places(side) for side in shape)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def inside(p: Numbers, at: Places) -> Array:
    """Return about how far inside the breast a place is; below 0 outside."""
    z, y, x = at
    x, z = (x - p["shift_x"]) / (p["scale"] * p["width"]), (z - p["shift_z"]) / (p["scale"] * p["height"])
    front = np.minimum(y - p["wall"], 0) / (p["scale"] * p["reach"])
    return np.asarray((1 - np.sqrt(x * x + z * z + front * front)) * p["width"])


def before_wall(p: Numbers, side: int, at: Places) -> Array:
    """Return how far a place lies before the chest wall; below 0 behind it.

    `side` is -1 for the right breast, 1 for the left.
    """
    _, y, x = at
    return np.asarray(p["wall"] - p["slant"] * side * x - y)


def tissue(p: Numbers, side: int, at: Places, rng: np.random.Generator) -> Array:
    """Return what a breast without a lesion takes up, (d, h, w), 0 for nothing."""
    shape = (at[0].shape[0], at[1].shape[1], at[2].shape[2])
    fields = {name: field(shape, across, rng) for name, across in FIELDS.items()}
    second = field(shape, FIELDS["vessels"], rng)
    depth, front = inside(p, at), ramp(before_wall(p, side, at), 0.06)
    breast = ramp(depth, 0.05) * front
    # Parenchyma lies around the line from the nipple to the wall, under a layer of fat.
    gland = ramp(np.clip(3 * depth - np.float32(0.6), -1, 1) + p["gland"] + np.float32(0.6) * fields["gland"], 0.8)
    patches = np.clip(1 + p["patchy"] * fields["patches"], 0, None)
    made = p["enhancement"] * p["more"] * gland * patches * ramp(depth - np.float32(0.1), 0.1) * front
    # Tubes run where two random fields are 0.
    tubes = np.clip(1 - 28 * (fields["vessels"] ** 2 + second**2), 0, 1)
    made += p["vessels"] * tubes * breast
    made += p["skin"] * np.clip(1 - np.abs(depth) / np.float32(0.05), 0, 1) * front
    made += _foci(at, rng) * breast
    tip = (p["shift_z"], p["wall"] - p["scale"] * p["reach"], p["shift_x"])
    made = np.maximum(made, p["nipple"] * _ball(at, tip, 0.09))
    return np.asarray(np.maximum(made, _behind(p, side, at) * (1 - front)))


def noisy(values: Array, p: Numbers, rng: np.random.Generator) -> Array:
    """Return what a scanner shows of a volume: amplified, with noise, cut to [0, 1]; 0.1 is nothing."""
    noise = p["noise"] * rng.standard_normal(values.shape, np.float32)
    return np.asarray(np.clip(np.float32(0.1) + np.float32(0.75) * p["gain"] * values + noise, 0, 1))


def field(shape: tuple[int, int, int], across: int, rng: np.random.Generator) -> Array:
    """Return a smooth random field (d, h, w) of mean 0 and variance 1 everywhere, the same at every size."""
    made = rng.standard_normal((across + 4,) * 3, np.float32)
    for side in shape:
        # The first axis goes away and comes back as the last: after three turns all are in their places.
        made = np.tensordot(made, bumps(side, across), axes=(0, 1))
    return np.asarray(made)


def _ball(at: Places, centre: tuple[float, float, float], radius: float) -> Array:
    """Return a ball with a soft edge: a Gaussian, `radius` its standard deviation."""
    profiles = [np.exp(-0.5 * ((axis - middle) / radius) ** 2) for axis, middle in zip(at, centre, strict=True)]
    return np.asarray(profiles[0] * profiles[1] * profiles[2])


def _foci(at: Places, rng: np.random.Generator) -> Array:
    """Return one to FOCI bright dots somewhere in the breast."""
    made: Array = np.zeros((1, 1, 1), np.float32)
    for number in range(FOCI):
        z, y, x = rng.uniform(-0.6, 0.6, 3)
        radius, bright = rng.uniform(0.025, 0.05), rng.uniform(0.3, 1.0)
        if number == 0 or rng.random() < 0.5:
            made = made + bright * _ball(at, (z, y, x), radius)
    return made


def _behind(p: Numbers, side: int, at: Places) -> Array:
    """Return what lies behind the chest wall: muscle, and the heart beside the left breast, towards the middle."""
    heart = _ball(at, (-0.3, 1.05, -0.75), 0.4) if side > 0 else np.zeros((1, 1, 1), np.float32)
    return np.asarray(p["muscle"] + p["heart"] * heart)
