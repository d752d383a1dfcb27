"""Trained models on new files: masks lie on the files they were made from, whatever their format, size and geometry."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewcore
from fewcore import DataError
from fewcore.cli import main

PIPELINE = """
fewcore: 1
name: discs
target: class
splits: {test: 0.1, validation: 0.1}
stages:
  data:  {dataset: folder, path: set, table: labels.csv, grey: true, image_size: 32, structures: [bright disc]}
  u-net: {learner: u-net, width: 4, levels: 2, epochs: 30, patience: 30, learning_rate: 0.02, batch_size: 8, dropout: 0.0}
  u-mtl: {learner: u-mtl, width: 4, levels: 2, epochs: 1, batch_size: 8}
"""
AFFINE = np.array([[0.5, 0.1, 0.0, 3.0], [-0.1, 0.6, 0.2, -40.0], [0.0, -0.3, 2.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
HAS_MEDICAL = bool(entry_points(group="fewcore.writers"))
needs_medical = pytest.mark.skipif(not HAS_MEDICAL, reason="fewcore-medical, which reads NIfTI, is not installed")


def film(rng, h, w):
    """An image with a bright disc, and where it is."""
    y, x = rng.uniform(0.35, 0.65, 2) * (h, w)
    inside = np.hypot(np.arange(h)[:, None] - y, np.arange(w)[None] - x) < rng.uniform(0.15, 0.25) * min(h, w)
    return (60 + 120 * inside + rng.normal(0, 10, (h, w))).clip(0, 255).astype(np.uint8), inside


def dice(mask, truth):
    mask, truth = np.asarray(mask) > 0, np.asarray(truth) > 0
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def train(home: Path) -> None:
    """Train on a folder of PNG films with masks, by the command, then take the films away."""
    rng = np.random.default_rng(0)
    (home / "set").mkdir()
    lines = ["image,mask,class,patient"]
    for i in range(40):
        pixels, inside = film(rng, *((48, 64) if i % 2 else (64, 48)))
        Image.fromarray(pixels).save(home / "set" / f"{i}.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(home / "set" / f"{i}_mask.png")
        lines.append(f"{i}.png,{i}_mask.png,{'ab'[i % 4 < 2]},p{i}")
    (home / "set" / "labels.csv").write_text("\n".join(lines))
    (home / "discs.yaml").write_text(PIPELINE)
    with pytest.raises(SystemExit) as stop:
        main(["run", "discs.yaml", "--out", "run", "--device", "cpu"])
    assert stop.value.code == 0
    shutil.rmtree(home / "set")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run of a U-Net and a U-MTL whose data are gone."""
    place = tmp_path_factory.mktemp("discs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWCORE_CACHE", str(place / "cache"))
        patch.chdir(place)
        train(place)
        yield place


