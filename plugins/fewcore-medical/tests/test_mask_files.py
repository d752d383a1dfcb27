"""Masks are written in the format and geometry of NIfTI and DICOM files, and what they say of patients is neither more nor less."""

from __future__ import annotations

import gzip
from importlib.metadata import entry_points

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.nifti1 import Nifti1Extension
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian
from pylidc_database import SECRET

from fewcore import DataError, ImageSpec, Run
from fewcore.models.file_predictions import FilePredictions
from fewcore.models.new_files import listed, read_all
from fewcore.models.new_images import Fitting
from fewcore_medical.flat_images import read_dicom_image, read_nifti_image
from fewcore_medical.mask_files import write_dicom_mask, write_nifti_mask

AFFINE = np.array([[0.5, 0.1, 0.0, 3.0], [-0.1, 0.6, 0.2, -40.0], [0.0, -0.3, 2.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
TEXTS = {"descrip": 80, "aux_file": 24, "db_name": 18, "intent_name": 16, "data_type": 10}
"""The texts of a NIfTI header, and their lengths."""
MASK = (np.arange(60).reshape(5, 3, 4) % 7 < 3).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("form", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_nifti_mask_has_the_place_and_direction_of_its_volume(tmp_path, name, form):
    image = form(np.ones((4, 3, 5), np.float32), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 4)
    image.header.set_xyzt_units("mm", "sec")
    for text, size in TEXTS.items():
        if text in image.header:
            image.header[text] = SECRET.encode()[:size]
    for code in (2, 4, 6):
        image.header.extensions.append(Nifti1Extension(code, SECRET.encode()))
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / name)
    target = tmp_path / f"mask_{name}"
    write_nifti_mask(MASK, tmp_path / name, target, "left lung")
    source, made = nibabel.load(tmp_path / name), nibabel.load(target)
    assert type(made) is form
    np.testing.assert_array_equal(made.affine, source.affine)
    for fact in ("dim", "pixdim", "qform_code", "sform_code", "xyzt_units"):
        np.testing.assert_array_equal(made.header[fact], source.header[fact])
    assert made.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(read_nifti_image(target), MASK)
    content = target.read_bytes()
    content = gzip.decompress(content) if name.endswith(".gz") else content
    for size in {len(SECRET), *TEXTS.values()}:
        assert SECRET.encode()[: size - 1] not in content
    assert bytes(made.header["descrip"]).rstrip(b"\0") == b"mask left lung"


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1), (4, 3, 1, 1)])
def test_a_nifti_mask_has_as_many_axes_as_its_image(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), AFFINE), tmp_path / "a.nii")
    write_nifti_mask(MASK[:1], tmp_path / "a.nii", tmp_path / "b.nii", "lung")
    assert nibabel.load(tmp_path / "b.nii").shape == shape
    np.testing.assert_array_equal(read_nifti_image(tmp_path / "b.nii"), MASK[:1])


@pytest.fixture
def film(tmp_path, write_series):
    """A DICOM file with a window, a place and a study."""
    tags = {"WindowCenter": 40, "WindowWidth": 400, "StudyInstanceUID": "1.2.9", "FrameOfReferenceUID": "1.2.8"}
    tags |= {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [0.5, 0.25], "SmallestImagePixelValue": 5}
    return next(write_series(tmp_path / "in", np.zeros((1, 3, 4), int), **tags).iterdir())


def test_a_dicom_mask_lies_on_its_image_in_the_study_of_the_patient(tmp_path, film):
    write_dicom_mask(MASK[:1], film, tmp_path / "m.dcm", "lung")
    np.testing.assert_array_equal(read_dicom_image(tmp_path / "m.dcm"), MASK[0])
    source, made = pydicom.dcmread(film), pydicom.dcmread(tmp_path / "m.dcm")
    same = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PixelSpacing", "Rows", "Columns")
    for tag in (*same, "ImagePositionPatient", "ImageOrientationPatient"):
        assert made.get(tag) == source.get(tag), tag
    assert (made.BitsStored, made.SamplesPerPixel, made.ImageType[0]) == (8, 1, "DERIVED")
    assert not {"RescaleSlope", "RescaleIntercept", "SmallestImagePixelValue"} & set(made.dir())
    assert made.SOPInstanceUID != source.SOPInstanceUID
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID


