"""Images and slices of NIfTI and DICOM: values, refusals, and that folder reads a table of them."""

from __future__ import annotations

from importlib.metadata import entry_points

import nibabel
import numpy as np
import pytest
from pylidc_database import SECRET

from fewcore import DataError, Run
from fewcore.builtin.folder import Folder
from fewcore_medical.flat_images import read_dicom_image, read_nifti_image

VALUES = np.arange(12).reshape(3, 4) * 50 - 200


@pytest.fixture
def dicom(tmp_path, write_series):
    """Return a function that writes one DICOM file with other tags."""

    def write(name="a", values=VALUES, **tags):
        return next(write_series(tmp_path / name, values[None], **tags).iterdir())

    return write


def refusal(read, path):
    with pytest.raises(DataError) as caught:
        read(path)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_dicom_values_are_rescaled(dicom):
    found = read_dicom_image(dicom())
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)
    np.testing.assert_array_equal(read_dicom_image(dicom(RescaleSlope=2)), 2 * (VALUES + 1024) - 1024)


def test_a_radiograph_needs_no_place_in_a_volume(dicom):
    lacking = dict.fromkeys(("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SeriesInstanceUID"))
    np.testing.assert_array_equal(read_dicom_image(dicom(**lacking)), VALUES)


def test_white_at_zero_is_turned_around(dicom):
    path = dicom(PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11, RescaleIntercept=0)
    np.testing.assert_array_equal(read_dicom_image(path), 4095 - (VALUES + 1024))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SamplesPerPixel": 3}, "several channels or frames, or colours; expected one grey image a file"),
        ({"NumberOfFrames": 2}, "several channels or frames, or colours"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "several channels or frames, or colours"),
        ({"RescaleSlope": 0}, "a scale of pixels that cannot be; expected finite numbers, 1 to 32 bits"),
        ({"Rows": None}, "a header without rows, columns or bits (AttributeError); expected a whole DICOM file"),
        ({"Rows": 5}, "pixels that cannot be read (ValueError)"),
    ],
)
def test_dicom_files_that_cannot_be_used_are_told(dicom, tags, message):
    assert refusal(read_dicom_image, dicom(**tags)).startswith(message)


def test_files_that_are_no_dicom_or_truncated_are_told(dicom, tmp_path):
    (tmp_path / "a.dcm").write_text("no DICOM")
    assert refusal(read_dicom_image, tmp_path / "a.dcm").startswith("no DICOM file")
    path = dicom("b")
    path.write_bytes(path.read_bytes()[:-5])
    assert refusal(read_dicom_image, path).startswith("pixels that cannot be read (ValueError)")


def test_nifti_of_slices_and_of_two_axes(tmp_path, write_nifti):
    one = read_nifti_image(write_nifti(tmp_path / "a.nii.gz", VALUES[None].astype(np.int16)))
    np.testing.assert_array_equal(one, VALUES[None])
    nibabel.save(nibabel.Nifti1Image(VALUES.T.astype(np.float32), np.eye(4)), tmp_path / "b.nii")
    np.testing.assert_array_equal(read_nifti_image(tmp_path / "b.nii"), VALUES[None])
    values = np.arange(60, dtype=np.int16).reshape(5, 3, 4)
    volume = write_nifti(tmp_path / "c.nii", values)
    np.testing.assert_array_equal(read_nifti_image(volume), values)
    whole = volume.read_bytes()
    volume.write_bytes(whole[:-10])
    assert refusal(read_nifti_image, volume).startswith("fewer voxels than the header says")


def test_the_readers_are_announced():
    found = {point.name for point in entry_points(group="fewcore.readers")}
    assert {"dcm", "ima", "nii", "nii.gz"} <= found


def test_folder_refuses_a_volume_of_several_slices(tmp_path, write_nifti):
    write_nifti(tmp_path / "ct.nii.gz", np.zeros((5, 3, 4), np.int16))
    (tmp_path / "labels.csv").write_text("image,class\nct.nii.gz,sick")
    with pytest.raises(DataError, match=r"ct\.nii\.gz: a volume of 5 slices; expected one image a file"):
        Folder(str(tmp_path), table="labels.csv", mask_column="", patient_column="").load(Run())


def test_folder_reads_a_table_of_them(tmp_path, dicom, write_nifti):
    inside = VALUES > 0
    write_nifti(tmp_path / "ct.nii.gz", VALUES[None].astype(np.int16))
    write_nifti(tmp_path / "mask.nii.gz", inside[None].astype(np.uint8))
    dicom("slice").rename(tmp_path / "film.dcm")
    lines = ["image,mask,class,patient", "ct.nii.gz,mask.nii.gz,sick,a", "film.dcm,mask.nii.gz,well,b"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    options = {"image_size": 8, "grey": True, "fit": "stretch", "validation_share": 0, "test_share": 0}
    made = Folder(str(tmp_path), table="labels.csv", window=(-200.0, 350.0), **options).load(Run())
    assert made.images.dtype == np.float32
    np.testing.assert_array_equal(made.images[0], made.images[1])
    np.testing.assert_allclose([made.images[0].min(), made.images[0].max()], [0, 1], atol=0.01)
    np.testing.assert_array_equal(made.geometry["size"], [[3, 4], [3, 4]])
    shown = made.targets["mask"].values
    np.testing.assert_array_equal(shown[0], shown[1])
    assert 0 < shown.mean() < 1
