"""Two data sets drawn from a fixed seed: many classes for tasks, and patients with every kind of target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fewcore import ImageSet, ImageSpec, Run, Target, option

SIDE = 4
PIXELS = SIDE * SIDE


def spec(*size: int) -> ImageSpec:
    """Say what toy images are like."""
    return ImageSpec(size, 1, (-20.0, 20.0))


@dataclass(frozen=True)
class ToyClasses:
    """Images of classes that differ in their mean; the splits have classes of their own."""

    n_classes: int = option(60, "classes", low=10)
    image_size: int = option(SIDE, "height and width", unit="pixels")

    deterministic: ClassVar[bool] = True

    def load(self, run: Run) -> ImageSet:
        """Return 20 images of each class with the targets 'class' and 'attributes'."""
        rng = np.random.default_rng(0)
        classes = np.repeat(np.arange(self.n_classes), 20)
        centres = rng.normal(size=(self.n_classes, PIXELS)) * 2
        pixels = (centres[classes] + rng.normal(size=(len(classes), PIXELS))).astype(np.float32)
        first, second = round(self.n_classes * 0.6), round(self.n_classes * 0.75)
        ids = np.arange(len(classes)) * 3 + 7
        names = tuple(f"c{number:02}" for number in range(self.n_classes))
        binary = tuple(f"attribute {number}" for number in range(8))
        return ImageSet(
            pixels.reshape(-1, 1, SIDE, SIDE),
            ids,
            ids,
            spec(SIDE, SIDE),
            {
                "class": Target("class", classes, names),
                "attributes": Target("attributes", (pixels[:, :8] > 0).astype(np.int8), binary),
            },
            {
                "train": ids[classes < first],
                "validation": ids[(classes >= first) & (classes < second)],
                "test": ids[classes >= second],
            },
            "class",
        )


@dataclass(frozen=True)
class ToyPatients:
    """Several images of each patient: a finding in three classes, a binary class, masks, and four readers' ratings."""

    n_train: int = option(45, "patients to train on", low=1)
    n_validation: int = option(13, "patients to validate on", low=0)
    n_test: int = option(59, "patients to test on", low=1)
    n_each: int = option(2, "images of a patient", low=1)
    crop: Literal["slice", "volume"] = option("slice", "what is cut out around the lesion")

    deterministic: ClassVar[bool] = True

    def load(self, run: Run) -> ImageSet:
        """Return the images with the targets 'finding', 'malignant', 'masks' and 'ratings'."""
        rng = np.random.default_rng(1)
        n_patients = self.n_train + self.n_validation + self.n_test
        n = n_patients * self.n_each
        patient = np.repeat(np.arange(n_patients), self.n_each)
        finding = rng.integers(0, 3, n)
        pixels = rng.normal(size=(n, PIXELS)).astype(np.float32)
        pixels[:, :3] += 3 * np.eye(3, dtype=np.float32)[finding]
        ratings = np.clip(np.round(3 + 1.5 * (pixels[:, None, :7] - 0.5) + rng.normal(size=(n, 4, 7)) / 2), 1, 5)
        ratings[:, 1:][rng.random((n, 3)) < 0.25] = np.nan
        images = pixels.reshape(n, 1, SIDE, SIDE)
        if self.crop == "volume":
            images = np.stack([images, images], 2)
        ids = np.arange(n)
        cuts = np.cumsum([0, self.n_train, self.n_validation, self.n_test])
        splits = {
            split: ids[(patient >= low) & (patient < high)]
            for split, low, high in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False)
            if high > low
        }
        aspects = ("subtlety", "calcification", "sphericity", "margin", "lobulation", "texture", "malignancy")
        masks = (pixels.reshape(n, 1, SIDE, SIDE) > 0).astype(np.float32)
        targets = {
            "finding": Target("class", finding, ("none", "benign", "malignant")),
            "malignant": Target("class", (finding == 2).astype(np.int64), ("no", "yes")),
            "masks": Target("masks", masks, ("lesion",)),
            "ratings": Target("ratings", ratings, aspects, (1, 5)),
        }
        return ImageSet(images, ids, patient, spec(*images.shape[2:]), targets, splits, "malignant")
