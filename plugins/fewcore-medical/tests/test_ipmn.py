"""T2 volumes with a table: correction, smoothing, the cut, and every way in which table and volumes can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fewcore import DataError, Run
from fewcore_medical.ipmn import Ipmn
from fewcore_medical.mri import smoothed, without_bias

SHAPE = (8, 24, 20)
QUICK = {"size": 16, "bias_iterations": 0, "diffusion_iterations": 0}
HEAD = "file,label,patient\n"


def phantom(seed=0, bias=0.5, noise=1.0):
    """A body of 100 with an organ of 200, under a smooth bias field; also where the body is."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE], indexing="ij")
    body = x**2 + y**2 < 0.7
    values = 100.0 * body + 100 * ((x - 0.2) ** 2 + y**2 < 0.05)
    field = np.exp(bias * (x + 0.3 * y * z))
    return values * field + noise * np.random.default_rng(seed).normal(size=SHAPE), body


@pytest.fixture
def folder(tmp_path, write_nifti) -> Path:
    """Six volumes of five patients."""
    lines = [HEAD]
    for i in range(6):
        write_nifti(tmp_path / "t2" / f"{i}.nii.gz", phantom(i)[0].astype(np.float32))
        lines.append(f"{i}.nii.gz,{'normal' if i < 3 else 'IPMN'},Doe{max(i, 1)}\n")
    (tmp_path / "t2" / "labels.csv").write_text("".join(lines))
    return tmp_path / "t2"


def load(folder, **options):
    return Ipmn(path=str(folder), **{**QUICK, **options}).load(Run())


def table(folder, text):
    (folder / "labels.csv").write_text(text)
    return folder


def test_a_folder_gives_cuts_classes_and_patients(folder):
    images = load(folder)
    assert images.images.shape == (6, 1, 16, 16)
    assert images.images.dtype == np.uint8
    np.testing.assert_array_equal(images.labels, [0, 0, 0, 1, 1, 1])
    assert images.class_names == ("normal", "ipmn")
    assert len(np.unique(images.groups)) == 5
    assert images.groups[0] == images.groups[1]
    assert load(folder, crop="volume").images.shape == (6, 1, 16, 16, 16)
    assert "Doe" not in json.dumps(images.to_arrays()[1])


def test_sources_are_the_table_and_the_files(folder, write_series):
    write_series(folder / "dicom", phantom()[0].astype(int))
    table(folder, f"{HEAD}0.nii.gz,0,a\ndicom,1,b\n")
    assert len(Ipmn(path=str(folder)).sources()) == 1 + 1 + 8
    assert len(load(folder)) == 2


def test_n4_evens_out_a_bias_field():
    biased, body = phantom()
    even = phantom(bias=0.0)[0]
    corrected = without_bias(biased, (3, 1, 1), 4, 4, 50)
    organ = even > 150
    tissue = body & ~organ & (even > 50)

    def variation(values):
        return values[tissue].std() / values[tissue].mean()

    assert variation(biased) > 0.2
    assert variation(corrected) < 0.2 * variation(biased)
    # What is no bias stays: the organ is about twice as bright.
    np.testing.assert_allclose(corrected[organ].mean() / corrected[tissue].mean(), 2, rtol=0.1)
    np.testing.assert_array_equal(corrected, without_bias(biased, (3, 1, 1), 4, 4, 50))


def test_volumes_of_few_slices_are_corrected_too():
    biased, body = phantom()
    thin = without_bias(biased[3:5], (3, 1, 1), 4, 4, 50)
    mask = body[3:5] & (phantom(bias=0.0)[0][3:5] < 150)
    assert thin[mask].std() / thin[mask].mean() < 0.5 * biased[3:5][mask].std() / biased[3:5][mask].mean()


