"""Components that are broken in one way each: the right checks of the kit fail, and no other, with a helpful message."""

from __future__ import annotations

import importlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fewcore import Component, Embeddings, ImageSet, Offer, Partitions, PluginError, Run, TaskStream, option
from fewcore.testing import Check, ConformanceError, Setup, ToyModel, ToyPredictor, checks_for, conformance


def failing(kind: str, cls: type[Any] | str, setup: Setup | None = None, **said: Any) -> dict[str, str]:
    """Return the checks that fail, with their messages."""
    target = cls if isinstance(cls, str) else f"{__name__}:{cls.__name__}"
    offer = Offer(kind, Component("thing", target, "a thing", **said), "fewcore-x", "1")
    found = {}
    for check in checks_for(kind):
        if check.__name__ != "runs_on_cuda":
            try:
                check(offer, setup or Setup())
            except ConformanceError as error:
                found[check.__name__] = str(error)
    return found


@dataclass(frozen=True)
class Good:
    """Parts by the sign of a random direction."""

    scale: float = option(1.0, "length of the direction", low=0)

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        direction = self.scale * run.rng.normal(size=embeddings.vectors.shape[1])
        return Partitions((embeddings.vectors @ direction > 0).astype(np.int64)[None], embeddings.ids)


def test_a_good_component_passes() -> None:
    assert not failing("partitioner", Good)


@dataclass
class Thawed:
    """Not frozen."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return Good().partition(embeddings, run)


@dataclass(frozen=True)
class Silent(Good):
    pass


@dataclass(frozen=True)
class ReservedName(Good):
    """Has an option that a pipeline file uses itself."""

    split: bool = option(False, "whether to split")


@dataclass(frozen=True)
class NoMeaning(Good):
    """Has an option that says nothing."""

    scale: float = 1.0


@dataclass(frozen=True)
class BadDefault(Good):
    """Its default is out of bounds."""

    scale: float = option(-1.0, "length", low=0)


@dataclass(frozen=True)
class AnyOption(Good):
    """An option that takes everything."""

    thing: Any = option(None, "anything")  # noqa: RUF009


@dataclass(frozen=True)
class SetOption(Good):
    """An option that no file can give back."""

    names: tuple[str, ...] = option((), "names")

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", (*self.names, "more"))


@dataclass(frozen=True)
class TwoVerbs(Good):
    """Does two things."""

    def fit(self) -> None: ...


@dataclass(frozen=True)
class NoVerb:
    """Does nothing."""


@dataclass(frozen=True)
class UnknownInput(Good):
    """Asks for what nobody gives."""

    def partition(self, pictures: ImageSet, run: Run) -> Partitions:  # type: ignore[override]
        return Partitions(np.zeros((1, len(pictures)), np.int64), pictures.ids)


@dataclass(frozen=True)
class NoRun(Good):
    """Asks for no run."""

    def partition(self, embeddings: Embeddings) -> Partitions:  # type: ignore[override]
        return Partitions(np.zeros((1, len(embeddings)), np.int64), embeddings.ids)


@dataclass(frozen=True)
class Undeclared(Good):
    """Does not say what it makes."""

    def partition(self, embeddings: Embeddings, run: Run):  # type: ignore[no-untyped-def]
        return super().partition(embeddings, run)


@dataclass(frozen=True)
class Other(Good):
    """Makes something else than it says."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return embeddings  # type: ignore[return-value]


@dataclass(frozen=True)
class GlobalNumpy(Good):
    """Draws from global random state."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return Partitions(np.random.randint(3, size=(2, len(embeddings))), embeddings.ids)  # noqa: NPY002


@dataclass(frozen=True)
class GlobalTorch(Good):
    """Makes a layer, which draws from global random state, and fills it anew."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        nn.init.zeros_(nn.Linear(2, 2).weight)
        return super().partition(embeddings, run)


