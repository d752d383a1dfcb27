"""The chest of a phantom: where lungs, heart and ribs lie, drawn for each patient and changed a little in each film.

Lengths are halves of an image's side; x runs to the right of the image, y down, 0 is the middle. Numbers of films are
arrays (n,), of pixels (n, h, w) float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fewcore import Array

PATIENT: Mapping[str, tuple[float, float]] = {
    "apex": (-0.82, -0.60),  # y of the lungs' tips
    "base": (0.38, 0.66),  # y of the lower corners of the lung on the image's right
    "lift": (0.00, 0.12),  # how much higher they are on its left
    "width_left": (0.40, 0.58),
    "width_right": (0.40, 0.58),
    "gap": (0.05, 0.12),  # from the midline to a lung
    "dome": (0.07, 0.20),  # height of the diaphragm
    "peak": (0.40, 0.75),  # share of a lung's height in which it widens
    "flare": (-0.10, 0.22),  # how much wider its base is than its middle
    "heart_left": (0.02, 0.16),  # how far the heart reaches over the midline to the image's left
    "heart_y": (0.10, 0.22),  # how much the heart's middle is above the base
    "heart_reach": (0.22, 0.55),  # how far it hides the lung on the image's right, as a share of the lung's width
    "heart_height": (0.18, 0.30),
    "knob_x": (0.05, 0.10),
    "knob_y": (-0.36, -0.22),
    "knob": (0.05, 0.08),  # radius of the aortic arch
    "rib_step": (0.125, 0.185),  # from rib to rib
    "rib_phase": (0.0, 1.0),
    "rib_fall": (0.55, 1.10),  # how the ribs behind fall to the sides
    "rib_slope": (0.35, 0.75),  # how those in front rise to the sides
    "rib_width": (0.40, 0.62),  # share of a step
    "clavicle_y": (-0.60, -0.46),
    "clavicle_slope": (0.10, 0.40),
    "torso": (0.90, 1.15),  # half of its width
}
"""Range of each number of a patient."""

FILM: Mapping[str, tuple[float, float]] = {
    "breath": (-0.08, 0.08),  # what is added to the base
    "turn": (-0.14, 0.14),  # what one lung seems wider, and the other narrower
    "scale_x": (0.72, 1.22),
    "scale_y": (0.72, 1.22),
    "shift_x": (-0.14, 0.14),
    "shift_y": (-0.14, 0.14),
    "warp_x": (-0.035, 0.035),
    "warp_y": (-0.035, 0.035),
    "warp_phase": (0.0, 2 * np.pi),
}
"""Range of each number of a film's pose. The angle is normal."""

ANGLE = 0.12
"""Standard deviation of the films' angle, in radians."""


@dataclass(frozen=True, eq=False)
class Chest:
    """What of a chest shows in each pixel, (n, h, w): signed distances (about; above 0 is inside) and densities.

    `x` and `y` are the pixels' places in the patient; `lungs`, `heart`, `torso` and `diaphragm` signed distances, the last above
    0 below the diaphragm; `bones` the ribs behind, those in front and the clavicles, 0 to about 1.
    """

    x: Array
    y: Array
    lungs: Array
    heart: Array
    torso: Array
    diaphragm: Array
    bones: tuple[Array, Array, Array]


