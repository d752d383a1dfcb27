"""`rows.json`: which images a run trained, validated and tested on, and whose labels it knew."""

from __future__ import annotations

import json

import numpy as np
from running import SMALL, Ran, load_text

from fewcore.drawn_rows import FILE, write_rows


def written(tmp_path, text):
    run = Ran(load_text(tmp_path, SMALL + text), tmp_path / "store")
    write_rows(run.session, run.result.nodes, tmp_path)
    return run, json.loads((tmp_path / FILE).read_text())


def test_labelled_images_are_noted_nested_and_whole_patients(tmp_path):
    run, (few, more) = written(tmp_path, "matrix: {labels.share: [0.2, 0.5], stages.model.strength: [1.0, 2.0]}")
    assert (few["data"], few["labels.share"], more["labels.share"]) == ("data", 0.2, 0.5)
    assert "stages.model.strength" not in few
    images = run.table().images
    assert few["labelled"]
    assert set(few["labelled"]) < set(more["labelled"]) < set(few["train"])
    assert few["train"] == sorted(images.splits["train"].tolist())
    assert few["test"] == sorted(images.splits["test"].tolist())
    group = dict(zip(images.ids.tolist(), images.groups.tolist(), strict=True))
    known, hidden = ({group[i] for i in ids} for ids in (few["labelled"], set(few["train"]) - set(few["labelled"])))
    assert not known & hidden


def test_each_fold_has_its_rows(tmp_path):
    run, rows = written(tmp_path, "splits: {folds: 3, by: group, validation: 0.2}")
    assert [row["fold"] for row in rows] == [0, 1, 2]
    tested = np.concatenate([row["test"] for row in rows])
    np.testing.assert_array_equal(np.sort(tested), np.sort(run.table().images.ids))
    for row in rows:
        parts = [set(row[name]) for name in ("train", "validation", "test")]
        assert len(set.union(*parts)) == sum(map(len, parts)) == len(tested)
        assert row["labelled"] == row["train"]


def test_own_splits_with_all_labels_need_no_note_and_an_old_one_goes(tmp_path):
    (tmp_path / FILE).write_text("[]")
    run = Ran(load_text(tmp_path, SMALL), tmp_path / "store")
    write_rows(run.session, run.result.nodes, tmp_path)
    assert not (tmp_path / FILE).exists()