@dataclass(frozen=True)
class GlobalPython(Good):
    """Draws a number that it does not use."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        random.random()
        return super().partition(embeddings, run)


@dataclass(frozen=True)
class Centres(Good):
    """Changes its input."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        vectors = embeddings.vectors
        vectors -= vectors.mean(0)
        return super().partition(embeddings, run)


@dataclass(frozen=True)
class ReadsLabels(Good):
    """Reads labels without saying so."""

    def partition(self, images: ImageSet, run: Run) -> Partitions:  # type: ignore[override]
        return Partitions(images.labels.astype(np.int64)[None], images.ids)


@dataclass(frozen=True)
class Sneaks(Good):
    """Reads labels where they are shown."""

    def partition(self, images: ImageSet, run: Run) -> Partitions:  # type: ignore[override]
        target = images.targets.get("class")
        parts = np.arange(len(images)) % 3 if target is None else target.values
        return Partitions(np.asarray(parts, np.int64)[None], images.ids)


@dataclass(frozen=True)
class FalselyDeterministic(Good):
    """Draws though it says that it does not."""

    deterministic: ClassVar[bool] = True


@dataclass(frozen=True)
class OtherIds(Good):
    """Counts rows instead of giving ids."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return Partitions(super().partition(embeddings, run).parts, np.arange(len(embeddings)))


@dataclass(frozen=True)
class Crashes(Good):
    """Fails."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        raise ZeroDivisionError("by nothing")


RUNS = {
    "runs_on_toys",
    "same_seed_gives_the_same",
    "global_random_state_is_untouched",
    "inputs_are_not_modified",
    "inputs_may_be_read_only",
    "labels_are_read_only_where_declared",
    "result_survives_saving",
    "resumes_bit_for_bit",
    "partitions_stand_on_the_rows",
}
VERB = "found no method partition in NoVerb; expected the verb of its kind (write def partition(self, ...))"

