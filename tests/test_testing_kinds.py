"""Components of each kind that are broken in one way each: the check of that law fails, with a helpful message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import broken
import numpy as np
import pytest
import torch
from torch import nn

from fewcore import (
    Component,
    Embeddings,
    ImageSet,
    MetricReport,
    MetricRow,
    Offer,
    Outcome,
    PairedTest,
    Partitions,
    Predictions,
    Run,
    Target,
    TaskBatch,
    UnitScores,
    grouping,
    mean_interval,
    option,
    paired_comparison,
)
from fewcore.testing import Setup, ToyEncoder, ToyStream, toy_images
from fewcore.testing.toys import hide


def failing(kind: str, cls: type[Any], options: dict[str, Any], **said: Any) -> dict[str, str]:
    offer = Offer(kind, Component("thing", f"{__name__}:{cls.__name__}", "a thing", **said), "fewcore-x", "1")
    return broken.failing(offer, Setup(options=options))


def judge(found: dict[str, str], check: str | None, message: str) -> None:
    assert set(found) == ({check} if check else set()), found
    if check:
        assert message in found[check]
        assert " (write " in found[check]


# ---- data sets


@dataclass(frozen=True)
class Data:
    """A data set with a fault."""

    fault: str = option("", "which")

    def sources(self) -> tuple[Path, ...]:
        return (Path("/no/such/file"),) if self.fault == "source" else (Path(__file__),)

    def load(self, run: Run) -> ImageSet:
        images = toy_images(targets=True)
        ids = images.ids
        splits = {"train": ids[:40], "validation": ids[40:50], "test": ids[50:]}
        ratings = replace(images.targets["ratings"], scale=(1.0, 3.0))
        changes: dict[str, dict[str, Any]] = {
            "channels": {"spec": replace(images.spec, channels=3)},
            "range": {"spec": replace(images.spec, value_range=(0, 1))},
            "geometry": {"geometry": {"size": np.zeros((3, 2))}},
            "exam": {"splits": {"train": ids[:40], "exam": ids[40:]}},
            "empty": {"splits": {**splits, "test": ids[:0]}},
            "no train": {"splits": {"test": ids}},
            "no target": {"target": ""},
            "scale": {"targets": {**images.targets, "ratings": ratings}},
        }
        return replace(images, **{"splits": splits, **changes.get(self.fault, {})})


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("", None, ""),
        ("channels", "images_are_as_the_spec_says", "found images (1, 16, 16); expected (3, 16, 16), as the spec says"),
        ("range", "images_are_as_the_spec_says", "; expected 0 to 1, as the spec says"),
        ("geometry", "images_are_as_the_spec_says", "found geometry 'size' with 3 rows; expected 72, one an image"),
        (
            "exam",
            "splits_are_sane",
            "found the split 'exam' with 32 images; expected images in splits among train, valid",
        ),
        ("empty", "splits_are_sane", "found the split 'test' with 0 images; expected images in splits"),
        ("no train", "splits_are_sane", "found the splits test; expected a split 'train'"),
        ("no target", "targets_are_sane", "found target=''; expected one of class (write target='class')"),
        (
            "scale",
            "targets_are_sane",
            "found ratings 'ratings' outside their scale (1.0, 3.0); expected ratings inside",
        ),
        ("source", "sources_are_files", "found PosixPath('/no/such/file') in sources(); expected paths of files"),
    ],
)
def test_data_sets(fault: str, check: str | None, message: str) -> None:
    judge(failing("dataset", Data, {"fault": fault}), check, message)


@dataclass(frozen=True)
class CutsGroups:
    """A data set whose splits cut through a group."""

    def load(self, run: Run) -> ImageSet:
        images = toy_images(targets=True)
        return replace(images, splits={"train": images.ids[:41], "test": images.ids[41:]})


def test_a_group_that_is_cut_is_named() -> None:
    message = (
        "found load failed on toy inputs with DataError: split 'test': found a group that is also in 'train'; expected"
    )
    assert message in failing("dataset", CutsGroups, {})["runs_on_toys"]


# ---- embedders


class Encoder:
    def __init__(self, fault: str, network: nn.Module, forgotten: float = 1.0) -> None:
        self.fault, self.network, self.forgotten = fault, network, forgotten
        self.dim = 9 if fault == "dim" else 8

    def embed(self, images: ImageSet, run: Run) -> Any:
        vectors = ToyEncoder(self.network).embed(images, run) * np.float32(self.forgotten)
        if self.fault == "batch":
            vectors = vectors - vectors.mean(0)
        if self.fault == "nan":
            vectors[0] = np.nan
        if self.fault == "tensor":
            return torch.from_numpy(vectors)
        return vectors.astype(np.float64) if self.fault == "double" else vectors

    def to_arrays(self) -> Any:
        arrays: Any = {name: values.numpy().copy() for name, values in self.network.state_dict().items()}
        if self.fault == "objects":
            arrays["names"] = np.array(["a", None], dtype=object)
        if self.fault == "tensors":
            arrays["more"] = torch.zeros(1)
        return arrays, {"fault": self.fault, "bad": {1, 2} if self.fault == "meta" else 0}

    @classmethod
    def from_arrays(cls, arrays: Any, meta: Any, inputs: Any) -> Encoder:
        network = ToyEncoder.of_shape().network
        network.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in arrays.items()})
        return cls(meta["fault"], network)


@dataclass(frozen=True)
class Embedder:
    """An embedder with a fault."""

    fault: str = option("", "which")

    def fit(self, images: ImageSet, run: Run) -> Encoder:
        network = ToyEncoder.of_shape(images.shape).network
        return Encoder(self.fault, network, 2.0 if self.fault == "forgets" else 1.0)


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("", None, ""),
        ("dim", "encoder_keeps_its_shapes", "found the vectors of embed float32 (48, 8); expected float32 (48, 9)"),
        ("double", "encoder_keeps_its_shapes", "found the vectors of embed float64 (48, 8); expected float32 (48, 8)"),
        ("nan", "encoder_keeps_its_shapes", "found the vectors of embed with NaN or infinity; expected finite numbers"),
        (
            "batch",
            "encoder_keeps_its_shapes",
            "found vectors that depend on the other images; expected evaluation mode",
        ),
        (
            "forgets",
            "result_survives_saving",
            "apart after saving and loading; expected equal results (write all of its",
        ),
        (
            "objects",
            "result_survives_saving",
            "found 'names' of to_arrays, ndarray object; expected numpy arrays of numb",
        ),
        (
            "tensors",
            "result_survives_saving",
            "found 'more' of to_arrays, Tensor torch.float32; expected numpy arrays of",
        ),
        ("meta", "result_survives_saving", "found meta of to_arrays that is no JSON: Object of type set is not JSON"),
    ],
)
def test_embedders(fault: str, check: str | None, message: str) -> None:
    judge(failing("embedder", Embedder, {"fault": fault}), check, message)


@dataclass(frozen=True)
class Nothing:
    """An embedder that makes something else."""

    def fit(self, images: ImageSet, run: Run) -> Any:
        return 3


def test_a_result_without_what_its_kind_has() -> None:
    found = failing("embedder", Nothing, {})
    assert "found int without dim; expected all of: dim, embed (write dim in int)" in found["runs_on_toys"]
    assert "found fit -> typing.Any; expected the class of what it makes (Encoder)" in found["result_is_declared"]


def test_vectors_that_are_tensors() -> None:
    found = failing("embedder", Embedder, {"fault": "tensor"})
    message = "found the vectors of embed of type Tensor; expected a numpy array (48, 8) (write .cpu().numpy())"
    assert message in found["encoder_keeps_its_shapes"]


# ---- task samplers


class Stream(ToyStream):
    """A toy stream with a fault."""

    fault = ""

    def at(self, numbers: range) -> TaskBatch:
        batch = super().at(numbers)
        query, labels = batch.query.copy(), batch.support_labels.copy()
        if self.fault == "overlap":
            query[:, 0] = batch.support[:, 0]
        if self.fault == "ids":
            query[:, 0] += 100
        if self.fault == "impure":
            query[:, 0], query[:, 3] = query[:, 3].copy(), query[:, 0].copy()
        if self.fault == "labels":
            labels[:] = 0
        if self.fault == "padding":
            query[:, 0] = -1
        return replace(batch, query=query, support_labels=labels)

    def batches(self) -> Iterator[TaskBatch]:
        if self.fault == "batches":
            self.count = getattr(self, "count", 0) + 1
            yield self.at(range(self.count, self.count + 2))
        else:
            yield from super().batches()

    def start(self) -> Any:
        cursor = super().start()
        if self.fault == "state":
            cursor.state_dict = lambda: {"place": 0}  # type: ignore[method-assign]
        return cursor


Stream.__setattr__ = object.__setattr__  # type: ignore[method-assign] # the faults are not frozen


@dataclass(frozen=True)
class Sampler:
    """A task sampler with a fault."""

    fault: str = option("", "which")

    def tasks(self, partitions: Partitions, run: Run) -> Stream:
        stream = Stream(partitions)
        stream.fault = self.fault
        if self.fault == "ways":
            return MoreWays(partitions)
        return stream


class MoreWays(Stream):
    """Draws tasks of more ways than it says."""

    def at(self, numbers: range) -> TaskBatch:
        return replace(super().at(numbers), n_way=5)


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("", None, ""),
        (
            "overlap",
            "tasks_keep_the_contract",
            "found task 0 with an image twice, in support or query; expected disjoint",
        ),
        ("labels", "tasks_keep_the_contract", "found support labels [0, 0, 0, 0, 0, 0]; expected 2 of each of 3"),
        ("padding", "tasks_keep_the_contract", "found queries padded in rows or labels alone; expected -1 in both"),
        (
            "ways",
            "tasks_keep_the_contract",
            "found a 5-way 2-shot batch; expected ways (3,) and shots (2,), as the stream",
        ),
        (
            "impure",
            "tasks_are_pure",
            "found task 0, whose classes no partition tells apart; expected classes made of diff",
        ),
        (
            "state",
            "stream_obeys_its_law",
            "after state_dict and load_state_dict; expected the tasks that would have come",
        ),
    ],
)
def test_task_samplers(fault: str, check: str | None, message: str) -> None:
    found = failing("task_sampler", Sampler, {"fault": fault})
    if fault in ("labels", "overlap", "padding"):
        found.pop("tasks_are_pure", None)
    judge(found, check, message)


def test_ids_in_place_of_rows_and_batches_that_change() -> None:
    found = failing("task_sampler", Sampler, {"fault": "ids"})
    assert "; expected rows below 72, not ids" in found["tasks_keep_the_contract"]
    found = failing("task_sampler", Sampler, {"fault": "batches"})
    message = "in two calls of batches(); expected the same finite tasks every time"
    assert message in found["stream_obeys_its_law"]


# ---- few-shot models and predictors


class Model:
    def __init__(self, fault: str, encoder: Any) -> None:
        self.fault, self.encoder = fault, encoder
        self.norm = {"norm": "batch", "transductive": "transductive"}.get(fault, "none")

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Any:
        vectors = self.encoder.embed(images, run)
        means = np.stack([vectors[rows].reshape(batch.n_way, -1, 8).mean(1) for rows in batch.support])
        query = vectors[batch.query]
        if self.fault in ("queries", "transductive"):
            query = query - query.mean(1, keepdims=True)
        if self.fault == "tasks":
            query = query - query.mean(0, keepdims=True)
        scores = -((query[:, :, None] - means[:, None]) ** 2).sum(-1).astype(np.float32)
        return scores.transpose(0, 2, 1) if self.fault == "transposed" else scores

    def adapt(self, support: ImageSet, run: Run) -> Predicts:
        made = Other if self.fault == "other" else Predicts
        return made(self.fault, len(support.class_names), self.encoder)

    def to_arrays(self) -> Any:
        return {}, {"fault": self.fault}

    @classmethod
    def from_arrays(cls, arrays: Any, meta: Any, inputs: Any) -> Model:
        return cls(meta["fault"], inputs["embeddings"].encoder)


class Predicts:
    def __init__(self, fault: str, k: int, encoder: Any) -> None:
        self.fault, self.k, self.encoder = fault, k, encoder

    def predict(self, images: ImageSet, run: Run) -> Any:
        scores = self.encoder.embed(images, run)[:, : self.k]
        if self.fault == "neighbours":
            scores = scores - scores.mean(0)
        ids = np.arange(len(images)) if self.fault == "rows" else images.ids
        if self.fault == "array":
            return scores
        return Predictions(ids, scores, values=scores[:, :1] if self.fault == "values" else None, value_names=("size",))

    def to_arrays(self) -> Any:
        return {}, {"fault": self.fault, "k": self.k}

    @classmethod
    def from_arrays(cls, arrays: Any, meta: Any, inputs: Any) -> Predicts:
        return cls(meta["fault"], 2 if meta["fault"] == "forgets" else meta["k"], inputs["embeddings"].encoder)


class Other(Predicts):
    """Not what `adapt` says that it makes."""


@dataclass(frozen=True)
class Meta:
    """A meta-learner with a fault."""

    fault: str = option("", "which")

    def meta_train(self, embeddings: Embeddings, run: Run) -> Model:
        return Model(self.fault, embeddings.encoder)


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("", None, ""),
        ("transductive", None, ""),
        (
            "norm",
            "few_shot_model_keeps_its_shapes",
            "found norm='batch'; expected one of transductive, support, running",
        ),
        ("rows", "few_shot_model_keeps_its_shapes", "found predictions of other ids; expected those of the images, in"),
        (
            "queries",
            "each_task_is_alone",
            "found scores that depend on other queries; expected each query alone, since n",
        ),
        (
            "tasks",
            "each_task_is_alone",
            "found scores of a task that depend on the tasks beside it; expected each task on",
        ),
        (
            "other",
            "result_survives_saving",
            "found adapt, which says that it makes Predicts, and a Other; expected the class of what it makes as its",
        ),
        ("forgets", "result_survives_saving", "after saving and loading what adapt makes; expected equal predictions"),
    ],
)
def test_few_shot_models(fault: str, check: str | None, message: str) -> None:
    judge(failing("meta_learner", Meta, {"fault": fault}), check, message)


def test_scores_of_another_shape() -> None:
    found = failing("meta_learner", Meta, {"fault": "transposed"})["few_shot_model_keeps_its_shapes"]
    assert "found the scores of classify float32 (4, 3, 9); expected float32 (4, 9, 3)" in found


@dataclass(frozen=True)
class Learner:
    """A learner with a fault."""

    fault: str = option("", "which")

    def learn(self, embeddings: Embeddings, run: Run) -> Predicts:
        return Predicts(self.fault, 6, embeddings.encoder)


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("", None, ""),
        (
            "rows",
            "predictions_are_announced",
            "found predictions of other ids; expected those of the images, in their or",
        ),
        (
            "neighbours",
            "predictions_are_announced",
            "found scores that depend on the other images; expected each image",
        ),
        (
            "values",
            "predictions_are_announced",
            "found predictions of scores, values; expected ('scores',) (write predic",
        ),
    ],
)
def test_learners(fault: str, check: str | None, message: str) -> None:
    judge(failing("learner", Learner, {"fault": fault}, predicts=("scores",)), check, message)


def test_predictions_that_are_an_array() -> None:
    found = failing("learner", Learner, {"fault": "array"}, predicts=("scores",))["predictions_are_announced"]
    assert "found predict giving ndarray; expected Predictions (write Predictions(images.ids, scores=...))" in found


# ---- backbones


class Net(nn.Sequential):
    def forward_tasks(self, parameters: Any, x: torch.Tensor) -> torch.Tensor:
        stacked = [
            torch.func.functional_call(self, {n: p[i] for n, p in parameters.items()}, (x[i],)) for i in range(len(x))
        ]
        return torch.stack(stacked)


class WrongNet(Net):
    def forward_tasks(self, parameters: Any, x: torch.Tensor) -> torch.Tensor:
        return super().forward_tasks({n: p[:1].expand_as(p) for n, p in parameters.items()}, x)


@dataclass(frozen=True)
class Backbone:
    """A backbone with a fault."""

    fault: Literal["", "name", "width", "tasks", "seed"] = option("", "which")

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        network = (WrongNet if self.fault == "tasks" else Net)(nn.Flatten())
        width = n_outputs or 5
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(int(np.prod(shape)), width + (self.fault == "width"))
        network.add_module("head" if n_outputs and self.fault != "name" else "features", layer)
        for parameter in network.parameters():
            if self.fault != "seed":
                nn.init.normal_(parameter, generator=generator)
        return network


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("", None, ""),
        (
            "name",
            "network_keeps_its_shapes",
            "found parameters features.weight, features.bias with n_outputs=3; expected p",
        ),
        (
            "width",
            "network_keeps_its_shapes",
            "found the result with n_outputs=3 float32 (4, 4); expected float32 (4, 3)",
        ),
        ("tasks", "forward_tasks_agrees", " off; expected forward's"),
        ("seed", "same_seed_gives_the_same", "in two runs with one seed; expected equal results"),
    ],
)
def test_backbones(fault: str, check: str | None, message: str) -> None:
    judge(failing("backbone", Backbone, {"fault": fault}), check, message)


# ---- evaluators


@dataclass(frozen=True)
class Evaluator:
    """An evaluator with a fault."""

    fault: str = option("", "which")

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        rows = []
        for outcome in outcomes:
            row = MetricRow("count", 3.0, (2.0, 4.0), 5, outcome.stage, outcome.method)
            changes: dict[str, dict[str, Any]] = {
                "interval": {"ci95": (4.0, 5.0)},
                "number": {"n": 0},
                "method": {"method": "maml"},
                "numpy": {"value": np.float32(3)},
            }
            rows.append(replace(row, **changes.get(self.fault, {})))
        rows = [] if self.fault == "nothing" else rows
        return MetricReport(tuple(rows), left_out=("nobody",) if self.fault == "left out" else ())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", ""),
        ("interval", "found count 3 outside its interval (4.0, 5.0); expected low <= value <= high"),
        ("number", "found count of n=0; expected what was counted, at least 1"),
        ("method", "found a row of 'first' (maml); expected stage and method of an outcome: {'first': 'toy-first', "),
        (
            "numpy",
            "found a row that is no JSON: Object of type float32 is not JSON serializable; expected plain numbers",
        ),
        (
            "nothing",
            "found no rows, and no model left out; expected rows, or the names of the models that lack what it",
        ),
        ("left out", "found left_out naming nobody; expected stages among few-first, few-second, first, second"),
    ],
)
def test_evaluators(fault: str, message: str) -> None:
    judge(failing("evaluator", Evaluator, {"fault": fault}), "report_is_sane" if fault else None, message)


@dataclass(frozen=True)
class Comparing:
    """An evaluator with paired tests, perhaps with a fault."""

    fault: str = option("", "which")

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        subjects = grouping.subjects_of(o for o in outcomes if o.predictions.values is not None)
        units = {id(s): s.units({"size": np.asarray(s.first.predictions.values)[:, 0]}) for s in subjects}
        rows = [s.row("size", mean_interval(units[id(s)].arrays["size"]), 5, which=0) for s in subjects]
        found = []
        for a, b, conditions in grouping.pairs_of(subjects):
            for metric, test in self.paired_tests(units[id(a)], units[id(b)]):
                told = replace(test, p=0.5) if self.fault == "other test" else test
                found.append(grouping.comparison(metric, a, b, told, conditions))
        kept = () if self.fault == "no units" else tuple(units.values())
        return MetricReport(tuple(rows), grouping.corrected(found), units=kept)

    def paired_tests(self, first: UnitScores, second: UnitScores) -> tuple[tuple[str, PairedTest], ...]:
        return (("size", paired_comparison(first.arrays["size"], second.arrays["size"])),)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", ""),
        (
            "no units",
            "found paired_tests, and no units in the report; expected both (write MetricReport(..., units=...))",
        ),
        (
            "other test",
            "found size of first and second (paired t), which paired_tests does not make of units; expected",
        ),
    ],
)
def test_evaluators_that_compare(fault: str, message: str) -> None:
    check = "paired_tests_follow_from_units" if fault else None
    judge(failing("evaluator", Comparing, {"fault": fault}), check, message)


# ---- toys


def test_toys_are_equal_every_time_and_hide_what_the_core_hides() -> None:
    one, other = toy_images(targets=True), toy_images(targets=True)
    for name, values in one.to_arrays()[0].items():
        np.testing.assert_array_equal(values, other.to_arrays()[0][name])
    assert hide(one).targets == {}
    assert toy_images().targets == {}
    kinds = {target.kind for target in one.targets.values()}
    assert kinds == {"class", "masks", "ratings", "attributes"}
    assert (one.labels < 0).sum() == 2
    assert isinstance(one.targets["class"], Target)
    assert json.dumps(one.to_arrays()[1])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 4, 8, 8)])
def test_toys_come_in_every_shape(shape: tuple[int, ...]) -> None:
    images = toy_images(shape=shape, targets=True)
    assert images.shape == shape
    assert ToyEncoder.of_shape(shape).embed(images, Run()).shape == (72, 8)
