"""What a pipeline file can say beside its stages, and what happens when a run fails, stops or finds damage."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import toys
from running import SHAPES, SMALL, Ran, as_json, load, load_text

from fewcore import Interrupted, PipelineError, pipeline


def test_a_stage_without_labels_is_shared_by_all_label_shares(tmp_path):
    text = SMALL.replace("{start: net}", "{start: embed}") + "  embed: {embedder: vae}\n"
    run = Ran(load_text(tmp_path, text + "matrix: {labels.share: [0.1, 0.5, 1.0]}"), tmp_path / "store")
    assert run.stages["embed"] == 1
    assert run.stages["model"] == 3
    assert {row.conditions.get("labels.share") for row in run.result.reports["score"].rows if row.stage == "model"} == {
        0.1,
        0.5,
        1.0,
    }


def test_a_matrix_may_be_a_list_of_cells(tmp_path):
    cells = "matrix: [{labels.share: 0.1, stages.model.strength: 2.0}, {labels.share: 1.0}]"
    run = Ran(load_text(tmp_path, SMALL + cells), tmp_path / "store")
    rows = [row.conditions for row in run.result.reports["score"].rows if row.stage == "model"]
    assert rows == [{"labels.share": 0.1, "stages.model.strength": 2.0}, {"labels.share": 1.0}]


def test_labels_may_be_a_number_or_so_many_of_a_class(tmp_path):
    for said, count in (
        ("{number: 21, by: class}", 21),
        ("{per_class: 5}", 15),
        ("{classes: [none], per_class: 4}", 4),
    ):
        text = SMALL.replace("target: malignant", "target: finding") + f"labels: {said}"
        text = text.replace("toy-patients", "toy-patients, n_each: 1")
        run = Ran(load_text(tmp_path, text), tmp_path / "store")
        assert run.table().known.sum() == count


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    text = SMALL.replace("{learner: fine-tune, from: {start: net}}", "{learner: shaky}") + (
        "  after: {learner: orient, from: {start: model}}\nmatrix: {stages.model.fails: ['no', bug, nan]}"
    )
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    bug, nan = run.result.failures
    assert str(bug) == (
        "model (stages.model.fails bug): model (stages.model.fails bug) (from fewcore-toys 0.1): "
        "ZeroDivisionError: told to; the traceback is in log.jsonl"
    )
    assert nan.error.exit_code == 6
    assert run.result.exit_code == 4
    assert "ZeroDivisionError: told to" in run.session.tracebacks["model (stages.model.fails bug)"]
    assert sorted(run.result.status.values()).count("missing") == 2
    judged = {(e.outcome.stage, e.outcome.conditions["stages.model.fails"]) for e in run.result.outcomes}
    assert judged == {("model", "no"), ("after", "no")}
    again = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert [str(f) for f in again.result.failures] == [str(f) for f in run.result.failures]


def test_splits_by_share_and_their_seed(tmp_path):
    rows = {}
    for seed in (0, 0, 1):
        text = SMALL + f"splits: {{test: 0.25, validation: 0.1, by: group, seed: {seed}}}"
        table = Ran(load_text(tmp_path, text), tmp_path / "store").table()
        assert [len(table.rows[split]) for split in ("test", "validation", "train")] == [58, 18, 158]
        rows.setdefault(seed, table.rows["test"])
        np.testing.assert_array_equal(rows[seed], table.rows["test"])
    assert not np.array_equal(rows[0], rows[1])


def test_select_leaves_models_alone_on_which_it_does_not_act(tmp_path):
    text = SMALL + (
        "  other: {learner: mil, from: {start: plain}}\n  plain: {learner: fine-tune, strength: 5.0, from: {start: net}}\n"
        "select: {by: [score.accuracy], over: {stages.model.strength: [0.001, 1.0, 9.0]}}\nrepeat: {seed: [0, 1]}"
    )
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert [one["stage"] for one in run.result.candidates] == ["model"] * 6
    assert [one["chosen"] for one in run.result.candidates].count(True) == 2
    judged = Counter(entry.outcome.stage for entry in run.result.outcomes)
    assert judged == {"model": 2, "other": 2, "plain": 2}
    assert run.stages["plain"] == 2
    splits = Counter(
        run.session.store.get(key).recipe.get("split") for n, key in run.session.computed if "predict" in n
    )
    assert splits == {"validation": 6, "test": 6}


def test_select_among_few_shot_models_takes_all_ways_and_shots(tmp_path):
    text = (SHAPES / "a.yaml").read_text().replace("fewcore: 1\n", "").replace("repeat: {seed: [0, 1, 2]}", "")
    text += "select: {by: [score.accuracy], over: {stages.embed.dim: [1, 8]}}"
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    chosen = {one["stage"]: one["conditions"] for one in run.result.candidates if one["chosen"]}
    assert chosen["knn"] == {"stages.embed.dim": 8}
    assert chosen.keys() == {"knn", "match", "maml"}
    judged = Counter(entry.outcome.stage for entry in run.result.outcomes)
    assert judged == {"maml": 4, "knn": 4, "match": 4, "scratch": 4}


def test_select_that_nothing_can_answer_sends_nobody_to_the_test_rows(tmp_path):
    text = SMALL + "select: {by: [score.beauty], over: {stages.model.strength: [0.1, 1.0]}}"
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert [str(f) for f in run.result.failures] == [
        "model (stages.model.strength 0.1): select.by: no candidate makes score.beauty on validation; "
        "expected metrics of the evaluators"
    ]
    assert run.result.outcomes == []
    assert run.result.exit_code == 2


def test_validation_rows_that_a_component_needs_must_be_there(tmp_path):
    text = SMALL.replace("{learner: fine-tune, from: {start: net}}", "{learner: conv-net}") + "splits: {test: 0.5}"
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert [str(f.error) for f in run.result.failures] == [
        "stages.model: its component needs validation rows, and the splits have none; expected splits with validation "
        "(type splits: {test: 0.25, validation: 0.1})"
    ]
    # fine-tune can do without: its parameter may be None
    run = Ran(load_text(tmp_path, SMALL + "splits: {test: 0.5}"), tmp_path / "store")
    assert not run.result.failures
    assert run.row(stage="model", metric="accuracy").seen == "labels: 118 training"


def test_an_embedder_on_the_test_rows_marks_all_that_depends_on_it(tmp_path):
    text = (SHAPES / "a.yaml").read_text().replace("fewcore: 1\n", "").replace("repeat: {seed: [0, 1, 2]}", "")
    text = text.replace("{embedder: whiten, from: embed}", "{embedder: whiten, split: test, from: embed}")
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert run.row(stage="match", way=4, shot=1).seen == "labels: none; transductive: white"
    assert run.row(stage="scratch", way=4, shot=1).seen == "labels: 180 validation"


def test_vectors_can_stand_for_images(tmp_path):
    text = (SHAPES / "a.yaml").read_text().replace("fewcore: 1\n", "").replace("repeat: {seed: [0, 1, 2]}", "")
    text = text.replace("from: {tasks: tasks, validation_tasks: tune}", "from: {tasks: tasks, images: white}")
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert not run.result.failures
    shapes = {images.shape for stage, _, _, images in run.spied if stage == "maml"}
    assert shapes == {(8, 1, 1)}
    assert run.row(stage="maml", way=4, shot=5).value > 0.8


def test_names_and_places_of_stages_do_not_matter(tmp_path):
    Ran(load("c"), tmp_path / "store")
    text = (SHAPES / "c.yaml").read_text().replace("embed:", "vectors:").replace("name: c", "name: other")
    path = tmp_path / "renamed.yaml"
    path.write_text(text)
    again = Ran(pipeline.load(path, toys.registry()), tmp_path / "store")
    assert again.session.computed == []


def test_a_run_that_is_stopped_anywhere_ends_with_the_same_numbers(tmp_path):
    wanted = as_json(Ran(load("c"), tmp_path / "whole").result.reports)
    stops, done = 0, None
    while done is None:
        left = iter(range(4))
        try:
            done = Ran(
                load("c"), tmp_path / "store", stop=lambda left=left: next(left, None) is None, checkpoint_every=0.0
            )
        except Interrupted:
            stops += 1
    assert stops >= 2
    assert as_json(done.result.reports) == wanted


def test_a_changed_file_of_a_result_is_found_and_computed_again(tmp_path):
    first = Ran(load("g"), tmp_path)
    key = first.cells[0]["gist"].key
    (path,) = (tmp_path / "results" / key[:2] / key / "arrays").glob("*.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    again = Ran(load("g"), tmp_path)
    assert again.session.computed == [("gist", key)]
    assert again.session.store.damaged == [key]
    assert as_json(again.result.reports) == as_json(first.result.reports)


def test_the_target_must_be_one_of_the_data(tmp_path):
    with pytest.raises(PipelineError) as error:
        Ran(load_text(tmp_path, SMALL.replace("target: malignant", "target: malignent")), tmp_path / "store")
    assert str(error.value) == ("target: 'malignent'; expected one of finding, malignant (did you mean 'malignant'?)")


def test_a_target_can_be_made_of_classes(tmp_path):
    made = SMALL.replace("target: malignant", "target: {of: finding, positive: [malignant]}")
    run = Ran(load_text(tmp_path, made), tmp_path / "store")
    plain = Ran(load_text(tmp_path, SMALL), tmp_path / "store")
    assert run.row(stage="model", metric="accuracy").value == plain.row(stage="model", metric="accuracy").value


def test_the_same_failure_in_every_fold_is_told_once_and_counted_in_full(tmp_path):
    text = SMALL.replace("{learner: fine-tune, from: {start: net}}", "{learner: conv-net}") + "splits: {folds: 3}"
    run = Ran(load_text(tmp_path, text), tmp_path / "store")
    assert len(run.result.failures) == 3
    assert run.said == [f"failed: {run.result.failures[0]}"]
