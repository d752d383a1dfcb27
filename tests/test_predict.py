"""`fewcore adapt` and `fewcore predict`, and the same from Python: runs on small images, then new files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewcore
from fewcore import DataError, NumericalError, PipelineError, PluginError, ResourceError, pipeline
from fewcore.cli import main
from fewcore.models.new_images import Fitting
from fewcore.models.records import read_models, write_models
from fewcore.plugins import load_registry
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store, user_root

PIPELINE = """
fewcore: 1
name: patterns
target: class
stages:
  data:      {dataset: folder, path: images, grey: true, image_size: 8, fit: stretch}
  parts:     {partitioner: labels}
  tasks:     {task_sampler: episodes, n_way: 2, n_query: 2}
  test:      {task_sampler: episodes, split: test, n_way: 2, n_query: 1, n_tasks: 5}
  net:       {backbone: fully-connected}
  protonets: {meta_learner: protonets, iterations: 3}
  pixels:    {embedder: pixels}
  knn:       {meta_learner: knn}
  score:     {evaluator: few-shot}
"""


OTHERS = """
fewcore: 1
name: others
target: class
stages:
  data:    {dataset: folder, path: images, grey: true, image_size: 8, fit: stretch}
  parts:   {partitioner: labels}
  tasks:   {task_sampler: episodes, n_way: 2, n_query: 2}
  test:    {task_sampler: episodes, split: test, n_way: 2, n_query: 1, n_tasks: 5}
  net:     {backbone: fully-connected}
  pixels:  {embedder: pixels}
  white:   {embedder: whiten, from: pixels}
  vectors: {meta_learner: protonets, iterations: 3, from: {images: white}}
  tuned:   {learner: fine-tune, from: {start: net}}
  near:    {learner: nearest-neighbour, from: {embeddings: pixels}}
"""

NOTHING = {"component": "fewcore:labels", "version": "1", "options": {}, "key": "0" * 32, "data": "", "inputs": {}}
SPEC = {"size": [8, 8], "channels": 1, "value_range": [0, 255], "spacing": None, "preparation": {}}
OUTCOMES = {}
"""What each run predicted of its own test images."""

PATTERNS = {
    "left": lambda y, x: x < 0.5,
    "right": lambda y, x: x >= 0.5,
    "top": lambda y, x: y < 0.5,
    "bottom": lambda y, x: y >= 0.5,
    "core": lambda y, x: (abs(y - 0.5) < 0.3) & (abs(x - 0.5) < 0.3),
    "ring": lambda y, x: (abs(y - 0.5) >= 0.3) | (abs(x - 0.5) >= 0.3),
}


def draw(folder: Path, *classes: str, seed: int = 0, n: int = 8) -> Path:
    """Noisy images of any size, a folder a class, bright where the class's pattern says so."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            h, w = rng.integers(8, 20, 2)
            bright = PATTERNS[name]((np.arange(h)[:, None] + 0.5) / h, (np.arange(w)[None] + 0.5) / w)
            pixels = 60 + 120 * bright + rng.normal(0, 8, (h, w))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}{i}.png")
    return folder


def ran(home: Path, text: str, name: str = "run") -> Path:
    """Run a pipeline as `fewcore run` does, less the report."""
    (home / "pipeline.yaml").write_text(text)
    session = Session(Store(), torch.device("cpu"))
    result = Runner(pipeline.load(home / "pipeline.yaml", load_registry()), session).run()
    assert not result.failures, result.failures
    OUTCOMES[name] = result.outcomes
    (home / name).mkdir()
    write_models(session, result.models, home / name)
    (home / name / "pipeline.yaml").write_text(text)
    return home / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a finished run, whose images are then taken away, and the store, which must not change."""
    home = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWCORE_CACHE", str(home / "cache"))
        patch.chdir(home)
        draw(home / "images", "left", "right", "top", "bottom")
        ran(home, PIPELINE)
        ran(home, OTHERS, "others")
        (home / "images").rename(home / "kept")
        draw(home / "labelled", "core", "ring", seed=1, n=4)
        draw(home / "new", "core", "ring", seed=2, n=3)
        yield home


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A function that runs a command in a folder and returns exit code, stdout and stderr."""

    def call(*arguments: object, cwd: Path) -> tuple[int, str, str]:
        monkeypatch.chdir(cwd)
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refusal(kind: type[fewcore.FewcoreError], action) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def broken(place: Path, tmp_path: Path, change) -> Path:
    """A copy of the run whose records were changed."""
    folder = tmp_path / "broken"
    shutil.copytree(place / "run", folder)
    said = json.loads((folder / "models.json").read_text())
    change(said)
    (folder / "models.json").write_text(json.dumps(said))
    return folder


