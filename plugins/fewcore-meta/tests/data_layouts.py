"""Small data sets in the layouts in which the real ones are handed out; each writer returns the options that read it."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewcore_meta.synsets import MINI_IMAGENET


def photograph(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), form: str = "JPEG", mode: str = "RGB"):
    """Return the bytes of an image of one colour, `size` being (width, height)."""
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    Image.new("RGB", size, colour).convert(mode).save(file, format=form, **options)
    return file.getvalue()


def colour_of(number: int) -> tuple[int, int, int]:
    """Return a colour that tells the number, up to 125, from its neighbours' by more than JPEG changes it."""
    return tuple(int(50 * (number // 5**place % 5) + 20) for place in range(3))


def number_of(image) -> int:
    """Return the number that the mean colour of an image (3, h, w) tells."""
    return sum(round((float(plane.mean()) - 20) / 50) * 5**place for place, plane in enumerate(image))


def idx(array) -> bytes:
    """Return an array as an idx file of unsigned bytes."""
    head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, n_train: int = 60, n_test: int = 20, packed: bool = True) -> dict[str, Any]:
    """Write digits whose first pixel is their number in the file."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        images = np.random.default_rng(0).integers(0, 255, (n, 28, 28))
        images[:, 0, 0] = np.arange(n)
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(n) % 10)):
            content = idx(array)
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return {"path": str(folder), "complete": False, "validation": 15}


def write_mini_imagenet(folder: Path, n_classes: tuple[int, ...] = (3, 2, 2), per_class: int = 4) -> dict[str, Any]:
    """Write images that are numbered, class by class, split by split."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    number = 0
    for (split, synsets), name, n in zip(MINI_IMAGENET.items(), ("train", "val", "test"), n_classes, strict=True):
        lines = ["filename,label"]
        for synset in synsets[:n]:
            for i in range(per_class):
                file = f"{synset}{i + 1:08d}.jpg"
                lines.append(f"{file},{synset}")
                (folder / "images" / file).write_bytes(photograph(colour_of(number)))
                number += 1
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        assert split
    return {"path": str(folder), "complete": False}


def write_celeba(folder: Path, n: int = 30, n_attributes: int = 5, zipped: bool = True) -> dict[str, Any]:
    """Write faces that are numbered; attribute a of face i is the sign of a fixed draw; a third is in each split."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    signs = np.where(np.random.default_rng(0).random((n, n_attributes)) < 0.5, 1, -1)
    lines = [str(n), " ".join(f"Attribute_{a}" for a in range(n_attributes)) + " "]
    lines += [name + " " + " ".join(f"{value:2d}" for value in row) for name, row in zip(names, signs, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\r\n".join(lines) + "\r\n")
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {i * 3 // n}\n" for i, name in enumerate(names)))
    faces = {name: photograph(colour_of(i), (178, 218)) for i, name in enumerate(names)}
    if zipped:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            archive.writestr("img_align_celeba/", b"")
            for name, content in faces.items():
                archive.writestr(f"img_align_celeba/{name}", content)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, content in faces.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
    return {"path": str(folder), "complete": False}


OTHERS = ("n01440764", "n01443537")
"""Synsets of ImageNet that are not in miniImageNet."""


def imagenet_classes() -> dict[str, dict[str, bytes]]:
    """Return the images of six synsets: two of miniImageNet's to train, one to validate, one to test, two others."""
    train, validation, test = MINI_IMAGENET.values()
    synsets = [*train[:2], validation[0], test[0], *OTHERS]
    numbered = enumerate((synset, i) for synset in synsets for i in range(5))
    made: dict[str, dict[str, bytes]] = {}
    for number, (synset, i) in numbered:
        made.setdefault(synset, {})[f"{synset}_{i * 7 + 1}.JPEG"] = photograph(colour_of(number), (60, 40 + 5 * i))
    return made


def tar(members: dict[str, bytes]) -> bytes:
    """Return a tar file, its members in the reverse order of their names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in sorted(members, reverse=True):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))
    return file.getvalue()


def write_imagenet(folder: Path, layout: str = "folders", classes: dict[str, dict[str, bytes]] | None = None):
    """Write six synsets as `folders`, as `tars` or as one `tar` file."""
    classes = classes or imagenet_classes()
    train = folder / "train"
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "tar":
        (folder / "ILSVRC2012_img_train.tar").write_bytes(
            tar({f"{s}.tar": tar(images) for s, images in classes.items()})
        )
    for synset, images in classes.items() if layout != "tar" else ():
        if layout == "tars":
            train.mkdir(exist_ok=True)
            (train / f"{synset}.tar").write_bytes(tar(images))
        for name, content in images.items() if layout == "folders" else ():
            (train / synset).mkdir(parents=True, exist_ok=True)
            (train / synset / name).write_bytes(content)
    return {"path": str(folder), "complete": False, "image_size": 24}