def draw(ranges: Mapping[str, tuple[float, float]], n: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return n draws of each number, uniform in its range, (n,) float32."""
    return {name: rng.uniform(low, high, n).astype(np.float32) for name, (low, high) in ranges.items()}


def posed(patients: Mapping[str, Array], of_film: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Return the numbers of each film: those of its patient, `of_film` (n,), and those of its pose."""
    n = len(of_film)
    film = {name: values[of_film] for name, values in patients.items()} | draw(FILM, n, rng)
    film["angle"] = (ANGLE * rng.standard_normal(n)).astype(np.float32)
    film["base"] = film["base"] + film["breath"]
    film["width_left"] = film["width_left"] * (1 + film["turn"])
    film["width_right"] = film["width_right"] * (1 - film["turn"])
    reach = film["gap"] + film["heart_reach"] * film["width_right"]
    film["heart_x"], film["heart_width"] = (reach - film["heart_left"]) / 2, (reach + film["heart_left"]) / 2
    return film


def ramp(distance: Array, width: Array | float) -> Array:
    """Return 0 outside, 1 inside, and a slope of a width between, 0.5 where the distance is 0."""
    return np.clip(distance / width + np.float32(0.5), 0, 1)


def chest(film: Mapping[str, Array], size: int) -> Chest:
    """Return the chests of n films, in images of size x size pixels."""
    p = {name: values[:, None, None] for name, values in film.items()}
    x, y = _places(p, size)
    out = np.abs(x)
    left = x < 0
    width = np.where(left, p["width_left"], p["width_right"])
    base = np.where(left, p["base"] - p["lift"], p["base"])
    wall = _wall(p, width, base, y)
    middle = (out - p["gap"]) / width * 2 - 1
    dome = base - p["dome"] * (1 - np.minimum(middle * middle, 1))
    # Below its middle the heart runs straight down to the diaphragm.
    above = np.minimum(y - (p["base"] - p["heart_y"]), 0)
    heart = _inside_ellipse(x - p["heart_x"], above, p["heart_width"], p["heart_height"])
    knob = _inside_ellipse(x - p["knob_x"], y - p["knob_y"], p["knob"], p["knob"])
    heart = np.maximum(heart, knob)
    lungs = np.minimum(np.minimum(wall - out, out - p["gap"]), np.minimum(dome - y, -heart))
    torso = np.minimum(p["torso"] - out, 0.8 * (y + 1.25) + 0.18 - 0.55 * out)
    return Chest(x, y, lungs, heart, torso, y - dome, _bones(p, y, out, wall))


def lung_place(film: Mapping[str, Array], side: Array, down: Array, across: Array) -> tuple[Array, Array]:
    """Return the places x, y in the patient, (n, k), of points in the lungs.

    `side` (n, k) is -1 for the lung on the image's left and 1 for that on its right; `down` and `across` say where, from
    tip to base and from the middle to the wall, as shares.
    """
    p = {name: values[:, None] for name, values in film.items()}
    left = side < 0
    width = np.where(left, p["width_left"], p["width_right"])
    base = np.where(left, p["base"] - p["lift"], p["base"]) - p["dome"]
    y = p["apex"] + down * (base - p["apex"])
    inner = p["gap"]
    wall = _wall(p, width, np.where(left, p["base"] - p["lift"], p["base"]), y)
    return side * (inner + across * (wall - inner)), y


def to_image(film: Mapping[str, Array], x: Array, y: Array) -> tuple[Array, Array]:
    """Return where points (n, k) of the patients lie in the images, but for the small warp."""
    p = {name: values[:, None] for name, values in film.items()}
    u, v = (x + p["shift_x"]) * p["scale_x"], (y + p["shift_y"]) * p["scale_y"]
    cos, sin = np.cos(p["angle"]), np.sin(p["angle"])
    return cos * u - sin * v, sin * u + cos * v


def pixel_places(size: int) -> Array:
    """Return the middle of each pixel of a row, (size,) from -1 to 1."""
    return ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1).astype(np.float32)


def _places(p: Mapping[str, Array], size: int) -> tuple[Array, Array]:
    """Return the places of all pixels in the patients: turned, scaled, shifted and warped."""
    across, down = pixel_places(size)[None, None, :], pixel_places(size)[None, :, None]
    cos, sin = np.cos(p["angle"]), np.sin(p["angle"])
    x = (cos * across + sin * down) / p["scale_x"] - p["shift_x"]
    y = (cos * down - sin * across) / p["scale_y"] - p["shift_y"]
    # Waves along the image's axes need a row or a column alone.
    x = x + p["warp_x"] * np.sin(np.float32(np.pi) * down + p["warp_phase"])
    y = y + p["warp_y"] * np.sin(np.float32(np.pi) * across + p["warp_phase"])
    return x, y


def _wall(p: Mapping[str, Array], width: Array, base: Array, y: Array) -> Array:
    """Return how far from the midline a lung reaches: a quarter of an ellipse, then a slope; 0 above its tip."""
    t = (y - p["apex"]) / (base - p["apex"])
    rise = np.clip(t / p["peak"], 0, 1)
    round_tip = np.sqrt(rise * (2 - rise))
    return np.where(t > 0, p["gap"] + width * round_tip * (1 + p["flare"] * (t - np.float32(0.5))), 0)


def _inside_ellipse(x: Array, y: Array, width: Array, height: Array) -> Array:
    """Return about how far inside an ellipse at 0 a place is; below 0 outside."""
    x, y = x / width, y / height
    return (1 - np.sqrt(x * x + y * y)) * np.minimum(width, height)


def _bones(p: Mapping[str, Array], y: Array, out: Array, wall: Array) -> tuple[Array, Array, Array]:
    cage = ramp(wall + np.float32(0.03) - out, 0.04) * ramp(p["base"] + np.float32(0.25) - y, 0.1)
    behind = _stripes((y - p["rib_fall"] * out * out) / p["rib_step"] + p["rib_phase"], p["rib_width"])
    front = _stripes((y + p["rib_slope"] * out) / (1.3 * p["rib_step"]) + 1.7 * p["rib_phase"], p["rib_width"])
    # In front, ribs end in cartilage, which does not show.
    lateral = np.clip((out - np.float32(0.14)) * 6, 0, 1)
    distance = np.abs(y - p["clavicle_y"] + p["clavicle_slope"] * (out - np.float32(0.3)))
    clavicles = ramp(np.float32(0.035) - distance, 0.03) * ramp(np.float32(0.62) - out, 0.06)
    return behind * cage, front * cage * lateral, clavicles * ramp(out - np.float32(0.06), 0.04)


def _stripes(phase: Array, width: Array) -> Array:
    """Return stripes, one for each whole number, of a width from 0 to 1; brighter at both edges, as ribs are."""
    off = np.abs(2 * (phase - np.floor(phase)) - 1)
    return np.asarray(np.clip((width - off) * 6, 0, 1) * (np.float32(0.65) + np.float32(0.6) * off))