# ---- from the command line


def test_a_run_is_adapted_and_the_model_predicts_where_neither_run_nor_store_is(place, tmp_path, command, monkeypatch):
    model = ("--labelled", "labelled", "--shots", 2, "--stage", "knn", "--out", tmp_path / "m")
    code, said, told = command("adapt", "run", *model, cwd=place)
    assert (code, said) == (0, f"model: {tmp_path / 'm'}, knn adapted to core (2), ring (2)\n"), told
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "empty"))
    predict = ("predict", "m", place / "new", "--out", "out")
    code, said, told = command(*predict, cwd=tmp_path)
    assert (code, said) == (0, f"predictions: {tmp_path / 'out' / 'predictions.csv'}, 6 files\n"), told
    found = rows(tmp_path / "out")
    assert [row["file"] for row in found] == [f"{c}/{c}{i}.png" for c in ("core", "ring") for i in range(3)]
    assert [row["class"] for row in found] == ["core"] * 3 + ["ring"] * 3
    for row in found:
        scores = {name: float(row[f"score {name}"]) for name in ("core", "ring")}
        assert max(scores, key=scores.__getitem__) == row["class"]
    code, _, told = command(*predict, cwd=tmp_path)
    assert code == 3
    assert told.startswith("out/predictions.csv: there already; expected new files (type --overwrite")
    assert command(*predict, "--overwrite", cwd=tmp_path)[0] == 0
    assert rows(tmp_path / "out") == found
    assert {path.suffix for path in (tmp_path / "m").rglob("*") if path.is_file()} == {".json", ".npy"}


def test_a_table_of_its_own_name_lies_beside_the_images(place, tmp_path, command):
    draw(tmp_path / "new", "left", "top", n=2)
    call = ("predict", place / "others", ".", "--stage", "near", "--out", "answers.csv")
    code, said, told = command(*call, cwd=tmp_path / "new")
    assert (code, said) == (0, f"predictions: {tmp_path / 'new' / 'answers.csv'}, 4 files\n"), told
    with (tmp_path / "new" / "answers.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [
            f"{c}/{c}{i}.png" for c in ("left", "top") for i in (0, 1)
        ]
    code, _, told = command(*call, cwd=tmp_path / "new")
    assert code == 3
    assert told.startswith("answers.csv: there already; expected new files (type --overwrite")


def test_a_run_with_several_models_asks_which_and_exits_2(place, command):
    code, _, told = command("adapt", "run", "--labelled", "labelled", "--out", "never", cwd=place)
    assert (code, told) == (2, "run: 2 models: protonets; knn; expected one of them (type --stage protonets)\n")
    assert not (place / "never").exists()


def test_a_window_the_wrong_way_round_and_a_cell_without_a_value_are_refused(place, command):
    said = ("predict", "run", "new", "--out", "never")
    assert command(*said, "--window", 5, 1, cwd=place)[::2] == (2, "--window: 5 1; expected a low and a higher value\n")
    told = "--cell: 'seed'; expected PATH=VALUE, such as seed=0\n"
    assert command(*said, "--cell", "seed", cwd=place)[::2] == (2, told)


def test_patches_around_objects_are_mentioned(place, tmp_path, command):
    def around_objects(said):
        for model in said["models"]:
            model["spec"]["preparation"] |= {"per_object": True, "margin": 0.1}

    folder = broken(place, tmp_path, around_objects)
    said = ("adapt", folder, "--labelled", "labelled", "--stage", "knn", "--out", tmp_path / "m")
    code, _, told = command(*said, cwd=place)
    assert code == 0
    assert "the model learnt from patches around objects: each file is taken as one patch\n" in told


