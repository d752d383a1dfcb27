"""The kit tries components with options, inputs and training of their own, and its decorator checks what it is told."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import broken
import pytest
import torch
from broken.partitioners import Good

from fewcore import Component, Embeddings, ImageSet, Offer, PluginError, Run, TaskStream, option
from fewcore.testing import Check, Setup, ToyModel, ToyPredictor, checks_for, conformance


def failing(kind: str, cls: type[Any], setup: Setup | None = None) -> dict[str, str]:
    """Return the checks that fail, with their messages."""
    target = f"{cls.__module__}:{cls.__name__}"
    return broken.failing(Offer(kind, Component("thing", target, "a thing"), "fewcore-x", "1"), setup)


# ---- training and monitoring


@dataclass(frozen=True)
class Trains:
    """Trains a number by noisy steps. `complete` says whether the loop knows all of its state."""

    monitors: ClassVar[tuple[str, ...]] = ("validation_tasks",)

    complete: bool = option(True, "whether the loop knows the state")
    honest: bool = option(True, "whether what is monitored chooses nothing")

    def meta_train(
        self, tasks: TaskStream, images: ImageSet, run: Run, validation_tasks: TaskStream | None = None
    ) -> Tuned:
        weight, cursor = torch.zeros(1), tasks.start()
        state: dict[str, Any] = {"weight": weight, "cursor": cursor} if self.complete else {"cursor": cursor}
        for _ in run.loop(5, **state):
            cursor.draw(1)
            weight += torch.rand(1, generator=run.generator)
            run.log(weight=weight)
        if not self.honest and validation_tasks is not None:
            weight += 1
        return Tuned(ToyModel.of_shape(images.shape), weight)


class Tuned:
    norm = "none"

    def __init__(self, model: ToyModel, weight: torch.Tensor) -> None:
        self.model, self.weight = model, weight

    def classify(self, batch: Any, images: ImageSet, run: Run) -> Any:
        return self.model.classify(batch, images, run) * self.weight.numpy()

    def adapt(self, support: ImageSet, run: Run) -> ToyPredictor:
        return self.model.adapt(support, run)

    def to_arrays(self) -> Any:
        arrays, meta = self.model.to_arrays()
        return {**arrays, "weight": self.weight.numpy()}, meta

    @classmethod
    def from_arrays(cls, arrays: Any, meta: Any, inputs: Any) -> Tuned:
        rest = {name: values for name, values in arrays.items() if name != "weight"}
        return cls(ToyModel.from_arrays(rest, meta, inputs), torch.from_numpy(arrays["weight"].copy()))


@pytest.mark.parametrize(
    ("options", "check", "message"),
    [
        ({}, None, ""),
        (
            {"complete": False},
            "resumes_bit_for_bit",
            "apart after 3 interruptions; expected the result of an uninterrupted",
        ),
        (
            {"honest": False},
            "monitors_choose_nothing",
            "without validation_tasks; expected an equal result, since monitors",
        ),
    ],
)
def test_training(options: dict[str, Any], check: str | None, message: str) -> None:
    found = failing("meta_learner", Trains, Setup(options=options))
    assert set(found) == ({check} if check else set())
    if check:
        assert message in found[check]


# ---- the decorator


def test_pairs_have_the_names_of_both_and_skips_have_reasons() -> None:
    reason = "its anchors are few"
    mark = conformance("fewcore-example", skip={("nearest-anchors", "resumes_bit_for_bit"): reason}).mark
    names, pairs = mark.args
    assert names == ("offer", "check")
    ids = [pair.id for pair in pairs]
    assert ids[0] == "nearest-anchors-target_is_a_frozen_dataclass"
    assert len(ids) == len(set(ids)) == len(checks_for("partitioner"))
    skipped = {pair.id: pair.marks[0].kwargs["reason"] for pair in pairs if pair.marks}
    assert skipped["nearest-anchors-resumes_bit_for_bit"] == reason
    if not torch.cuda.is_available():
        assert skipped["nearest-anchors-runs_on_cuda"] == "needs a CUDA device"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fewcore-exampel",), "no component of 'fewcore-exampel' is installed; did you mean 'fewcore-example'?"),
        (("zzz",), "no component of 'zzz' is installed; plugins are: "),
    ],
)
def test_distributions_that_offer_nothing(arguments: tuple[str], message: str) -> None:
    with pytest.raises(PluginError, match=message.replace("?", r"\?")):
        conformance(*arguments)


def test_names_in_arguments_are_checked() -> None:
    message = "conformance: 'nearest' is not offered by fewcore-example; expected one of: nearest-anchors"
    wrong: list[dict[str, Any]] = [
        {"options": {"nearest": {}}},
        {"shapes": {"nearest": (1, 8, 8)}},
        {"skip": {("nearest", "x"): "y"}},
    ]
    for arguments in wrong:
        with pytest.raises(PluginError, match=message):
            conformance("fewcore-example", **arguments)
    message = r"conformance: skip names the check 'runs_on_toy'; did you mean 'runs_on_toys'\?"
    with pytest.raises(PluginError, match=message):
        conformance("fewcore-example", skip={("nearest-anchors", "runs_on_toy"): "why"})


def test_options_that_do_not_fit_are_said_to() -> None:
    found = failing("partitioner", Good, Setup(options={"scael": 1}))
    assert "found options that are refused: scael: unknown option (did you mean 'scale'?)" in found["runs_on_toys"]


def test_options_may_need_a_folder_and_inputs_may_be_others() -> None:
    seen = []

    def options(folder: Any) -> dict[str, Any]:
        seen.append((folder, folder.is_dir(), list(folder.iterdir())))
        return {"scale": 2.0}

    def fewer(given: Any) -> dict[str, Any]:
        whole = given["embeddings"]
        return {"embeddings": Embeddings(whole.vectors[:9], whole.ids[:9], whole.encoder)}

    setup = Setup(options=options, inputs=fewer)
    assert not failing("partitioner", Good, setup)
    assert len(seen) == 1
    assert seen[0][1:] == (True, [])


def test_every_check_says_in_its_docstring_what_it_holds() -> None:
    every: set[Check] = {check for kind in ("dataset", "embedder", "partitioner", "task_sampler", "meta_learner", "learner",
                                            "evaluator", "backbone") for check in checks_for(kind)}  # fmt: skip
    assert all(check.__doc__ for check in every)
    assert len({check.__name__ for check in every}) == len(every)


def test_the_page_lists_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parent.parent / "docs"
    monkeypatch.syspath_prepend(docs)
    made = importlib.import_module("check_table").table()
    assert made in (docs / "testing-a-plugin.md").read_text(), (
        "run: python docs/check_table.py, and put it into the page"
    )