def test_diffusion_smooths_noise_and_keeps_edges(capfd):
    values = np.zeros((12, 24, 24))
    values[:, :, 12:] = 100
    noisy = values + 2 * np.random.default_rng(0).normal(size=values.shape)
    found = smoothed(noisy, 5, 3.0, 0.0625)
    assert found[:, :, 14:].std() < 0.6 * noisy[:, :, 14:].std()
    edge = (found[:, :, 12] - found[:, :, 11]).mean()
    blurred = (noisy[:, :, 11:13] + np.roll(noisy, 1, 2)[:, :, 11:13] + np.roll(noisy, -1, 2)[:, :, 11:13]) / 3
    assert edge > 1.5 * (blurred[..., 1] - blurred[..., 0]).mean()
    # Of larger steps ITK warns that they are unstable.
    assert capfd.readouterr().err == ""


def test_correction_and_smoothing_reach_the_images(folder):
    table(folder, f"{HEAD}0.nii.gz,0,a\n")
    plain = load(folder)
    corrected = load(folder, bias_iterations=20)
    assert np.abs(plain.images.astype(int) - corrected.images).max() > 20
    smooth = load(folder, diffusion_iterations=5)
    assert not np.array_equal(plain.images, smooth.images)
    assert corrected.spec.preparation["n4"] == {"iterations": 20, "levels": 4, "shrink": 4}


def marked(folder, write_nifti, affine=None):
    """A volume with one bright box and its region in the table."""
    values = np.full((10, 20, 30), 100, np.float32)
    values[4:7, 5:11, 12:18] = 200
    values[5, 5:8, 12:15] = 300
    write_nifti(folder / "0.nii.gz", values, affine)
    box = "12,18,5,11,4,7"
    return table(folder, f"file,label,patient,x0,x1,y0,y1,z0,z1\n0.nii.gz,1,a,{box}\n")


def test_the_region_is_cut_and_its_middle_slice_taken(folder, write_nifti):
    options = {"size": 12, "low_percentile": 0, "high_percentile": 100}
    images = load(marked(folder, write_nifti), **options)
    # Values of 100, 200 and 300 become 0, 127.5 and 255; the region is 6 x 6 mm, each pixel half a millimetre.
    image = images.images[0, 0].astype(int)
    np.testing.assert_allclose(images.geometry["spacing"], [[3, 0.5, 0.5]])
    np.testing.assert_array_equal(image[1:5, 1:5], 255)
    np.testing.assert_allclose(image[7:11, 7:11], 128, atol=1)
    wide = load(folder, margin=2.0, **options).images[0, 0]
    assert (wide[:2] == 0).all()
    cube = load(folder, crop="volume", **options)
    np.testing.assert_allclose(cube.geometry["spacing"], 9 / 12)


def test_regions_follow_volumes_that_are_turned(folder, write_nifti):
    options = {"size": 12, "low_percentile": 0, "high_percentile": 100}
    straight = load(marked(folder, write_nifti), **options).images[0, 0]
    # Columns that run to the right are flipped, so that left is right of it again; so are rows.
    for signs in ((1, -1), (-1, 1), (1, 1)):
        affine = np.diag([signs[0], signs[1], 3.0, 1.0])
        flipped = load(marked(folder, write_nifti, affine), **options).images[0, 0]
        back = flipped[:, ::-1] if signs[0] == 1 else flipped
        np.testing.assert_array_equal(back[::-1] if signs[1] == 1 else back, straight)


