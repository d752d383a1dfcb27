"""Two ranks that torchrun starts make the same model as one process, stop together and go on together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewcore import Interrupted, NumericalError, PipelineError, Ranks, Run
from fewcore.errors import RanksApart
from fewcore.making import Maker
from fewcore.ranks import local_device
from fewcore.store import Store

PIPELINE = """
fewcore: 1
name: ranks
stages:
  data:      {dataset: digits}
  test:      {task_sampler: episodes, split: test, n_way: 5, n_shot: 1, n_tasks: 50}
  embed:     {embedder: pixels}
  partition: {partitioner: kmeans, n_clusters: 10, n_partitions: 4}
  tasks:     {task_sampler: episodes, n_way: 5, n_shot: 5, n_query: 5}
  net:       {backbone: conv4, filters: 8}
  maml:      {meta_learner: maml, iterations: 12, learning_rate: 1e-4, tasks_per_step: 3, inner_lr: 0.01, inner_steps: 2, test_steps: 3, norm: running}
  protonets: {meta_learner: protonets, iterations: 8, tasks_per_step: 3}
  alone:     {meta_learner: protonets, iterations: 4, tasks_per_step: 1}
  score:     {evaluator: few-shot}
"""


def start(folder: Path, out: str, *options: str, ranks: int = 2) -> subprocess.Popen[str]:
    (folder / "pipeline.yaml").write_text(PIPELINE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    launcher = torchrun if ranks > 1 else []
    command = [*launcher, "-m", "fewcore", "run", "pipeline.yaml", "--device", "cpu", "--threads", "1", "--out", out]
    environment = {**os.environ, "FEWCORE_CACHE": str(folder / f"cache-{out}"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command, *options], cwd=folder, env=environment, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def model(folder: Path, out: str, stage: str) -> dict[str, np.ndarray]:
    """Return the arrays of a model of a run, and what is said of their making."""
    recipes = json.loads((folder / out / "metrics.json").read_text())["stages"]
    entry = Store(folder / f"cache-{out}").get(next(s["key"] for s in recipes if s["name"] == stage))
    return {**entry.arrays, "loss": np.array([r["loss"] for r in entry.facts["records"]])}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("ranks")
    finish(start(folder, "one", ranks=1))
    return folder, finish(start(folder, "two"))


@pytest.mark.parametrize("stage", ["maml", "protonets", "alone"])
def test_two_ranks_make_the_model_of_one_process(runs, stage):
    folder, _ = runs
    one, two = (model(folder, out, stage) for out in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
    assert not all(np.array_equal(two[name], values) for name, values in one.items()) or stage == "alone"


def test_only_the_first_rank_writes_and_prints(runs):
    folder, output = runs
    assert output.count("report: ") == 1
    assert output.count("maml  12/12") == 1
    accuracies = [
        [row["value"] for row in json.loads((folder / out / "metrics.json").read_text())["rows"]]
        for out in ("one", "two")
    ]
    np.testing.assert_allclose(*accuracies, atol=0.02)  # a score near a tie may fall to the other side


def test_what_is_shared_is_said(runs):
    folder, _ = runs
    store = Store(folder / "cache-two")
    recipes = json.loads((folder / "two" / "metrics.json").read_text())["stages"]
    ranks = {s["name"]: store.get(s["key"]).facts.get("ranks", 1) for s in recipes if store.has(s["key"])}
    assert (ranks["maml"], ranks["protonets"], ranks["partition"]) == (2, 2, 1)


def test_ranks_stop_at_the_same_step_and_all_go_on(runs):
    folder, _ = runs
    recipes = json.loads((folder / "two" / "metrics.json").read_text())["stages"]
    key = next(recipe["key"] for recipe in recipes if recipe["name"] == "maml")
    checkpoints = folder / "cache-again" / "checkpoints" / key
    stopped = start(folder, "again", "--checkpoint-every", "0")
    until = time.monotonic() + 200
    while not checkpoints.exists():
        assert stopped.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=100)
    assert stopped.returncode != 0
    assert "stopped after step" in output, output
    assert checkpoints.exists()
    finish(start(folder, "again"))
    for name, values in model(folder, "two", "maml").items():
        np.testing.assert_array_equal(model(folder, "again", "maml")[name], values, err_msg=name)


def test_a_share_holds_each_task_once():
    for size in (1, 2, 3, 8):
        shares = [Ranks(size, rank).share(5) for rank in range(size)]
        assert [i for share in shares for i in range(5)[share]] == [0, 1, 2, 3, 4]


def test_one_process_alone_sums_nothing():
    values = torch.tensor([1.0, 2.0])
    Ranks().sum(values)
    assert values.tolist() == [1.0, 2.0]


class Both:
    """Two ranks that are threads: what each of them got, or the error with which it ended. `stop` asks both to end."""

    def __init__(self, work: Callable[[Ranks], object], seconds: float = 20.0) -> None:
        self.got: list[Any] = [None, None]
        asked = threading.Event()
        board = torch.distributed.HashStore()

        def rank(number: int) -> None:
            try:
                self.got[number] = work(Ranks(2, number, board, asked.is_set))
            except Exception as error:
                self.got[number] = error

        threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds)
        self.waits = [thread.is_alive() for thread in threads]
        asked.set()
        for thread in threads:
            thread.join()


def stored_by_ranks(roots: tuple[Path, Path], make: Callable[[Run], Any]) -> Both:
    """Let two ranks, whose stores lie in `roots`, ask for a result that rank 0 makes alone."""

    def work(ranks: Ranks) -> Any:
        own = {"progress": None, "stop": lambda: False, "checkpoint_every": 30.0}
        maker = Maker(Store(roots[ranks.rank]), torch.device("cpu"), ranks, **own)
        return maker.stored("ab12", "stage", make, {}, seed=0).arrays["x"].tolist()

    return Both(work)


def fails(_: Run) -> Any:
    raise NumericalError("too large")


@pytest.mark.parametrize(
    ("make", "error"),
    [(fails, NumericalError), (lambda _: ({"x": np.zeros(1)}, {"odd": {1}}), TypeError)],
    ids=["in the component", "what cannot be written"],
)
def test_no_rank_waits_for_what_failed_on_the_first(tmp_path, make, error):
    both = stored_by_ranks((tmp_path, tmp_path), make)
    assert both.waits == [False, False]
    assert isinstance(both.got[0], error)
    assert "failed on rank 0, which says why" in str(both.got[1])


def test_no_rank_waits_where_the_lock_cannot_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "lock", lambda *_: (_ for _ in ()).throw(OSError("no locks on this disk")))
    both = stored_by_ranks((tmp_path, tmp_path), fails)
    assert both.waits == [False, False]
    assert isinstance(both.got[0], OSError)


def test_the_others_read_what_the_first_made(tmp_path):
    assert stored_by_ranks((tmp_path, tmp_path), lambda _: ({"x": np.arange(2)}, {})).got == [[0, 1], [0, 1]]


def test_a_rank_with_a_store_of_its_own_ends(tmp_path):
    both = stored_by_ranks((tmp_path / "a", tmp_path / "b"), lambda _: ({"x": np.arange(2)}, {}))
    assert both.got[0] == [0, 1]
    assert isinstance(both.got[1], RanksApart)
    assert "under torchrun one that all machines share" in str(both.got[1])


def test_ranks_that_would_make_other_results_do_not_begin():
    both = Both(lambda ranks: ranks.agree("planned 1", f"key {ranks.rank}"))
    assert both.got[0] is None
    assert isinstance(both.got[1], RanksApart)
    assert str(both.got[1]).startswith(
        "rank 1: would not make the results that rank 0 makes; expected the same versions"
    )
    assert Both(lambda ranks: ranks.agree("planned 1", "key")).got == [None, None]


def test_a_rank_that_waits_can_be_stopped():
    both = Both(lambda ranks: None if ranks.leads else ranks.hear("never said"), seconds=0.2)
    assert both.waits == [False, True]
    assert isinstance(both.got[1], Interrupted)


def test_ranks_go_on_from_the_same_step(tmp_path):
    """A shared disk may show one machine an older checkpoint."""
    for rank, steps in enumerate((3, 2)):
        stop = iter([*[False] * (steps - 1), True])
        run = Run(checkpoints=tmp_path / str(rank) / "ab12", stop=lambda stop=stop: next(stop))
        with pytest.raises(Interrupted):
            list(run.loop(5, total={"sum": 0}))
    both = Both(
        lambda ranks: list(Run(checkpoints=tmp_path / str(ranks.rank) / "ab12", ranks=ranks).loop(5, total={"sum": 0}))
    )
    assert both.got[0] == [3, 4]
    assert isinstance(both.got[1], RanksApart)


def test_a_rank_without_a_task_has_gradients_of_zero_and_what_is_frozen_has_none():
    class Doubled(Ranks):
        def sum(self, *tensors: torch.Tensor) -> None:
            for tensor in tensors:
                tensor.mul_(2)

    network = torch.nn.Linear(1, 2)
    network.bias.requires_grad_(False)
    Doubled(2, 1).sum_gradients(network)
    assert network.weight.grad.tolist() == [[0.0], [0.0]]
    assert network.bias.grad is None


@pytest.fixture
def launched(monkeypatch):
    """Be the second of two ranks that torchrun started on this machine."""
    said = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1", "cpu"])
def test_one_process_keeps_the_device_that_was_named(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device(name) == name


def test_each_rank_has_a_gpu_of_its_own(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [local_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]


def test_one_gpu_for_all_ranks_is_refused(launched, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(PipelineError, match="expected cuda, which gives each rank its own"):
        local_device("cuda:0")
