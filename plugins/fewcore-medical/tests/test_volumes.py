"""Volumes: what is read is what was written, and every broken header has an answer that quotes none of it."""

from __future__ import annotations

import gzip
import logging
import re

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fewcore import DataError
from fewcore_medical.volumes import dicom_files, load_dicom_series, load_nifti, load_volume

VALUES = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_gives_the_values_and_the_grid(tmp_path, write_nifti, name):
    affine = np.array([[-0.5, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
    volume = load_nifti(write_nifti(tmp_path / name, VALUES, affine))
    np.testing.assert_array_equal(volume.values, VALUES)
    assert volume.values.dtype == np.float32
    np.testing.assert_allclose(volume.spacing, (3, 0.8, 0.5))
    # NIfTI counts to the right and to the front, DICOM and we to the left and to the back.
    np.testing.assert_allclose(volume.place_of(np.zeros((1, 3))), [[-10, -20, -30]])
    np.testing.assert_allclose(volume.positions, -30 + 3 * np.arange(5))
    assert volume.is_axial


def test_nifti_2_and_scaled_values(tmp_path):
    image = nibabel.Nifti2Image(VALUES.transpose(2, 1, 0), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "a.nii")
    found = load_nifti(tmp_path / "a.nii").values
    np.testing.assert_array_equal(found, 0.5 * VALUES + 3)
    np.testing.assert_array_equal(found, nibabel.load(tmp_path / "a.nii").get_fdata().transpose(2, 1, 0))


def test_a_turned_volume_is_oriented_and_keeps_every_voxel_in_its_place(tmp_path, write_nifti):
    # Columns run to the head, rows to the right, slices to the front.
    affine = np.array([[0, 0.8, 0, 5], [0, 0, 3, 6], [0.5, 0, 0, 7], [0, 0, 0, 1.0]])
    volume = load_nifti(write_nifti(tmp_path / "a.nii", VALUES, affine))
    assert not volume.is_axial
    turned = volume.oriented()
    assert turned.is_axial
    np.testing.assert_allclose(turned.spacing, (0.5, 3, 0.8))
    for z, y, x in ((0, 0, 0), (4, 5, 6), (1, 2, 3)):
        place = volume.place_of(np.array([[x, y, z]]))
        i, j, k = np.round(turned.index_of(place)[0]).astype(int)
        assert turned.values[k, j, i] == volume.values[z, y, x]
    np.testing.assert_allclose(turned.positions, turned.affine[2, 3] + 0.5 * np.arange(7))


def test_a_series_is_sorted_by_place_and_rescaled(tmp_path, write_series):
    volume = load_volume(write_series(tmp_path / "ct", VALUES))
    np.testing.assert_array_equal(volume.values, VALUES)
    np.testing.assert_allclose(volume.spacing, (2, 0.7, 0.7))
    np.testing.assert_allclose(volume.positions, 10 + 2 * np.arange(5))
    np.testing.assert_allclose(volume.place_of(np.array([[1, 2, 3]])), [[-99.3, -48.6, 16]])
    assert volume.is_axial


def test_other_files_of_a_folder_are_passed_over(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", VALUES)
    for name in (".hidden", "notes.xml", "DICOMDIR"):
        (folder / name).write_text("no DICOM")
    assert len(dicom_files(folder)) == 5


def test_one_of_several_series_is_chosen_by_name(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", np.concatenate([VALUES, VALUES]))
    change = {z: {"SeriesInstanceUID": "1.2.840.2"} for z in range(5)}
    write_series(folder, np.concatenate([VALUES, VALUES[::-1]]), change=change)
    found = load_dicom_series(dicom_files(folder), series="1.2.840.1")
    np.testing.assert_array_equal(found.values, VALUES[::-1])
    with pytest.raises(DataError, match=r"^ct: slices of 2 series; expected the slices of one series"):
        load_volume(folder)


def test_uneven_slices_must_be_asked_for(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", VALUES)
    (folder / "003.dcm").unlink()
    with pytest.raises(DataError, match=r"^ct: slices at uneven distances; expected even ones"):
        load_volume(folder)
    np.testing.assert_allclose(load_volume(folder, uneven=True).positions, [10, 12, 16, 18])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PixelSpacing": [0, 0.7]}, "a voxel spacing that is not positive"),
        ({"PixelSpacing": [-1, 0.7]}, "a voxel spacing that is not positive"),
        ({"PixelSpacing": ["nan", 0.7]}, "a voxel spacing that is not positive"),
        ({"PixelSpacing": [1000, 0.7]}, "a voxel spacing that is not positive"),
        ({"PixelSpacing": None}, "a header without PixelSpacing"),
        ({"ImagePositionPatient": [0, 0, "nan"]}, "a place or direction that cannot be"),
        ({"ImagePositionPatient": [0, 0]}, "a spacing, place or direction of another length"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "a place or direction that cannot be"),
        ({"ImageOrientationPatient": ["inf", 0, 0, 0, 1, 0]}, "a place or direction that cannot be"),
        ({"RescaleSlope": 0}, "a scale of pixels that is not finite, or 0"),
        ({"SamplesPerPixel": 3}, "several channels or frames"),
        ({"NumberOfFrames": 4}, "several channels or frames"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "pixels that are no grey values with black at 0"),
        ({"Rows": 0}, "3 axes, or a side of none or too many voxels"),
        ({"Rows": 60000}, "3 axes, or a side of none or too many voxels"),
        ({"SeriesInstanceUID": ""}, "a header without SeriesInstanceUID"),
        ({"PixelData": b"\0\0"}, "pixels that cannot be read"),
        ({"PixelData": None}, "pixels that cannot be read"),
    ],
)
def test_headers_that_cannot_be_are_told_without_their_values(tmp_path, write_series, caplog, tags, message):
    caplog.set_level(logging.DEBUG)
    folder = write_series(tmp_path / "ct", VALUES, change={3: tags})
    with pytest.raises(DataError, match=rf"^ct: file 2 of 5: {re.escape(message)}") as caught:
        load_volume(folder)
    assert "Doe" not in f"{caught.value}{caplog.text}"
    assert "nan" not in f"{caught.value}"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Rows": 3, "PixelData": bytes(42)}, "slices of other sizes, spacings or directions"),
        ({"PixelSpacing": [0.8, 0.8]}, "slices of other sizes, spacings or directions"),
        ({"ImageOrientationPatient": [0, 1, 0, -1, 0, 0]}, "slices of other sizes, spacings or directions"),
        ({"ImagePositionPatient": [-100, -50, 10]}, "two slices at one place"),
        ({"SeriesInstanceUID": "1.9"}, "slices of 2 series"),
    ],
)
def test_slices_that_do_not_fit_together_are_refused(tmp_path, write_series, tags, message):
    with pytest.raises(DataError, match=f"^ct: {message}"):
        load_volume(write_series(tmp_path / "ct", VALUES, change={3: tags}))


@pytest.mark.parametrize("size", [0, 100, 140, 400, -1, -30])
def test_truncated_dicom_files_are_told(tmp_path, write_series, size):
    folder = write_series(tmp_path / "ct", VALUES)
    file = folder / "002.dcm"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match=r"^ct: file 2 of 5: .*; expected .*") as caught:
        load_volume(folder)
    assert "Doe" not in str(caught.value)


def test_garbage_behind_the_magic_is_told(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", VALUES)
    junk = np.random.default_rng(1).bytes(5000)
    (folder / "002.dcm").write_bytes(b"\0" * 128 + b"DICM" + junk)
    with pytest.raises(DataError, match=r"^ct: file 2 of 5: "):
        load_volume(folder)


def test_deflated_files_are_refused_before_they_are_inflated(tmp_path, write_series):
    folder = write_series(tmp_path / "ct", VALUES)
    data = pydicom.dcmread(folder / "001.dcm")
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(folder / "001.dcm")
    with pytest.raises(DataError, match=r"^ct: file 1 of 5: a deflated DICOM file; expected one that is not"):
        load_volume(folder)


def test_an_empty_folder_and_a_single_slice_are_refused(tmp_path, write_series):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"^none: no DICOM files; expected a folder of the slices of one series"):
        load_volume(tmp_path / "none")
    with pytest.raises(DataError, match=r"^ct: one slice; expected at least two"):
        load_volume(write_series(tmp_path / "ct", VALUES[:1]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, "a voxel spacing that is not positive"),
        ({"pixdim": [1, -1, 1, 1, 1, 1, 1, 1]}, "a voxel spacing that is not positive"),
        ({"pixdim": [1, NAN, 1, 1, 1, 1, 1, 1]}, "a voxel spacing that is not positive"),
        ({"srow_x": [NAN, 0, 0, 0]}, "an affine that is not finite"),
        ({"srow_x": [INF, 0, 0, 0]}, "an affine that is not finite"),
        ({"srow_x": [0, 0, 0, 0]}, "a voxel spacing that is not positive"),
        ({"srow_x": [0, 0, 1, 0], "srow_y": [0, 0, 1, 0]}, "a voxel spacing that is not positive"),
        ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0]}, "an affine whose axes lie in a plane"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 5}, "an affine that cannot be"),
        ({"dim": [3, 0, 6, 5, 1, 1, 1, 1]}, "sides that are none or too many voxels"),
        ({"dim": [3, -7, 6, 5, 1, 1, 1, 1]}, "sides that are none or too many voxels"),
        ({"dim": [3, 30000, 6, 5, 1, 1, 1, 1]}, "sides that are none or too many voxels"),
        ({"dim": [3, 4096, 4096, 4096, 1, 1, 1, 1]}, "more than 268,435,456 voxels"),
        ({"dim": [4, 7, 6, 5, 9, 1, 1, 1]}, "4 axes, or a side of none or too many voxels"),
        ({"dim": [2, 7, 6, 1, 1, 1, 1, 1]}, "2 axes, or a side of none or too many voxels"),
        ({"dim": [3, 7, 6, 50, 1, 1, 1, 1]}, "fewer voxels than the header says"),
        ({"datatype": 9999}, "a type or scale of voxels that cannot be"),
        ({"datatype": 1792}, "voxels that are no real numbers"),
        ({"datatype": 128}, "voxels that are no real numbers"),
        ({"scl_slope": 1, "scl_inter": INF}, "a type or scale of voxels that cannot be"),
        ({"vox_offset": 0}, "voxels that begin within the header"),
        ({"vox_offset": NAN}, "voxels that begin within the header"),
        ({"magic": b"ni1"}, "a header without its image"),
        ({"magic": b"xxx"}, "no NIfTI header"),
    ],
)
def test_nifti_headers_that_cannot_be_are_told(tmp_path, write_nifti, caplog, fields, message):
    caplog.set_level(logging.DEBUG)
    path = write_nifti(tmp_path / "a.nii", VALUES, **fields)
    with pytest.raises(DataError, match=rf"^table line 3: {re.escape(message)}.*; expected ") as caught:
        load_nifti(path, "table line 3")
    assert not caplog.text
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("size", [0, 1, 20, 200, -1])
def test_truncated_nifti_files_are_told(tmp_path, write_nifti, name, size):
    path = write_nifti(tmp_path / name, VALUES)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"^{name}: .*; expected "):
        load_nifti(path)


def test_no_more_is_unpacked_than_the_header_says(tmp_path, write_nifti):
    content = write_nifti(tmp_path / "a.nii", VALUES).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content + bytes(2**24)))
    np.testing.assert_array_equal(load_nifti(tmp_path / "b.nii.gz").values, VALUES)


def test_values_that_are_not_finite_are_refused(tmp_path, write_nifti):
    values = VALUES.astype(np.float32)
    values[0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"^a.nii: voxels that are NaN or infinite; expected finite values"):
        load_nifti(write_nifti(tmp_path / "a.nii", values))


def test_other_files_are_no_volumes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"^a.png: no NIfTI file; expected a file named .nii or .nii.gz"):
        load_volume(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"^b.nii: not readable \(FileNotFoundError\); expected a whole NIfTI file"):
        load_volume(tmp_path / "b.nii")