def test_components_of_other_versions_are_told(place, tmp_path, command):
    folder = broken(place, tmp_path, lambda said: said["models"][1]["recipe"].update(version="0.0.7"))
    stage = json.loads((folder / "models.json").read_text())["models"][1]["stage"]
    said = ("adapt", folder, "--labelled", "labelled", "--stage", stage, "--out", tmp_path / "m")
    code, _, told = command(*said, cwd=place)
    offer = load_registry().find("meta_learner", stage)
    line = f"the model was made with {offer.full_name} 0.0.7; {offer.version} is installed, and what it says may differ"
    assert code == 0, told
    assert told.splitlines().count(line) == 1
    assert fewcore.load_model(folder, stage).other_versions == (line,)
    assert fewcore.load_model(place / "run", stage).other_versions == ()


def test_what_is_copied_names_no_place_of_this_machine(place, tmp_path):
    fewcore.load_model(place / "others", "vectors", device="cpu").adapt(place / "labelled").save(tmp_path / "model")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert not any(bytes(folder) in path.read_bytes() for folder in (place, tmp_path)), path


def test_a_run_names_its_store_only_where_that_is_not_the_user_s_own(place, tmp_path, monkeypatch):
    assert {record.store for record in read_models(place / "run")} == {str(place / "cache")}
    monkeypatch.delenv("FEWCORE_CACHE")
    for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "own"))
    monkeypatch.chdir(place)
    text = (
        PIPELINE.partition("stages:")[0] + "stages:\n  data: {dataset: folder, path: kept, grey: true, image_size: 8}\n"
    )
    text += "  pixels: {embedder: pixels}\n  near: {learner: nearest-neighbour, from: {embeddings: pixels}}\n"
    folder = ran(tmp_path, text)
    assert str(tmp_path) not in (folder / "models.json").read_text()
    model = fewcore.load_model(folder, "near", device="cpu")
    assert len(model.predict(place / "new")) == 6
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "empty"))
    text = refusal(DataError, lambda: model.predict(place / "new"))
    assert f"the run kept it in {user_root()}: set FEWCORE_CACHE to that folder" in text


@pytest.mark.parametrize("name", ["adapt", "predict", "export"])
def test_help_of_the_commands_imports_no_torch(place, name):
    code = f"import sys, fewcore.cli\ntry: fewcore.cli.main(['{name}', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--stage" in done.stdout


# ---- from Python


@pytest.mark.parametrize("stage", ["knn", "protonets"])
def test_three_lines_of_python(place, stage):
    model = fewcore.load_model(place / "run", stage).adapt(place / "labelled")
    found = model.predict(place / "new")
    assert found.predicted == ["core"] * 3 + ["ring"] * 3
    assert model.classes == found.classes == ("core", "ring")
    assert found.scores.shape == (6, 2)


def test_the_lines_of_the_docs_run(place, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parent.parent / "docs" / "predict.md").read_text()
    lines = page.partition("```python\n")[2].partition("```")[0]
    broken(
        place, tmp_path / "runs", lambda said: said.update(models=[m for m in said["models"] if m["stage"] == "knn"])
    )
    (tmp_path / "runs" / "broken").rename(tmp_path / "runs" / "letters")
    draw(tmp_path / "letters", "core", "ring", seed=1, n=5)
    draw(tmp_path / "unknown", "core", "ring", seed=2, n=3)
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "predict.md", "exec"), {})
    assert capsys.readouterr().out == "['core', 'core', 'core'] (6, 2)\n"


@pytest.mark.parametrize("stage", ["knn", "protonets"])
def test_a_saved_model_says_the_same_as_before(place, tmp_path, monkeypatch, stage):
    model = fewcore.load_model(place / "run", stage, device="cpu").adapt(place / "labelled", 3, seed=5)
    before = model.predict(place / "new").scores
    model.save(tmp_path / "model")
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "empty"))
    loaded = fewcore.load_model(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict([place / "new"]).scores, before)
    assert loaded.record.labelled == {"core": 3, "ring": 3}


