"""miniImageNet: labels from the lists, splits by class, and every way in which lists and images can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from data_layouts import number_of, photograph, write_mini_imagenet

from fewcore import DataError, Run
from fewcore_meta.mini_imagenet import MiniImageNet
from fewcore_meta.synsets import MINI_IMAGENET


def load(folder, **options):
    return MiniImageNet(**{"path": str(folder), "complete": False, **options}).load(Run())


def problems(folder, **options):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return [str(problem) for problem in caught.value.problems]


def test_the_classes_are_those_published():
    assert {split: len({*synsets}) for split, synsets in MINI_IMAGENET.items()} == {
        "train": 64,
        "validation": 16,
        "test": 20,
    }
    assert len({synset for synsets in MINI_IMAGENET.values() for synset in synsets}) == 100


def test_labels_and_splits_come_from_the_lists(tmp_path):
    write_mini_imagenet(tmp_path)
    images = load(tmp_path)
    assert images.images.shape == (28, 3, 84, 84)
    assert [number_of(image) for image in images.images] == list(range(28))
    # Written class by class, four images of each, split by split.
    written = [*MINI_IMAGENET["train"][:3], *MINI_IMAGENET["validation"][:2], *MINI_IMAGENET["test"][:2]]
    assert [images.class_names[k] for k in images.labels] == [written[i // 4] for i in range(28)]
    for split, rows in (("train", range(12)), ("validation", range(12, 20)), ("test", range(20, 28))):
        np.testing.assert_array_equal(images.splits[split], np.sort(images.ids[rows]))
    assert images.spec.size == (84, 84)
    np.testing.assert_array_equal(images.ids, load(tmp_path, image_size=16, fit="crop").ids)


def test_sources_are_the_lists_and_the_folder(tmp_path, monkeypatch):
    write_mini_imagenet(tmp_path / "mini-imagenet")
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    found = [path.relative_to(tmp_path).as_posix() for path in MiniImageNet().sources()]
    assert found == [f"mini-imagenet/{name}" for name in ("train.csv", "val.csv", "test.csv", "images")]


def test_missing_files_are_told(tmp_path):
    tail = "(docs/data.md says where it comes from)"
    assert problems(tmp_path) == [
        *(f"{tmp_path}: no {name}.csv; expected the list of one split {tail}" for name in ("train", "val", "test")),
        f"{tmp_path}: no folder images; expected the folder of the images {tail}",
    ]


def test_all_that_is_wrong_with_lists_is_told_at_once_and_nothing_is_decoded(tmp_path):
    write_mini_imagenet(tmp_path)
    a, b, c = MINI_IMAGENET["train"][:3]
    train, val, test = (tmp_path / f"{name}.csv" for name in ("train", "val", "test"))
    with train.open("a") as file:
        file.write(f"{a}00000001.jpg,{a}\n../../etc/passwd,{b}\nonly-one\n{c}00000099.jpg,{c}\n")
    val.write_text(val.read_text().replace("filename,label", "name,class"))
    with test.open("a") as file:
        file.write(f"{b}00000077.jpg,{b}\n")
    (tmp_path / "images" / f"{b}00000001.jpg").write_bytes(b"broken")
    assert problems(tmp_path) == [
        f"{train}, line 15: '../../etc/passwd,{b}'; expected a file's name and a class",
        f"{train}, line 16: 'only-one'; expected a file's name and a class",
        f"{val}: 'name,class' as its first line; expected 'filename,label'",
        f"train.csv: '{a}00000001.jpg', which train.csv lists too; expected each image once",
        f"test.csv: class {b}, which is in train.csv too; expected each class in one split",
        f"{tmp_path}/images: no {c}00000099.jpg; expected an image of the lists",
        f"{tmp_path}/images: no {b}00000077.jpg; expected an image of the lists",
    ]


def test_lists_that_are_none_are_told(tmp_path):
    write_mini_imagenet(tmp_path)
    (tmp_path / "train.csv").write_text("")
    (tmp_path / "val.csv").write_bytes(b"filename,label\n\xff\xfe\n")
    found = problems(tmp_path)
    assert found[0] == f"{tmp_path}/train.csv: an empty list; expected 'filename,label'"
    assert found[1].startswith(f"{tmp_path}/val.csv: a list that cannot be read ('utf-8' codec")
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("filename,label\n")
    assert problems(tmp_path) == [f"{tmp_path}: lists without images; expected one image at least"]


def test_broken_images_are_told_at_once(tmp_path):
    write_mini_imagenet(tmp_path)
    synset = MINI_IMAGENET["train"][1]
    (tmp_path / "images" / f"{synset}00000002.jpg").write_bytes(b"")
    (tmp_path / "images" / f"{synset}00000003.jpg").write_bytes(photograph((9, 9, 9))[:-99])
    where = f"{tmp_path}/images/{synset}0000000"
    assert problems(tmp_path) == [
        f"{where}2.jpg: an empty file; expected a JPEG or PNG image",
        f"{where}3.jpg: no readable image (OSError); expected a JPEG or PNG image",
    ]


def test_other_lists_than_those_published_must_be_asked_for(tmp_path):
    write_mini_imagenet(tmp_path, (64, 16, 20), 1)
    other = (tmp_path / "val.csv").read_text().replace(MINI_IMAGENET["validation"][3], "n00000001")
    (tmp_path / "val.csv").write_text(other)
    found = problems(tmp_path, complete=True)
    advice = "(put the published list there, or set complete: false for another one)"
    assert found[0] == f"train.csv: 1 image of class n01532829; expected 600 {advice}"
    assert f"val.csv: a list without class n02138441; expected the 16 published classes {advice}" in found
    assert f"val.csv: a list with class n00000001; expected the 16 published classes {advice}" in found
    assert len(found) == 64 + 2 + 15 + 20 + 1
