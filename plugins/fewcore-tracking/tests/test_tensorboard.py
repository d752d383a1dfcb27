"""What TensorBoard's own reader finds in what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewcore import LogEntry
from fewcore_tracking.tensorboard import TensorBoard

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own

WAY = {"evaluator": "score", "method": "maml", "split": "test", "n": 200, "way": 5, "shot": 1}
RESULT = LogEntry("result", "maml", 0, {"accuracy": 0.8, "accuracy.low": 0.75, "accuracy.high": 0.85}, 9.0, WAY)


def written(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_points_stand_at_their_steps_and_times(tmp_path: Path) -> None:
    tracking = TensorBoard().open("tiny", tmp_path, {"net.filters": 32})
    for step in (50, 100):
        tracking.record(LogEntry("curve", "maml (seed 1)", step, {"loss": step / 100, "accuracy": 0.5}, 1000.0 + step))
    tracking.record(LogEntry("progress", "maml (seed 1)", 100, {"done": 100.0, "total": 400.0, "loss": 1.0}, 1200.0))
    tracking.record(LogEntry("progress", "files", 7, {"done": 7.0, "total": 0.0}, 1200.0))
    tracking.close("finished", ())
    found = written(tmp_path / "tensorboard")
    assert sorted(found.Tags()["scalars"]) == ["maml (seed 1)/accuracy", "maml (seed 1)/loss", "progress/maml (seed 1)"]
    points = [(e.step, e.value, e.wall_time) for e in found.Scalars("maml (seed 1)/loss")]
    assert points == [(50, 0.5, 1050.0), (100, 1.0, 1100.0)]
    assert [(e.step, e.value) for e in found.Scalars("progress/maml (seed 1)")] == [(100, 0.25)]


def text_of(found: Any, tag: str) -> str:
    (event,) = found.Tensors(f"{tag}/text_summary")
    text: str = event.tensor_proto.string_val[0].decode()
    return text


def test_results_are_scalars_and_a_table(tmp_path: Path) -> None:
    tracking = TensorBoard().open("tiny", tmp_path, {"net": "fewcore-meta:conv4", "net.filters": 32})
    tracking.record(RESULT)
    tracking.close("failed", ())
    found = written(tmp_path / "tensorboard")
    (point,) = found.Scalars("result/score/accuracy/maml (way 5, shot 1)")
    assert (point.step, round(point.value, 6)) == (0, 0.8)
    assert "| result/score/accuracy/maml (way 5, shot 1) | 0.8 | 0.75 to 0.85 | 200 |" in text_of(found, "results")
    assert text_of(found, "status") == "failed"
    assert "| net.filters | 32 |" in text_of(found, "pipeline")


def test_it_is_written_anew_so_that_no_point_stands_twice(tmp_path: Path) -> None:
    point = LogEntry("curve", "maml", 1, {"loss": 1.0}, 0.0)
    for _ in range(2):
        tracking = TensorBoard(text=False).open("tiny", tmp_path, {})
        tracking.record(point)
        tracking.close("finished", ())
    (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
    TensorBoard(text=False).open("tiny", tmp_path, {}).close("finished", ())
    assert (tmp_path / "tensorboard" / "notes.txt").exists()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert "pipeline/text_summary" not in written(tmp_path / "tensorboard").Tags()["tensors"]


@pytest.mark.parametrize("folder", ["/elsewhere", "../elsewhere", "", "a/../../b"])
def test_the_files_stay_in_the_folder_of_the_run(folder: str) -> None:
    with pytest.raises(ValueError, match=r"expected one within that of the run, as tensorboard"):
        TensorBoard(folder)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(OSError, match="tensorboard"):
        TensorBoard().open("tiny", tmp_path, {})