@pytest.mark.parametrize("stage", ["tuned", "near"])
def test_a_model_that_has_learnt_the_classes_of_the_run_needs_no_labelled_images(place, tmp_path, stage):
    draw(tmp_path / "mixed", "left", "top", "bottom", seed=3, n=4)
    found = fewcore.load_model(place / "others", stage, device="cpu").predict(tmp_path / "mixed")
    assert found.classes == ("bottom", "left", "right", "top")
    right = [name == file.name.partition("/")[0] for name, file in zip(found.predicted, found.files, strict=True)]
    assert len(right) == 12
    assert np.mean(right) > 0.7, "by chance it would be a quarter"


@pytest.mark.parametrize("stage", ["tuned", "near"])
def test_of_the_run_s_own_files_a_model_says_what_the_run_predicted(place, stage):
    judged = next(entry.outcome for entry in OUTCOMES["others"] if entry.outcome.stage == stage)
    said = {
        image.tobytes(): row for image, row in zip(judged.images[judged.ids], judged.predictions.scores, strict=True)
    }
    model = fewcore.load_model(place / "others", stage, device="cpu")
    found = model.predict(place / "kept")
    fitting = Fitting(model.record.spec, model.record.dtype)
    images = [fitting.read(file.path).images[0].tobytes() for file in found.files]
    same = [(said[image], row) for image, row in zip(images, found.scores, strict=True) if image in said]
    assert len(same) == len(said) > 3
    for before, after in same:
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_models_of_vectors_see_the_vectors_of_new_images(place, tmp_path, monkeypatch):
    model = fewcore.load_model(place / "others", "vectors", device="cpu").adapt(place / "labelled")
    before = model.predict(place / "new").scores
    model.save(tmp_path / "model")
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "empty"))
    loaded = fewcore.load_model(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(place / "new").scores, before)
    assert {recipe.component for recipe in loaded.record.vectors.inputs["embeddings"]} == {"fewcore-embed:pixels"}


def test_predict_prefers_the_models_that_need_no_labelled_images(place):
    text = refusal(PipelineError, lambda: fewcore.load_model(place / "others"))
    assert text.startswith(f"{place / 'others'}: 2 models: tuned; near; expected one of them")
    assert fewcore.load_model(place / "others", use="adapt").record.stage == "vectors"
    text = refusal(PipelineError, lambda: fewcore.load_model(place / "others", "tuned", use="adapt"))
    assert text == (
        f"{place / 'others'}: tuned, which has learnt its own classes or masks; expected a few-shot model (type fewcore"
        f" predict {place / 'others'})"
    )


