"""Breast MRI: that breasts are found and cut out where they are, and that whatever is wrong is told before training."""

from __future__ import annotations

import json
import logging
import shutil

import nibabel
import numpy as np
import pytest
from breasts_made import AXIAL, CENTRES, LESION, MIDLINE, REACH, SHAPE, SKIN, SPACING, examination, save, write_breasts

from fewcore import DataError, Run
from fewcore_medical.breast_finding import BreastBox, body, breast_boxes
from fewcore_medical.breast_mri import BreastMri
from fewcore_medical.voxel_grid import UnusableVolume

HEAD = "patient,t1,subtraction,right,left,split\n"


def load(folder, **options):
    return BreastMri(**{"path": str(folder), "size": 32, "depth": 16, **options}).load(Run())


def table(folder, text):
    (folder / "labels.csv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def examinations(tmp_path_factory):
    made = tmp_path_factory.mktemp("examinations")
    for i, name in enumerate("abcd"):
        t1, subtraction = examination(i, lesions=("left",) if i % 2 else ())
        save(made / f"{name}1.nii", t1)
        save(made / f"{name}2.nii", subtraction)
    return made


@pytest.fixture
def folder(tmp_path, examinations):
    """Four examinations, a to d, with lesions left in b and d; a table of their own is still to be written."""
    return shutil.copytree(examinations, tmp_path / "mri")


def told(folder, text=None, **options):
    """Return every problem of a folder as text."""
    if text is not None:
        table(folder, text)
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return [str(problem) for problem in caught.value.problems]


# Where the breasts are.


@pytest.mark.parametrize("seed", range(3))
def test_boxes_hold_the_breasts(seed):
    boxes = breast_boxes(examination(seed)[0], SPACING, 20.0, 15.0)
    for side, box in boxes.items():
        assert isinstance(box, BreastBox)
        low, high = np.array(box.low), np.array(box.low) + box.sides
        z, x = CENTRES[side]
        # Where the skin over the breastbone lies, half an ellipsoid of 60 mm is still nearly as wide.
        np.testing.assert_allclose((low[0], high[0]), (z - 60, z + 60), atol=9)
        outer = high[2] if side == "left" else low[2]
        np.testing.assert_allclose(outer, x + (60 if side == "left" else -60), atol=9)
        np.testing.assert_allclose(low[1], SKIN - REACH[side], atol=9)
        np.testing.assert_allclose(high[1], SKIN + 15, atol=9)
    assert boxes["right"].low[2] + boxes["right"].sides[2] < MIDLINE + 9
    assert boxes["left"].low[2] > MIDLINE - 9


def test_the_cut_goes_as_far_behind_the_skin_as_asked():
    t1 = examination()[0]
    near, far = (breast_boxes(t1, SPACING, 20.0, behind)["left"] for behind in (0.0, 40.0))
    np.testing.assert_allclose(np.subtract(far.sides, near.sides), (0, 40, 0), atol=1e-9)
    assert far.low == near.low


def test_fine_voxels_are_looked_at_coarsely_and_give_the_same_boxes():
    t1 = examination()[0]
    fine = t1.repeat(4, 1).repeat(4, 2)
    boxes = breast_boxes(t1, SPACING, 20.0, 15.0), breast_boxes(fine, (4.0, 1.0, 1.0), 20.0, 15.0)
    for side in ("right", "left"):
        np.testing.assert_allclose(boxes[0][side].low, boxes[1][side].low, atol=6)
        np.testing.assert_allclose(boxes[0][side].sides, boxes[1][side].sides, atol=9)


def test_the_body_is_one_piece_without_holes():
    t1 = examination()[0]
    z, y, x = (round(m / s) for m, s in zip((80, SKIN + 80, MIDLINE + 70), SPACING, strict=True))
    t1[5:8, 2:4, 2:4] = 400  # a coil's marker in the air
    mask = body(t1, SPACING)
    assert mask[z, y, x]
    assert t1[z, y, x] < 30
    assert not mask[6, 3, 3]
    assert mask[:, :3].sum() == 0
    assert not body(np.ones((4, 4, 4), np.float32), SPACING).any()


@pytest.mark.parametrize("sides", [("right",), ("left",), ()])
def test_a_breast_that_is_not_there_is_not_found(sides):
    boxes = breast_boxes(examination(sides=sides)[0], SPACING, 20.0, 15.0)
    assert {side for side, box in boxes.items() if isinstance(box, BreastBox)} == set(sides)
    for box in boxes.values():
        assert isinstance(box, BreastBox) or "breast that can be found in T1" in str(box)


@pytest.mark.parametrize("values", [np.zeros(SHAPE), np.random.default_rng(0).random(SHAPE)])
def test_volumes_without_a_body_have_no_breasts(values):
    boxes = breast_boxes(values.astype(np.float32), SPACING, 20.0, 15.0)
    assert all(isinstance(box, UnusableVolume) for box in boxes.values())


def test_least_depth_says_what_is_a_breast():
    boxes = breast_boxes(examination()[0], SPACING, 80.0, 15.0)
    assert isinstance(boxes["right"], UnusableVolume)
    assert isinstance(boxes["left"], BreastBox)


# What is made of them.


def test_breasts_are_cut_and_have_findings_patients_and_splits(tmp_path):
    options = write_breasts(tmp_path)
    images = BreastMri(**options).load(Run())
    assert images.images.shape == (12, 1, 8, 16, 16)
    assert images.images.dtype == np.uint8
    assert images.target == "malignant"
    finding = images.targets["finding"]
    assert finding.names == ("none", "benign", "malignant")
    order = np.argsort(images.groups, kind="stable")
    sides = images.geometry["side"]
    np.testing.assert_array_equal(np.sort(sides[order].reshape(6, 2)), [[0, 1]] * 6)
    np.testing.assert_array_equal(finding.values[sides == 0], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(images.labels[sides == 1], [0, 1] * 3)
    assert {name: len(ids) for name, ids in images.splits.items()} == {"train": 4, "validation": 4, "test": 4}
    assert "p0" not in json.dumps(images.to_arrays()[1])


def lesion_place(image):
    """Return the middle of the brightest voxels, (3,) as shares of the sides."""
    places = np.argwhere(image > 200) + 0.5
    return places.mean(0) / image.shape


def expected_place(side="left"):
    box = breast_boxes(examination(1)[0], SPACING, 20.0, 15.0)[side]
    return (np.array(LESION[side]) - box.low) / box.sides


def test_the_lesion_is_where_it_is(folder):
    images = load(table(folder, HEAD + "x,b1.nii,b2.nii,none,malignant,train\n"))
    left = images.images[images.geometry["side"] == 1][0, 0]
    right = images.images[images.geometry["side"] == 0][0, 0]
    np.testing.assert_allclose(lesion_place(left), expected_place(), atol=0.04)
    # The same window for both: what is bright in one is so in comparison with the other.
    assert (right > 128).mean() < 0.001 < (left > 128).mean()
    box = breast_boxes(examination(1)[0], SPACING, 20.0, 15.0)["left"]
    np.testing.assert_allclose(images.geometry["spacing"][1], np.array(box.sides) / (16, 32, 32))


AFFINES = {
    "sagittal": ((2, 0, 1), np.array([[0, 0, -4.0, 0], [-4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 0, 1]])),
    "columns to the right": (None, np.diag([4.0, -4.0, 4.0, 1.0])),
    "rows to the front and slices to the feet": (None, np.diag([-4.0, 4.0, -4.0, 1.0])),
}


def turned(values, name):
    """Return an axial volume as its file's axes run under another name."""
    if name == "sagittal":
        return np.ascontiguousarray(values.transpose(2, 0, 1))
    return values[..., ::-1].copy() if name.startswith("columns") else values[::-1, ::-1].copy()


@pytest.mark.parametrize("name", AFFINES)
def test_volumes_in_any_orientation_give_the_same_breasts(folder, name):
    text = HEAD + "x,b1.nii,b2.nii,none,malignant,train\n"
    straight = load(table(folder, text))
    t1, subtraction = examination(1, lesions=("left",))
    affine = AFFINES[name][1]
    save(folder / "b1.nii", turned(t1, name), affine)
    save(folder / "b2.nii", turned(subtraction, name), affine)
    found = load(folder)
    np.testing.assert_array_equal(found.images, straight.images)
    np.testing.assert_array_equal(found.geometry["side"], straight.geometry["side"])


@pytest.mark.parametrize("name", AFFINES)
def test_t1_and_subtraction_may_be_stored_along_different_axes(folder, name):
    text = HEAD + "x,b1.nii,b2.nii,none,malignant,train\n"
    straight = load(table(folder, text))
    affine = AFFINES[name][1].astype(float)
    # Where an axis runs the other way, its first voxel is the other's last.
    ends = np.array(SHAPE[::-1]) - 1
    affine[:3, 3] = np.where(np.diag(affine)[:3] * np.diag(AXIAL)[:3] < 0, np.diag(AXIAL)[:3] * ends, 0)
    save(folder / "b1.nii", turned(examination(1, lesions=("left",))[0], name), affine)
    np.testing.assert_array_equal(load(folder).images, straight.images)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1)])
