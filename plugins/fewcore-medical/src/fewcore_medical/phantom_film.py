"""From a phantom's chest to a radiograph: tissue, air, vessels, lesions, and how a film was exposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fewcore import Array
from fewcore_medical.phantom_anatomy import Chest, draw, lung_place, pixel_places, ramp, to_image

NORMAL, TUBERCULOSIS, NODULE = range(3)

EXPOSURE: Mapping[str, tuple[float, float]] = {
    "air": (0.12, 0.55),  # how much darker a lung is than tissue
    "edge": (0.02, 0.07),  # width of a lung's edge
    "heart_density": (0.10, 0.30),
    "spine": (0.08, 0.24),
    "abdomen": (0.02, 0.25),
    "rib_behind": (0.04, 0.14),
    "rib_front": (0.02, 0.11),
    "clavicle": (0.04, 0.16),
    "vessels": (0.04, 0.13),
    "haze": (0.01, 0.09),  # smooth unevenness of the tissue
    "heel": (-0.12, 0.12),  # from one side of the image to the other
    "low": (0.00, 0.25),  # density that becomes black
    "contrast": (0.85, 1.30),  # range of densities that is shown
    "veil": (-0.50, 0.40),  # how much smooth opacities hide the lungs' edges, where above 0
    "bubble": (-0.10, 0.40),  # how dark the air in the stomach is, where above 0
    "gamma": (0.70, 1.50),
    "noise": (0.010, 0.050),
    "mottle": (0.01, 0.04),
    "border": (-0.25, 0.10),  # width of what the collimator leaves black, where above 0
    "nodule": (0.55, 1.10),
    "infiltrate": (0.60, 1.40),
    "cloud": (0.7, 1.5),  # how patchy infiltrates are
}
"""Range of each number of a film's exposure."""

DOTS, VEILS, NODULES, PATCHES = 4, 2, 3, 6
"""Most vessels seen end-on, smooth opacities, nodules and patches of infiltrate in a film."""
FIELDS = {"haze": 5, "cloud": 14, "vessels": 24, "mottle": 56}
"""How many independent places across the image each random field has."""


@dataclass(frozen=True, eq=False)
class Blobs:
    """k blobs in each of n images: centres x, y, widths and heights (standard deviations), weights, all (n, k)."""

    x: Array
    y: Array
    width: Array
    height: Array
    weight: Array

    def __getitem__(self, rows: slice) -> Blobs:
        """Return the blobs of some images."""
        return Blobs(*(values[rows] for values in (self.x, self.y, self.width, self.height, self.weight)))

    def painted(self, size: int) -> Array:
        """Return the sum of the blobs in each image, (n, size, size)."""
        places = pixel_places(size)
        across = np.exp(-0.5 * ((places - self.x[..., None]) / self.width[..., None]) ** 2)
        down = np.exp(-0.5 * ((places - self.y[..., None]) / self.height[..., None]) ** 2)
        # A blob is the product of its two profiles, so that all blobs of an image are one product of matrices.
        return np.asarray((down * self.weight[..., None]).transpose(0, 2, 1) @ across)


@dataclass(frozen=True, eq=False)
class Lesions:
    """What differs from film to film: air in the stomach, veils and dots in all, nodules and infiltrates by class."""

    stomach: Blobs
    veils: Blobs
    dots: Blobs
    nodules: Blobs
    infiltrates: Blobs

    def __getitem__(self, rows: slice) -> Lesions:
        """Return the lesions of some films."""
        return Lesions(
            self.stomach[rows], self.veils[rows], self.dots[rows], self.nodules[rows], self.infiltrates[rows]
        )


