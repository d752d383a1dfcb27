"""`fewcore compare`: runs side by side, the evaluators' own paired tests across runs, and what is refused, in words."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys
from click.testing import CliRunner
from running import SMALL, Ran, load_text

from fewcore import DataError, MetricReport, PipelineError, UnitScores
from fewcore.cli import cli
from fewcore.comparing.compare import Choice, compare
from fewcore.comparing.identity import Identities, why_apart
from fewcore.comparing.report import json_text, notes, show, to_json, write_comparison
from fewcore.comparing.runs import read_runs
from fewcore.comparing.scores import FILE, archive, read_scores, smallest, write_scores
from fewcore.reports.report import metrics_json
from fewcore.reports.reporting import build_report

FEW_SHOT = """
name: few
stages:
  data:  {dataset: toy-classes, image_size: 4}
  test:  {task_sampler: episodes, split: test, n_way: 4, n_shot: [1, 5], n_tasks: 60}
  embed: {embedder: acai, dim: 8}
  knn:   {meta_learner: knn, from: {embeddings: embed}}
  score: {evaluator: few-shot}
repeat: {seed: [0, 1]}
"""
WEAK = "{learner: fine-tune, strength: 0.0005, from: {start: net}}"
STRONG = "{learner: fine-tune, from: {start: net}}"
GROUPS = SMALL.replace("metrics: [accuracy]", "metrics: [accuracy, auc]")
SINGLE = GROUPS.replace("dataset: toy-patients", "dataset: toy-patients, n_each: 1")
FOLDS = GROUPS.replace("metrics: ", "over: fold, metrics: ") + "splits: {folds: 3, by: group}\n"
RATINGS = """
name: ratings
target: malignant
splits: {folds: 3, by: group, validation: 0.1}
stages:
  data:  {dataset: toy-patients, crop: slice}
  gist:  {embedder: gist}
  model: {learner: lasso, from: {embeddings: gist}}
  score: {evaluator: regression}
