"""Progress: lines at the right moments, a bar on terminals, a log, and next to no cost."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from fewcore.progress import Progress, clock_text
from fewcore.run import Run


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_lines_come_after_5_then_every_30_seconds_and_at_the_end(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock) as progress:
        when = []
        for done in range(1, 1001):
            before = stream.getvalue()
            progress.update("maml", done, 1000, {"loss": 1.23})
            if stream.getvalue() != before:
                when.append(done)
            clock.time += 0.1
    # Step 1 comes at second 0; a line is due at 5 s, then every 30 s, and at the end.
    assert [round((done - 1) * 0.1) for done in when] == [5, 35, 65, 95, 100]
    assert when[-1] == 1000


def test_a_line_tells_rate_time_left_and_the_latest_numbers(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock) as progress:
        progress.update("maml", 1044, 30000, {})
        clock.time += 5
        progress.update("maml", 1200, 30000, {"accuracy": 0.81, "loss": 1.2345, "inner_rate": 0.4})
    assert stream.getvalue() == (
        "maml  1200/30000  4.0%  31.2/s  15:23 left  loss 1.23  accuracy 0.81  inner rate 0.4\n"
    )


def test_the_rate_is_that_of_the_last_half_minute_not_of_the_start(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock, interval=30) as progress:
        done = 1
        for per_second in [1] * 60 + [100] * 65:
            progress.update("acai", done, 100_000, {})
            clock.time += 1
            done += per_second
    last = stream.getvalue().splitlines()[-1]
    assert "100.0/s" in last


def test_resumed_work_counts_only_the_steps_of_this_run(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock) as progress:
        progress.update("maml", 900, 1000, {})
        clock.time += 10
        progress.update("maml", 1000, 1000, {})
    assert stream.getvalue() == "maml  1000/1000  100.0%  10.0/s  took 0:10\n"


def test_short_work_that_comes_again_and_again_does_not_fill_the_screen(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock) as progress:
        for _ in range(100):
            for done in (1, 2, 3):
                progress.update("maml: validation", done, 3, {})
                clock.time += 0.1
    # 30 seconds in all: the first time it ends, and once more when the interval is over.
    assert stream.getvalue().count("\n") <= 2


def test_long_work_of_the_same_name_ends_in_a_line_each_time(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock, interval=1000) as progress:
        for _ in range(3):
            for done in (1, 2):
                progress.update("maml", done, 2, {})
                clock.time += 6
    assert stream.getvalue().count("100.0%") == 3


def test_work_of_unknown_length_has_no_share_and_no_end(clock: Clock, stream: io.StringIO) -> None:
    with Progress(stream=stream, clock=clock) as progress:
        for done in range(1, 9):
            progress.update("files", done, 0, {})
            clock.time += 1
    assert stream.getvalue() == "files  6  1.0/s\n"


def test_the_log_holds_json_lines_with_utc_times_and_null_for_nan(
    tmp_path: Path, clock: Clock, stream: io.StringIO
) -> None:
    path = tmp_path / "run" / "log.jsonl"
    with Progress(path, stream=stream, clock=clock, now=lambda: 1_700_000_000.0) as progress:
        progress.say("device: cpu")
        progress.update("maml", 2, 2, {"loss": float("nan"), "accuracy": 0.5, "done": 7.0})
    with Progress(path, stream=stream, clock=clock, now=lambda: 1_700_000_001.0) as progress:
        progress.say("again")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"time": "2023-11-14T22:13:20.000+00:00", "message": "device: cpu"},
        {
            "time": "2023-11-14T22:13:20.000+00:00",
            "stage": "maml",
            "done": 2,
            "total": 2,
            "loss": None,
            "accuracy": 0.5,
        },
        {"time": "2023-11-14T22:13:21.000+00:00", "message": "again"},
    ]


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, stream: io.StringIO) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with Progress(tmp_path / "log.jsonl", stream=stream) as progress:
        assert progress._log is not None
        progress._log.close()
        progress._log = Full()
        progress.say("one")
        progress.say("two")
    assert "log.jsonl: cannot be written any more (No space left on device); the run goes on" in stream.getvalue()
    assert stream.getvalue().endswith("one\ntwo\n")


def test_names_cannot_command_the_terminal(stream: io.StringIO) -> None:
    with Progress(stream=stream) as progress:
        progress.update("\x1b[2Jmaml", 1, 1, {"\x1b]0;x\x07loss": 1.0})
        progress.say("a\x1b[31m\nb")
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert "\nb\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("environment", "live"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_a_terminal_gets_a_bar_unless_it_is_dumb_or_colours_are_unwanted(
    environment: dict[str, str], live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Progress(stream=Terminal())._live is live
    assert Progress(stream=io.StringIO())._live is False


def test_the_bar_shows_work_and_leaves_lines_behind(clock: Clock) -> None:
    stream = Terminal()
    with Progress(stream=stream, live=True, clock=clock) as progress:
        for done in range(1, 5):
            progress.update("[bold]maml", done, 4, {"loss": 0.5})
            clock.time += 1
        progress.say("[red]stored")
        progress.update("knn", 1, 9, {})
        assert progress._bars is not None
        assert [task.description for task in progress._bars.tasks] == ["knn"]
        clock.time += 100
        progress.update("linear", 1, 9, {})
        assert [task.description for task in progress._bars.tasks] == ["linear"]
    text = stream.getvalue()
    assert "[bold]maml  4/4  100.0%  1.0/s  took 0:03  loss 0.5" in text
    assert "[red]stored" in text
    assert text.count("took") == 1


def test_it_serves_as_the_progress_of_a_run(stream: io.StringIO) -> None:
    with Progress(stream=stream) as progress:
        run = Run(name="maml", progress=progress)
        for _ in run.loop(3):
            run.log(loss=0.5)
        assert list(run.track([1, 2], name="rows")) == [1, 2]
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("maml  3/3  100.0%")
    assert lines[1].startswith("maml: rows  2/2")


@pytest.mark.parametrize("live", [False, True])
def test_a_call_costs_less_than_20_microseconds(live: bool) -> None:
    with Progress(stream=io.StringIO(), live=live) as progress:
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            for done in range(1, 5001):
                progress.update("maml", done, 10_000, {"loss": 1.0})
            best = min(best, (time.perf_counter() - began) / 5000)
    assert best < 20e-6


def test_times_are_shown_as_people_read_them() -> None:
    assert [clock_text(s) for s in (0, 59.6, 923, 3723, 200_000)] == ["0:00", "1:00", "15:23", "1:02:03", "2 d 07:33"]