def test_shots_are_drawn_from_the_seed(place):
    model = fewcore.load_model(place / "run", "knn")
    scores = [model.adapt(place / "labelled", 1, seed).predict(place / "new").scores for seed in (0, 0, 1)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


# ---- what is refused


def test_a_few_shot_model_that_is_not_adapted_says_what_to_type(place):
    model = fewcore.load_model(place / "run", "knn")
    assert model.classes == ()
    assert refusal(PipelineError, lambda: model.predict(place / "new")) == (
        f"{place / 'run'}: knn, a few-shot model, which needs labelled images first; expected one that knows its classes"
        f" (type fewcore adapt {place / 'run'} --labelled DIR --out MODEL, then fewcore predict MODEL)"
    )


def test_an_adapted_model_is_not_adapted_again(place, tmp_path):
    model = fewcore.load_model(place / "run", "knn").adapt(place / "labelled")
    assert "knn, which has learnt its own classes" in refusal(PipelineError, lambda: model.adapt(place / "labelled"))
    unadapted = fewcore.load_model(place / "run", "knn")
    assert "a model that was not adapted" in refusal(DataError, lambda: unadapted.save(tmp_path / "x"))


def test_too_few_images_of_a_class(place):
    model = fewcore.load_model(place / "run", "knn")
    assert refusal(DataError, lambda: model.adapt(place / "labelled", 5)).splitlines()[1:] == [
        "  - core: 4 images; expected at least 5 (--shots)",
        "  - ring: 4 images; expected at least 5 (--shots)",
    ]


def test_a_model_never_takes_the_place_of_something_else(place, tmp_path):
    model = fewcore.load_model(place / "run", "knn").adapt(place / "labelled")
    for folder in (place / "run", place / "new"):
        text = refusal(DataError, lambda folder=folder: model.save(folder, overwrite=True))
        assert text == f"{folder}: something else there; expected a new folder for the model (type --out FOLDER)"
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    assert "type --overwrite to write in its place" in refusal(DataError, lambda: model.save(tmp_path / "empty"))
    model.save(tmp_path / "empty", overwrite=True)


def test_a_stranger_s_results_are_never_deleted(place, tmp_path):
    model = fewcore.load_model(place / "run", "knn").adapt(place / "labelled")
    stranger = tmp_path / "study"
    (stranger / "results").mkdir(parents=True)
    (stranger / "results" / "auc.csv").write_text("0.9")
    mixed = model.save(tmp_path / "mixed")
    (mixed / "results" / "auc.csv").write_text("0.9")
    records = broken(place, tmp_path, lambda said: None)
    (records / "pipeline.yaml").unlink()
    (records / "results").mkdir()
    for folder in (stranger, mixed, records):
        before = sorted(folder.rglob("*"))
        text = refusal(DataError, lambda folder=folder: model.save(folder, overwrite=True))
        assert text == f"{folder}: something else there; expected a new folder for the model (type --out FOLDER)"
        assert sorted(folder.rglob("*")) == before


def test_a_model_that_is_written_over_is_there_until_the_new_one_is(place, tmp_path, monkeypatch):
    trained = fewcore.load_model(place / "run", "knn", device="cpu")
    old, new = (trained.adapt(place / "labelled", 2, seed) for seed in (0, 1))
    folder = old.save(tmp_path / "model")
    (folder / "notes.txt").write_text("mine")

    def full(path, entry):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fewcore.models.rebuilding.write_result", full)
        assert "No space left on device" in refusal(ResourceError, lambda: new.save(folder, overwrite=True))
    said = fewcore.load_model(folder, device="cpu").predict(place / "new")
    np.testing.assert_array_equal(said.scores, old.predict(place / "new").scores)
    keys = {path.name for path in (folder / "results").iterdir()}
    new.save(folder, overwrite=True)
    said = fewcore.load_model(folder, device="cpu").predict(place / "new")
    np.testing.assert_array_equal(said.scores, new.predict(place / "new").scores)
    left = {path.name for path in (folder / "results").iterdir()}
    assert len(left) == len(keys)
    assert left != keys
    assert sorted(path.name for path in folder.iterdir()) == ["models.json", "notes.txt", "results"]


def test_every_bad_file_is_named_and_nothing_is_written(place, tmp_path):
    shutil.copytree(place / "new", tmp_path / "new")
    (tmp_path / "new" / "bad.png").write_bytes(b"")
    Image.fromarray(np.full((9, 9), 5000, np.uint16)).save(tmp_path / "new" / "deep.png")
    model = fewcore.load_model(place / "run", "knn").adapt(place / "labelled")
    text = refusal(DataError, lambda: model.predict([tmp_path / "new"]))
    assert text.splitlines() == [
        "2 of 8 files cannot be used, and none was: 2 problems",
        f"  - {tmp_path / 'new' / 'bad.png'}: an empty file; expected an image",
        f"  - {tmp_path / 'new' / 'deep.png'}: values from 5000 to 5000; expected 0 to 255, as in the data set, or the values"
        " that become black and white (--window LOW HIGH)",
    ]


def test_a_cache_that_was_cleaned_says_what_to_type(place, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path / "cleaned"))
    model = fewcore.load_model(place / "run", "knn")
    assert refusal(DataError, lambda: model.adapt(place / "labelled")) == (
        f"{place / 'run'}: no result of knn in {tmp_path / 'cleaned'}: it was cleaned, or lies elsewhere; expected the results"
        f" that the run kept (the run kept it in {place / 'cache'}: set FEWCORE_CACHE to that folder; or type fewcore run"
        f" {place / 'run' / 'pipeline.yaml'} --out {place / 'run'} to compute it again)"
    )


