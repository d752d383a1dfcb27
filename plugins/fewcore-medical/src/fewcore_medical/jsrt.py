"""JSRT's chest radiographs: with a lung nodule, or without, and SCR's masks of both lungs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fewcore import ImageSet, Problem, Run, option
from fewcore_medical.chest_films import set_folder
from fewcore_medical.jsrt_films import SIDE, jsrt_films
from fewcore_medical.single_set import Shares, check_shares, load_set, sources_of


@dataclass(frozen=True)
class Jsrt:
    """247 chest radiographs of the Japanese Society of Radiological Technology: 93 normal, 154 with a lung nodule.

    Images are (1, image_size, image_size) uint8, made from raw files of 2048 x 2048 values of 12 bits, big-endian, in
    which high values are black: they are turned around, 0 becomes 255 and 4095 becomes 0. Targets: `class`, from the file's
    name (JPCLN: nodule, JPCNN: none), and `mask` (n, 1, h, w) of 0 and 1, SCR's left and right lung joined; they were drawn
    at 1024 x 1024 pixels. Each film is a group of its own. Splits are fixed: every class has its share of each.

    The .IMG files and SCR's folders (fold1/masks/left lung and so on), however deep, are looked for in `path`, else in the
    folder `jsrt` under $FEWCORE_DATA, else in that of the user's data folder. docs/data.md says where they come from.

    Source: J. Shiraishi et al.: Development of a digital image database for chest radiographs with and without a lung
    nodule, American Journal of Roentgenology 174, 2000, doi:10.2214/ajr.174.1.1740071. Masks: B. van Ginneken,
    M. B. Stegmann, M. Loog: Segmentation of anatomical structures in chest radiographs using supervised methods, Medical
    Image Analysis 10, 2006, doi:10.1016/j.media.2005.02.002.

    Differs from the paper: SCR trains on one fold and tests on the other; here splits are shares of all.

    Raises:
        DataError: files are missing, of another size or cannot be read, a mask is missing, of other proportions or empty,
            or the numbers are not those published; all of it at once.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(128, "height and width", unit="pixels", low=8, high=2048)
    masks: bool = option(True, "read the masks; false: classes alone")
    validation_share: float = option(0.075, "share for validation", low=0, high=1)
    test_share: float = option(0.25, "share for test", low=0, high=1)
    path: str = option("", "folder of the files; empty: looked for as said above")
    side: int = option(SIDE, "height and width of a raw image; another for images that were scaled", low=1, high=8192)
    complete: bool = option(True, "refuse other numbers than those published; false for a part")

    def __post_init__(self) -> None:
        check_shares(self.validation_share, self.test_share)

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are there."""
        return sources_of(jsrt_films(self._folder, self.side, self.masks, False, []), self._folder)

    def load(self, run: Run) -> ImageSet:
        """Return the films, (247, 1, image_size, image_size) uint8, with the targets `class` and `mask`."""
        problems: list[Problem] = []
        films = jsrt_films(self._folder, self.side, self.masks, self.complete, problems)
        shares = Shares(self.validation_share, self.test_share)
        return load_set(
            "jsrt", films, ("normal", "nodule"), self.image_size, "stretch", self.masks, shares, problems, run
        )

    @property
    def _folder(self) -> Path:
        return set_folder(self.path, "jsrt")
