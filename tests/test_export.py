"""`fewcore export`, and the same from Python: the file says what the model says, and nothing else is kept."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_predict import OTHERS, PIPELINE, draw, ran, refusal
from torch import nn

import fewcore
from fewcore import DataError, NumericalError, PipelineError, PluginError, ResourceError
from fewcore.cli import main
from fewcore.contracts import ImageSpec
from fewcore.exporting import formats
from fewcore.exporting.export import entering, network_for_export
from fewcore.models.new_images import Fitting

GIST = """
  gist:  {embedder: gist}
  knife: {learner: nearest-neighbour, from: {embeddings: gist}}
"""
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in formats.FORMATS[".onnx"].libraries),
    reason="needs pip install 'fewcore[export]'",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with finished runs, a model adapted to two classes, and new images."""
    home = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWCORE_CACHE", str(home / "cache"))
        patch.chdir(home)
        draw(home / "images", "left", "right", "top", "bottom")
        ran(home, PIPELINE)
        ran(home, OTHERS + GIST, "others")
        draw(home / "labelled", "core", "ring", seed=1, n=4)
        draw(home / "new", "core", "ring", seed=2, n=3)
        fewcore.load_model(home / "run", "protonets", device="cpu").adapt(home / "labelled").save(home / "mine")
        yield home


def pixels_of(model: fewcore.models.trained.TrainedModel, folder: Path) -> torch.Tensor:
    """The images of a folder as the description says: prepared, divided by 255."""
    fitting = Fitting(model.record.spec, model.record.dtype)
    images = [fitting.read(path).images for path in sorted(folder.rglob("*.png"))]
    return torch.from_numpy(np.concatenate(images).astype(np.float32) / 255)