def test_a_header_that_does_not_say_where_left_is_is_refused(folder, codes):
    header = nibabel.load(folder / "b2.nii")
    header.set_sform(AXIAL, code=codes[0])
    header.set_qform(AXIAL, code=codes[1])
    nibabel.save(header, folder / "c2.nii")
    table(folder, HEAD + GOOD + "y,d1.nii,c2.nii,none,malignant,train\n")
    if any(codes):
        assert load(folder).labels.tolist()[-2:] == [0, 1]
    else:
        (problem,) = told(folder)
        assert "line 4, subtraction: a NIfTI header that does not say where left is" in problem


def test_dicom_series_give_what_nifti_gives(folder, write_series):
    text = HEAD + "x,{},{},none,malignant,train\n"
    t1, subtraction = (np.rint(values) for values in examination(1, lesions=("left",)))
    save(folder / "b1.nii", t1)
    save(folder / "b2.nii", subtraction)
    nifti = load(table(folder, text.format("b1.nii", "b2.nii")))
    write_series(folder / "t1", t1.astype(int), gap=4.0, PixelSpacing=[4, 4])
    write_series(folder / "sub", subtraction.astype(int), gap=4.0, PixelSpacing=[4, 4])
    dicom = load(table(folder, text.format("t1", "sub")))
    np.testing.assert_array_equal(dicom.images, nifti.images)
    assert len(BreastMri(path=str(folder)).sources()) == 1 + 2 * SHAPE[0]


