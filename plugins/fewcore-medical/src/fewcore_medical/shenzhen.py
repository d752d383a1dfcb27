"""Shenzhen's chest radiographs: normal, or with tuberculosis, and masks of the lungs of most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fewcore import ImageSet, Problem, Run, option
from fewcore_medical.chest_films import set_folder
from fewcore_medical.nlm_films import shenzhen_films
from fewcore_medical.single_set import Shares, check_shares, load_set, sources_of


@dataclass(frozen=True)
class Shenzhen:
    """662 chest radiographs of Shenzhen No. 3 Hospital: 326 normal, 336 with tuberculosis; masks of the lungs of 566.

    Images are (1, image_size, image_size) uint8. Targets: `class`, from the last digit of a file's name, and `mask` (n, 1, h, w)
    of 0 and 1, NaN where there is none. Each film is a group of its own. Splits are fixed: every class has its share of each.

    The folder ChinaSet_AllFiles as it is handed out, with CXR_png, and beside it the folder `mask` of the masks, which were
    published by others, are looked for in `path`, else in the folder `shenzhen` under $FEWCORE_DATA, else in that of the
    user's data folder. docs/data.md says where they come from.

    Source: S. Jaeger, S. Candemir, S. Antani, Y.-X. J. Wang, P.-X. Lu, G. Thoma: Two public chest X-ray datasets for
    computer-aided screening of pulmonary diseases, Quantitative Imaging in Medicine and Surgery 4, 2014,
    doi:10.3978/j.issn.2223-4292.2014.11.20. Masks: S. Stirenko et al.: Chest X-Ray Analysis of Tuberculosis by Deep
    Learning with Segmentation and Augmentation, 2018, arXiv:1803.01199.

    Differs from the paper: it has no splits.

    Raises:
        DataError: files are missing or cannot be read, a mask is of another size or empty, or the numbers are not those
            published; all of it at once.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(128, "height and width", unit="pixels", low=8, high=2048)
    fit: Literal["stretch", "pad"] = option("stretch", "how an oblong film becomes a square; pad adds black")
    masks: bool = option(True, "read the masks; false: classes alone")
    validation_share: float = option(0.075, "share for validation", low=0, high=1)
    test_share: float = option(0.25, "share for test", low=0, high=1)
    path: str = option("", "folder of the files; empty: looked for as said above")
    complete: bool = option(True, "refuse other numbers than those published; false for a part")

    def __post_init__(self) -> None:
        check_shares(self.validation_share, self.test_share)

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are there."""
        return sources_of(shenzhen_films(self._folder, self.masks, False, []), self._folder)

    def load(self, run: Run) -> ImageSet:
        """Return the films, (662, 1, image_size, image_size) uint8, with the targets `class` and `mask`."""
        problems: list[Problem] = []
        films = shenzhen_films(self._folder, self.masks, self.complete, problems)
        shares = Shares(self.validation_share, self.test_share)
        shown = ("normal", "tuberculosis")
        return load_set("shenzhen", films, shown, self.image_size, self.fit, self.masks, shares, problems, run)

    @property
    def _folder(self) -> Path:
        return set_folder(self.path, "shenzhen")
