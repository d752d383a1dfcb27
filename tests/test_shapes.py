"""The eight pipelines that the contracts must carry, in toy components: wired, run, resumed and spied upon."""

from __future__ import annotations

import base64
import itertools
import json
import re
import time
from collections import Counter

import numpy as np
import pytest
from running import SHAPES, Ran, as_json, load, load_text, warm_up

from fewcore.reports.pictures import pictures

NAMES = sorted(path.stem for path in SHAPES.glob("*.yaml"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run each shape once for all tests."""
    made = {}
    warm_up()

    def run(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            began = time.process_time()
            made[name] = Ran(load(name), root)
            made[name].seconds = time.process_time() - began
            made[name].root = root
        return made[name]

    return run


# ---- all eight


def test_there_are_eight_shapes():
    assert list("abcdefgh") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_seconds_without_a_failure(ran, name):
    first = ran(name)
    assert not first.result.failures
    assert first.result.exit_code == 0
    assert first.session.tracebacks == {}
    assert first.result.reports.keys() == {s.name for s in load(name).stages if s.kind == "evaluator"}
    assert all(report.rows for report in first.result.reports.values())
    assert first.seconds < 5


@pytest.mark.parametrize("name", NAMES)
def test_resumes_with_nothing_left_to_compute(ran, name):
    first = ran(name)
    again = Ran(load(name), first.root)
    assert again.session.computed == []
    assert as_json(again.result.reports) == as_json(first.result.reports)
    assert again.result.candidates == first.result.candidates


@pytest.mark.parametrize("name", ["a", "e"])
def test_runs_of_two_places_agree(ran, name, tmp_path):
    assert as_json(Ran(load(name), tmp_path).result.reports) == as_json(ran(name).result.reports)


@pytest.mark.parametrize("name", NAMES)
def test_no_training_stage_meets_test_rows_or_hidden_targets(ran, name):
    spied = ran(name).spied
    stages = {stage.name: stage for stage in load(name).stages}
    assert spied
    for stage, parameter, split, images in spied:
        offer = stages[stage].offer
        judges = offer.kind in ("task_sampler", "partitioner") and stages[stage].split != "train"
        assert split in ({"test", "validation"} if judges else {"train", "validation"})
        assert parameter != "images" or split == stages[stage].split
        assert not images.splits
        if not (offer.component.needs_labels or judges):
            assert images.targets == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_input_stands_on_the_rows_of_its_stage(ran, name):
    first = ran(name)
    for number, nodes in enumerate(first.cells):
        for node in nodes.values():
            stage = node.stage
            if not stage.data or stage.kind == "dataset":
                continue
            rows = first.table(number, stage.data).rows
            ids = first.table(number, stage.data).images.ids
            for parameter in first.session.arguments_of(stage, node.cell, nodes):
                split = "validation" if parameter.startswith("validation") else stage.split
                value = first.session.argument(node, parameter)
                for one in value if isinstance(value, tuple) else (value,):
                    if hasattr(one, "ids"):
                        np.testing.assert_array_equal(one.ids, ids[rows[split]])


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_row_and_no_group(ran, name):
    first = ran(name)
    for number in range(len(first.cells)):
        table = first.table(number)
        groups = {split: set(table.images.groups[rows].tolist()) for split, rows in table.rows.items()}
        assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
        assert sum(map(len, table.rows.values())) == len(table.images)


@pytest.mark.parametrize("name", NAMES)
def test_equal_keys_are_computed_once(ran, name):
    computed = Counter(key for _, key in ran(name).session.computed)
    assert set(computed.values()) == {1}


# ---- what each shape asks for


def test_a_test_tasks_are_the_same_for_all_seeds_and_methods(ran):
    first = ran("a")
    assert len({nodes["test"].key for nodes in first.cells}) == 1
    assert len({nodes["tasks"].key for nodes in first.cells}) == 3
    labels = {}
    for judged in first.result.outcomes:
        o = judged.outcome
        where = o.conditions["way"], o.conditions["shot"]
        np.testing.assert_array_equal(labels.setdefault(where, o.query_labels), o.query_labels)
    assert len(labels) == 4
    assert first.result.reports["score"].comparisons


def test_a_data_and_whitening_are_shared_as_far_as_seeds_allow(ran):
    stages = ran("a").stages
    assert stages["data"] == 1
    assert {stages[name] for name in ("embed", "white", "parts", "one", "maml", "knn", "match", "scratch")} == {3}


def test_a_says_what_was_seen(ran):
    first = ran("a")
    wanted = {"way": 4, "shot": 1, "seed": 0}
    assert first.row(stage="maml", **wanted).seen == "labels: none (monitored only: 180 validation)"
    assert first.row(stage="knn", **wanted).seen == "labels: 180 validation"
    assert first.row(stage="match", **wanted).seen == "labels: none"
    assert first.row(stage="maml", **wanted).norm == "transductive"
    for stage in ("maml", "knn", "match", "scratch"):
        assert first.row(stage=stage, way=4, shot=5, seed="mean of 3").value > 0.8


def test_a_monitoring_changes_no_result(ran, tmp_path):
    wired = {"stages.maml.from": {"tasks": "tasks"}, "seed": 0}
    other = Ran(load("a", **wired), tmp_path)
    with_curve, without = ran("a").value("maml"), other.value("maml")
    np.testing.assert_array_equal(with_curve.to_arrays()[0]["bodies"], without.to_arrays()[0]["bodies"])


def test_b_one_set_of_partitions_feeds_two_task_sizes(ran):
    first = ran("b")
    assert first.stages["parts"] == 2  # one a seed
    small, large = (first.value(name).start().draw(1) for name in ("tasks", "tasks16"))
    assert small.query.shape == (1, 40)
    assert large.query.shape == (1, 120)
    assert first.row(stage="protonets", way=4, shot=1, seed=0).norm == "running"


def test_c_tasks_without_a_partition(ran):
    first = ran("c")
    assert first.row(stage="maml", metric="accuracy").seen == "labels: none"
    assert first.row(stage="oracle", metric="accuracy").seen == "labels: 720 training"
    assert first.row(stage="oracle", metric="accuracy").n == 100
    spied = {(stage, split): images for stage, _, split, images in first.spied}
    assert set(spied["test", "test"].targets) == {"class", "attributes"}
    assert spied["maml", "train"].targets == {}


def test_d_a_model_is_the_start_of_another(ran):
    first = ran("d")
    assert first.row(stage="u-mt", **{"stages.embed.n_clusters": 3, "stages.tasks.order": "random", "seed": 0})
    maml = first.value("maml")
    assert len(maml.snapshots) == 2
    starts = [m.network.body.detach().numpy() for m in (*maml.snapshots, maml)]
    tuned = first.value("u-mt").network.body.detach().numpy()
    assert any(np.array_equal(tuned, start) for start in starts)


def test_d_axes_on_which_a_model_does_not_depend_are_not_among_its_conditions(ran):
    first = ran("d")
    judged = Counter(judged.outcome.stage for judged in first.result.outcomes)
    assert judged["u-mt"] == 2 * 2 * 2
    assert {judged[name] for name in ("scratch", "mil", "vae-tuned", "s-mt-ns")} == {2}
    for entry in first.result.outcomes:
        axes = {"stages.embed.n_clusters", "stages.tasks.order"} if entry.outcome.stage == "u-mt" else set()
        assert set(entry.outcome.conditions) == axes
        assert set(entry.outcome.repeats) == {"seed"}
    assert first.stages["vae"] == 2
    assert first.stages["truth"] == 1
    assert first.stages["embed"] == 4
    assert first.stages["maml"] == 8


def test_d_feedback_reaches_the_sampler_and_excluded_pairs_are_left_out(ran):
    first = ran("d")
    hand = first.value("hand")
    assert len(hand.pairs) == 5  # 6 pairs of sets of three classes, one of them excluded
    order = {nodes["tasks"].stage.component.order: nodes["maml"] for nodes in first.cells}
    drawn = {name: first.session.value(node).drawn for name, node in order.items()}
    assert not np.array_equal(drawn["random"], drawn["curriculum"])
    labels = {stage: images.targets for stage, _, _, images in first.spied}
    assert labels["maml"] == {}
    assert first.row(stage="u-mt", seed=0, **{"stages.embed.n_clusters": 3, "stages.tasks.order": "random"}).seen == (
        "labels: 90 training + 26 validation"
    )


def test_e_labels_are_hidden_by_share_nested_and_balanced(ran):
    first = ran("e")
    known = {}
    for number, nodes in enumerate(first.cells):
        share = nodes["model"].cell.matrix["labels.share"]
        table = first.table(number)
        view = table.view("train", "known")
        labels, masks = view.labels, view.targets["masks"].values
        assert np.array_equal(labels >= 0, table.known)
        assert np.isnan(masks[~table.known]).all()
        assert not np.isnan(masks[table.known]).any()
        counts = np.bincount(labels[labels >= 0], minlength=3)
        assert share == 1.0 or counts.max() - counts.min() <= 1
        assert counts.sum() == int(615 * share)
        assert known.setdefault(share, set(view.ids[table.known])) == set(view.ids[table.known])
    shares = sorted(known)
    assert shares == [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    assert all(known[a] < known[b] for a, b in itertools.pairwise(shares))
    assert first.row(metric="dice", labels__share=0.1, stages__model="s4mtl").seen == (
        "labels: 61 training + 69 validation"
    )


def test_e_one_table_of_28_cells_and_two_evaluators(ran):
    first = ran("e")
    cells = {tuple(entry.outcome.conditions.values()) for entry in first.result.outcomes}
    assert len(cells) == len(first.result.outcomes) == 28
    assert (1.0, "s4mtl") not in cells
    dice = [row for row in first.result.reports["masks"].rows if row.metric == "dice"]
    accuracy = [row for row in first.result.reports["classes"].rows if row.stage == "model"]
    assert len(dice) == 22
    assert len(accuracy) == 22
    assert {row.n for row in (*dice, *accuracy)} == {228}


def test_e_winners_are_chosen_on_validation_and_they_alone_meet_the_test_rows(ran):
    first = ran("e")
    candidates = first.result.candidates
    assert len(candidates) == 56
    groups = {}
    for one in candidates:
        cell = {axis: v for axis, v in one["conditions"].items() if axis != "stages.model.alpha"}
        groups.setdefault(json.dumps(cell), []).append(one)
    assert len(groups) == 28
    for group in groups.values():
        (best,) = [one for one in group if one["chosen"]]
        assert best["score"] == max(one["score"] for one in group)
        assert {one["conditions"]["stages.model.alpha"] for one in group} == {0.1, 1000.0}
    recipes = [first.session.store.get(key).recipe for name, key in first.session.computed if name.endswith("predict")]
    assert Counter(recipe["split"] for recipe in recipes) == {"validation": 56, "test": 28}


def test_f_folds_are_pooled_and_shared_as_far_as_rows_allow(ran):
    first = ran("f")
    assert first.stages["gist"] == 1
    assert first.stages["gist: embed"] == 1
    assert first.stages["c3d"] == first.stages["c3d: embed"] == 3
    tested = [e.outcome.ids for e in first.result.outcomes if e.outcome.stage == "gr-mtl"]
    assert len(tested) == 3
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(234))
    assert len(first.result.outcomes) == 9


def test_f_features_differ_by_target_and_come_from_slices(ran):
    first = ran("f")
    nodes = first.cells[0]
    c3d = first.session.argument(nodes["gr-mtl"], "embeddings")
    assert c3d.vectors.ndim == 3
    assert c3d.vectors.shape[1] == 7
    gist = first.session.argument(nodes["gist-lasso"], "embeddings")
    slices = first.table(0, "slices").view("train", "nothing")
    assert slices.images.ndim == 4
    assert first.table(0).images.images.ndim == 5
    # All rows are embedded at once and cut: a product of other rows may round otherwise.
    again = first.value("gist").embed(slices, first.session.run_for(nodes["gist"]))
    np.testing.assert_allclose(gist.vectors, again, rtol=1e-4, atol=1e-4)
    tolerance = first.row(stage="c3d-lasso", metric="tolerance_accuracy").value
    assert tolerance > first.row(stage="constant", metric="tolerance_accuracy", attribute="malignancy").value


def test_g_labels_are_seen_by_one_stage_only(ran):
    first = ran("g")
    labelled = {stage for stage, _, _, images in first.spied if images.targets}
    assert labelled == {"psvm-oriented", "clusters-oriented"}
    rows = first.result.reports["score"].rows
    assert {row.stage for row in rows if row.metric == "auc"} == {"psvm-oriented", "clusters-oriented"}
    seen = {entry.outcome.stage: str(entry.outcome.seen) for entry in first.result.outcomes}
    assert seen["psvm"] == seen["clusters"] == "labels: none"
    assert seen["psvm-oriented"] == "labels: 156 training"
    assert first.stages["gist: embed"] == 1


def test_h_partitions_mix_and_labels_are_known_for_some_classes(ran):
    first = ran("h")
    known, mixed = first.value("known"), first.value("mixed")
    sizes = np.bincount(known.parts[0][known.parts[0] >= 0], minlength=60)
    assert sizes.tolist() == [15] * 8 + [0] * 52
    np.testing.assert_allclose(mixed.weights, [0.97, 0.03])
    assert first.row(stage="maml", way=5, shot=1).seen == "labels: 120 training"
    assert first.row(stage="maml", way=5, shot=10).n == 100
    white = first.session.argument(first.cells[0]["clusters"], "embeddings").vectors
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, rtol=1e-5)
    assert white.shape == (720, 6)


def of_first_seed(ran):
    """Return the cells of which a report draws the models."""
    return [nodes for nodes in ran.cells if next(iter(nodes.values())).cell.repeat.get("seed", 0) == 0]


def test_a_model_that_can_draw_itself_is_drawn_and_one_that_fails_harms_nothing(ran, monkeypatch):
    first = ran("d")

    def drawn():
        return [p for p in pictures(first.session, of_first_seed(first)) if p.kind == "model"]

    (picture,) = drawn()
    assert (picture.stage, picture.caption) == ("vae-nn", f"{len(first.table().rows['train'])} labelled vectors")
    assert picture.svg.startswith("<svg")

    def fail(self, axes):
        raise RuntimeError("no ink")

    monkeypatch.setattr(type(first.value("vae-nn")), "draw", fail)
    (picture,) = drawn()
    assert not picture.svg
    assert "could not draw it: RuntimeError: no ink" in picture.caption


def test_models_of_all_cells_are_drawn_once_each_and_named_by_what_they_depend_on(ran, tmp_path):
    first = ran("d")
    assert len(of_first_seed(first)) == 4
    assert [p.stage for p in pictures(first.session, of_first_seed(first)) if p.kind == "model"] == ["vae-nn"]
    text = """
name: cells
target: malignant
stages:
  data:  {dataset: toy-patients}
  net:   {backbone: net}
  embed: {embedder: deepcluster, n_clusters: 5}
  near:  {learner: nearest-neighbour, from: {embeddings: embed}}
  alone: {learner: fine-tune, from: {start: net}}
  score: {evaluator: classification, metrics: [auc]}
matrix: {stages.embed.n_clusters: [3, 4], stages.alone.strength: [0.1, 0.2]}
"""
    other = Ran(load_text(tmp_path, text), tmp_path / "store")
    drawn = [p for p in pictures(other.session, other.cells) if p.kind == "model"]
    assert [p.stage for p in drawn] == ["near (stages.embed.n_clusters 3)", "near (stages.embed.n_clusters 4)"]
    # All else is of the first cell.
    assert len([p for p in pictures(other.session, other.cells) if p.kind == "map"]) == 1


def test_an_encoder_that_can_draw_itself_is_drawn_beside_its_map(ran):
    first = ran("g")
    drawn = {(p.stage, p.kind): p for p in pictures(first.session, first.cells[:1]) if p.kind in ("map", "model")}
    assert set(drawn) == {("gist", "map"), ("gist", "model")}
    picture = drawn["gist", "model"]
    assert picture.caption == f"{first.value('gist').dim} filters"
    png = re.search(r'<image [^>]*href="data:image/png;base64,([^"]+)"', picture.svg)
    assert base64.b64decode(png[1]).startswith(b"\x89PNG")


def test_ratings_are_shown_by_level(ran):
    first = ran("f")
    shown = [p for p in pictures(first.session, first.cells[:1]) if p.stage == "data"]
    images = first.table().images
    target = next(t for t in images.targets.values() if t.kind == "ratings")
    sheets = {p.title: p for p in shown if p.kind == "data"}
    assert set(sheets) == {"Images", *(f"By {name}" for name in target.names)}
    assert len([p for p in shown if p.kind == "histogram" and p.svg]) == len(target.names)
    sheet, name = sheets[f"By {target.names[0]}"], target.names[0]
    means = np.nanmean(target.values[:, :, target.names.index(name)], 1)
    place = {image.tobytes(): row for row, image in enumerate(images.images)}
    level = [int(np.floor(means[place[image.tobytes()]] + 0.5)) for image in sheet.images]
    assert [int(sheet.labels[group].split()[0]) for group in sheet.groups] == level