def opened(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        return formats.FORMATS[path.suffix].opened(path)


# ---- what is written


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=needs_onnx), ".ts", ".pt2"])
def test_a_file_says_what_the_model_says_of_one_image_and_of_many(place, tmp_path, capfd, suffix):
    out = tmp_path / "new" / f"mine{suffix}"
    main(["export", str(place / "mine"), "--out", str(out)])
    said = capfd.readouterr()
    first, second = said.out.splitlines()
    assert first == f"network: {out}, protonets; how to feed it: mine{suffix}.json"
    assert second.startswith("checked: its outputs are within ")
    assert not said.err, "what torch says of its own ways of writing is no one's business"
    assert {path.name for path in out.parent.iterdir()} == {f"mine{suffix}", f"mine{suffix}.json"}
    model = fewcore.load_model(place / "mine", device="cpu")
    expected = model.predict(place / "new").scores
    pixels = pixels_of(model, place / "new")
    call = opened(out)
    for count in (6, 1, 3):
        np.testing.assert_allclose(call(pixels[:count])["scores"], expected[:count], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run, stage", [("run", "knn"), ("others", "vectors"), ("others", "tuned"), ("others", "near")])
def test_models_on_vectors_go_through_their_encoder(place, tmp_path, run, stage):
    model = fewcore.load_model(place / run, stage, device="cpu")
    model = model if model.classes else model.adapt(place / "labelled")
    made = model.export(tmp_path / "model.ts")
    assert made.difference < 1e-5
    found = opened(made.path)(pixels_of(model, place / "new"))
    np.testing.assert_allclose(found["scores"], model.predict(place / "new").scores, rtol=1e-4, atol=1e-5)


def test_the_description_says_how_to_feed_the_network(place, tmp_path):
    made = fewcore.load_model(place / "mine", device="cpu").export(tmp_path / "mine.ts")
    said = json.loads(made.description.read_text())
    assert said["input"] == {
        "name": "pixels",
        "shape": ["n", 1, 8, 8],
        "dtype": "float32",
        "range": [0.0, 1.0],
        "spacing_mm": None,
        "preparation": {"grey": True, "fit": "stretch", "bits": 16, "max_pixels": 50_000_000},
        "steps": [
            "of files of more than 8 bits, 0 is black and 65535 white",
            "turn it as its EXIF tag says",
            "make it grey: 0.299 red + 0.587 green + 0.114 blue",
            "resize it to the square, whatever its proportions: 8 x 8 pixels, bilinear with antialiasing (Pillow's)",
            "round to 256 levels, 0 to 255, and divide by 255: black is 0 and white is 1",
        ],
    }
    assert [(output["name"], output["shape"], output["names"]) for output in said["outputs"]] == [
        ("scores", ["n", 2], ["core", "ring"])
    ]
    assert said["model"]["labelled"] == {"core": 4, "ring": 4}
    assert said["checked"]["largest_difference"] == made.difference
    kept = {"fewcore.json": ""}
    with pytest.warns(FutureWarning, match=r"torch\.jit"):
        torch.jit.load(made.path, _extra_files=kept)
    assert json.loads(kept["fewcore.json"]) == {k: said[k] for k in ("fewcore", "model", "input", "outputs", "batch")}
    assert str(place) not in made.description.read_text()


@needs_onnx
def test_the_lines_of_the_docs_need_no_fewcore(place, tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
    lines = page.partition("```python\n")[2].partition("```")[0]
    model = fewcore.load_model(place / "mine", device="cpu")
    model.export(tmp_path / "digits.onnx")
    expected = []
    for number, path in enumerate(sorted((place / "new").rglob("*.png"))):
        # Squares of the model's size: no fitting is left to do.
        image = np.rint(pixels_of(model, path.parent)[number % 3, 0].numpy() * 255).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        expected.append(["core", "ring"][number // 3])
    code = "import sys\nsys.modules['fewcore'] = sys.modules['torch'] = None\n" + lines
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == expected


def test_floats_enter_in_the_range_of_the_data():
    spec = ImageSpec((8, 8), 1, (-1.0, 3.0))
    assert entering(spec, "float32") is spec
    assert entering(spec, "uint8").value_range == (0.0, 1.0)


# ---- what is refused


def test_a_few_shot_model_that_was_not_adapted_says_what_to_type(place, tmp_path):
    model = fewcore.load_model(place / "run", "knn")
    assert "type fewcore adapt" in refusal(PipelineError, lambda: model.export(tmp_path / "a.onnx"))


@pytest.mark.parametrize("name, found", [("a.png", "'.png'"), ("a", "no ending")])
def test_a_name_must_say_the_format(place, tmp_path, name, found):
    text = refusal(PipelineError, lambda: fewcore.load_model(place / "mine").export(tmp_path / name))
    assert f"{found}; expected one of .onnx (ONNX), .ts (TorchScript), .pt2 (torch.export)" in text


def test_nothing_is_written_over_unless_it_is_said(place, tmp_path):
    model = fewcore.load_model(place / "mine", device="cpu")
    (tmp_path / "a.ts.json").write_text("mine")
    assert "a.ts.json: there already" in refusal(DataError, lambda: model.export(tmp_path / "a.ts"))
    assert not (tmp_path / "a.ts").exists()
    model.export(tmp_path / "a.ts", overwrite=True)
    assert json.loads((tmp_path / "a.ts.json").read_text())["format"] == "TorchScript"


def test_a_missing_library_names_the_extra(place, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = refusal(PluginError, lambda: fewcore.load_model(place / "mine").export(tmp_path / "a.onnx"))
    assert "found no onnx, onnxscript, onnxruntime" in text
    assert "pip install 'fewcore[export]'" in text


def test_a_place_that_cannot_be_written_is_told(place, tmp_path):
    (tmp_path / "file").write_text("x")
    model = fewcore.load_model(place / "mine", device="cpu")
    assert "cannot be written" in refusal(ResourceError, lambda: model.export(tmp_path / "file" / "a.ts"))


def test_what_is_no_network_is_named(place, tmp_path):
    model = fewcore.load_model(place / "others", "knife", device="cpu")
    text = refusal(DataError, lambda: model.export(tmp_path / "a.ts"))
    assert "found GistEncoder, which is no network that a file can hold" in text
    assert "fewcore predict" in text
    assert not list(tmp_path.iterdir())


class Wrong(nn.Module):
    """A network that says something else than the model: `how` says what."""

    def __init__(self, network: nn.Module, how: str) -> None:
        super().__init__()
        self.network, self.how = network, how

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.network(pixels)["scores"]
        if self.how == "shifted":
            return {"scores": scores + 1e-3 * scores.abs().max()}
        if self.how == "not numbers":
            return {"scores": scores / 0.0 * 0.0}
        if self.how == "one batch":
            return {"scores": scores + torch.zeros(2, 1)}
        if self.how == "other shape":
            return {"scores": scores[:, :1]}
        return {"masks": scores}


@pytest.mark.parametrize("how", ["shifted", "not numbers", "one batch", "other shape", "other name"])
def test_a_file_that_says_something_else_is_not_kept(place, tmp_path, monkeypatch, how):
    model = fewcore.load_model(place / "mine", device="cpu")
    monkeypatch.setattr(
        "fewcore.models.trained.network_for_export", lambda *given: Wrong(network_for_export(*given), how)
    )
    with pytest.raises(NumericalError, match="It was not kept") as caught:
        model.export(tmp_path / "a.ts")
    assert caught.value.exit_code == 6
    assert not list(tmp_path.iterdir())


def test_a_network_that_a_format_cannot_hold_is_told_with_the_others(place, tmp_path, monkeypatch):
    class Python(nn.Module):
        def forward(self, pixels):
            return {"scores": torch.from_numpy(np.fft.fft2(pixels.numpy()).real)}

    model = fewcore.load_model(place / "mine", device="cpu")
    monkeypatch.setattr("fewcore.models.trained.network_for_export", lambda *given: Python())
    text = refusal(PluginError, lambda: model.export(tmp_path / "a.pt2"))
    assert "a network that torch.export cannot hold" in text
    assert "try .onnx or .ts" in text
    assert not list(tmp_path.iterdir())