def test_the_masks_of_a_structure_are_a_series_of_its_own_and_the_same_when_written_again(tmp_path, film):
    named = {"a_lung.dcm": "lung", "b_lung.dcm": "lung", "a_heart.dcm": "heart", "again/a_lung.dcm": "lung"}
    for name, structure in named.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_dicom_mask(MASK[:1], film, tmp_path / name, structure)
    first, second, other = (pydicom.dcmread(tmp_path / name) for name in list(named)[:3])
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != other.SeriesInstanceUID
    assert len({made.SOPInstanceUID for made in (first, second, other)}) == 3
    assert [made.SeriesDescription for made in (first, second, other)] == ["mask lung", "mask lung", "mask heart"]
    assert (tmp_path / "a_lung.dcm").read_bytes() == (tmp_path / "again" / "a_lung.dcm").read_bytes()


@pytest.mark.parametrize(
    ("structure", "said"),
    [("<6 mm\\7 mm", "mask <6 mm/7 mm"), ("Läsion", "mask L?sion"), ("x" * 90, f"mask {'x' * 59}")],
)
def test_any_name_of_a_structure_can_be_said_in_dicom(tmp_path, film, structure, said):
    write_dicom_mask(MASK[:1], film, tmp_path / "m.dcm", structure)
    assert pydicom.dcmread(tmp_path / "m.dcm").SeriesDescription == said


def test_a_film_of_the_other_order_of_bytes_has_a_mask_too(tmp_path, film):
    read = pydicom.dcmread(film)
    read.decode()
    data = Dataset(read)
    data.AcquisitionMatrix = [0, 256, 258, 0]
    data["PixelData"].VR = "OW"
    data.PixelData = read.pixel_array.astype(">u2").tobytes()
    data.file_meta = read.file_meta
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.save_as(tmp_path / "big.dcm", enforce_file_format=True)
    write_dicom_mask(MASK[:1], tmp_path / "big.dcm", tmp_path / "m.dcm", "lung")
    np.testing.assert_array_equal(read_dicom_image(tmp_path / "m.dcm"), MASK[0])
    made = pydicom.dcmread(tmp_path / "m.dcm")
    assert (made.PatientID, list(made.AcquisitionMatrix)) == (SECRET, [0, 256, 258, 0])
    assert list(made.PixelSpacing) == [0.5, 0.25]


def test_a_mask_of_an_odd_number_of_pixels_and_of_white_at_zero(tmp_path, write_series):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0}
    source = next(write_series(tmp_path / "in", np.zeros((1, 3, 3), int), **tags).iterdir())
    write_dicom_mask(MASK[:1, :, :3], source, tmp_path / "m.dcm", "lung")
    np.testing.assert_array_equal(read_dicom_image(tmp_path / "m.dcm"), MASK[0, :, :3])


@pytest.mark.parametrize(("write", "name"), [(write_nifti_mask, "a.nii"), (write_dicom_mask, "a.dcm")])
def test_a_source_that_went_bad_is_told(tmp_path, write, name):
    (tmp_path / name).write_bytes(b"x" * 400)
    with pytest.raises(DataError, match=r"a file beside which no mask can be written \("):
        write(MASK, tmp_path / name, tmp_path / f"m_{name}", "lung")


def test_a_compressed_volume_of_a_plain_name_leaves_nothing_half_written(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 1), np.uint8), AFFINE), tmp_path / "good.nii")
    (tmp_path / "zipped.nii").write_bytes(gzip.compress((tmp_path / "good.nii").read_bytes()))
    fitting = Fitting(ImageSpec((8, 8), 1, (0.0, 255.0), preparation={"grey": True}), "uint8")
    files = read_all(listed([tmp_path / "good.nii", tmp_path / "zipped.nii"]), fitting, Run(), one_each=False)[1]
    rows = np.arange(len(files))
    masks = np.ones((len(files), 1, 8, 8), np.float32)
    found = FilePredictions(tuple(files), rows, (), ("lung",), None, None, (), masks, fitting)
    with pytest.raises(DataError, match=r"zipped\.nii: a file beside which no mask can be written"):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_writers_are_announced():
    readers, writers = ({p.name for p in entry_points(group=f"fewcore.{group}")} for group in ("readers", "writers"))
    assert {"dcm", "ima", "nii", "nii.gz"} <= writers <= readers
