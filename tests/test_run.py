"""`Run`: loops that resume bit by bit, logging that stops on NaN, and randomness that comes from one seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewcore import Interrupted, NumericalError, PipelineError, Run
from fewcore.run import RECORDS_PER_LOOP, device_named

STEPS = 7


class Trained:
    """A small training with everything that a step can change."""

    def __init__(self, run, steps=STEPS, after=lambda step: None):
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.normal_(generator=run.generator)
        self.adam = torch.optim.Adam(self.net.parameters(), 0.1)
        self.plan = torch.optim.lr_scheduler.StepLR(self.adam, 2)
        self.best = {"loss": np.inf, "step": -1}
        self.seen, self.table, self.tensor = [], np.zeros(4), torch.zeros(2)
        state = {"best": self.best, "seen": self.seen, "table": self.table, "tensor": self.tensor}
        for step in run.loop(steps, network=self.net, optimiser=self.adam, plan=self.plan, **state):
            x = torch.from_numpy(run.rng.normal(size=(8, 3))).float()
            loss = (self.net(x) - torch.randn(8, 2, generator=run.generator)).square().mean()
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            self.plan.step()
            run.log(loss=loss, step=step)
            if float(loss.detach()) < self.best["loss"]:
                self.best |= {"loss": float(loss.detach()), "step": step}
            self.seen.append((step, float(loss.detach())))
            self.table[step % 4] += float(loss.detach())
            self.tensor += loss.detach()
            after(step)
        self.end = run.rng.random(), torch.rand(1, generator=run.generator).item(), run.records

    def everything(self):
        values = {name: value.tolist() for name, value in self.net.state_dict().items()}
        moments = [{k: v.tolist() for k, v in s.items()} for s in self.adam.state_dict()["state"].values()]
        rest = (self.plan.state_dict()["_last_lr"], self.best, self.seen, self.table.tolist(), self.tensor.tolist())
        return (values, moments, *rest, self.end)


def stopping(after):
    left = iter(range(after))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_loop_that_is_stopped_at_any_step_ends_bit_for_bit_the_same(tmp_path, stop):
    whole = Trained(Run(3)).everything()
    with pytest.raises(Interrupted) as error:
        Trained(Run(3, name="acai", checkpoints=tmp_path, stop=stopping(stop)))
    assert str(error.value) == f"acai: stopped after step {stop + 1} of {STEPS}; run again to go on"
    done = []
    assert Trained(Run(3, checkpoints=tmp_path), after=done.append).everything() == whole
    assert done == list(range(stop + 1, STEPS))


def test_a_loop_that_is_stopped_at_every_step_ends_the_same(tmp_path):
    whole, stops = Trained(Run(3)).everything(), 0
    while True:
        try:
            found = Trained(Run(3, checkpoints=tmp_path, stop=stopping(0) if stops < STEPS else lambda: False))
            break
        except Interrupted:
            stops += 1
    assert stops == STEPS
    assert found.everything() == whole


def test_a_loop_that_is_killed_goes_on_from_the_last_checkpoint(tmp_path):
    class Killed(Exception):
        pass

    def kill(step):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        Trained(Run(3, checkpoints=tmp_path, checkpoint_every=0.0), after=kill)
    done = []
    found = Trained(Run(3, checkpoints=tmp_path), after=done.append)
    assert done == [4, 5, 6]
    assert found.everything() == Trained(Run(3)).everything()


def test_seconds_count_on_from_the_checkpoint(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fewcore.run.time.monotonic", lambda: now[0])

    def wait(step):
        now[0] += 10

    with pytest.raises(Interrupted):
        Trained(Run(3, checkpoints=tmp_path, stop=stopping(4)), after=wait)
    now[0] += 1000
    again = Run(3, checkpoints=tmp_path)
    assert again.seconds == 0
    Trained(again, after=wait)
    assert again.seconds == 10 * STEPS


def test_a_changed_checkpoint_is_as_good_as_none(tmp_path):
    whole = Trained(Run(3)).everything()
    with pytest.raises(Interrupted):
        Trained(Run(3, checkpoints=tmp_path, stop=stopping(3)))
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    places = [0, 63, 64, 70, len(good) // 2, len(good) - 1, *np.random.default_rng(0).integers(0, len(good), 6)]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        done = []
        assert Trained(Run(3, checkpoints=tmp_path), after=done.append).everything() == whole
        assert done == list(range(STEPS))
    for length in (0, 10, 64, len(good) - 1):
        path.write_bytes(good[:length])
        assert Trained(Run(3, checkpoints=tmp_path)).everything() == whole


def test_a_checkpoint_of_other_state_is_not_used(tmp_path):
    with pytest.raises(Interrupted):
        list(Run(checkpoints=tmp_path, stop=stopping(1)).loop(5, a=[1]))
    assert list(Run(checkpoints=tmp_path).loop(5, a=[1], b=[2])) == [0, 1, 2, 3, 4]


def test_loops_of_several_names_have_checkpoints_of_their_own(tmp_path):
    for name in ("first", "second"):
        with pytest.raises(Interrupted):
            list(Run(checkpoints=tmp_path, stop=stopping(2)).loop(5, name=name, a=[name]))
    values = []
    assert list(Run(checkpoints=tmp_path).loop(5, name="second", a=values)) == [3, 4]
    assert values == ["second"]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_loop_without_checkpoints_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted):
        list(Run(stop=stopping(2), checkpoint_every=0.0).loop(5))
    assert not list(tmp_path.iterdir())


def test_state_that_cannot_be_put_back_is_named(tmp_path):
    with pytest.raises(Interrupted):
        list(Run(checkpoints=tmp_path, stop=stopping(0)).loop(2, place=3))
    with pytest.raises(TypeError) as error:
        list(Run(checkpoints=tmp_path).loop(2, place=3))
    assert str(error.value) == "a loop cannot restore int; expected a module, tensor, array, dict or list"


# ---- logging


def test_the_curve_holds_means_over_equal_windows():
    run = Run()
    n = RECORDS_PER_LOOP * 3
    for step in run.loop(n):
        run.log(loss=step, twice=torch.tensor(2.0 * step))
    assert len(run.records) == RECORDS_PER_LOOP
    for number, record in enumerate(run.records):
        middle = 3 * number + 1
        assert record == {"loop": "train", "step": 3 * number + 3, "loss": middle, "twice": 2 * middle}


def test_the_curve_of_a_short_loop_has_every_step_and_ends_with_the_last():
    run = Run()
    for step in run.loop(5, name="tune"):
        run.log(loss=step)
    assert [(r["loop"], r["step"], r["loss"]) for r in run.records] == [("tune", n + 1, n) for n in range(5)]
    run = Run()
    for step in run.loop(RECORDS_PER_LOOP * 2 + 1):
        run.log(loss=step)
    assert run.records[-1]["step"] == RECORDS_PER_LOOP * 2 + 1


@pytest.mark.parametrize("options", [{"stop": True}, {"checkpoint_every": 0.0}])
def test_the_curve_does_not_tell_when_checkpoints_were_written(tmp_path, options):
    def curve(run):
        for step in run.loop(RECORDS_PER_LOOP * 3, place=[]):
            run.log(loss=step**0.5)
        return run.records

    if options.pop("stop", False):
        with pytest.raises(Interrupted):
            curve(Run(checkpoints=tmp_path, stop=stopping(100)))
    assert curve(Run(checkpoints=tmp_path, **options)) == curve(Run())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_what_is_no_number_stops_the_stage_at_its_step(value):
    run = Run(name="maml")

    def train():
        for step in run.loop(10):
            run.log(loss=value if step == 3 else 1.0)

    with pytest.raises(NumericalError) as error:
        train()
    shown = float(value)
    assert str(error.value).startswith(f"maml: loss is {shown} at step 3; expected a finite number (")


def test_logging_needs_no_gradient():
    run = Run()
    for _ in run.loop(1):
        run.log(loss=torch.ones(1, requires_grad=True).sum() * 2)
    assert run.records[0]["loss"] == 2


# ---- progress, randomness, devices


class Shown:
    def __init__(self):
        self.lines, self.points = [], []

    def update(self, name, done, total, values):
        self.lines.append((name, done, total, dict(values)))

    def record(self, entry):
        self.points.append(entry)


def test_progress_is_shown_with_the_values_logged_last():
    shown = Shown()
    run = Run(name="acai", progress=shown)
    for step in run.loop(2):
        run.log(loss=step)
    for _ in run.loop(1, name="tune"):
        run.log(accuracy=0.5)
    assert list(run.track(iter("ab"), name="files", total=2)) == ["a", "b"]
    assert shown.points == [
        {"stage": "acai", "step": 1, "values": {"loss": 0.0}},
        {"stage": "acai", "step": 2, "values": {"loss": 1.0}},
        {"stage": "acai: tune", "step": 1, "values": {"accuracy": 0.5}},
    ]
    assert shown.lines == [
        ("acai", 1, 2, {"loss": 0.0}),
        ("acai", 2, 2, {"loss": 1.0}),
        ("acai: tune", 1, 1, {"loss": 1.0, "accuracy": 0.5}),
        ("acai: files", 1, 2, {"loss": 1.0, "accuracy": 0.5}),
        ("acai: files", 2, 2, {"loss": 1.0, "accuracy": 0.5}),
    ]
    named = Run(name="white: embed", progress=shown)
    assert list(named.track("a", name="embed")) == ["a"]
    assert shown.lines[-1] == ("white: embed", 1, 1, {})


def test_tracked_work_can_be_stopped():
    with pytest.raises(Interrupted) as error:
        list(Run(name="lidc", stop=stopping(1)).track([1, 2, 3], name="files"))
    assert str(error.value) == "lidc: stopped in files; run again to go on"


def test_randomness_comes_from_the_seed_and_touches_nothing_global():
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (Run(seed) for seed in (1, 1, 2))
    assert one.rng.random() == same.rng.random() != other.rng.random()
    draws = [torch.rand(1, generator=run.generator).item() for run in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


def test_scratch_is_gone_with_the_run():
    run = Run()
    folder = run.scratch
    assert folder == run.scratch
    (folder / "x").write_text("x")
    run._scratch.cleanup()
    assert not folder.exists()


def test_small_arrays_lie_in_memory_and_large_ones_in_a_file_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr("fewcore.run.LARGE_ARRAY", 12)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = Run()
    small, large, other = run.zeros((3, 4), np.uint8), run.zeros((3, 5), np.uint8), run.zeros((2, 6), "float32")
    assert [isinstance(array, np.memmap) for array in (small, large, other)] == [False, True, True]
    large[1] = 7
    assert [array.sum() for array in (small, large, other)] == [0, 35, 0]
    assert (large.shape, other.dtype) == ((3, 5), np.float32)
    # Nothing is left behind, however the process ends.
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_noticed_before_a_file_is_filled(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewcore.run.LARGE_ARRAY", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Run().zeros((3,), np.uint8)


def test_devices_by_name():
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cpu:1", "gpu", "cuda:x", "mps"):
        with pytest.raises(PipelineError) as error:
            device_named(name)
        assert str(error.value) == f"--device: found '{name}'; expected auto, cpu, cuda or cuda:N"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(PipelineError) as error:
        device_named(f"cuda:{count}")
    there = f"one of the {count} CUDA devices here" if count else "cpu, for there is no CUDA device here"
    assert str(error.value) == f"--device: found 'cuda:{count}'; expected {there} (type --device cpu)"