def test_a_folder_without_models_says_what_to_type(place, tmp_path):
    assert refusal(DataError, lambda: fewcore.load_model(tmp_path / "gone")) == (
        f"{tmp_path / 'gone'}: no such folder; expected a folder of fewcore run or of fewcore adapt"
    )
    assert refusal(DataError, lambda: fewcore.load_model(tmp_path)).startswith(f"{tmp_path}: no models.json; expected")
    (tmp_path / "pipeline.yaml").write_text("")
    assert f"(type fewcore run {tmp_path / 'pipeline.yaml'} --out {tmp_path}" in refusal(
        DataError, lambda: fewcore.load_model(tmp_path)
    )


def test_an_unknown_stage_or_cell_is_refused_with_what_there_is(place):
    assert refusal(PipelineError, lambda: fewcore.load_model(place / "run", "protonet")) == (
        f"{place / 'run'}: no model 'protonet'; expected one of knn, protonets (did you mean 'protonets'?)"
    )
    assert refusal(PipelineError, lambda: fewcore.load_model(place / "run", "knn", {"seed": 3})) == (
        f"{place / 'run'}: no model of the cell seed=3; expected one of knn"
    )


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda said: said.update(format=99), DataError, r"format 99; expected format 1 \(update fewcore\)"),
        (lambda said: said.update(models=[{}]), DataError, r"no readable records of models \(KeyError\)"),
        (
            lambda said: said["models"][1].update(dtype="object"),
            DataError,
            r"no readable records of models \(ValueError\)",
        ),
        (
            lambda said: said["models"][1]["recipe"].update(kind="embedder"),
            DataError,
            r"no readable records of models \(ValueError\)",
        ),
        (
            lambda said: said["models"][1]["recipe"].update(options=[1]),
            DataError,
            r"no readable records of models \(TypeError\)",
        ),
        *(
            (lambda said, change=change: said["models"][1].update(change), DataError, r"no readable records of models")
            for change in (
                {"vectors": {**NOTHING, "kind": "backbone"}},
                {"vectors": {**NOTHING, "kind": "gone"}},
                {"data": {**NOTHING, "kind": "embedder"}},
                {"conditions": []},
                {"labelled": [3]},
                {"classes": "ab"},
                {"classes": [1]},
                {"structures": {"mask": "lung"}},
                {"store": 3},
                {"stage": None},
                {"spec": {**SPEC, "size": ["8", "8"]}},
                {"spec": {**SPEC, "preparation": {"bits": "many"}}},
                {"spec": {**SPEC, "preparation": [1]}},
            )
        ),
        (
            lambda said: said["models"][1].update(
                data={**NOTHING, "kind": "dataset", "component": "fewcore:folder", "options": {"path": "x"}}
            ),
            PluginError,
            "fewcore:folder .*, which has no way for new files; expected one with prepare",
        ),
        (
            lambda said: said["models"][1]["recipe"].update(key="../../etc"),
            DataError,
            "'../../etc', which is no key of a result",
        ),
        (
            lambda said: said["models"][1]["recipe"].update(component="fewcore-gone:gone"),
            PluginError,
            "no meta-learner named 'fewcore-gone:gone'",
        ),
        (
            lambda said: said["models"][1]["recipe"].update(options={"colour": 1}),
            PluginError,
            r"knn .*with options of .*colour: unknown option",
        ),
    ],
)
def test_records_that_were_changed_are_refused(place, tmp_path, change, kind, message):
    folder = broken(place, tmp_path, change)
    with pytest.raises(kind, match=f"(?s){message}"):
        fewcore.load_model(folder, "knn").adapt(place / "labelled")


