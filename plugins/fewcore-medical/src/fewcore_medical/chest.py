"""Chest radiographs of three public sets under one class rule: normal, tuberculosis, nodule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from fewcore import Array, DataError, ImageSet, Problem, Run, option
from fewcore_medical.chest_films import CLASSES, Film, drawn_splits, film_set, read_films, set_folder
from fewcore_medical.jsrt_films import SIDE, jsrt_films
from fewcore_medical.nlm_films import montgomery_films, shenzhen_films
from fewcore_medical.single_set import sources_of

SETS = ("montgomery", "shenzhen", "jsrt")


@dataclass(frozen=True)
class Chest:
    """The radiographs of Montgomery, Shenzhen and JSRT that have masks of the lungs, in three classes.

    `normal` are those without finding of all three sets, `tuberculosis` those of Montgomery and Shenzhen, `nodule` those of
    JSRT. Images are (1, image_size, image_size) uint8. Targets: `class`, and `mask` (n, 1, h, w) of 0 and 1. Each film is a
    group of its own.

    Of the 951 films with masks 912 are drawn, 615 for training, 69 for validation and 228 for test, every class with its
    share of each. `spec.preparation["notes"]` lists by name which films were left out: 96 of Shenzhen for want of a mask, 39 by lot.
    Films and splits are the same for every seed of a pipeline; another `draw` gives others.

    The three sets are looked for as `montgomery`, `shenzhen` and `jsrt` look for them. The set from which a film comes says
    something of its class, nodules being in JSRT alone: a classifier may learn how a set looks.

    Source: A. A. Z. Imran et al.: Partly Supervised Multitask Learning, 2020, arXiv:2005.02523, section 4.1.

    Differs from the paper: it does not say which 135 of the 1047 films it left out, nor how films became squares.

    Raises:
        DataError: everything that is wrong with the three sets, at once; or fewer films than are to be drawn.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(128, "height and width", unit="pixels", paper="128", low=8, high=2048)
    fit: Literal["stretch", "pad"] = option(
        "stretch", "how an oblong film becomes a square; pad adds black", paper="not given"
    )
    n_train: int = option(615, "films for training", paper="615", low=1)
    n_validation: int = option(69, "films for validation", paper="69", low=0)
    n_test: int = option(228, "films for test", paper="228", low=0)
    draw: int = option(0, "which films are drawn, and for what: another number gives others", low=0)
    montgomery: str = option("", "folder of Montgomery; empty: looked for as said above")
    shenzhen: str = option("", "folder of Shenzhen; empty: looked for as said above")
    jsrt: str = option("", "folder of JSRT; empty: looked for as said above")
    side: int = option(SIDE, "height and width of JSRT's raw images", unit="pixels", low=1, high=8192)
    complete: bool = option(True, "refuse sets with other numbers than those published; false for parts")

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are there, of all three sets."""
        found = self._films([], complete=False)
        return tuple(path for name in SETS for path in sources_of(found[name], self._folder(name)))

    def load(self, run: Run) -> ImageSet:
        """Return the films that are drawn, (912, 1, image_size, image_size) uint8, with the targets `class` and `mask`."""
        problems: list[Problem] = []
        every = [film for films in self._films(problems, self.complete).values() for film in films]
        films = [film for film in every if film.masks and all(path.is_file() for path in film.masks)]
        split = self._split(films, problems)
        drawn = [film for film, name in zip(films, split, strict=True) if name]
        arrays = read_films(drawn, self.image_size, self.fit, run, problems)
        if problems:
            raise DataError(*problems, title="chest")
        left_out = {
            "without a mask": [film.name for film in every if not film.masks],
            "by lot": [film.name for film, name in zip(films, split, strict=True) if not name],
        }
        preparation: dict[str, object] = {"fit": self.fit, "notes": {"draw": self.draw, "left_out": left_out}}
        return film_set(drawn, arrays, CLASSES, split[split != ""], preparation, self.draw)

    def _folder(self, name: str) -> Path:
        return set_folder(getattr(self, name), name)

    def _films(self, problems: list[Problem], complete: bool) -> dict[str, list[Film]]:
        return {
            "montgomery": montgomery_films(self._folder("montgomery"), True, complete, problems),
            "shenzhen": shenzhen_films(self._folder("shenzhen"), True, complete, problems),
            "jsrt": jsrt_films(self._folder("jsrt"), self.side, True, complete, problems),
        }

    def _split(self, films: list[Film], problems: list[Problem]) -> Array:
        """Return the split of each film, (n,), empty for those that are not drawn."""
        sizes = {"test": self.n_test, "validation": self.n_validation, "train": self.n_train}
        wanted = sum(sizes.values())
        if len(films) < wanted and not problems:
            expected = f"at least {wanted}: n_train, n_validation and n_test"
            problems.append(Problem("chest", f"{len(films)} films with masks", expected, "lower them"))
        labels = np.array([CLASSES.index(film.label) for film in films], np.int64)
        return drawn_splits(labels, sizes, self.draw)