def exposures(n: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return the numbers of n films' exposures."""
    return draw(EXPOSURE, n, rng)


def lesions(film: Mapping[str, Array], classes: Array, rng: np.random.Generator) -> Lesions:
    """Return the lesions of n films: those that their classes (n,) ask for, and dots that look a little like them."""
    n = len(classes)
    dots = _blobs(film, rng, (n, DOTS), down=(0.25, 0.75), across=(0.05, 0.5), width=(0.014, 0.026))
    dots.weight[:] = rng.uniform(0.0, 0.5, (n, DOTS))
    nodules = _blobs(film, rng, (n, NODULES), down=(0.15, 0.85), across=(0.25, 0.85), width=(0.050, 0.090))
    has = np.arange(NODULES) < rng.integers(1, NODULES + 1, (n, 1))
    nodules.weight[:] = has & (classes == NODULE)[:, None]
    patches = _blobs(film, rng, (n, PATCHES), down=(0.08, 0.60), across=(0.15, 0.95), width=(0.05, 0.14))
    has = np.arange(PATCHES) < rng.integers(3, PATCHES + 1, (n, 1))
    patches.weight[:] = (has & (classes == TUBERCULOSIS)[:, None]) * rng.uniform(0.4, 1.0, (n, PATCHES))
    veils = _blobs(film, rng, (n, VEILS), down=(0.0, 1.0), across=(0.0, 1.0), width=(0.12, 0.28))
    veils.weight[:] = rng.uniform(0.3, 1.0, (n, VEILS))
    return Lesions(_stomach(film, rng), veils, dots, nodules, patches)


def _stomach(film: Mapping[str, Array], rng: np.random.Generator) -> Blobs:
    """Return a bubble of air under the lung on the image's right, in each film."""
    shape = (len(film["base"]), 1)
    x = film["gap"][:, None] + rng.uniform(0.1, 0.4, shape)
    x, y = to_image(film, x, film["base"][:, None] + rng.uniform(0.0, 0.15, shape))
    width, height = rng.uniform(0.06, 0.13, shape), rng.uniform(0.05, 0.09, shape)
    return Blobs(*(values.astype(np.float32) for values in (x, y, width, height, np.ones(shape))))


def _blobs(
    film: Mapping[str, Array],
    rng: np.random.Generator,
    shape: tuple[int, int],
    down: tuple[float, float],
    across: tuple[float, float],
    width: tuple[float, float],
) -> Blobs:
    """Return blobs without weight in the lungs; on the image's right, low ones lie beside the heart."""
    side = np.where(rng.random(shape) < 0.5, -1, 1)
    depth = rng.uniform(*down, shape)
    place = rng.uniform(*across, shape)
    place = np.where((side > 0) & (depth > 0.45), 0.6 + 0.4 * place, place).clip(0, 0.97)
    x, y = to_image(film, *lung_place(film, side, depth, place))
    size = rng.uniform(*width, shape)
    long = rng.uniform(0.8, 1.25, shape)
    drawn = (x, y, size * long, size / long, np.zeros(shape))
    return Blobs(*(values.astype(np.float32) for values in drawn))


def radiographs(
    here: Chest, exposure: Mapping[str, Array], found: Lesions, size: int, rng: np.random.Generator
) -> Array:
    """Return images (n, size, size) float32 in [0, 1], dense parts bright, as if nothing were collimated."""
    n = len(here.x)
    e = {name: values[:, None, None] for name, values in exposure.items()}
    fields = {name: _field(n, size, places, rng) for name, places in FIELDS.items()}
    density = _tissue(here, e) + e["haze"] * fields["haze"] + e["heel"] * here.x
    air = ramp(here.lungs, e["edge"])
    # A lung is thinner at its edge, so it is less dark there.
    depth = np.float32(0.55) + np.float32(0.45) * np.clip(here.lungs * 7, 0, 1)
    density -= e["air"] * air * depth
    density += air * _in_lungs(here, e, found, fields, size)
    density -= np.maximum(e["bubble"], 0) * (1 - air) * found.stomach.painted(size)
    behind, front, clavicles = here.bones
    density += e["rib_behind"] * behind + e["rib_front"] * front + e["clavicle"] * clavicles
    density *= ramp(here.torso, 0.05)
    shown = np.clip((density - e["low"]) / e["contrast"], 0, 1) ** e["gamma"]
    # Where much is absorbed few photons arrive.
    shown += e["noise"] * (np.float32(0.5) + shown) * rng.standard_normal(shown.shape, np.float32)
    shown += e["mottle"] * fields["mottle"]
    return np.asarray(np.clip(shown, 0, 1))


def _tissue(here: Chest, e: Mapping[str, Array]) -> Array:
    """Return the density of soft tissue, heart, spine and abdomen."""
    out = np.minimum(np.abs(here.x), 1)
    density = np.float32(0.85) - np.float32(0.25) * out * out
    density = density + e["heart_density"] * ramp(here.heart, 0.06)
    density += e["abdomen"] * ramp(here.diaphragm, 0.06) * (out < 1)
    column = np.clip(1 - out * out * 60, 0, 1)
    density += e["spine"] * column * (np.float32(1.0) + np.float32(0.35) * np.cos(here.y * np.float32(44)))
    return np.asarray(density)


def _in_lungs(here: Chest, e: Mapping[str, Array], found: Lesions, fields: Mapping[str, Array], size: int) -> Array:
    """Return the density of vessels, veils and lesions, as if all were lung."""
    # Lines where a random field is 0 branch as vessels do; they fade away from the hila.
    lines = np.clip(1 - np.abs(fields["vessels"]) * np.float32(2.2), 0, 1)
    x, y = np.abs(here.x) - np.float32(0.14), here.y + np.float32(0.02)
    near = np.clip(1 - (x * x + y * y) * np.float32(3.2), 0, 1)
    vessels = e["vessels"] * near * (lines + found.dots.painted(size))
    # Blobs that are cut off are discs with a soft edge.
    discs = np.clip(2 * found.nodules.painted(size) - np.float32(0.6), 0, 1)
    patchy = np.clip(1 + e["cloud"] * fields["cloud"], 0, 2)
    vessels += np.maximum(e["veil"], 0) * found.veils.painted(size)
    return np.asarray(vessels + e["nodule"] * discs + e["infiltrate"] * patchy * found.infiltrates.painted(size))


def _field(n: int, size: int, places: int, rng: np.random.Generator) -> Array:
    """Return smooth random fields (n, size, size) of mean 0 and variance 1 everywhere.

    Each is a sum of Gaussian bumps on a grid of `places` across the image, with normal weights.
    """
    profiles = bumps(size, places)
    weights = rng.standard_normal((n, places + 4, places + 4), np.float32)
    return np.asarray(profiles @ weights @ profiles.T)


def bumps(size: int, places: int) -> Array:
    """Return Gaussian bumps on a line of `size` pixels, `places` across it and two beyond either end, (size, places + 4).

    The squares of those in each pixel sum to 1.
    """
    step = 2 / places
    centres = (np.arange(places + 4, dtype=np.float32) - np.float32(1.5)) * np.float32(step) - 1
    made = np.exp(-0.5 * ((pixel_places(size)[:, None] - centres) / np.float32(0.7 * step)) ** 2)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return np.asarray(made)


def collimated(exposure: Mapping[str, Array], size: int) -> Array:
    """Return where the collimator let X-rays through, (n, size, size) bool; the rest of a film stays black."""
    inside = np.abs(pixel_places(size)) < 1 - np.maximum(exposure["border"], 0)[:, None]
    return np.asarray(inside[:, :, None] & inside[:, None, :])