def rows(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_of_images_of_other_sizes_lie_on_them(home, tmp_path):
    rng = np.random.default_rng(1)
    truths = {}
    for name, size in {"tall.png": (100, 72), "wide.tif": (50, 68), "small.png": (20, 24)}.items():
        pixels, truths[name] = film(rng, *size)
        Image.fromarray(pixels).save(tmp_path / name, dpi=(254, 254))
    main(
        ["predict", "run", *(str(tmp_path / name) for name in truths), "--stage", "u-net", "--out", str(tmp_path / "o")]
    )
    found = rows(tmp_path / "o")
    assert [row["file"] for row in found] == list(truths)
    assert list(found[0]) == ["file", "mask bright disc"], "a U-Net makes masks alone"
    for row in found:
        stem, _, suffix = row["file"].partition(".")
        assert row["mask bright disc"] == f"masks/{stem}_bright-disc.{suffix}"
        with Image.open(tmp_path / "o" / row["mask bright disc"]) as mask:
            pixels = np.asarray(mask)
            assert round(float(mask.info["dpi"][0])) == 254
        assert pixels.shape == truths[row["file"]].shape
        assert set(np.unique(pixels)) == {0, 255}
        assert dice(pixels, truths[row["file"]]) > 0.75, row["file"]


def test_a_model_of_both_says_classes_with_scores_and_masks(home, tmp_path):
    pixels, _ = film(np.random.default_rng(2), 50, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = fewcore.load_model("run", "u-mtl", device="cpu").predict(tmp_path / "a.png")
    found.save(tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert list(row) == ["file", "class", "score a", "score b", "mask bright disc"]
    assert float(row["score a"]) + float(row["score b"]) == pytest.approx(1, abs=1e-4)
    assert row["class"] in ("a", "b")
    assert found.masks(0).shape == (1, 1, 50, 50)


def test_two_models_of_a_run_must_be_told_apart(home):
    with pytest.raises(
        fewcore.PipelineError, match=r"2 models: u-net; u-mtl; expected one of them \(type --stage u-net\)"
    ):
        fewcore.load_model("run")


def test_the_masks_are_those_that_the_run_predicted(home, tmp_path):
    """A file of the size of the model's images goes through no other step: its mask is the network's own, cut at a half."""
    pixels, _ = film(np.random.default_rng(3), 32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = fewcore.load_model("run", "u-net", device="cpu").predict(tmp_path / "a.png")
    np.testing.assert_array_equal(found.masks(0)[0, 0], found.raw_masks[0, 0] >= 0.5)


@needs_medical
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_goes_through_slice_by_slice_and_its_mask_has_its_affine(home, tmp_path, suffix):
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(4)
    slices, truth = zip(*(film(rng, 90, 130) for _ in range(3)), strict=True)
    image = nibabel.Nifti1Image(np.stack(slices).transpose(2, 1, 0).astype(np.int16), AFFINE)
    nibabel.save(image, tmp_path / f"ct{suffix}")
    found = fewcore.load_model("run", "u-net", device="cpu").predict(tmp_path)
    found.save(tmp_path / "out")
    table = rows(tmp_path / "out")
    assert [(row["file"], row["slice"]) for row in table] == [(f"ct{suffix}", str(i)) for i in (1, 2, 3)]
    assert {row["mask bright disc"] for row in table} == {f"masks/ct_bright-disc{suffix}"}
    made = nibabel.load(tmp_path / "out" / "masks" / f"ct_bright-disc{suffix}")
    assert made.shape == image.shape
    np.testing.assert_allclose(made.affine, AFFINE, atol=1e-6)
    values = np.asarray(made.dataobj).transpose(2, 1, 0)
    assert set(np.unique(values)) == {0, 1}
    assert min(map(dice, values, truth)) > 0.75


@needs_medical
def test_ct_numbers_need_a_window_where_the_run_had_eight_bits(home, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pixels, truth = film(np.random.default_rng(5), 64, 80)
    numbers = (pixels.astype(np.float32) - 100) * 4
    nibabel.save(nibabel.Nifti1Image(numbers.T[:, :, None], AFFINE), tmp_path / "ct.nii.gz")
    model = fewcore.load_model("run", "u-net", device="cpu")
    with pytest.raises(DataError, match=r"ct\.nii\.gz: values from -\d+ to \d+; expected 0 to 255, as in the data set"):
        model.predict(tmp_path)
    assert dice(model.predict(tmp_path, window=(-400.0, 620.0)).masks(0)[0, 0], truth) > 0.75


@needs_medical
def test_a_radiograph_as_dicom_gets_its_mask_as_dicom(home, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    pixels, truth = film(np.random.default_rng(6), 60, 70)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("a", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3"
    data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID = "p", "1.2.4", "1.2.5"
    data.PixelSpacing = [0.2, 0.3]
    data.set_pixel_data(pixels, "MONOCHROME2", 8, generate_instance_uid=False)
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    found = fewcore.load_model("run", "u-net", device="cpu").predict(tmp_path / "a.dcm")
    found.save(tmp_path / "out")
    made = pydicom.dcmread(tmp_path / "out" / "masks" / "a_bright-disc.dcm")
    assert (made.PatientID, made.StudyInstanceUID, list(made.PixelSpacing)) == ("p", "1.2.4", [0.2, 0.3])
    assert made.pixel_array.shape == truth.shape
    assert dice(made.pixel_array, truth) > 0.75


@pytest.mark.parametrize("stage, outputs", [("u-mtl", ["scores", "masks"]), ("u-net", ["masks"])])
def test_exported_models_make_the_same_masks_and_classes(home, tmp_path, stage, outputs):
    rng = np.random.default_rng(8)
    for name in ("a", "b", "c"):
        Image.fromarray(film(rng, 32, 32)[0]).save(tmp_path / f"{name}.png")
    model = fewcore.load_model("run", stage, device="cpu")
    found = model.predict([tmp_path / f"{name}.png" for name in ("a", "b", "c")])
    has_onnx = importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript")
    made = model.export(tmp_path / ("model.onnx" if has_onnx and stage == "u-mtl" else "model.pt2"))
    said = json.loads(made.description.read_text())
    assert [(one["name"], one["shape"][1:]) for one in said["outputs"]] == [
        (name, {"scores": [2], "masks": [1, 32, 32]}[name]) for name in outputs
    ]
    assert said["outputs"][-1]["names"] == ["bright disc"]
    pixels = np.stack([np.asarray(Image.open(tmp_path / f"{name}.png"), np.float32)[None] / 255 for name in "abc"])
    for count in (3, 1):
        run = _run(made.path, pixels[:count])
        np.testing.assert_allclose(run["masks"], found.raw_masks[:count], atol=1e-5)
        if "scores" in outputs:
            np.testing.assert_allclose(run["scores"], found.scores[:count], atol=1e-5)


def _run(path: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What an exported file says of pixels (n, 1, h, w)."""
    if path.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))
    with torch.no_grad():
        return {name: values.numpy() for name, values in torch.export.load(path).module()(torch.tensor(pixels)).items()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu(home, tmp_path):
    Image.fromarray(film(np.random.default_rng(7), 50, 60)[0]).save(tmp_path / "a.png")
    found = [fewcore.load_model("run", "u-mtl", device=name).predict(tmp_path) for name in ("cpu", "cuda")]
    np.testing.assert_allclose(found[1].raw_masks, found[0].raw_masks, atol=1e-3)
    np.testing.assert_allclose(found[1].scores, found[0].scores, atol=1e-3)