def test_labels_may_be_numbers_and_lines_empty(folder):
    images = load(table(folder, f"\ufeff{HEAD}0.nii.gz, 0 ,a\n\n1.nii.gz,Ipmn,b\n"))
    np.testing.assert_array_equal(images.labels, [0, 1])


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (f"{HEAD}no.nii,0,Doe\n", ["labels.csv line 2: a file that is not there; expected a file or folder in"]),
        (f"{HEAD},0,Doe\n", ["labels.csv line 2: a file that is not there"]),
        (f"{HEAD}../secret.nii,0,Doe\n", ["labels.csv line 2: a file that lies elsewhere"]),
        (f"{HEAD}/etc/passwd,0,Doe\n", ["labels.csv line 2: a file that lies elsewhere"]),
        (f"{HEAD}a\0b,0,Doe\n", ["labels.csv"]),
        (f"{HEAD}0.nii.gz,cyst,Doe\n", ["labels.csv line 2: an unknown label; expected one of normal, ipmn"]),
        (f"{HEAD}0.nii.gz,2,Doe\n", ["labels.csv line 2: an unknown label"]),
        (f"{HEAD}0.nii.gz,0\n", ["labels.csv line 2: no patient"]),
        (f"{HEAD}0.nii.gz,0,Doe,5\n", ["labels.csv line 2: more values than columns"]),
        (
            f"{HEAD}0.nii.gz,0,Doe\n1.nii.gz,1,Doe\nno,1,b\n",
            [
                "labels.csv line 3: a patient who is of another class in labels.csv line 2; expected one class a patient",
                "labels.csv line 4: a file that is not there",
            ],
        ),
        (f"{HEAD}0.nii.gz,0,a\n./0.nii.gz,0,a\n", ["labels.csv line 3: the file of labels.csv line 2 again"]),
        ("file,label\n0.nii.gz,0\n", ["labels.csv: no column patient; expected a CSV file with the columns"]),
        ("", ["labels.csv: no column file, label, patient"]),
        (HEAD, ["labels.csv: no rows"]),
        ("file,label,patient,x0\n0.nii.gz,0,a,1\n", ["labels.csv: some columns of a region; expected all of x0, x1"]),
        (
            "file,label,patient,x0,x1,y0,y1,z0,z1\n0.nii.gz,0,a,1,2,3,4,5\n",
            ["labels.csv line 2: a region that is not six whole numbers"],
        ),
        (
            "file,label,patient,x0,x1,y0,y1,z0,z1\n0.nii.gz,0,a,1,1,3,4,5,6\n",
            ["labels.csv line 2: a region with nothing in it"],
        ),
        (
            "file,label,patient,x0,x1,y0,y1,z0,z1\n0.nii.gz,0,a,1,9,3,4,5,60\n",
            ["labels.csv line 2: a region that reaches out of its volume"],
        ),
    ],
)
def test_tables_that_cannot_be_are_told(folder, text, messages):
    (folder.parent / "secret.nii").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(table(folder, text))
    for message in messages:
        assert message in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_tables_that_are_no_text_or_too_large_are_told(folder):
    (folder / "labels.csv").write_bytes(b"file,label,patient\n\xff\xfe")
    with pytest.raises(DataError, match=r"labels.csv: no text in UTF-8; expected a CSV file"):
        load(folder)
    (folder / "labels.csv").write_bytes(b" " * (2**24 + 1))
    with pytest.raises(DataError, match=r"labels.csv: more than 16,777,216 bytes"):
        load(folder)
    (folder / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"labels.csv: no table that can be read \(FileNotFoundError\)"):
        load(folder)


def test_all_volumes_that_cannot_be_read_are_told_by_their_lines(folder, write_nifti):
    write_nifti(folder / "1.nii.gz", np.ones(SHAPE, np.float32))
    write_nifti(folder / "2.nii", phantom()[0].astype(np.float32), pixdim=[1, 0, 1, 1, 1, 1, 1, 1])
    content = (folder / "0.nii.gz").read_bytes()
    (folder / "0.nii.gz").write_bytes(content[: len(content) // 2])
    (folder / "empty").mkdir()
    text = f"{HEAD}0.nii.gz,0,Doe\n1.nii.gz,0,b\n2.nii,0,c\nempty,1,d\n3.nii.gz,1,e\n"
    with pytest.raises(DataError) as caught:
        load(table(folder, text))
    found = [str(problem) for problem in caught.value.problems]
    assert [problem.split(";")[0] for problem in found] == [
        "labels.csv line 2: not readable (EOFError)",
        "labels.csv line 3: a volume of one value",
        "labels.csv line 4: a voxel spacing that is not positive",
        "labels.csv line 5: no DICOM files",
    ]
    assert "Doe" not in str(caught.value)


def test_without_a_folder_it_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        Ipmn().sources()
    expected = "a folder of T2 volumes with the table labels.csv (columns file, label, patient)"
    assert str(caught.value) == f"ipmn: no folder {tmp_path}/ipmn; expected {expected} (set path, or FEWCORE_DATA)"


def test_the_percentiles_must_not_be_turned_around():
    with pytest.raises(ValueError, match="low_percentile and high_percentile: found 99 and 1; expected the first"):
        Ipmn(low_percentile=99, high_percentile=1)
