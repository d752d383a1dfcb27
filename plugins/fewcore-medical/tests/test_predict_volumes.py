"""A few-shot model of volumes is adapted to a few and says classes of others: NIfTI files and folders of DICOM slices."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

import fewcore
from fewcore import DataError, ImageSpec, Run
from fewcore.cli import main
from fewcore.image_files import Unusable
from fewcore.models.new_files import listed, read_all
from fewcore.models.new_images import Fitting

PIPELINE = """
fewcore: 1
name: volumes
splits: {test: 0.5, by: group}
stages:
  data:   {dataset: ipmn, path: t2, size: 8, crop: volume, bias_iterations: 0, diffusion_iterations: 0}
  test:   {task_sampler: episodes, split: test, n_way: 2, n_query: 1, n_tasks: 2}
  pixels: {embedder: pixels}
  knn:    {meta_learner: knn}
"""


def has(*distributions):
    try:
        return all(map(version, distributions))
    except PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not has("fewcore-embed", "fewcore-meta"), reason="needs fewcore-embed and fewcore-meta, which make the model"
)


def volume(seed, axis):
    """A body that is bright on one side along an axis, with noise."""
    places = np.meshgrid(*[np.linspace(-1, 1, side) for side in (8, 24, 20)], indexing="ij")
    values = 100.0 + 100 * (places[axis] > 0) + 5 * np.random.default_rng(seed).normal(size=places[0].shape)
    return values.astype(np.float32)


@pytest.fixture
def home(tmp_path, write_nifti, monkeypatch):
    """A finished run, with volumes to adapt to in two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "cache"))
    lines = ["file,label,patient"]
    for i in range(20):
        write_nifti(tmp_path / "t2" / f"{i}.nii.gz", volume(i, 0))
        lines.append(f"{i}.nii.gz,{'normal' if i % 2 else 'IPMN'},p{i}")
    (tmp_path / "t2" / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "volumes.yaml").write_text(PIPELINE.replace("path: t2", f"path: {tmp_path / 't2'}"))
    with pytest.raises(SystemExit) as stop:
        main(["run", "volumes.yaml", "--out", "run", "--device", "cpu"])
    assert stop.value.code == 0
    for name, axis in (("behind", 1), ("left", 2)):
        for i in range(2):
            write_nifti(tmp_path / "labelled" / name / f"{i}.nii", volume(10 + i, axis))
    return tmp_path


def test_volumes_of_both_formats_go_through_the_steps_of_the_run(home, write_nifti, write_series):
    write_nifti(home / "new" / "a.nii.gz", volume(20, 1))
    write_series(home / "new" / "series" / "b", volume(21, 2).astype(int), gap=3.0)
    main(["adapt", "run", "--labelled", "labelled", "--out", "model"])
    # The model is copied without the data, and says of their place nothing.
    (home / "t2").rename(home / "gone")
    files = [path for path in (home / "model").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if bytes(home) in path.read_bytes()]
    found = fewcore.load_model("model").predict("new")
    assert [file.name for file in found.files] == ["a.nii.gz", "series/b"]
    assert found.predicted == ["behind", "left"]
    alone = fewcore.load_model("model").predict(["new/series/b"])
    np.testing.assert_allclose(alone.scores[0], found.scores[1], rtol=1e-6)
    # Exported, the model takes volumes; how they are made stays the data set's, and is said.
    made = fewcore.load_model("model").export("model.ts")
    assert made.difference < 1e-5
    said = json.loads(made.description.read_text())["input"]
    assert said["shape"] == ["n", 1, 8, 8, 8]
    assert said["steps"][0].startswith("the steps of the data set fewcore-medical:ipmn ")
    assert str(home) not in made.description.read_text()


def test_voxels_of_another_size_are_refused_with_the_difference(tmp_path, write_nifti):
    # The files' voxels are of 3 x 1 x 1 mm.
    volume_file = write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 6, 6), np.int16))
    slice_file = write_nifti(tmp_path / "b.nii", np.zeros((1, 6, 6), np.int16))
    for size, same, other, path in (
        ((4, 6, 6), (3.0, 1.0, 1.0), "2 x 1 x 1", volume_file),
        ((6, 6), (1.0, 1.0), "0.5 x 0.5", slice_file),
    ):
        spec = ImageSpec(size, 1, (0.0, 255.0), same, {"crop": "cube"})
        assert len(Fitting(spec, "uint8").read(path).images) == 1
        wanted = tuple(map(float, other.split(" x ")))
        found = " x ".join(f"{side:g}" for side in same)
        with pytest.raises(Unusable, match=rf"voxels of {found} mm; expected {other} mm, as the data set's are"):
            Fitting(replace(spec, spacing=wanted), "uint8").read(path)
        assert len(Fitting(replace(spec, spacing=None), "uint8").read(path).images) == 1


def test_volumes_of_a_data_set_without_steps_for_new_files_must_be_like_its_own(tmp_path, write_nifti):
    values = np.arange(4 * 6 * 6).reshape(4, 6, 6)
    cubes = Fitting(ImageSpec((4, 6, 6), 1, (0.0, 255.0), preparation={"crop": "cube"}), "uint8")
    found = cubes.read(write_nifti(tmp_path / "a.nii", values.astype(np.int16)))
    np.testing.assert_array_equal(found.images, values[None, None])
    with pytest.raises(Unusable, match="5 x 6 x 6 voxels; expected 4 x 6 x 6, as the volumes of its data set are"):
        cubes.read(write_nifti(tmp_path / "b.nii", np.zeros((5, 6, 6), np.int16)))
    with pytest.raises(Unusable, match="values from 0 to 1430; expected 0 to 255"):
        cubes.read(write_nifti(tmp_path / "c.nii", (10 * values).astype(np.int16)))


def test_what_is_no_volume_is_refused(home):
    model = fewcore.load_model("run").adapt("labelled")
    (home / "bad.nii").write_bytes(b"no volume")
    (home / "bad.png").write_bytes(b"no volume")
    with pytest.raises(DataError) as caught:
        model.predict(["bad.nii", "bad.png"])
    assert str(caught.value).splitlines()[1:] == [
        "  - bad.nii: no NIfTI header, or a truncated one; expected a NIfTI file in one piece",
        "  - bad.png: no NIfTI file; expected a file named .nii or .nii.gz, or a folder of DICOM files",
    ]
    with pytest.raises(DataError, match="a data set that scales values itself; expected no --window"):
        model.predict("labelled", window=(0.0, 1.0))


def test_a_volume_of_slices_is_no_labelled_image_of_a_flat_model(tmp_path, write_nifti):
    flat = Fitting(ImageSpec((6, 6), 1, (0.0, 255.0), preparation={"grey": True}), "uint8")
    write_nifti(tmp_path / "a.nii", np.zeros((4, 6, 6), np.int16))
    assert read_all(listed([tmp_path]), flat, Run(), one_each=False)[0].shape == (4, 1, 6, 6)
    with pytest.raises(DataError, match=r"a\.nii: a volume of 4 slices; expected one image a file"):
        read_all(listed([tmp_path]), flat, Run(), one_each=True)
