"""Masks beside new files of NIfTI and DICOM, in their format and geometry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fewcore import Array, DataError, Problem
from fewcore_medical.dicom import BROKEN, quiet_pydicom

OF_VALUES = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenterWidthExplanation",
    "PresentationLUTShape",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "IconImageSequence",
)
"""Tags that speak of the values of an image, which those of its mask are not."""
OVERLAYS = range(0x6000, 0x6100)


def write_nifti_mask(mask: Array, source: Path, target: Path, structure: str) -> None:
    """Write a mask (d, h, w) of 0 and 1 as uint8, with the shape, spacing, place and direction of the source.

    Of the header's texts and extensions none is taken over; its description names the structure.

    Raises:
        DataError: the source cannot be read any more.

    """

    def write() -> None:
        image: Any = nibabel.load(source)
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header.extensions.clear()
        for text in (name for name in header if header[name].dtype.kind == "S" and name != "magic"):
            header[text] = b""
        header["descrip"] = _plain(f"mask {structure}").encode()
        header["cal_min"], header["cal_max"] = 0, 1
        values = mask.astype(np.uint8).transpose(2, 1, 0).reshape(image.shape)
        nibabel.save(type(image)(values, image.affine, header), target)

    _told(write, (*BROKEN, HeaderDataError, ImageFileError))


def write_dicom_mask(mask: Array, source: Path, target: Path, structure: str) -> None:
    """Write a mask (1, h, w) of 0 and 1 as a secondary capture of 8 bits in the study and space of the source.

    It keeps patient, study, frame of reference, place, direction and spacing; its instance and series are new, and it refers
    to the source. The masks of one structure in all images of a series are a series, which is named after the structure.

    Raises:
        DataError: the source cannot be read any more.

    """

    def write() -> None:
        with quiet_pydicom():
            read = pydicom.dcmread(source)
            read.decode()
            # A data set of its own: what was read can only be saved in the order of bytes in which it was.
            data = Dataset(read)
            data.file_meta = read.file_meta
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            _describe(data, mask, target.name, structure)
            data.save_as(target, enforce_file_format=True)

    _told(write, BROKEN)


def _describe(data: Dataset, mask: Array, name: str, structure: str) -> None:
    """Turn the image's data set into that of its mask."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = data.get("SOPClassUID", SecondaryCaptureImageStorage)
    reference.ReferencedSOPInstanceUID = data.get("SOPInstanceUID", generate_uid())
    for tag in OF_VALUES:
        if tag in data:
            delattr(data, tag)
    for element in [element for element in data if element.tag.group in OVERLAYS]:
        del data[element.tag]
    data.set_pixel_data(np.ascontiguousarray(mask[0], np.uint8), "MONOCHROME2", 8, generate_instance_uid=False)
    data.ImageType, data.Modality, data.ConversionType = ["DERIVED", "SECONDARY"], "OT", "WSD"
    data.SeriesDescription = _plain(f"mask {structure}")
    data.DerivationDescription = "mask predicted by fewcore"
    data.WindowCenter, data.WindowWidth = 0.5, 1
    data.SourceImageSequence = [reference]
    data.SOPClassUID = SecondaryCaptureImageStorage
    content = hashlib.sha256(mask.tobytes()).hexdigest()
    data.SOPInstanceUID = generate_uid(entropy_srcs=[str(reference.ReferencedSOPInstanceUID), name, content])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[str(data.get("SeriesInstanceUID", "")), "mask", structure])
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID


def _plain(text: str) -> str:
    """Return a text as both formats take it: ASCII, of at most 64 characters, without what parts values in DICOM."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:64].strip()


def _told(write: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
    """Say that the source is unusable, and nothing of its header; errors of the disk pass."""
    try:
        write()
    except errors as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        found = f"a file beside which no mask can be written ({type(error).__name__})"
        raise DataError(Problem("", found, "the file as it was read")) from error
