"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

GOOD = """
fewcore: 1
name: small
stages:
  data:  {dataset: digits}
  embed: {embedder: pixels}
  test:  {task_sampler: episodes, split: test, n_way: 5, n_tasks: 20}
  knn:   {meta_learner: knn}
  score: {evaluator: few-shot}
"""


def fewcore(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    places = {**os.environ, "FEWCORE_CACHE": str(cwd / "cache"), **environment}
    command = [sys.executable, "-m", "fewcore", *arguments]
    return subprocess.run(command, cwd=cwd, env=places, capture_output=True, text=True, timeout=240)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(GOOD)
    return tmp_path


def test_help_is_quick_and_imports_no_torch(folder: Path) -> None:
    code = "import sys, fewcore.cli\ntry: fewcore.cli.main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' in sys.modules"
    best = 9.0
    for _ in range(5):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        best = min(best, time.monotonic() - began)
        assert done.returncode == 0, done.stderr
        assert "Few-shot learners from unlabelled images" in done.stdout
    # the promise is 0.3 s; a loaded machine may take longer, so the bound of the test is wider
    assert best < 1.0


def test_plugins_prints_json_with_every_field_and_imports_no_torch(folder: Path) -> None:
    done = fewcore("plugins", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"kind", "name", "distribution", "version", "summary", "paper", "status"} == set(rows[0])
    kinds = {"dataset", "embedder", "partitioner", "task-sampler", "meta-learner", "evaluator", "backbone"}
    assert kinds <= {row["kind"] for row in rows}
    code = "import sys, fewcore.cli\ntry: fewcore.cli.main(['plugins', '--json'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)


def test_describe_prints_options_with_types_defaults_and_source(folder: Path) -> None:
    done = fewcore("describe", "episodes", cwd=folder)
    assert done.returncode == 0
    assert "n_query: a whole number  (default 5; at least 1" in done.stdout
    assert "Source: K. Hsu, S. Levine, C. Finn" in done.stdout


def test_describe_suggests_a_name(folder: Path) -> None:
    done = fewcore("describe", "episode", cwd=folder)
    assert done.returncode == 2
    assert (
        done.stderr
        == "episode: no such component; expected a name that 'fewcore plugins' lists (did you mean 'episodes'?)\n"
    )


def test_run_writes_every_file_and_is_equal_when_repeated(folder: Path) -> None:
    done = fewcore("run", "small.yaml", "--device", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "knn" in done.stdout
    out = folder / "runs" / "small"
    names = {
        "metrics.json",
        "metrics.csv",
        "models.json",
        "report.html",
        "report.md",
        "environment.json",
        "pipeline.yaml",
        "log.jsonl",
    }
    assert names <= {path.name for path in out.iterdir()}
    assert "grey yes" in (out / "report.html").read_text(), "the page says how the images were prepared"
    first = (out / "metrics.json").read_bytes()
    row = json.loads(first)["rows"][0]
    assert {"metric", "value", "ci95", "n", "method", "stage", "way", "shot", "norm", "seen"} <= set(row)
    assert row["method"] == "knn"
    assert row["ci95"][0] < row["value"] < row["ci95"][1]
    assert fewcore("run", "small.yaml", "--device", "cpu", cwd=folder).returncode == 0
    assert (out / "metrics.json").read_bytes() == first


def test_a_run_without_a_number_leaves_the_report_of_an_earlier_one(folder: Path) -> None:
    assert fewcore("run", "small.yaml", "--device", "cpu", cwd=folder).returncode == 0
    out = folder / "runs" / "small"
    before = {
        name: (out / name).read_bytes() for name in ("metrics.json", "report.html", "models.json", "pipeline.yaml")
    }
    done = fewcore("run", "small.yaml", "--device", "cpu", "--set", "splits={test: 0.001}", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert "the report and models of an earlier run are kept" in done.stderr
    assert "report:" not in done.stdout
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_table_or_a_folder_typed_for_a_pipeline_is_told_without_its_content(folder: Path) -> None:
    (folder / "labels.csv").write_text("patient,t1\nDoe,doe.nii\n")
    done = fewcore("check", "labels.csv", cwd=folder)
    assert done.returncode == 2
    assert "no mapping of keys; expected a mapping of key" in done.stderr
    assert "Doe" not in done.stderr
    (folder / "runs").mkdir()
    (folder / "runs" / "pipeline.yaml").write_text(GOOD)
    done = fewcore("check", "runs", cwd=folder)
    assert done.stderr == f"runs: a folder; expected a pipeline file (type {Path('runs') / 'pipeline.yaml'})\n"


def test_run_names_all_problems_with_their_places_and_exits_2(folder: Path) -> None:
    wrong = (
        GOOD.replace("n_way: 5", "n_ways: 5")
        .replace("{meta_learner: knn}", "{meta_learner: knnn}")
        .replace("seed: 0", "")
    )
    (folder / "wrong.yaml").write_text(wrong)
    done = fewcore("run", "wrong.yaml", cwd=folder)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "wrong.yaml: 2 problems"
    assert lines[1].startswith("  - line 7, column")
    assert "stages.test.n_ways: unknown option" in lines[1]
    assert "did you mean 'n_way'?" in lines[1]
    assert "line 8, column" in lines[2]
    assert "no meta-learner named 'knnn'" in lines[2]
    assert "did you mean 'knn'?" in lines[2]


def test_seed_and_set_change_the_run(folder: Path) -> None:
    done = fewcore("run", "small.yaml", "--seed", "3", "--set", "stages.test.n_tasks=7", "--out", "there", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "there" / "metrics.json").read_text())["rows"][0]["n"] == 7


def test_a_missing_cuda_device_is_a_clear_error(folder: Path) -> None:
    done = fewcore("run", "small.yaml", "--device", "cuda:9", cwd=folder)
    assert done.returncode == 2
    expected = ("expected one of the", "expected cpu, for there is no CUDA device here")
    assert any(f"--device: found 'cuda:9'; {text}" in done.stderr for text in expected)
    assert "type --device cpu" in done.stderr


def test_explain_says_what_would_run_and_why(folder: Path) -> None:
    before = json.loads(fewcore("explain", "small.yaml", "--json", cwd=folder).stdout)
    assert {entry["stage"]: entry["reason"] for entry in before}["knn"] == "it never ran"
    assert fewcore("run", "small.yaml", cwd=folder).returncode == 0
    after = json.loads(fewcore("explain", "small.yaml", "--json", cwd=folder).stdout)
    assert {entry["stage"]: entry["action"] for entry in after} == {
        "data": "reuse",
        "embed": "reuse",
        "test": "make",
        "knn": "reuse",
    }
    changed = fewcore("explain", "small.yaml", "--set", "stages.embed.zca_eps=0.5", "--json", cwd=folder)
    reasons = {entry["stage"]: entry["reason"] for entry in json.loads(changed.stdout)}
    assert "zca_eps was" in reasons["embed"]
    assert reasons["knn"] == "its embeddings changed (embed)"


def test_check_finds_the_shipped_quickstart(folder: Path) -> None:
    done = fewcore("check", "quickstart", cwd=folder)
    assert done.returncode == 0
    assert done.stdout.startswith("quickstart: ")
    missing = fewcore("check", "quickstar", cwd=folder)
    assert missing.returncode == 2
    assert "did you mean 'quickstart'?" in missing.stderr


def test_schema_describes_stages_for_editors(folder: Path) -> None:
    schema = json.loads(fewcore("schema", cwd=folder).stdout)
    titles = {entry["title"] for entry in schema["properties"]["stages"]["additionalProperties"]["anyOf"]}
    assert {"task-sampler episodes", "dataset digits"} <= titles


def test_doctor_reports_on_torch_and_the_cache(folder: Path) -> None:
    done = fewcore("doctor", "--json", cwd=folder)
    found = {entry["subject"]: entry for entry in json.loads(done.stdout)}
    assert found["torch"]["ok"]
    assert found["cache"]["found"] == str(folder / "cache")


def test_an_out_folder_that_cannot_be_written_is_an_error_of_the_disk(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    done = fewcore("run", "small.yaml", "--out", "file/out", cwd=folder)
    assert done.returncode == 5
    assert "cannot be made" in done.stderr


def test_unknown_command_suggests_one(folder: Path) -> None:
    done = fewcore("rum", cwd=folder)
    assert done.returncode == 2
    assert "did you mean 'run'?" in done.stderr


def test_a_loss_that_explodes_stops_the_stage_and_exits_6(folder: Path) -> None:
    done = fewcore(
        "run",
        "small.yaml",
        "--set",
        "stages.embed={embedder: acai, dim: 16, steps: 200, learning_rate: 1e9}",
        cwd=folder,
    )
    assert done.returncode == 6, done.stderr
    assert "failed: embed: embed:" in done.stderr
    assert "expected a finite number" in done.stderr
    metrics = json.loads((folder / "runs" / "small" / "metrics.json").read_text())
    assert metrics["rows"] == []
    assert len(metrics["failures"]) == 1, "the partial report says what is missing"


def test_images_that_cannot_be_read_are_listed_at_once_and_exit_3(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / "broken.png").write_bytes(b"no image")
    done = fewcore("run", "small.yaml", "--set", "stages.data={dataset: folder, path: images}", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("broken.png") == 2