"""


def written(folder: Path, text: str, store: Path | None = None) -> Path:
    """Run a pipeline and write what `fewcore run` writes, as far as `compare` reads it."""
    folder.mkdir(parents=True)
    pipe = load_text(folder, text)
    run = Ran(pipe, store or folder.parent / "store")
    assert not run.result.failures
    made = metrics_json(build_report(pipe, run.session, replace_nodes(run.result), command="", seconds=0.0))
    (folder / "metrics.json").write_text(json.dumps(made))
    write_scores(pipe, run.result, made["rows"], folder)
    return folder


def replace_nodes(result):
    """Return the result without its cells, of which a report would draw pictures."""
    return replace(result, nodes=[])


def comparison(*folders: Path, **choice):
    runs = read_runs(folders)
    return compare(runs, runs[0], toys.registry(), Choice(**choice))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Folders of runs that most tests read: `a`, `b` with a weaker model, and `few`."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "a": written(folder / "a", GROUPS),
        "b": written(folder / "b", GROUPS.replace(STRONG, WEAK)),
        "c": written(folder / "c", GROUPS.replace(STRONG, WEAK.replace("0.0005", "0.01"))),
        "few": written(folder / "few", FEW_SHOT),
    }


@pytest.mark.parametrize(
    ("text", "change", "name", "tests"),
    [
        (GROUPS, (STRONG, WEAK), "model", {"paired bootstrap of groups"}),
        (SINGLE, (STRONG, WEAK), "model", {"McNemar exact", "DeLong"}),
        (FOLDS, (STRONG, WEAK), "model", {"paired t"}),
        (FEW_SHOT, ("dim: 8", "dim: 2"), "knn", {"paired t"}),
        (RATINGS, ("lasso", "graph-mtl, inconsistency: inverse-weight"), "model", {"paired bootstrap of groups"}),
        (
            RATINGS.replace("regression", "regression, over: fold"),
            ("lasso", "graph-mtl, inconsistency: inverse-weight"),
            "model",
            {"paired t"},
        ),
    ],
    ids=["groups", "single", "folds", "few-shot", "ratings", "ratings-in-folds"],
)
def test_two_runs_are_compared_as_two_models_of_one_file_are(tmp_path, text, change, name, tests):
    first, second = written(tmp_path / "a", text), written(tmp_path / "b", text.replace(*change))
    both = one_file(text, change, name)
    run = Ran(load_text(tmp_path, both), tmp_path / "store")
    inside = run.result.reports["score"].comparisons
    across = comparison(second, first).pairs
    assert len(inside) == len(across) > 0
    assert tests <= {pair.comparison.test for pair in across}
    for ours, pair in zip(inside, across, strict=True):
        theirs = pair.comparison
        assert (theirs.metric, theirs.test, theirs.n, dict(theirs.conditions)) == (
            ours.metric,
            ours.test,
            ours.n,
            dict(ours.conditions),
        )
        for fact in ("difference", "ci95", "p", "p_holm"):
            np.testing.assert_allclose(getattr(theirs, fact), getattr(ours, fact), rtol=0, atol=1e-12)
    assert any(pair.comparison.difference != 0 for pair in across)


def one_file(text: str, change: tuple[str, str], name: str) -> str:
    """Return a pipeline with both models, the changed one second; what only it needs is doubled too."""
    doubled = []
    again: dict[str, str] = {}
    for line in text.splitlines():
        doubled.append(line)
        stage, changed = line.split(":")[0].strip(), line.replace(*change)
        for old, new in again.items():
            changed = changed.replace(f": {old}}}", f": {new}}}")
        if changed != line:
            again[stage] = f"{stage}2"
            doubled.append(changed.replace(f"{stage}:", f"{stage}2:", 1))
    assert name in again
    return "\n".join(doubled) + "\n"


def test_equal_runs_write_equal_bytes_on_any_machine_and_keep_little(made, tmp_path):
    again = written(tmp_path / "again", FEW_SHOT, tmp_path / "another store")
    assert (again / FILE).read_bytes() == (made["few"] / FILE).read_bytes()
    assert (again / FILE).stat().st_size < 2500
    with np.load(made["few"] / FILE) as arrays:  # numpy reads it too, pickle being off
        assert arrays["0"].shape == (60,)
        names = {Path(name).name for name in arrays.files}
    assert names == {"index.json", "0", "1"}


def test_a_folder_that_was_moved_needs_neither_store_nor_data(made, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(made[name], tmp_path / name)
    moved, there = comparison(tmp_path / "a", tmp_path / "b"), comparison(made["a"], made["b"])
    assert [repr(pair.comparison) for pair in moved.pairs] == [repr(pair.comparison) for pair in there.pairs]
    assert there.pairs


def test_scores_name_nobody_and_hold_no_ids(made):
    scores = read_scores(made["a"] / FILE)
    (one,) = scores.judgements["score"]
    assert set(one.units.arrays) == {"scores", "truth", "groups", "fold"}
    groups = one.units.arrays["groups"]
    assert set(np.diff(np.unique(groups))) == {1}
    assert groups.min() == 0


@pytest.mark.parametrize(
    ("text", "change", "reason"),
    [
        (
            FEW_SHOT,
            ("n_tasks: 60", "n_tasks: 40"),
            "the test tasks differ: other ways, shots, queries, number or seed of the tasks (60 and 40 tasks)",
        ),
        (
            GROUPS,
            ("target: malignant", "target: {of: finding, positive: [benign]}"),
            "another target is meant: 'malignant' and 'finding: benign'; the truth differs in finding: benign",
        ),
        (GROUPS, ("metrics: ", "over: fold, metrics: "), 'judged with other options: over "pooled" and "fold"'),
        (
            GROUPS,
            ("toy-patients", "toy-patients, n_test: 50"),
            "the test images differ: another data set, other contents of it, or the same read in another way"
            " (118 and 100 images)",
        ),
        (
            GROUPS + "splits: {test: 0.3, seed: 0}\n",
            ("seed: 0", "seed: 1"),
            "the test rows are other rows of the data set: its splits differ",
        ),
    ],
    ids=["tasks", "target", "options", "contents", "splits"],
)
def test_what_was_not_judged_on_the_same_is_refused_in_words(tmp_path, text, change, reason):
    first, second = written(tmp_path / "a", text), written(tmp_path / "b", text.replace(*change))
    found = comparison(first, second)
    assert not found.pairs
    assert found.lines
    assert all(set(line.values) == {"A", "B"} for line in found.lines if line.stage in ("model", "knn"))
    assert {one.reason.split("; run one again")[0] for one in found.refusals} == {reason}
    assert notes(found)[0] == "No model could be tested in pairs."


def test_the_same_images_under_other_ids_are_not_paired(tmp_path):
    """Scores are kept in the order of the ids, which a folder draws anew when an image is added to it."""
    pipe = load_text(tmp_path, SINGLE)
    run = Ran(pipe, tmp_path / "store")
    entry = next(one for one in run.result.outcomes if one.outcome.split == "test")
    images = entry.table.images
    ids = np.random.default_rng(0).permutation(images.ids)
    splits = {name: np.sort(ids[np.isin(images.ids, chosen)]) for name, chosen in images.splits.items()}
    again = replace(entry, table=replace(entry.table, key="other", images=replace(images, ids=ids, splits=splits)))
    first, second = (Identities().of([one]) for one in (entry, again))
    assert first["images"] == second["images"]
    assert why_apart(first, first) == ""
    assert why_apart(first, second).startswith("the test images have other ids, so that their scores stand in another")


def test_an_evaluator_without_paired_tests_is_named(tmp_path):
    text = SMALL.replace(STRONG, "{learner: u-net}").replace("classification, metrics: [accuracy]", "segmentation")
    first, second = written(tmp_path / "a", text), written(tmp_path / "b", text.replace("small", "other"))
    (refusal,) = comparison(first, second).refusals
    assert refusal.models == ("model",)
    assert refusal.reason == (
        "fewcore-toys:segmentation keeps no scores of tasks or images, from which tests could be made"
    )


def test_three_runs_stand_against_the_baseline_with_holms_correction_over_all(made):
    runs = read_runs([made["a"], made["b"], made["c"]])
    found = compare(runs, runs[1], toys.registry())
    assert [(pair.run, pair.baseline) for pair in found.pairs] == [("A", "B"), ("A", "B"), ("C", "B"), ("C", "B")]
    p = [pair.comparison.p for pair in found.pairs]
    by_hand, largest = {}, 0.0
    for rank, i in enumerate(sorted(range(4), key=lambda i: p[i])):
        largest = max(largest, (4 - rank) * p[i])
        by_hand[i] = min(1.0, largest)
    assert [pair.comparison.p_holm for pair in found.pairs] == pytest.approx([by_hand[i] for i in range(4)], abs=1e-15)
    assert len(set(p)) > 1


def test_pairs_and_stages_choose_models(tmp_path):
    two = GROUPS.replace("  score:", f"  other: {WEAK}\n  score:")
    first, second = written(tmp_path / "a", two), written(tmp_path / "b", GROUPS)
    assert [pair.comparison.first for pair in comparison(first, second).pairs] == ["model", "model"]
    assert comparison(first, second).alone == (("other", ("A",)),)
    chosen = comparison(first, second, pairs=(("other", "model"),))
    assert {(pair.comparison.second, pair.comparison.first) for pair in chosen.pairs} == {("other", "model")}
    assert {line.stage for line in comparison(first, second, stages=("other",)).lines} == {"other"}
    with pytest.raises(PipelineError) as caught:
        comparison(first, second, stages=("othr",))
    assert str(caught.value) == "--stage: no model 'othr'; expected one of model, other (did you mean 'other'?)"
    with pytest.raises(PipelineError, match="2 problems"):
        comparison(first, second, pairs=(("mode", "othe"),))


def test_what_differs_is_told_by_dotted_path_and_by_model(made, tmp_path):
    other = written(tmp_path / "less", GROUPS + "labels: {share: 0.5}\n")
    found = comparison(made["a"], made["b"], other).differences
    told = {(one.kind, one.what): list(one.values.values()) for one in found}
    assert told["option", "stages.model.strength"] == [None, 0.0005, None]
    assert told["option", "labels.share"] == [None, None, 0.5]
    labels = told["labels", "model"]
    assert labels[0] == labels[1] != labels[2]
    assert ("device", "device") not in told


# ---- output


def test_json_has_these_fields_and_is_the_same_every_time(made):
    found = comparison(made["a"], made["b"], made["few"])
    said = json.loads(json_text(found))
    assert json_text(comparison(made["a"], made["b"], made["few"])) == json_text(found)
    assert set(said) == {
        "fewcore",
        "runs",
        "rows",
        "comparisons",
        "not_compared",
        "not_in_all",
        "differences",
    }
    assert [(run["label"], run["baseline"]) for run in said["runs"]] == [("A", True), ("B", False), ("C", False)]
    one = said["comparisons"][0]
    assert set(one) == {
        "evaluator", "first", "second", "metric", "difference", "ci95", "p", "p_holm", "n", "test", "conditions"
    }  # fmt: skip
    assert one["first"] == {"run": "B", "model": "model"}
    assert one["second"] == {"run": "A", "model": "model"}
    row = next(row for row in said["rows"] if row["model"] == "model" and row["metric"] == "auc")
    assert row["values"]["B"]["value"] - row["values"]["A"]["value"] == pytest.approx(
        next(c["difference"] for c in said["comparisons"] if c["metric"] == "auc"), abs=1e-12
    )
    assert {entry["model"] for entry in said["not_in_all"]} >= {"knn", "model"}
    assert to_json(found) == said


def test_the_terminal_shows_everything_in_80_columns(made):
    from rich.console import Console

    text = io.StringIO()
    show(comparison(made["a"], made["b"], made["few"]), Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for words in ("Side by side", "Paired tests", "B − A", "stages.model.strength", "knn stands in C alone."):
        assert any(words in line for line in lines), words


def test_pages_are_whole_and_names_are_no_markup(made, tmp_path):
    hostile = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(made["b"], hostile)
    write_comparison(comparison(made["a"], hostile), tmp_path / "out")
    html, text = ((tmp_path / "out" / f"comparison.{kind}").read_text() for kind in ("html", "md"))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "fewcore comparison" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert "| model" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]


def test_the_command_prints_writes_and_ends_with_0_even_where_nothing_is_comparable(made, tmp_path):
    done = CliRunner().invoke(cli, ["compare", str(made["a"]), str(made["b"]), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "Paired tests" in done.output
    assert (tmp_path / "out" / "comparison.html").is_file()
    done = CliRunner().invoke(cli, ["compare", str(made["a"]), str(made["few"]), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["comparisons"] == []
    done = CliRunner().invoke(cli, ["compare", str(made["a"]), str(made["few"])])
    assert "No model could be tested in pairs." in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A"], "RUN: one folder; expected two or more (type fewcore compare A OTHER)"),
        (["A", "B", "--baseline", "C"], "--baseline: C; expected one of A, B"),
        (["A", "B", "--pair", "x"], "--pair: 'x'; expected A=B, two names of models (type --pair maml=protonets)"),
        (
            ["A", "B", "--pair", "x=y", "--stage", "x"],
            "--stage: beside --pair; expected one of the two: pairs name their models",
        ),
    ],
)
def test_what_was_typed_wrongly_is_told(arguments, message):
    done = CliRunner().invoke(cli, ["compare", *arguments])
    assert isinstance(done.exception, PipelineError)
    assert str(done.exception) == message


# ---- folders of strangers


def test_all_folders_that_cannot_be_compared_are_told_at_once(made, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(made["a"], old)
    (old / FILE).unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        read_runs([made["a"], made["a"] / ".." / "a", tmp_path / "none", tmp_path / "empty", old])
    same, none, empty, without = map(str, caught.value.problems)
    assert same == f"{made['a'] / '..' / 'a'}: the same folder as {made['a']}; expected each run once"
    assert none == f"{tmp_path / 'none'}: no such folder; expected a folder that fewcore run wrote"
    assert empty == (
        f"{tmp_path / 'empty'}: no metrics.json; expected a folder that fewcore run wrote, such as runs/NAME"
    )
    assert without == (
        f"{old}: no scores.npz, the scores of each task or image; expected a run of this version of fewcore"
        f" (type fewcore run {old / 'pipeline.yaml'} --out {old}: what is finished is reused)"
    )


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, data in members.items():
            whole.writestr(name.replace("__", "."), data)
    return file.getvalue()


def npy(array, **more) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


def with_arrays(path: Path, arrays: list[bytes]) -> bytes:
    """Return the bytes of a file of scores with other arrays."""
    with zipfile.ZipFile(path) as whole:
        index = whole.read("index.json")
    return zipped(index__json=index, **{f"{i}__npy": data for i, data in enumerate(arrays)})


HEADER_THAT_LIES = npy(np.zeros(3)).replace(b"(3,), ", b"(3000000000000,), ")[:200]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        zipped(other=b""),
        zipped(index__json=b"[" * 100_000),
        zipped(index__json=b'{"format": 1, "metrics": "x", "evaluators": [{"stage": 1}]}'),
        zipped(index__json=b'{"format": 99, "metrics": "x", "evaluators": []}'),
        zipped(index__json=b"\x00" * 50_000_000),
    ],
    ids=["empty", "cut", "no index", "deep", "types", "format", "zeros"],
)
def test_a_damaged_file_of_scores_is_refused(made, tmp_path, data):
    folder = tmp_path / "run"
    shutil.copytree(made["few"], folder)
    (folder / FILE).write_bytes(data)
    with pytest.raises(
        DataError, match=r"scores\.npz: cannot be read \(\w+\); expected the file as it was written \(type"
    ):
        read_runs([folder, made["a"]])


@pytest.mark.parametrize(
    "arrays",
    [
        [npy(np.array([{}, {}], object), allow_pickle=True)] * 2,
        [HEADER_THAT_LIES] * 2,
        [npy(np.full(60, np.inf))] * 2,
        [npy(np.zeros(60)).replace(b"(60,)", b"(-60,)")] * 2,
        [npy(np.array(["text"] * 60))] * 2,
        [npy(np.float64(3))] * 2,
        [npy(np.zeros(60))],
    ],
    ids=["pickle", "longer than told", "infinity", "negative", "text", "no units", "one is missing"],
)
def test_hostile_arrays_are_refused(made, tmp_path, arrays):
    folder = tmp_path / "run"
    shutil.copytree(made["few"], folder)
    (folder / FILE).write_bytes(with_arrays(folder / FILE, arrays))
    with pytest.raises(DataError, match=r"scores\.npz"):
        read_runs([folder, made["a"]])


def test_an_array_that_many_models_name_is_refused_before_it_is_read_for_each(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made["few"], folder)
    with zipfile.ZipFile(folder / FILE) as whole:
        index = json.loads(whole.read("index.json"))
    for evaluator in index["evaluators"]:
        for model in evaluator["models"]:
            model["arrays"] = dict.fromkeys(model["arrays"], 0)
    data = zipped(index__json=json.dumps(index).encode(), **{"0__npy": npy(np.zeros(60))})
    (folder / FILE).write_bytes(data)
    with pytest.raises(ValueError, match="an array that stands for two"):
        read_scores(folder / FILE)
    with pytest.raises(DataError, match=r"scores\.npz: cannot be read \(ValueError\)"):
        read_runs([folder, made["a"]])


def test_what_says_that_it_holds_more_than_a_machine_is_not_unpacked(made, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(made["few"], folder)
    monkeypatch.setattr("fewcore.comparing.scores.MOST_BYTES", 1_000_000)
    (folder / FILE).write_bytes(with_arrays(folder / FILE, [npy(np.zeros(500_000))] * 2))
    with pytest.raises(DataError, match="cannot be read"):
        read_runs([folder, made["a"]])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["metrics.json", "pipeline.yaml", FILE])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(made, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(made["few"], folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_runs([folder, made["a"]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "[1]", "cannot be read"),
        ("metrics.json", "{}", "cannot be read"),
        ("metrics.json", '{"name": "x", "device": "cpu", "versions": {}, "rows": [{"metric": 3}]}', "cannot be read"),
        ("metrics.json", '{"name": "x", "device": "cpu", "versions": {}, "rows": []}', "scores of another run than"),
        ("pipeline.yaml", "stages: [", "no readable pipeline"),
        ("pipeline.yaml", "a: &a [1]\n" + "b: [*a, *a]\n" * 3, "no readable pipeline"),
        ("pipeline.yaml", "stages: !!python/object/apply:os.system [ls]", "no readable pipeline"),
        ("pipeline.yaml", "3", "cannot be read"),
    ],
)
def test_damaged_texts_are_refused(made, tmp_path, name, text, message):
    folder = tmp_path / "run"
    shutil.copytree(made["few"], folder)
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_runs([folder, made["a"]])


def test_scores_that_do_not_fit_together_are_told_and_crash_nothing(made, tmp_path):
    index = read_scores(made["a"] / FILE).index
    model = index.evaluators[0].models[0]
    n = len(read_scores(made["a"] / FILE).judgements["score"][0].units)
    for arrays in (
        {"scores": np.zeros((n, 1, 2))},
        {
            "scores": np.zeros((n, 0, 2)),
            "truth": np.zeros(n, int),
            "groups": np.zeros(n, int),
            "fold": np.zeros((n, 1), int),
        },
        {name: np.zeros(n, int) for name in ("scores", "truth", "groups", "fold")},
        {name: np.zeros((3, 1, 1)) for name in ("scores", "truth", "groups", "fold")},
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(made["b"], folder)
        mine = read_scores(folder / FILE).index
        said = replace(model, arrays={name: i for i, name in enumerate(arrays)})
        evaluator = replace(mine.evaluators[0], models=[said])
        (folder / FILE).write_bytes(archive(replace(mine, evaluators=[evaluator]), list(arrays.values())))
        found = comparison(made["a"], folder)
        assert not found.pairs
        assert len(found.refusals) == 1
        assert "fit together" in found.refusals[0].reason or "cannot read the scores" in found.refusals[0].reason


def test_an_evaluator_that_is_not_installed_is_told(made, tmp_path):
    folders = []
    for name in ("a", "b"):
        folder = tmp_path / name
        shutil.copytree(made[name], folder)
        index = read_scores(folder / FILE).index
        arrays = [array for j in read_scores(folder / FILE).judgements["score"] for array in j.units.arrays.values()]
        other = replace(index, evaluators=[replace(index.evaluators[0], component="fewcore-none:nothing")])
        (folder / FILE).write_bytes(archive(other, arrays))
        folders.append(folder)
    assert "nothing" in comparison(*folders).refusals[0].reason


# ---- what evaluators keep


def test_numbers_are_kept_in_the_smallest_type_that_holds_them_exactly():
    for array, wanted in (
        (np.array([0.5, np.nan]), "float16"),
        (np.array([0.1], np.float32).astype(float), "float32"),
        (np.array([0.1]), "float64"),
        (np.array([1e300]), "float64"),
        (np.array([127, -128]), "int8"),
        (np.array([40_000]), "int32"),
        (np.array([True]), "bool"),
    ):
        assert str(smallest(array).dtype) == wanted
        np.testing.assert_array_equal(smallest(array).astype(array.dtype), array)


def test_scores_of_other_lengths_or_types_are_refused():
    for arrays in ({}, {"x": np.zeros(3), "y": np.zeros(4)}, {"x": np.float64(1)}, {"x": np.array(["a"])}):
        with pytest.raises(DataError, match="scores of maml"):
            UnitScores("maml", "maml", "test", "maml", {}, {name: np.asarray(array) for name, array in arrays.items()})
    assert MetricReport(()).units == ()