BROKEN: list[tuple[type[Any] | str, dict[str, Any], set[str], str, str]] = [
    (
        "no_such_module:Thing",
        {},
        {"target_is_a_frozen_dataclass"},
        "target_is_a_frozen_dataclass",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'; expected a target that can be "
        "imported (write target='module:Class')",
    ),
    (
        Thawed,
        {},
        {"target_is_a_frozen_dataclass"},
        "target_is_a_frozen_dataclass",
        "found @dataclass above Thawed; expected a frozen dataclass (write @dataclass(frozen=True))",
    ),
    (
        Silent,
        {},
        {"docstring_explains_the_method"},
        "docstring_explains_the_method",
        "found no docstring of Silent; expected what the method does, in two or three sentences",
    ),
    (
        Good,
        {"paper": "arXiv:1234.56789"},
        {"docstring_explains_the_method"},
        "docstring_explains_the_method",
        "found a docstring without the paper arXiv:1234.56789; expected the source (write Source: authors, title, year",
    ),
    (
        ReservedName,
        {},
        {"options_are_described"},
        "options_are_described",
        "found an option named 'split'; expected none of the reserved words ",
    ),
    (
        NoMeaning,
        {},
        {"options_are_described"},
        "options_are_described",
        "found the option 'scale' without a meaning; expected what it means, in one line (write scale: int = option(3, ",
    ),
    (
        BadDefault,
        {},
        {"options_are_described", "options_survive_a_file"},
        "options_are_described",
        "found a default that its own type or bounds refuse: scale: found -1.0; expected at least 0",
    ),
    (
        AnyOption,
        {},
        {"options_are_described", "wrong_options_are_refused"},
        "wrong_options_are_refused",
        "found the option 'thing' (typing.Any) taking {'no': {'such': 'thing'}}; expected an error (write thing: int)",
    ),
    (
        SetOption,
        {},
        {"options_survive_a_file"},
        "options_survive_a_file",
        "found SetOption(scale=1.0, names=('more', 'more')) after a round through YAML; expected SetOption(scale=1.0, ",
    ),
    (
        TwoVerbs,
        {},
        {"has_one_verb"},
        "has_one_verb",
        "found a second public method fit in TwoVerbs; expected one verb, partition (write def _fit)",
    ),
    (UnknownInput, {}, RUNS | {"verb_asks_for_known_inputs"}, "verb_asks_for_known_inputs", "found partition asking for 'pictures'; expected only inputs among images, validation, "),
    (
        NoRun,
        {},
        {"verb_asks_for_known_inputs"},
        "verb_asks_for_known_inputs",
        "found partition without the parameter 'run'; expected it, beside embeddings",
    ),
    (
        Undeclared,
        {},
        {"result_is_declared"},
        "result_is_declared",
        "found partition without a return annotation; expected the class of what it makes (Partitions) (write def ",
    ),
    (
        Good,
        {"needs_labels": True},
        {"verb_asks_for_known_inputs"},
        "verb_asks_for_known_inputs",
        "found needs_labels=True, but partition asks for no images; expected needs_labels=False, or the images",
    ),
    (
        GlobalNumpy,
        {},
        {"same_seed_gives_the_same", "global_random_state_is_untouched", "labels_are_read_only_where_declared"},
        "same_seed_gives_the_same",
        "in two runs with one seed; expected equal results (write run.rng or run.generator for all randomness)",
    ),
    (
        GlobalTorch,
        {},
        {"global_random_state_is_untouched"},
        "global_random_state_is_untouched",
        "found the global random state of torch changed; expected it as it was (write with torch.random.fork_rng(",
    ),
    (
        GlobalPython,
        {},
        {"global_random_state_is_untouched"},
        "global_random_state_is_untouched",
        "found the global random state of Python changed; expected it as it was (write rng = run.rng)",
    ),
    (
        Centres,
        {},
        {"inputs_are_not_modified", "inputs_may_be_read_only"},
        "inputs_are_not_modified",
        "found its input 'embeddings' changed: 'vectors' up to ",
    ),
    (
        ReadsLabels,
        {},
        RUNS,
        "runs_on_toys",
        "found partition failed on toy inputs with DataError: labels: found no class target; expected needs_labels=True "
        "in the component's announcement; expected a result (write needs_labels=True in its announcement)",
    ),
    (
        Sneaks,
        {},
        {"labels_are_read_only_where_declared"},
        "labels_are_read_only_where_declared",
        "when targets are shown; expected labels not read (write needs_labels=True in its announcement)",
    ),
    (
        FalselyDeterministic,
        {},
        {"deterministic_is_honest"},
        "deterministic_is_honest",
        "with another seed; expected equal results, since it says deterministic (write deterministic = False)",
    ),
    (
        OtherIds,
        {},
        {"partitions_stand_on_the_rows"},
        "partitions_stand_on_the_rows",
        "found partitions with other ids than their input; expected its ids, in its order (write Partitions(parts, x.ids))",
    ),
    (
        Crashes,
        {},
        RUNS,
        "runs_on_toys",
        "found partition failed on toy inputs with ZeroDivisionError: by nothing; expected a result",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "said", "checks", "check", "message"),
    BROKEN,
    ids=[str(getattr(row[0], "__name__", row[0])) for row in BROKEN],
)
def test_a_broken_partitioner(
    cls: type[Any] | str, said: dict[str, Any], checks: set[str], check: str, message: str
) -> None:
    if isinstance(cls, str):
        offer = Offer("partitioner", Component("thing", cls, "a thing"), "fewcore-x", "1")
        with pytest.raises(ConformanceError) as caught:
            checks_for("partitioner")[0](offer, Setup())
        found = {check: str(caught.value)}
    else:
        found = failing("partitioner", cls, **said)
    assert set(found) == checks
    assert found[check].startswith("partitioner 'fewcore-x:thing': found ")
    assert message in found[check]


def test_what_it_makes_is_what_it_declares() -> None:
    found = failing("partitioner", Other)["runs_on_toys"]
    assert "found partition giving Embeddings; expected Partitions, as it declares (write -> Embeddings, or ret" in found


def test_a_class_without_its_verb() -> None:
    found = failing("partitioner", NoVerb)
    assert found["has_one_verb"].endswith(VERB)


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
