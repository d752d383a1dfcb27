"""ImageNet: three layouts, the hold-out, two class targets, and every way in which files can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from data_layouts import (
    OTHERS,
    colour_of,
    imagenet_classes,
    number_of,
    photograph,
    tar,
    write_imagenet,
)

from fewcore import DataError, Run
from fewcore_meta.imagenet import ImageNet
from fewcore_meta.synsets import MINI_IMAGENET

ADVICE = "(docs/data.md says where it comes from)"
TRAIN, VALIDATION, TEST = MINI_IMAGENET.values()


def load(folder, **options):
    return ImageNet(**{"path": str(folder), "complete": False, "image_size": 24, **options}).load(Run())


def problems(folder, **options):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    for layout in ("folders", "tars", "tar"):
        write_imagenet(folder / layout, layout)
    return folder


@pytest.mark.parametrize("layout", ["folders", "tars", "tar"])
def test_every_layout_gives_the_same(made, layout):
    images = load(made / layout)
    assert (images.images.shape, images.images.dtype) == ((30, 3, 24, 24), np.uint8)
    # Written synset by synset; read in the order of their names, and of the images' names within.
    written = [*TRAIN[:2], VALIDATION[0], TEST[0], *OTHERS]
    by_name = sorted(written)
    assert images.class_names == tuple(by_name)
    order = [f"{i * 7 + 1}" for i in range(5)]
    inside = sorted(range(5), key=lambda i: f"_{order[i]}.JPEG")
    numbers = [written.index(synset) * 5 + i for synset in by_name for i in inside]
    assert [number_of(image) for image in images.images] == numbers
    np.testing.assert_array_equal(images.labels, np.repeat(np.arange(6), 5))
    (source,) = ImageNet(path=str(made / layout)).sources()
    assert source == made / layout / ("ILSVRC2012_img_train.tar" if layout == "tar" else "train")


def classes_of(images, split):
    rows = np.isin(images.ids, images.splits[split])
    return {images.class_names[k] for k in images.labels[rows]}


def test_classes_that_are_tested_are_held_out(made):
    images = load(made / "tars", held_out_per_class=3)
    assert classes_of(images, "train") == {*TRAIN[:2], *OTHERS}
    assert classes_of(images, "validation") == {VALIDATION[0]}
    assert classes_of(images, "test") == {TEST[0]}
    assert {split: len(ids) for split, ids in images.splits.items()} == {"train": 20, "validation": 3, "test": 3}
    everything = load(made / "tars", hold_out="none")
    assert {split: len(ids) for split, ids in everything.splits.items()} == {"train": 30}


def test_the_target_mini_imagenet_knows_its_classes_alone(made):
    images = load(made / "folders")
    target = images.targets["mini-imagenet"]
    assert len(target.names) == 100
    for name, k in zip((images.class_names[k] for k in images.labels), target.values, strict=True):
        assert (target.names[k] if k >= 0 else None) == (name if name not in OTHERS else None)
    assert (images.target, (target.values < 0).sum()) == ("synset", 10)


def test_large_sets_lie_in_a_file(made, monkeypatch):
    monkeypatch.setattr("fewcore.run.LARGE_ARRAY", 1000)
    images = load(made / "tar")
    assert isinstance(images.images, np.memmap)
    np.testing.assert_array_equal(images.images, load(made / "folders").images)


def test_what_imagenet_holds_beside_plain_jpeg_is_read(tmp_path):
    classes = imagenet_classes()
    synset, other = OTHERS
    classes[synset][f"{synset}_1.JPEG"] = photograph((120, 120, 120), form="PNG")
    classes[synset][f"{synset}_8.JPEG"] = photograph((120, 120, 120), mode="CMYK")
    classes[synset][f"{synset}_15.JPEG"] = photograph((120, 120, 120), mode="L")
    classes[other]["._hidden.JPEG"] = b"junk"
    classes[other]["notes.txt"] = b"junk"
    write_imagenet(tmp_path, "tars", classes)
    (tmp_path / "train" / "README").write_text("not a synset")
    images = load(tmp_path)
    assert len(images) == 30
    chosen = images.images[images.labels == images.class_names.index(synset)]
    assert (np.abs(chosen.astype(int) - 120).max((1, 2, 3)) < 8).sum() == 3


def test_missing_and_incomplete_sets_are_told(tmp_path, made):
    assert problems(tmp_path) == [
        f"{tmp_path}: no folder train and no ILSVRC2012_img_train.tar; expected one of the two {ADVICE}"
    ]
    advice = "(put the whole of it there, or set complete: false for a part)"
    assert problems(made / "tars", complete=True) == [
        f"{made}/tars/train: 6 classes of 30 images; expected 1000 classes of 1,281,167 images {advice}"
    ]
    held = {VALIDATION[0]: imagenet_classes()[VALIDATION[0]]}
    write_imagenet(tmp_path, "tars", held)
    assert problems(tmp_path) == [
        f"{tmp_path}/train: 1 classes, all of which are held out; expected some left for training (hold_out: none)"
    ]


def test_broken_tar_files_and_empty_classes_are_told_at_once(tmp_path):
    write_imagenet(tmp_path, "tars")
    train = tmp_path / "train"
    (train / f"{TRAIN[0]}.tar").write_bytes(b"no tar file" * 100)
    (train / f"{TRAIN[1]}.tar").write_bytes(tar({"notes.txt": b"x"}))
    found = problems(tmp_path)
    assert found[0].startswith(f"{train}/{TRAIN[0]}.tar: no readable tar file (")
    assert found[0].endswith(f"; expected the tar file of a class {ADVICE}")
    assert found[1:] == [
        f"{train}: {synset}: no images; expected JPEG images of this class" for synset in sorted(TRAIN[:2])
    ]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "ILSVRC2012_img_train.tar").write_bytes(b"no tar file" * 100)
    found = problems(tmp_path / "one")
    assert found[0].startswith(f"{tmp_path}/one/ILSVRC2012_img_train.tar: no readable tar file (")


def test_broken_images_are_told_at_once(tmp_path):
    classes = imagenet_classes()
    for i, content in ((1, b""), (8, photograph(colour_of(3))[:-150])):
        classes[OTHERS[0]][f"{OTHERS[0]}_{i}.JPEG"] = content
    write_imagenet(tmp_path, "tar", classes)
    where = f"{tmp_path}/ILSVRC2012_img_train.tar: {OTHERS[0]}"
    assert problems(tmp_path) == [
        f"{where}_1.JPEG: an empty file; expected a JPEG or PNG image",
        f"{where}_8.JPEG: no readable image (OSError); expected a JPEG or PNG image",
    ]
