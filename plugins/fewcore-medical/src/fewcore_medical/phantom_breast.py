"""Phantoms of breast MRI, made on the fly: subtraction volumes of both breasts, without a finding, benign or malignant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewcore import Array, ImageSet, ImageSpec, Run, Target, child_seed, numpy_generator, option
from fewcore_medical.phantom_anatomy import draw
from fewcore_medical.phantom_breast_lesion import with_lesion
from fewcore_medical.phantom_breast_tissue import BREAST, PATIENT, noisy, places, tissue

FINDINGS = ("none", "benign", "malignant")
NONE, BENIGN, MALIGNANT = range(3)
ANSWERS = ("no", "yes")
SIDES = (-1, 1)
"""Right and left."""


@dataclass(frozen=True)
class PhantomBreast:
    """Phantoms of dynamic contrast-enhanced MRI of breasts: the first subtraction volume, the right and left breast apart.

    Each patient has fat, parenchyma that takes up little or much, vessels, nipples, chest wall and noise of her own, alike
    in both breasts, and the heart behind the left one. All breasts have enhancing dots, and vessels that may be as bright as a
    lesion. `benign` adds a smooth or lobed mass with a sharp margin, evenly bright or with dark walls; `malignant` one with
    spikes and a blurred margin, uneven or bright at the rim, which takes up contrast agent faster. Sizes of both are the same,
    and all numbers overlap, so that shape and margin tell the class, and volume, mean and brightest voxel hardly do.

    Targets: `finding` (none, benign, malignant) and `malignant` (no, yes), the set's own. Groups are patients, `geometry["side"]` (n,) is 0 for the right and 1 for the left breast. A patient has at most
    one malignant breast while there are patients enough. The volumes are the same for every seed of a pipeline, so that models of
    several seeds are judged on the same ones; another `draw` gives others. At every size the same anatomy is shown, under
    another noise. The numbers of patients, breasts and malignant breasts are the paper's: 45, 13 and 59 patients with 30, 9
    and 38; it does not say how many of the others are benign.

    Made for trials of methods such as G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task Design to
    Meta-Train Medical Image Classifiers, 2020, arXiv:1907.07816. No scan was looked at in making it: what holds here need not
    hold there.
    """

    deterministic: ClassVar[bool] = True

    n_train: int = option(45, "patients for training, two breasts each", unit="patients", paper="45", low=2)
    n_validation: int = option(13, "patients for validation", unit="patients", paper="13", low=0)
    n_test: int = option(59, "patients for test", unit="patients", paper="59", low=0)
    malignant_share: float = option(0.329, "share of malignant breasts", paper="0.329", low=0.01, high=0.9)
    benign_share: float = option(0.22, "share of breasts with a benign lesion", paper="not given", low=0, high=0.9)
    size: int = option(48, "height and width", unit="voxels", paper="100", low=16, high=256)
    depth: int = option(24, "slices", unit="voxels", paper="50", low=8, high=256)
    draw: int = option(0, "which phantoms are drawn: another number gives others", low=0)

    def __post_init__(self) -> None:
        if self.malignant_share + self.benign_share > 1:
            found = f"{self.malignant_share:g} and {self.benign_share:g}"
            raise ValueError(f"malignant_share and benign_share: found {found}; expected a sum of 1 at most")

    def load(self, run: Run) -> ImageSet:
        """Return the volumes, (n, 1, depth, size, size) uint8, with the targets `finding` and `malignant`."""
        rng = numpy_generator(child_seed(self.draw, "phantom-breast"))
        counts = {"train": self.n_train, "test": self.n_test, "validation": self.n_validation}
        counts = {split: count for split, count in counts.items() if count}
        findings = _dealt(tuple(counts.values()), self.malignant_share, self.benign_share, rng)
        images = self._painted(findings, rng, run)
        patients = len(findings)
        ids = rng.permutation(2 * patients).reshape(patients, 2)
        # A patient's number in the order of making would tell the split.
        groups = np.repeat(rng.permutation(patients), 2)
        cuts = np.cumsum(list(counts.values()))[:-1]
        splits = {s: np.sort(rows.ravel()) for s, rows in zip(counts, np.split(ids, cuts), strict=True)}
        classes = findings.ravel()
        targets = {
            "malignant": Target("class", (classes == MALIGNANT).astype(np.int64), ANSWERS),
            "finding": Target("class", classes, FINDINGS),
        }
        preparation = {"images": "phantoms of the first subtraction volume", "draw": self.draw}
        spec = ImageSpec((self.depth, self.size, self.size), 1, (0, 255), preparation=preparation)
        geometry = {"side": np.tile([0, 1], patients)}
        return ImageSet(images, ids.ravel(), groups, spec, targets, splits, "malignant", geometry)

    def _painted(self, findings: Array, rng: np.random.Generator, run: Run) -> Array:
        """Return volumes (2 p, 1, d, h, w) uint8 of the breasts (p, 2) of p patients."""
        patients = draw(PATIENT, len(findings), rng)
        breasts = draw(BREAST, findings.size, rng)
        at = places((self.depth, self.size, self.size))
        images = run.zeros((findings.size, 1, self.depth, self.size, self.size), np.uint8)
        for row in run.track(range(findings.size), name="paint phantoms"):
            # Each breast has a generator of its own, so that noise, of which a larger volume draws more, changes no other.
            own = numpy_generator(child_seed(self.draw, "phantom-breast", row))
            p = {name: values[row // 2] for name, values in patients.items()}
            p |= {name: values[row] for name, values in breasts.items()}
            side, finding = SIDES[row % 2], findings[row // 2, row % 2]
            values = tissue(p, side, at, own)
            if finding != NONE:
                values = with_lesion(values, FINDINGS[finding], p, side, at, own)
            images[row, 0] = np.rint(255 * noisy(values, p, own))
        return images


def _dealt(counts: tuple[int, ...], malignant: float, benign: float, rng: np.random.Generator) -> Array:
    """Return the finding in the right and left breast of each patient, (p, 2), split by split.

    Shares are those of all breasts so far, rounded: in the end the whole set has its share, and each split nearly.
    """
    breasts = np.concatenate([[0], 2 * np.cumsum(counts)])
    n_malignant, n_benign = (np.diff(np.rint(share * breasts).astype(int)) for share in (malignant, benign))
    dealt = []
    for patients, bad, good in zip(counts, n_malignant, n_benign, strict=True):
        # One breast of every patient comes before the second of any.
        first = rng.integers(0, 2, patients)
        order = np.concatenate([2 * rng.permutation(patients), 2 * rng.permutation(patients) + 1])
        order = 2 * (order // 2) + (first[order // 2] + order % 2) % 2
        findings = np.full(2 * patients, NONE, np.int64)
        findings[order[:bad]] = MALIGNANT
        findings[rng.permutation(order[bad:])[:good]] = BENIGN
        dealt.append(findings.reshape(patients, 2))
    return np.concatenate(dealt)
