"""CelebA: attributes and splits from the lists, faces from the zip file or the folder, and what can be wrong with them."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from data_layouts import number_of, write_celeba

from fewcore import DataError, Run
from fewcore_meta.attribute_tasks import AttributeTasks
from fewcore_meta.celeba import CelebA

ADVICE = "(docs/data.md says where it comes from)"


def load(folder, **options):
    return CelebA(**{"path": str(folder), "complete": False, "image_size": 16, **options}).load(Run())


def problems(folder, **options):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return [str(problem) for problem in caught.value.problems]


def test_the_zip_file_and_the_folder_give_the_same(tmp_path):
    write_celeba(tmp_path / "a")
    write_celeba(tmp_path / "b", zipped=False)
    zipped, extracted = load(tmp_path / "a"), load(tmp_path / "b")
    assert zipped.images.shape == (30, 3, 16, 16)
    np.testing.assert_array_equal(zipped.images, extracted.images)
    np.testing.assert_array_equal(zipped.targets["attributes"].values, extracted.targets["attributes"].values)
    assert [number_of(image) for image in zipped.images] == list(range(30))
    assert [path.name for path in CelebA(path=str(tmp_path / "a")).sources()][2] == "img_align_celeba.zip"
    assert [path.name for path in CelebA(path=str(tmp_path / "b")).sources()][2] == "img_align_celeba"


def test_attributes_and_splits_come_from_the_lists(tmp_path):
    write_celeba(tmp_path)
    images = load(tmp_path)
    signs = np.random.default_rng(0).random((30, 5)) < 0.5
    target = images.targets["attributes"]
    np.testing.assert_array_equal(target.values, signs)
    assert target.names == tuple(f"Attribute_{a}" for a in range(5))
    assert (target.kind, images.target) == ("attributes", "")
    for number, split in enumerate(("train", "validation", "test")):
        np.testing.assert_array_equal(images.splits[split], np.sort(images.ids[number * 10 : number * 10 + 10]))


def test_faces_make_attribute_tasks(tmp_path):
    write_celeba(tmp_path, 90)
    images = load(tmp_path)
    stream = AttributeTasks((0, 5), n_shot=1, n_query=1).tasks(images, Run())
    assert 0 < stream.n_prototypes <= stream.n_candidates == 40
    batch = stream.start().draw(20)
    values = images.targets["attributes"].values
    first, second = values[batch.support[:, 0]], values[batch.support[:, 1]]
    assert ((first != second).sum(1) >= 3).all()


def test_missing_files_are_told(tmp_path):
    assert problems(tmp_path) == [
        f"{tmp_path}: no list_attr_celeba.txt; expected the list {ADVICE}",
        f"{tmp_path}: no list_eval_partition.txt; expected the list {ADVICE}",
        f"{tmp_path}: no img_align_celeba.zip and no folder img_align_celeba; expected one of the two {ADVICE}",
    ]


def test_wrong_attributes_are_told_at_once(tmp_path):
    write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    lines[0] = "31"
    lines[4] = lines[4].replace("1", "0")
    lines[7] = lines[7] + " 1"
    lines[9] = lines[8]
    path.write_text("\n".join(lines))
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 3\nx\n")
    assert problems(tmp_path) == [
        f"{path}: 30 images; expected 31, as its first line says",
        f"{path}: 000003.jpg: other values; expected 5 of -1 and 1",
        f"{path}: 000006.jpg: other values; expected 5 of -1 and 1",
        f"{path}: 1 images listed twice; expected each image once",
        f"{tmp_path}/list_eval_partition.txt: 2 lines such as '000002.jpg 3'; expected a file's name and 0, 1 or 2",
    ]
    path.write_text("nothing")
    expected = "the number of images, then the names of the attributes, then a line an image"
    assert problems(tmp_path)[0] == f"{path}: 1 lines, or another beginning; expected {expected}"
    path.write_bytes(b"\xff\xff")
    assert problems(tmp_path)[0].startswith(f"{path}: a list that cannot be read ('utf-8' codec")


def test_many_wrong_lines_are_counted(tmp_path):
    write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace(" 1", " 2").replace("-1", " 2"))
    found = problems(tmp_path)
    assert len(found) == 21
    assert found[-1] == f"{path}: 10 more lines with other values"


def test_lists_that_disagree_and_missing_faces_are_told(tmp_path):
    write_celeba(tmp_path, zipped=False)
    partition = tmp_path / "list_eval_partition.txt"
    whole = partition.read_text()
    partition.write_text(whole.replace("000007", "000077"))
    (tmp_path / "img_align_celeba" / "000003.jpg").unlink()
    assert problems(tmp_path) == [
        f"{partition}: 2 images, such as 000007.jpg, in one of the two lists alone; expected the images of "
        "list_attr_celeba.txt",
        f"{tmp_path}/img_align_celeba: no 000003.jpg; expected an image of list_attr_celeba.txt",
    ]
    partition.write_text(whole)
    for path in (tmp_path / "img_align_celeba").iterdir():
        path.unlink()
    assert problems(tmp_path)[-1] == f"{tmp_path}/img_align_celeba: 10 more images are missing"


def test_damaged_archives_and_images_are_told(tmp_path):
    write_celeba(tmp_path)
    path = tmp_path / "img_align_celeba.zip"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("img_align_celeba/000004.jpg").header_offset
    path.write_bytes(whole[: start + 300] + b"\0" * 20 + whole[start + 320 :])
    (found,) = problems(tmp_path)
    assert found.startswith(f"{path}: img_align_celeba/000004.jpg: a file that cannot be read (Bad CRC-32 for file")
    path.write_bytes(whole[:-100])
    (found,) = problems(tmp_path)
    assert found.startswith(f"{path}: no readable zip file (")
    assert found.endswith(f"; expected the official file {ADVICE}")


def test_a_part_of_celeba_must_be_asked_for(tmp_path):
    write_celeba(tmp_path)
    advice = "(put the whole of it there, or set complete: false for a part)"
    assert problems(tmp_path, complete=True) == [
        f"list_eval_partition.txt: 10 images for train; expected 162770 {advice}",
        f"list_eval_partition.txt: 10 images for validation; expected 19867 {advice}",
        f"list_eval_partition.txt: 10 images for test; expected 19962 {advice}",
        f"list_attr_celeba.txt: 5 attributes; expected 40 {advice}",
    ]