def test_an_empty_cell_leaves_a_breast_out(folder):
    save(folder / "a1.nii", examination(sides=("right",))[0])
    images = load(table(folder, HEAD + "x,a1.nii,a2.nii,none,,train\ny,b1.nii,b2.nii,,malignant,train\n"))
    np.testing.assert_array_equal(images.geometry["side"], [0, 1])
    np.testing.assert_array_equal(images.labels, [0, 1])


def test_without_a_column_of_splits_the_pipeline_deals(folder):
    text = "patient,t1,subtraction,right,left\nx,a1.nii,a2.nii,none,none\nx,b1.nii,b2.nii,none,malignant\n"
    images = load(table(folder, text))
    assert images.splits == {}
    assert len(set(images.groups.tolist())) == 1


# What is wrong.

GOOD = "w,a1.nii,a2.nii,none,none,train\nx,b1.nii,b2.nii,benign,malignant,train\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x,c1.nii,c2.nii,none,malignant,test\n",
            "line 4: a patient who is in another split in labels.csv line 3",
        ),
        ("y,c1.nii,,none,none,train\n", "line 4: no subtraction; expected the volumes of both"),
        ("y,,c2.nii,none,none,train\n", "line 4: no t1; expected the volumes of both"),
        ("y,no.nii,c2.nii,none,none,train\n", "line 4: t1: a file that is not there; expected a file or folder in"),
        ("y,../secret.nii,c2.nii,none,none,train\n", "line 4: t1: a file that lies elsewhere"),
        (
            "x,b1.nii,b2.nii,benign,malignant,train\n",
            "line 4: the t1 of labels.csv line 3 again; expected each file",
        ),
        ("y,c1.nii,c1.nii,none,none,train\n", "line 4: the subtraction of labels.csv line 4 again"),
        ("y,c1.nii,c2.nii,none,none,test\n", "labels.csv, test: no breast with a malignant finding; expected"),
        (
            "y,c1.nii,c2.nii,malignant,,test\n",
            "labels.csv, test: only malignant breasts; expected breasts of both",
        ),
        (",c1.nii,c2.nii,none,none,train\n", "line 4: no patient; expected a name or number"),
        (
            "y,c1.nii,c2.nii,none,cyst,train\n",
            "line 4: an unknown finding under left; expected one of none, benign",
        ),
        ("y,c1.nii,c2.nii,,,train\n", "line 4: no finding; expected one for the right or the left breast"),
        ("y,c1.nii,c2.nii,none,none,dev\n", "line 4: an unknown split; expected one of train, validation, test"),
        ("y,c1.nii,c2.nii,none,none,train,9\n", "line 4: more values than columns; expected as many"),
    ],
)
def test_tables_that_cannot_be_are_told(folder, text, message):
    (folder.parent / "secret.nii").write_bytes(b"")
    problems = told(folder, HEAD + GOOD + text)
    assert any(message in problem for problem in problems), problems
    assert not any("Doe" in problem for problem in problems)


def test_a_table_without_its_columns_or_lines_is_told(folder):
    assert (
        "labels.csv: no column subtraction, left; expected a CSV file with"
        in told(folder, "patient,t1,right\nx,,\n")[0]
    )
    assert "labels.csv: no rows; expected a CSV file" in told(folder, HEAD)[0]
    with pytest.raises(DataError, match=r"no folder .*; expected a folder of T1 and subtraction volumes"):
        load(folder / "none")


