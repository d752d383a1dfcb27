"""MNIST: 70,000 handwritten digits."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, numpy_generator, option
from fewcore_meta.download import data_folder, fetch_file

SOURCE = "https://storage.googleapis.com/cvdf-datasets/mnist/"
OFFICIAL = {
    "train-images-idx3-ubyte.gz": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels-idx1-ubyte.gz": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images-idx3-ubyte.gz": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels-idx1-ubyte.gz": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
"""Bytes and SHA-256 of the files: images and labels, for training and for test."""

HALVES = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
SIDE = 28
MAX_IMAGES = 1_000_000
ID_SEED = 0


class _Unreadable(Exception):
    """What was found instead of an idx file."""


@dataclass(frozen=True)
class Mnist:
    """MNIST: 60,000 digits for training and 10,000 for test, of which the last training images validate.

    Images are (1, image_size, image_size) uint8: strokes 255 on a background of 0. All ten digits are in every split, so
    a few-shot task over ten classes is a test of naming clusters.

    The four files (train-images-idx3-ubyte.gz and so on, or the same names without .gz) are looked for in `path`, else in
    the folder `mnist` under $FEWCORE_DATA, else in that of the user's data folder. With `fetch`, those that are missing
    are downloaded. Address, sizes and SHA-256 are those that TensorFlow Datasets records; the authors' own page no longer
    serves the files. A file that differs is not kept.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition,
    Proceedings of the IEEE 86, 1998, doi:10.1109/5.726791. Validation images: K. Hsu, S. Levine, C. Finn: Unsupervised
    Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, appendix D.

    Differs from the paper: nothing known. At another `image_size` than 28 images are scaled with anti-aliasing.

    Raises:
        DataError: files are missing or are no such files, images and labels differ in number, or there are not 60,000 and
            10,000; all of it at once.

    """

    deterministic: ClassVar[bool] = True

    validation: int = option(
        5000, "last training images, for validation", paper="5000 with ACAI and InfoGAN, 10000 with BiGAN", low=0
    )
    image_size: int = option(28, "height and width", unit="pixels", paper="28", low=1, high=512)
    path: str = option("", "folder of the files; empty: looked for as said above")
    fetch: bool = option(False, "download the files where they are missing (12 MB)")
    complete: bool = option(True, "refuse other numbers than 60,000 and 10,000; false for a part of MNIST")

    def sources(self) -> tuple[Path, ...]:
        """Return the four files."""
        return tuple(self._files().values())

    def load(self, run: Run) -> ImageSet:
        """Return all digits, (70000, 1, h, w) uint8, the training images first, with the class target `digit`."""
        files = self._files()
        problems: list[Problem] = []
        pixels, labels = [], []
        for part, expected in HALVES.values():
            found = _half(files, part, problems)
            n = len(found[1])
            if self.complete and not problems and n != expected:
                advice = "put the whole of it there, or set complete: false for a part"
                problems.append(
                    Problem(str(files[f"{part}-images-idx3-ubyte.gz"]), f"{n} images", str(expected), advice)
                )
            pixels.append(found[0])
            labels.append(found[1])
        n_train = len(labels[0])
        if not problems and self.validation >= n_train:
            found_text = f"{self.validation} of {n_train} training images"
            problems.append(Problem("validation", found_text, "some left for training", "lower it"))
        if problems:
            raise DataError(*problems, title="mnist")
        images = np.stack([_sized(image, self.image_size) for image in run.track(np.concatenate(pixels), name="scale")])
        # Ids say nothing, and a training image's place in the file says whether it validates.
        ids = numpy_generator(ID_SEED).permutation(len(images))
        cut = n_train - self.validation
        parts = {"train": ids[:cut], "validation": ids[cut:n_train], "test": ids[n_train:]}
        splits = {name: np.sort(chosen) for name, chosen in parts.items() if len(chosen)}
        spec = ImageSpec((self.image_size,) * 2, 1, (0, 255), preparation={"grey": True, "fit": "stretch"})
        target = Target("class", np.concatenate(labels).astype(np.int64), tuple("0123456789"))
        return ImageSet(images[:, None], ids, ids.copy(), spec, {"digit": target}, splits, "digit")

    def _files(self) -> dict[str, Path]:
        """Return the place of each file by its official name.

        Raises:
            DataError: files are missing and are not to be fetched, or cannot be fetched.

        """
        folder = data_folder(self.path, "mnist")
        found, problems = {}, []
        for name, facts in OFFICIAL.items():
            bare = folder / name.removesuffix(".gz")
            if not (folder / name).is_file() and not bare.is_file():
                if self.fetch:
                    fetch_file(SOURCE + name, *facts, folder / name, "mnist")
                else:
                    advice = f"set fetch: true in the mnist stage, or type: curl --create-dirs -o '{folder / name}' {SOURCE}{name}"
                    problems.append(Problem(str(folder), f"no {name}", "the file", advice))
            found[name] = folder / name if (folder / name).is_file() else bare
        if problems:
            raise DataError(*problems, title="mnist")
        return found


def _half(files: dict[str, Path], part: str, problems: list[Problem]) -> tuple[Array, Array]:
    """Return images (n, 28, 28) and labels (n,) of one half; report what is wrong with its files."""
    made: list[Array] = []
    for name, shape in ((f"{part}-images-idx3-ubyte.gz", (SIDE, SIDE)), (f"{part}-labels-idx1-ubyte.gz", ())):
        try:
            made.append(_idx(files[name], shape))
        except _Unreadable as error:
            advice = "delete it and fetch it again"
            problems.append(Problem(str(files[name]), str(error), "the official file", advice))
            made.append(np.zeros((0, *shape), np.uint8))
    images, labels = made
    where = str(files[f"{part}-labels-idx1-ubyte.gz"])
    if not problems and len(images) != len(labels):
        problems.append(Problem(where, f"{len(labels)} labels of {len(images)} images", "one of each"))
    if len(labels) and labels.max() > 9:
        problems.append(Problem(where, f"a label {int(labels.max())}", "0 to 9"))
    return images, labels


def _idx(path: Path, shape: tuple[int, ...]) -> Array:
    """Return the uint8 array (n, *shape) of an idx file.

    Raises:
        _Unreadable: damaged, cut short or too long, of another type, shape or size.

    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(8 + 4 * len(shape))
            if len(head) < 8 + 4 * len(shape):
                raise _Unreadable(f"{len(head)} bytes")
            magic, n, *sides = struct.unpack(f">{2 + len(shape)}I", head)
            # The third byte says unsigned bytes, the fourth how many dimensions.
            if magic != 0x0800 + 1 + len(shape) or tuple(sides) != shape:
                raise _Unreadable(f"another header ({head.hex(' ', 4)})")
            if n > MAX_IMAGES:
                raise _Unreadable(f"{n:,} entries declared, more than {MAX_IMAGES:,}")
            size = n * int(np.prod(shape, dtype=int))
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _Unreadable(f"a file that cannot be read ({error})") from error
    if len(content) != size:
        raise _Unreadable(f"{'more' if len(content) > size else 'fewer'} bytes than its {n:,} entries need")
    return np.frombuffer(content, np.uint8).reshape(n, *shape)


def _sized(image: Array, size: int) -> Array:
    if size == SIDE:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))
