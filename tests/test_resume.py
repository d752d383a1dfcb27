"""Runs that are killed, stopped or raced end with the same numbers as a run that nothing disturbs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PIPELINE = """
fewcore: 1
name: disturbed
stages:
  data:      {dataset: digits}
  test:      {task_sampler: episodes, split: test, n_way: 5, n_shot: [1, 5], n_tasks: 50}
  embed:     {embedder: acai, dim: 32, steps: 60}
  white:     {embedder: whiten, from: embed}
  partition: {partitioner: kmeans, n_clusters: 10, n_partitions: 4, from: white}
  tasks:     {task_sampler: episodes, n_way: 5, n_query: 5}
  net:       {backbone: conv4, filters: 8}
  maml:      {meta_learner: maml, iterations: 20, tasks_per_step: 2, inner_steps: 2, test_steps: 3}
  protonets: {meta_learner: protonets, iterations: 60}
  knn:       {meta_learner: knn, from: white}
  score:     {evaluator: few-shot}
"""


def start(folder: Path, cache: Path, out: str = "out", *options: str) -> subprocess.Popen[bytes]:
    (folder / "pipeline.yaml").write_text(PIPELINE)
    command = [
        "run",
        "pipeline.yaml",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--out",
        out,
        "--checkpoint-every",
        "0.05",
        *options,
    ]
    environment = {**os.environ, "FEWCORE_CACHE": str(cache)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "fewcore", *command], cwd=folder, env=environment, **pipes)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    finish(start(folder, folder / "cache"))
    return (folder / "out" / "metrics.json").read_bytes(), time.monotonic() - began


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_metrics(
    tmp_path: Path, undisturbed: tuple[bytes, float]
) -> None:
    wanted, seconds = undisturbed
    instants = random.Random(0)
    for _ in range(4):
        process = start(tmp_path, tmp_path / "cache")
        time.sleep(instants.uniform(0.3, 1.0) * seconds)
        process.kill()
        process.communicate()
    finish(start(tmp_path, tmp_path / "cache"))
    assert (tmp_path / "out" / "metrics.json").read_bytes() == wanted
    assert not list((tmp_path / "cache" / "temporary").iterdir())


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_75(tmp_path: Path, undisturbed: tuple[bytes, float]) -> None:
    wanted, _ = undisturbed
    process = start(tmp_path, tmp_path / "cache", "out", "--set", "stages.embed.steps=100000")
    checkpoints = tmp_path / "cache" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors.decode()
    assert "run again to go on" in errors.decode()
    finish(start(tmp_path, tmp_path / "cache"))
    assert (tmp_path / "out" / "metrics.json").read_bytes() == wanted


@pytest.mark.slow
def test_two_runs_on_one_cache_share_the_work(tmp_path: Path, undisturbed: tuple[bytes, float]) -> None:
    wanted, _ = undisturbed
    both = [start(tmp_path, tmp_path / "cache", out) for out in ("one", "two")]
    for process in both:
        finish(process)
    computed: list[str] = []
    for out in ("one", "two"):
        assert (tmp_path / out / "metrics.json").read_bytes() == wanted
        stages = json.loads((tmp_path / out / "environment.json").read_text())["stages"]
        computed += [stage["name"] for stage in stages if stage["status"] == "computed"]
    assert len(computed) == len(set(computed)), "a stage was computed twice"


@pytest.mark.slow
def test_a_flipped_byte_anywhere_in_the_cache_changes_no_number(
    tmp_path: Path, undisturbed: tuple[bytes, float]
) -> None:
    wanted, _ = undisturbed
    finish(start(tmp_path, tmp_path / "cache"))
    files = sorted(p for p in (tmp_path / "cache" / "results").rglob("*.npy") if p.stat().st_size)
    for path in random.Random(1).sample(files, 5):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    process = start(tmp_path, tmp_path / "cache")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "damaged and computed again" in errors.decode()
    assert (tmp_path / "out" / "metrics.json").read_bytes() == wanted
