"""What a component does wrong is said with its name, and nothing wrong is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toys
from running import Ran

from fewcore import Component, Offer, pipeline

ODD = (
    Offer("embedder", Component("silent", "toys.odd:Silent", "odd"), "odd", "1"),
    Offer("embedder", Component("reader", "toys.odd:Reader", "odd"), "odd", "1"),
    Offer("embedder", Component("liar", "toys.odd:Liar", "odd"), "odd", "1"),
    Offer("embedder", Component("nothing", "toys.odd:Nothing", "odd"), "odd", "1"),
    Offer("embedder", Component("short", "toys.odd:Short", "odd"), "odd", "1"),
    Offer("learner", Component("backwards", "toys.odd:Backwards", "odd", "", False, ("scores",)), "odd", "1"),
    Offer("evaluator", Component("judge", "toys.odd:Judge", "odd"), "odd", "1"),
    Offer("dataset", Component("broken", "toys.odd:Broken", "odd"), "odd", "1"),
)
TEXT = """fewcore: 1
stages:
  data: {dataset: toy-patients}
  embed: {embedder: acai}
  model: {learner: nearest-neighbour}
  score: {evaluator: classification, metrics: [accuracy]}
"""


def ran(tmp_path, *changes):
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    found = toys.registry()
    return Ran(pipeline.load(path, replace(found, offers=(*found.offers, *ODD))), tmp_path / "store")


FAULTS = {
    "silent": (4, "odd:silent: found Silent.fit -> None; expected the class of what it makes"),
    "liar": (4, "embed: fit gave int; expected Linear"),
    "nothing": (6, "embed: 'body' holds NaN or infinity; expected finite numbers (nothing was stored)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_embedder_is_named_and_what_needs_it_is_missing(tmp_path, name):
    run = ran(tmp_path, ("embedder: acai", f"embedder: {name}"))
    (failure,) = run.result.failures
    code, message = FAULTS[name]
    assert (failure.stage, failure.error.exit_code, str(failure.error)) == ("embed", code, message)
    assert sorted(run.result.status.values()) == ["computed", "failed", "missing"]
    assert run.result.outcomes == []
    again = ran(tmp_path, ("embedder: acai", f"embedder: {name}"))
    assert str(again.result.failures[0]) == str(failure)


def test_a_changed_file_of_any_component_is_noticed(tmp_path):
    file = tmp_path / "weight"
    change = ("embedder: acai", f"embedder: reader, file: {file}")
    (failure,) = ran(tmp_path, change).result.failures
    assert "stages.embed: [Errno 2] No such file" in str(failure)
    assert str(failure).endswith("expected a file that can be read")
    computed = []
    for text in ("1.0", "1.0", "2.0"):
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        run = ran(tmp_path, change)
        computed.append(run.stages["embed"])
        assert run.value("embed").body[0, 0] == float(text)
    assert computed == [1, 0, 1]
    assert "files" not in ran(tmp_path).cells[0]["embed"].recipe


def test_vectors_of_a_wrong_shape(tmp_path):
    (failure,) = ran(tmp_path, ("embedder: acai", "embedder: short")).result.failures
    assert str(failure) == "model: embed: embed gave (234,); expected (234, e)"
    assert failure.error.exit_code == 4


def test_predictions_of_other_images(tmp_path):
    (failure,) = ran(tmp_path, ("nearest-neighbour", "backwards")).result.failures
    assert str(failure) == ("model: model: predictions of other images; expected the ids of the images, in their order")


def test_an_evaluator_that_fails_leaves_the_others_alone(tmp_path):
    run = ran(tmp_path, ("  score:", "  verdict: {evaluator: judge}\n  score:"))
    (failure,) = run.result.failures
    assert str(failure) == "verdict: verdict: KeyError: 'verdict'; the traceback is in log.jsonl"
    assert set(run.result.reports) == {"score"}
    assert 'raise KeyError("verdict")' in run.session.tracebacks["verdict"]


def test_images_that_hold_no_numbers(tmp_path):
    run = ran(tmp_path, ("toy-patients", "broken"))
    (failure,) = run.result.failures
    assert str(failure).startswith("data: stages.data: 2 images hold NaN or infinity, the first is number ")
    assert failure.error.exit_code == 3
    assert run.result.exit_code == 3


def test_seeds_of_stages(tmp_path):
    """`seed:` on a stage fixes it; deterministic stages and what judges are the same for all seeds."""
    repeat = ("stages:\n", "repeat: {seed: [0, 1]}\nstages:\n")
    run = ran(tmp_path, repeat)
    assert (run.stages["data"], run.stages["embed"], run.stages["model"]) == (1, 2, 2)
    run = ran(tmp_path, repeat, ("embedder: acai", "embedder: acai, seed: 5"))
    assert (run.stages["embed"], run.stages["model"]) == (1, 1)
    assert {entry.outcome.repeats.get("seed") for entry in run.result.outcomes} == {None}
