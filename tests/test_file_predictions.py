"""What is written of new files: the table, and masks that lie on the files."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fewcore import DataError, Predictions, ResourceError, Run
from fewcore.contracts import ImageSpec
from fewcore.models.file_predictions import FilePredictions
from fewcore.models.new_files import listed, read_all
from fewcore.models.new_images import Fitting
from fewcore.models.records import ModelRecord, Recipe

SPEC = ImageSpec((8, 8), 1, (0.0, 255.0), preparation={"grey": True, "fit": "stretch"})
RECIPE = Recipe("learner", "x:y", "1", {}, "0" * 32, "", {})
RECORD = ModelRecord("m", {}, RECIPE, None, None, SPEC, "uint8", ("ill", "well"), {"mask": ("left lung", "heart")}, "")


def save(path, size=(16, 24), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, np.uint8)).save(path, **how)
    return path


def made(places, record=RECORD, **said):
    fitting = Fitting(SPEC, "uint8")
    images, files = read_all(listed(places), fitting, Run(), one_each=False)
    return FilePredictions.of(files, Predictions(np.arange(len(images)), **said), record, fitting)


def left_and_right(n):
    """The first structure is the left half of every image, the second its lower half."""
    masks = np.zeros((n, 2, 8, 8), np.float32)
    masks[:, 0, :, :4], masks[:, 1, 4:] = 1, 1
    return masks


def rows(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_the_table_has_a_line_for_each_file_with_class_and_scores(tmp_path):
    for name in ("b.png", "a.png"):
        save(tmp_path / "in" / name)
    found = made([tmp_path / "in"], scores=np.array([[-3.25, 0.5], [1.0, -1e-7]], np.float32))
    assert found.predicted == ["well", "ill"]
    assert found.save(tmp_path / "out") == tmp_path / "out"
    assert rows(tmp_path / "out") == [
        ["file", "class", "score ill", "score well"],
        ["a.png", "well", "-3.25", "0.5"],
        ["b.png", "ill", "1.0", "-1e-07"],
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_a_name_that_ends_in_csv_is_the_table_s_own(tmp_path):
    found = made([save(tmp_path / "a.png")], scores=np.array([[0.5, -1.0]]))
    assert found.save(tmp_path / "new" / "answers.csv") == tmp_path / "new" / "answers.csv"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["answers.csv"]
    assert (tmp_path / "new" / "answers.csv").read_text() == "file,class,score ill,score well\na.png,ill,0.5,-1.0\n"
    with pytest.raises(DataError, match=r"answers\.csv: there already"):
        found.save(tmp_path / "new" / "answers.csv")
    (tmp_path / "folder.csv").mkdir()
    found.save(tmp_path / "folder.csv")
    assert (tmp_path / "folder.csv" / "predictions.csv").is_file()


def test_masks_beside_a_table_go_to_a_folder_of_its_name(tmp_path):
    found = made([save(tmp_path / "a.png")], masks=left_and_right(1))
    found.save(tmp_path / "first.csv")
    found.save(tmp_path / "second.csv")
    assert (tmp_path / "first.csv").read_text().endswith("a.png,first_masks/a_left-lung.png,first_masks/a_heart.png\n")
    assert {path.name for path in (tmp_path / "second_masks").iterdir()} == {"a_left-lung.png", "a_heart.png"}


def test_values_have_columns_of_their_own(tmp_path):
    found = made([save(tmp_path / "a.png")], values=np.array([[2.5]]), value_names=("malignancy",))
    found.save(tmp_path / "out")
    assert rows(tmp_path / "out") == [["file", "value malignancy"], ["a.png", "2.5"]]


def test_masks_are_written_in_the_files_own_format_size_and_resolution(tmp_path):
    save(tmp_path / "in" / "p" / "film.png", dpi=(300, 300))
    save(tmp_path / "in" / "q.tif", (30, 10))
    save(tmp_path / "in" / "r.jpg", (8, 8))
    found = made([tmp_path / "in"], masks=left_and_right(3))
    out = found.save(tmp_path / "out")
    masks = {path.relative_to(out / "masks").as_posix() for path in out.rglob("*_*.*")}
    stems = ("p/film", "q", "r")
    assert masks == {
        f"{stem}_{what}{'.tif' if stem == 'q' else '.png'}" for stem in stems for what in ("left-lung", "heart")
    }
    assert rows(out)[1] == ["p/film.png", "masks/p/film_left-lung.png", "masks/p/film_heart.png"]
    with Image.open(out / "masks" / "p" / "film_left-lung.png") as mask:
        pixels = np.asarray(mask)
        assert round(mask.info["dpi"][0]) == 300
    assert pixels.shape == (16, 24)
    np.testing.assert_array_equal(pixels, np.where(np.arange(24) < 12, 255, 0)[None].repeat(16, 0))
    with Image.open(out / "masks" / "q_heart.tif") as mask:
        assert mask.format == "TIFF"
        np.testing.assert_array_equal(np.asarray(mask)[:, 0], np.where(np.arange(30) < 15, 0, 255))
    np.testing.assert_array_equal(found.masks(0)[0, 0] * 255, pixels)


def test_nothing_is_written_over_unless_it_is_said(tmp_path):
    found = made([save(tmp_path / "a.png")], masks=left_and_right(1))
    out = found.save(tmp_path / "out")
    before = rows(out)
    with pytest.raises(
        DataError, match=r"predictions\.csv and 2 more: there already; expected new files \(type --over"
    ):
        found.save(out)
    found.save(out, overwrite=True)
    assert rows(out) == before
    (out / "predictions.csv").unlink()
    with pytest.raises(DataError, match=r"a_left-lung\.png and 1 more: there already"):
        found.save(out)
    assert not (out / "predictions.csv").exists(), "nothing is written where something is refused"


def test_two_masks_never_have_one_name(tmp_path):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "a.jpg")
    found = made([tmp_path / "in"], masks=left_and_right(2))
    said = r"a\.png: the same name of its mask heart as the mask heart of .*a\.jpg; expected different names"
    with pytest.raises(DataError, match=said):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_structures_of_a_file_never_have_one_mask(tmp_path):
    record = replace(RECORD, structures={"mask": ("<6 mm", ">6 mm")})
    found = made([save(tmp_path / "a.png")], record, masks=left_and_right(1))
    with pytest.raises(
        DataError, match=r"a\.png: the same name of its mask >6 mm as the mask <6 mm of .*a\.png; expected"
    ):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_structures_are_numbers_where_several_targets_have_as_many(tmp_path):
    record = replace(RECORD, structures={"lungs": ("left", "right"), "heart": ("heart", "aorta")})
    path = save(tmp_path / "a.png")
    assert made([path], record, masks=left_and_right(1)).structures == ("structure 1", "structure 2")
    same = replace(RECORD, structures={"reader 1": ("left", "right"), "reader 2": ("left", "right")})
    assert made([path], same, masks=left_and_right(1)).structures == ("left", "right")


def test_all_files_are_written_or_none_is(tmp_path):
    found = made([save(tmp_path / "in" / "a.png"), save(tmp_path / "in" / "b.png")], masks=left_and_right(2))
    (tmp_path / "in" / "b.png").unlink()
    with pytest.raises(ResourceError, match="out: cannot be written: No such file"):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ResourceError):
        found.save(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_names_that_a_spreadsheet_would_run_are_harmless(tmp_path):
    found = made([save(tmp_path / "=1+1.png")], scores=np.array([[0.0, 1.0]]))
    found.save(tmp_path / "out")
    assert rows(tmp_path / "out")[1][0] == "'=1+1.png"


def test_names_are_numbers_where_the_model_says_more_than_the_data_set_names(tmp_path):
    found = made([save(tmp_path / "a.png")], scores=np.zeros((1, 3)), masks=np.zeros((1, 1, 8, 8), np.float32))
    assert found.classes == ("class 1", "class 2", "class 3")
    assert found.structures == ("structure 1",)


def test_a_model_without_masks_says_so(tmp_path):
    found = made([save(tmp_path / "a.png")], scores=np.zeros((1, 2)))
    with pytest.raises(DataError, match="found a model that makes no masks"):
        found.masks(0)