def other_grid(folder, kind):
    t1, _ = examination(2)
    if kind == "sizes":
        return save(folder / "c1.nii", t1[:-1])
    affine = AXIAL.copy()
    if kind == "spacing":
        affine[0, 0] = -3.5
    else:
        affine[0, 3] = 5.0
    return save(folder / "c1.nii", t1, affine)


@pytest.mark.parametrize("kind", ["sizes", "spacing", "place or direction"])
def test_grids_that_differ_are_told(folder, kind):
    other_grid(folder, kind)
    problems = told(folder, HEAD + GOOD + "y,c1.nii,c2.nii,none,none,train\n")
    expected = f"line 4: t1 and subtraction of unequal {kind}; expected both on one grid (resample one to the other)"
    assert len(problems) == 1
    assert problems[0].endswith(expected)


@pytest.mark.parametrize(
    ("number", "values", "message"),
    [
        (1, np.full(SHAPE, 7), "line 4, t1: a volume of one value; expected an image"),
        (2, np.full(SHAPE, 7), "line 4, subtraction: a volume of one value; expected an image"),
        (1, np.full(SHAPE, np.nan), "line 4, t1: voxels that are NaN or infinite; expected finite values"),
        (2, np.where(np.arange(SHAPE[2]) == 3, np.inf, np.ones(SHAPE)), "line 4, subtraction: voxels that are NaN"),
        (
            2,
            np.where(np.arange(SHAPE[2]) == 0, 1, np.zeros(SHAPE)),
            "line 4: a subtraction of one value in the breasts",
        ),
        (
            1,
            examination(sides=("right",))[0],
            "line 4: no left breast that can be found in T1; expected one that stands",
        ),
        (1, np.random.default_rng(0).random(SHAPE), "line 4: no right breast that can be found in T1"),
    ],
)
def test_volumes_that_cannot_be_used_are_told(folder, number, values, message):
    save(folder / f"c{number}.nii", values.astype(np.float32))
    problems = told(folder, HEAD + GOOD + "y,c1.nii,c2.nii,none,none,train\n")
    assert any(message in problem for problem in problems), problems


def test_series_with_a_slice_missing_or_none_at_all_are_told(folder, write_series):
    t1 = np.rint(examination(2)[0][::4, ::4, ::4]).astype(int)
    write_series(folder / "t1", t1, gap=16.0, PixelSpacing=[16, 16])
    (folder / "t1" / "004.dcm").unlink()
    (folder / "sub").mkdir()
    problems = told(folder, HEAD + GOOD + "y,t1,sub,none,none,train\n")
    assert len(problems) == 2
    assert "line 4, t1: slices at uneven distances; expected even ones" in problems[0]
    assert "line 4, subtraction: no DICOM files; expected a folder of the slices of one series" in problems[1]


def test_everything_is_told_at_once_and_nobody_is_named(folder, caplog):
    caplog.set_level(logging.DEBUG)
    save(folder / "b1.nii", np.full(SHAPE, np.nan, np.float32))
    save(folder / "c1.nii", examination(sides=())[0])
    text = "Doe,a1.nii,a2.nii,none,none,train\nRoe,b1.nii,b2.nii,none,malignant,train\n"
    text += "Poe,c1.nii,c2.nii,none,none,test\nDoe,d1.nii,,none,none,validation\n"
    problems = told(folder, HEAD + text)
    for message in (
        "line 3, t1: voxels that are NaN",
        "line 4: no right breast",
        "line 4: no left breast",
        "line 5: no subtraction",
        "line 5: a patient who is in another split in labels.csv line 2",
        "labels.csv, test: no breast with a malignant finding",
        "labels.csv, validation: no breast with a malignant finding",
    ):
        assert any(message in problem for problem in problems), (message, problems)
    assert len(problems) == 7
    for name in ("Doe", "Roe", "Poe"):
        assert name not in "".join(problems) + caplog.text
        assert name not in repr(BreastMri(path=str(folder)))


def test_sources_are_the_table_and_what_is_there(folder):
    table(folder, HEAD + GOOD + "y,no.nii,c2.nii,none,none,train\n")
    assert [path.name for path in BreastMri(path=str(folder)).sources()] == [
        "labels.csv", "a1.nii", "a2.nii", "b1.nii", "b2.nii",
    ]  # fmt: skip


def test_the_percentiles_must_not_be_turned_around():
    with pytest.raises(ValueError, match="low_percentile and high_percentile: found 99 and 1; expected the first"):
        BreastMri(low_percentile=99, high_percentile=1)
