"""ImageNet: the training images of ILSVRC 2012, with the classes of miniImageNet's tests held out."""

from __future__ import annotations

import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal, cast

import numpy as np

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, numpy_generator, option
from fewcore_meta.decoding import MAX_FILE_BYTES, Photographs, decode_all
from fewcore_meta.download import data_folder
from fewcore_meta.synsets import MINI_IMAGENET

ARCHIVE = "ILSVRC2012_img_train.tar"
FOLDER = "train"
SYNSET = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg", ".jpg", ".png")
N_SYNSETS, N_IMAGES = 1000, 1_281_167
ADVICE = "docs/data.md says where it comes from"
ID_SEED = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where an image's bytes lie: a file, or `n_bytes` from `start` of a tar file. `name` orders the images of a class."""

    path: str
    name: str
    start: int = 0
    n_bytes: int = -1

    def read(self) -> bytes:
        """Return the bytes, at most one more than is allowed."""
        with Path(self.path).open("rb") as file:
            file.seek(self.start)
            return file.read(MAX_FILE_BYTES + 1 if self.n_bytes < 0 else min(self.n_bytes, MAX_FILE_BYTES + 1))


@dataclass(frozen=True)
class ImageNet:
    """The 1,281,167 training images of ILSVRC 2012, in 1,000 classes named by their synsets.

    Images are (3, image_size, image_size) uint8: the middle square, scaled. With `hold_out: mini-imagenet` the 964 classes
    without miniImageNet's 16 and 20 are the training images; of those classes the first `held_out_per_class` images by
    name are for validation and test, so that nothing that is tested was seen. There are two class targets: `synset`, and
    `mini-imagenet`, which knows the 100 classes of miniImageNet alone; with `target: mini-imagenet` and `labels:
    {per_class: 600}` labels are known of as many images of its 64 training classes as miniImageNet has.

    The file ILSVRC2012_img_train.tar as it is handed out, a folder `train` of the 1,000 tar files that it holds, or one
    of 1,000 folders of images, are looked for in `path`, else in the folder `imagenet` under $FEWCORE_DATA, else in that
    of the user's data folder. Tar files are read without being extracted. ImageNet's terms allow no download without an
    account: docs/data.md says where it is. Numbers of classes and images are checked, no checksum: one of 148 GB would
    take longer than it says.

    All images at 224 pixels fill 193 GB, in files: that much is needed under TMPDIR twice while they are read, and once
    where results are kept. No more memory is needed than for other data.

    Source: O. Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge, IJCV 2015,
    doi:10.1007/s11263-015-0816-y. Hold-out: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning,
    ICLR 2019, arXiv:1810.02334, appendix G.

    Differs from the paper: of a class that is held out the first images by name are taken, not the 600 of miniImageNet,
    whose lists number the images of a class instead of naming them.

    Raises:
        DataError: files are missing or cannot be read, or there are not 1,000 classes and 1,281,167 images; all at once.

    """

    deterministic: ClassVar[bool] = True

    image_size: int = option(224, "height and width", unit="pixels", paper="224", low=8, high=512)
    fit: Literal["stretch", "crop"] = option("crop", "how an oblong image becomes a square: its middle, or stretched")
    hold_out: Literal["mini-imagenet", "none"] = option(
        "mini-imagenet", "classes that no training image is of; none: no validation and test", paper="mini-imagenet"
    )
    held_out_per_class: int = option(600, "images of a class that is held out", paper="600", low=1)
    path: str = option("", "folder of the files; empty: looked for as said above")
    complete: bool = option(True, "refuse other numbers than those published; false for a part")

    def sources(self) -> tuple[Path, ...]:
        """Return the tar file, or the folder of tar files or of folders."""
        return (self._place(),)

    def load(self, run: Run) -> ImageSet:
        """Return the images, (n, 3, h, w) uint8, in a mapped file where they are large, with two class targets."""
        place = self._place()
        problems: list[Problem] = []
        classes = _index(place, run, problems)
        problems += self._unpublished(place, classes)
        if problems:
            raise DataError(*problems, title="imagenet")
        held = {"mini-imagenet": {s: MINI_IMAGENET[s] for s in ("validation", "test")}, "none": {}}[self.hold_out]
        split_of = {synset: split for split, synsets in held.items() for synset in synsets}
        for synset in split_of.keys() & classes.keys():
            classes[synset] = classes[synset][: self.held_out_per_class]
        pieces = [piece for synset in sorted(classes) for piece in classes[synset]]
        files = Photographs(len(pieces), lambda i: pieces[i].read(), lambda i: f"{pieces[i].path}: {pieces[i].name}")
        images = decode_all(files, self.image_size, self.fit, run, problems)
        if problems:
            raise DataError(*problems, title="imagenet")
        names = tuple(sorted(classes))
        labels = np.repeat(np.arange(len(names)), [len(classes[name]) for name in names])
        split = np.array([split_of.get(name, "train") for name in names])[labels]
        return self._image_set(images, labels, names, split)

    def _image_set(self, images: Array, labels: Array, names: tuple[str, ...], split: Array) -> ImageSet:
        ids = numpy_generator(ID_SEED).permutation(len(images))
        splits = {name: np.sort(ids[split == name]) for name in ("train", "validation", "test")}
        mini = tuple(sorted(synset for synsets in MINI_IMAGENET.values() for synset in synsets))
        number = np.array([mini.index(name) if name in mini else -1 for name in names])
        targets = {"synset": Target("class", labels, names), "mini-imagenet": Target("class", number[labels], mini)}
        spec = ImageSpec((self.image_size,) * 2, 3, (0, 255), preparation={"grey": False, "fit": self.fit})
        kept = {name: chosen for name, chosen in splits.items() if len(chosen)}
        return ImageSet(images, ids, ids.copy(), spec, targets, kept, "synset")

    def _unpublished(self, place: Path, classes: dict[str, list[_Piece]]) -> list[Problem]:
        """Return how the numbers differ from those published."""
        n = sum(map(len, classes.values()))
        problems = []
        if self.complete and (len(classes), n) != (N_SYNSETS, N_IMAGES):
            found = f"{len(classes)} classes of {n:,} images"
            advice = "put the whole of it there, or set complete: false for a part"
            problems.append(Problem(str(place), found, f"{N_SYNSETS} classes of {N_IMAGES:,} images", advice))
        empty = [synset for synset, pieces in sorted(classes.items()) if not pieces]
        problems += [Problem(f"{place}: {synset}", "no images", "JPEG images of this class") for synset in empty]
        known = {synset for synsets in MINI_IMAGENET.values() for synset in synsets}
        held = known - set(MINI_IMAGENET["train"])
        if self.hold_out == "mini-imagenet" and not problems and not set(classes) - held:
            found = f"{len(classes)} classes, all of which are held out"
            problems.append(Problem(str(place), found, "some left for training", "hold_out: none"))
        return problems

    def _place(self) -> Path:
        """Return the tar file or the folder.

        Raises:
            DataError: there is neither.

        """
        folder = data_folder(self.path, "imagenet")
        for place in (folder / FOLDER, folder / ARCHIVE):
            if place.exists():
                return place
        found = f"no folder {FOLDER} and no {ARCHIVE}"
        raise DataError(Problem(str(folder), found, "one of the two", ADVICE), title="imagenet")