def test_a_damaged_model_is_refused(place, tmp_path):
    fewcore.load_model(place / "run", "knn").adapt(place / "labelled").save(tmp_path / "model")
    for path in (tmp_path / "model" / "results").rglob("0.npy"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    model = fewcore.load_model(tmp_path / "model")
    assert "no result of knn, or a damaged one" in refusal(DataError, lambda: model.predict(place / "new"))


@pytest.mark.parametrize("name", ["/dev/zero", "../../../secret.txt", "meta.json/../../x", "pipe", "link.json"])
def test_only_the_files_of_a_result_are_opened(place, tmp_path, name):
    fewcore.load_model(place / "run", "knn").adapt(place / "labelled").save(tmp_path / "model")
    (tmp_path / "secret.txt").write_text("secret")
    for manifest in (tmp_path / "model" / "results").rglob("manifest.json"):
        os.mkfifo(manifest.parent / "pipe")
        (manifest.parent / "link.json").symlink_to("/dev/zero")
        said = json.loads(manifest.read_text())
        said["files"][name] = "0" * 64
        manifest.write_text(json.dumps(said))
    model = fewcore.load_model(tmp_path / "model")
    assert "no result of knn, or a damaged one" in refusal(DataError, lambda: model.predict(place / "new"))


def test_what_a_manifest_does_not_name_is_not_read(place, tmp_path):
    fewcore.load_model(place / "run", "knn").adapt(place / "labelled").save(tmp_path / "model")
    for manifest in (tmp_path / "model" / "results").rglob("manifest.json"):
        manifest.write_text(json.dumps({"files": {}}))
    model = fewcore.load_model(tmp_path / "model")
    assert "no result of knn, or a damaged one" in refusal(DataError, lambda: model.predict(place / "new"))


def test_records_that_are_no_file_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "models.json")
    text = refusal(DataError, lambda: fewcore.load_model(tmp_path))
    assert text.startswith(f"{tmp_path / 'models.json'}: no readable records of models (OSError)")


@pytest.mark.parametrize("shots", [0, -1])
def test_no_shots_are_refused(place, shots):
    model = fewcore.load_model(place / "run", "knn")
    said = f"n_shot: {shots}; expected at least 1, or None for all images"
    assert refusal(PipelineError, lambda: model.adapt(place / "labelled", shots)) == said


def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(place, tmp_path, command):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    for said in (("adapt", "run", "--labelled", "gone"), ("predict", "run", "gone")):
        code, _, told = command(*said, "--stage", "knn", "--out", out, cwd=place)
        assert (code, told) == (
            5,
            f"{out}: cannot be written: Not a directory; expected a folder that can be, on a disk with room\n",
        )
    model = fewcore.load_model(place / "run", "knn").adapt(place / "labelled")
    assert "Not a directory" in refusal(ResourceError, lambda: model.save(out))
    assert "Not a directory" in refusal(ResourceError, lambda: model.predict(place / "new").save(out))


def test_predictions_that_are_no_numbers_are_refused(place):
    model = fewcore.load_model(place / "run", "knn").adapt(place / "labelled")
    predictor, entry = model._adapted

    class Odd:
        def predict(self, images, run):
            made = predictor.predict(images, run)
            made.scores[0, 0] = np.nan
            return made

    model._adapted = (Odd(), entry)
    assert refusal(NumericalError, lambda: model.predict(place / "new")) == (
        "knn: 'scores' holds NaN or infinity; expected finite numbers"
    )


# ---- several models of one stage


def test_cells_are_chosen_by_their_values(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    draw(place / "images", "left", "right", "top", "bottom")
    text = PIPELINE + "repeat: {seed: [0, 1]}\nmatrix: {stages.protonets.iterations: [2, 3]}\n"
    try:
        folder = ran(tmp_path, text)
    finally:
        shutil.rmtree(place / "images")
    titles = {record.title for record in read_models(folder)}
    assert titles == {
        *(f"protonets (stages.protonets.iterations={i}, seed={s})" for i in (2, 3) for s in (0, 1)),
        "knn",
    }, "what does not depend on an axis is one model"
    text = refusal(PipelineError, lambda: fewcore.load_model(folder, "protonets"))
    assert text.endswith("(type --cell stages.protonets.iterations=2 --cell seed=0)")
    said = {"stages.protonets.iterations": 3, "seed": "1"}
    assert fewcore.load_model(folder, "protonets", said).record.conditions == {**said, "seed": 1}
