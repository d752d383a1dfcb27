"""Which new files are meant: files, folders, folders of classes; and all of them are read before anything is done."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
from PIL import Image

from fewcore import DataError, Run, readers
from fewcore.contracts import ImageSpec
from fewcore.models.new_files import labelled_files, listed, read_all
from fewcore.models.new_images import Fitting

FITTING = Fitting(ImageSpec((8, 8), 1, (0.0, 255.0), preparation={"grey": True}), "uint8")


def save(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def problems(action):
    with pytest.raises(DataError) as caught:
        action()
    return [str(problem) for problem in caught.value.problems]


def test_folders_are_walked_in_the_order_of_names_and_what_is_no_image_is_passed_over(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a.tif", ".hidden.png", ".git/x.png", "out/masks/m.png"):
        save(tmp_path / name.replace(".JPG", ".jpg"))
    (tmp_path / "b" / "1.jpg").rename(tmp_path / "b" / "1.JPG")
    (tmp_path / "notes.txt").write_text("no image")
    found = listed([tmp_path], skip=tmp_path / "out")
    assert [file.name for file in found] == ["a.tif", "b/1.JPG", "b/2.png"]
    assert found[1].path == tmp_path / "b" / "1.JPG"


def test_the_results_of_an_earlier_run_are_no_new_images(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "out" / "masks" / "a_lung.png")
    told = "the folder of the results; expected one of images (type another --out)"
    assert problems(lambda: listed([tmp_path], skip=tmp_path)) == [f"{tmp_path}: {told}"]
    for place in (tmp_path / "out", tmp_path / "out" / "masks"):
        assert problems(lambda place=place: listed([place], skip=tmp_path / "out")) == [f"{place}: {told}"]
    assert [file.name for file in listed([tmp_path], skip=tmp_path / "out")] == ["a.png"]


def test_files_keep_their_names_and_twice_the_same_file_is_one(tmp_path):
    path = save(tmp_path / "x" / "a.png")
    assert [file.name for file in listed([path, tmp_path / "x", str(path)])] == ["a.png"]


def test_all_that_is_wrong_with_what_was_named_is_told_at_once(tmp_path):
    first, second = save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "a.png")
    (tmp_path / "empty").mkdir()
    found = problems(lambda: listed([first, second, tmp_path / "empty", tmp_path / "gone.png"]))
    assert found == [
        f"{second}: 'a.png' and {first} have one name in the results; expected different names (name the folder that holds"
        " both)",
        f"{tmp_path / 'empty'}: no images; expected PNG, JPEG or TIFF, or a format of a plugin (NIfTI and DICOM: pip install"
        " 'fewcore[medical]')",
        f"{tmp_path / 'gone.png'}: no such file or folder; expected an image, or a folder of images",
    ]
    assert problems(lambda: listed([])) == ["files: none; expected images or folders of images"]


def test_sub_folders_are_classes(tmp_path):
    for name in ("b/1.png", "a/deep/2.png", "a/1.png", ".c/1.png"):
        save(tmp_path / name)
    names, files, labels = labelled_files(tmp_path)
    assert names == ("a", "b")
    assert [file.name for file in files] == ["a/1.png", "a/deep/2.png", "b/1.png"]
    assert labels.tolist() == [0, 0, 1]


def test_folders_of_classes_that_cannot_be_used(tmp_path):
    assert problems(lambda: labelled_files(tmp_path / "gone")) == [
        f"{tmp_path / 'gone'}: no such folder; expected a folder with a sub-folder of images for each class (type --labelled"
        " DIR)"
    ]
    save(tmp_path / "loose.png")
    (tmp_path / "a").mkdir()
    assert [text.split("; ")[0] for text in problems(lambda: labelled_files(tmp_path))] == [
        f"{tmp_path}: 1 images beside the sub-folders, such as loose.png",
        f"{tmp_path}: 1 sub-folders",
        f"{tmp_path / 'a'}: no images",
    ]


def test_every_file_that_cannot_be_used_is_named_and_none_is_taken(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        read_all(listed([tmp_path]), FITTING, Run(), one_each=False)
    assert str(caught.value).splitlines() == [
        "2 of 3 files cannot be used, and none was: 2 problems",
        f"  - {tmp_path / 'empty.png'}: an empty file; expected an image",
        f"  - {tmp_path / 'text.png'}: no readable image (UnidentifiedImageError); expected PNG, JPEG or TIFF",
    ]


def test_files_are_read_in_their_order_with_their_sizes(tmp_path):
    for value, name in enumerate("cab"):
        save(tmp_path / f"{name}.png", value, (8 + value, 8))
    images, read = read_all(listed([tmp_path]), FITTING, Run(), one_each=True)
    assert images.max((1, 2, 3)).tolist() == [1, 2, 0]
    assert [(file.name, file.size, file.n_slices) for file in read] == [
        ("a.png", (9, 8), 1),
        ("b.png", (10, 8), 1),
        ("c.png", (8, 8), 1),
    ]


@pytest.fixture
def dicom(monkeypatch):
    """Have DICOM files listed, which are not opened here, whether or not a plugin reads them."""
    points = EntryPoints((EntryPoint("dcm", "no:reader", readers.READERS),))
    readers.offered.cache_clear()
    monkeypatch.setattr(readers, "entry_points", lambda group: points.select(group=group))
    yield
    readers.offered.cache_clear()


def empty(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_folder_of_dicom_files_is_one_volume_and_holds_nothing_else(tmp_path, dicom, monkeypatch):
    for name in ("a/1.dcm", "a/2.DCM", "a/notes.txt", "b/c/1.dcm"):
        empty(tmp_path / "x" / name)
    assert [file.name for file in listed([tmp_path / "x"], series=True)] == ["a", "b/c"]
    monkeypatch.chdir(tmp_path / "x" / "a")
    assert [file.name for file in listed(["."], series=True)] == ["a"]
    for name in ("d/1.dcm", "d/film.png", "d/later/1.dcm", "e/1.dcm", "e/deep/2.png"):
        empty(tmp_path / "x" / name)
    one = "; expected one series a folder, and nothing else in it"
    assert sorted(problems(lambda: listed([tmp_path / "x"], series=True))) == [
        f"{tmp_path / 'x' / volume}: other images beside the DICOM files of one volume, such as {tmp_path / 'x' / other}{one}"
        for volume, other in (("d", "d/film.png"), ("d", "d/later/1.dcm"), ("e", "e/deep/2.png"))
    ]
    assert len(listed([tmp_path / "x"])) == 8, "each file is an image where no volumes are read"


def test_the_folder_of_a_class_may_be_one_volume(tmp_path, dicom):
    for name in ("benign/1.dcm", "benign/2.dcm", "malignant/p1/1.dcm", "malignant/p2/1.dcm"):
        empty(tmp_path / name)
    names, files, labels = labelled_files(tmp_path, series=True)
    assert names == ("benign", "malignant")
    assert [file.name for file in files] == ["benign", "malignant/p1", "malignant/p2"]
    assert labels.tolist() == [0, 1, 1]
    empty(tmp_path / "3.dcm")
    assert "images beside the sub-folders" in "".join(problems(lambda: labelled_files(tmp_path, series=True)))