def _index(place: Path, run: Run, problems: list[Problem]) -> dict[str, list[_Piece]]:
    """Return where the images of each synset lie, sorted by name, from the names of files and the heads of tar files."""
    classes: dict[str, list[_Piece]] = {}
    if place.is_dir():
        entries = sorted(path for path in place.iterdir() if SYNSET.fullmatch(path.stem))
        for path in run.track(entries, name="list images"):
            found = _of_folder(path) if path.is_dir() else _of_tar(path, problems) if path.suffix == ".tar" else None
            if found is not None:
                classes.setdefault(path.stem, []).extend(found)
    else:
        classes = _of_archive(place, run, problems)
    for synset, pieces in classes.items():
        classes[synset] = sorted(pieces, key=lambda piece: piece.name)
    return classes


def _of_folder(folder: Path) -> list[_Piece]:
    with os.scandir(folder) as entries:
        return [_Piece(entry.path, entry.name) for entry in entries if _is_image(entry.name)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not Path(name).name.startswith(".")


def _of_tar(path: Path, problems: list[Problem]) -> list[_Piece]:
    """Return the images of one synset's tar file; report one that cannot be read."""
    try:
        with path.open("rb") as file:
            return _members(file, path, 0)
    except (OSError, tarfile.TarError, EOFError) as error:
        problems.append(Problem(str(path), f"no readable tar file ({error})", "the tar file of a class", ADVICE))
        return []


def _of_archive(path: Path, run: Run, problems: list[Problem]) -> dict[str, list[_Piece]]:
    """Return the images of the one tar file that holds a tar file for each synset."""
    classes: dict[str, list[_Piece]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in run.track(archive, name="list images", total=N_SYNSETS):
                stem, _, suffix = member.name.rpartition(".")
                inner = archive.extractfile(member) if member.isreg() and suffix == "tar" else None
                if inner is not None and SYNSET.fullmatch(stem):
                    classes[stem] = _members(cast("BinaryIO", inner), path, member.offset_data)
    except (OSError, tarfile.TarError, EOFError) as error:
        problems.append(Problem(str(path), f"no readable tar file ({error})", "the official file", ADVICE))
    return classes


def _members(file: BinaryIO, path: Path, begin: int) -> list[_Piece]:
    """Return the images of a tar file, which begins at byte `begin` of `path`: their heads alone are read."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        return [
            _Piece(str(path), member.name, begin + member.offset_data, member.size)
            for member in archive
            if member.isreg() and _is_image(member.name)
        ]
