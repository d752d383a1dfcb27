"""One component tried on toys: made from its options, given its inputs, its result observed and compared."""

from __future__ import annotations

import atexit
import copy
import functools
import inspect
import io
import json
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fewcore.components import Offer
from fewcore.contracts import Array, Arrays, ImageSet, TaskBatch
from fewcore.errors import Interrupted
from fewcore.kinds import INPUTS, KINDS
from fewcore.options import read_options
from fewcore.run import Run
from fewcore.testing import toy_models, toys

MEMBERS = {
    "embedder": ("dim", "embed"),
    "task_sampler": ("n_way", "n_shot", "start", "batches"),
    "meta_learner": ("norm", "classify", "adapt"),
    "learner": ("predict",),
}
"""What a result of each kind has beside to_arrays and from_arrays; the protocols say more."""

STORED = ("dataset", "embedder", "partitioner", "meta_learner", "learner")

OptionsFor = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]


class ConformanceError(AssertionError):
    """A component does not keep the contract; the message says which, what was found, and what to write."""


def complain(offer: Offer, found: str, expected: str, write: str) -> NoReturn:
    """Raise a `ConformanceError` about a component."""
    __tracebackhide__ = True
    text = f"{KINDS[offer.kind].label} '{offer.full_name}': found {found}; expected {expected}"
    raise ConformanceError(f"{text} (write {write})" if write else text)


@dataclass(frozen=True, eq=False)
class Setup:
    """How a component is tried.

    `options` as a pipeline file would give them, or a function of an empty folder that returns them, for data sets that
    read files. `shape` is that of the toy images, (c, h, w) or (c, d, h, w). `inputs` gets the toy inputs by name and
    returns those that are to be others.
    """

    options: OptionsFor = field(default_factory=dict)
    shape: tuple[int, ...] = toys.SHAPE
    inputs: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    @functools.cached_property
    def given(self) -> Mapping[str, Any]:
        """The options, a folder made for them where they need one."""
        if not callable(self.options):
            return self.options
        folder = Path(tempfile.mkdtemp(prefix="fewcore-conformance-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return self.options(folder)


class Trial:
    """A component of an offer, made with the options of a setup."""

    def __init__(self, offer: Offer, setup: Setup) -> None:
        self.offer = offer
        self.setup = setup
        self.kind = KINDS[offer.kind]
        self.cls = offer.load()
        component, problems = read_options(self.cls, setup.given)
        if component is None:
            listed = "; ".join(str(problem) for problem in problems)
            complain(offer, f"options that are refused: {listed}", "options that fit", "options={name: {...}}")
        self.component: Any = component

    @property
    def verb(self) -> Callable[..., Any]:
        """The verb of the component, bound."""
        found = getattr(self.component, self.kind.verb, None)
        if not callable(found):
            complain(
                self.offer, f"no method {self.kind.verb}", "the verb of its kind", f"def {self.kind.verb}(self, ...)"
            )
        return typing.cast("Callable[..., Any]", found)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """What the verb asks for, by name."""
        return dict(inspect.signature(self.verb).parameters)

    def hints(self) -> dict[str, Any]:
        """Return the types of the verb's parameters and of its result."""
        try:
            return typing.get_type_hints(self.verb)
        except Exception as error:
            found = f"annotations of {self.kind.verb} that cannot be read: {error}"
            complain(self.offer, found, "types that can be read at run time", "their imports outside TYPE_CHECKING")

    def arguments(self, *, all_of_them: bool = True, targets: bool | None = None) -> dict[str, Any]:
        """Return a toy for each input that the verb asks for; without `all_of_them` only for those it cannot do without.

        `targets` overrides what the announcement says about labels.
        """
        hints = self.hints()
        made: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            needed = parameter.default is inspect.Parameter.empty
            if name not in INPUTS or not (all_of_them or needed):
                continue
            if not all_of_them and types.NoneType in typing.get_args(hints.get(name)):
                made[name] = None
                continue
            value = self._toy(name, hints.get(name), targets)
            made[name] = (value, value) if typing.get_origin(hints.get(name)) is tuple and name != "outcomes" else value
        if self.setup.inputs is not None:
            made |= {name: value for name, value in self.setup.inputs(made).items() if made.get(name) is not None}
        return made

    def _toy(self, name: str, annotation: Any, targets: bool | None) -> Any:
        shape = self.setup.shape
        shown = self.offer.component.needs_labels if targets is None else targets
        if name in ("images", "validation"):
            return toys.toy_images("train" if name == "images" else "validation", shape, targets=shown)
        if name == "start":
            return toy_start(str(annotation), shape)
        makers: dict[str, Callable[[], Any]] = {
            "embeddings": lambda: toys.toy_embeddings(toys.toy_images("train", shape)),
            "partitions": toys.toy_partitions,
            "tasks": toys.toy_tasks,
            "validation_tasks": lambda: toys.toy_tasks("validation"),
            "backbone": toys.ToyBackbone,
            "outcomes": toys.toy_outcomes,
        }
        return makers[name]()

    def make(self, run: Run | None = None, arguments: Mapping[str, Any] | None = None) -> Any:
        """Return what the verb makes of its inputs."""
        run = run if run is not None else Run(0)
        if self.offer.kind == "backbone":
            return self.attempt(self.kind.verb, lambda: self.verb(self.setup.shape, 3, run.generator))
        given = self.arguments() if arguments is None else arguments
        extra = {"run": run} if "run" in self.parameters else {}
        return self._checked(self.attempt(self.kind.verb, lambda: self.verb(**given, **extra)))

    def _checked(self, value: Any) -> Any:
        """Return a result that is what the verb declares and has what fewcore asks of its kind."""
        declared = self.hints().get("return")
        if isinstance(declared, type) and declared is not Any and not isinstance(value, declared):
            found = f"{self.kind.verb} giving {type(value).__name__}"
            complain(
                self.offer,
                found,
                f"{declared.__name__}, as it declares",
                f"-> {type(value).__name__}, or return a {declared.__name__}",
            )
        for name in MEMBERS.get(self.offer.kind, ()):
            if not hasattr(value, name):
                complain(
                    self.offer,
                    f"{type(value).__name__} without {name}",
                    f"all of: {', '.join(MEMBERS[self.offer.kind])}",
                    f"{name} in {type(value).__name__}",
                )
        return value

    def attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """Return what an action of the component returns; whatever it raises becomes a complaint."""
        try:
            return action()
        except (ConformanceError, Interrupted):
            raise
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {error}"
            write = "needs_labels=True in its announcement" if "needs_labels" in text else ""
            try:
                complain(self.offer, f"{what} failed on toy inputs with {text}", "a result", write)
            except ConformanceError as complaint:
                raise complaint from error

    def behaviour(self, value: Any) -> Arrays:
        """Return everything that can be observed of a result, as named arrays."""
        observed: Arrays = self.attempt(f"the result of {self.kind.verb}", lambda: _observe(self, value))
        return observed

    def reloaded(self, value: Any, arguments: Mapping[str, Any], what: str = "its result") -> Any:
        """Return the value saved and loaded, as fewcore's store does it: .npy without pickle, and JSON."""
        for method in ("to_arrays", "from_arrays"):
            if not callable(getattr(value, method, None)):
                complain(
                    self.offer,
                    f"{what} of type {type(value).__name__} without {method}",
                    "to_arrays and from_arrays",
                    f"def {method} in {type(value).__name__}",
                )
        arrays, meta = self.attempt(f"to_arrays of {what}", value.to_arrays)
        loaded = {name: self._through_file(name, array) for name, array in arrays.items()}
        try:
            meta = json.loads(json.dumps(meta, allow_nan=False))
        except (TypeError, ValueError) as error:
            complain(
                self.offer,
                f"meta of to_arrays that is no JSON: {error}",
                "numbers, text, lists and mappings",
                "arrays among the arrays, plain Python values in meta",
            )
        return self.attempt(f"from_arrays of {what}", lambda: type(value).from_arrays(loaded, meta, dict(arguments)))

    def _through_file(self, name: str, array: Any) -> Array:
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            found = f"'{name}' of to_arrays, {type(array).__name__} {getattr(array, 'dtype', '')}".rstrip()
            complain(self.offer, found, "numpy arrays of numbers", "tensor.detach().cpu().numpy()")
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        file.seek(0)
        loaded: Array = np.load(file, allow_pickle=False)
        # The store gives memory-mapped arrays, which cannot be written to.
        loaded.flags.writeable = False
        return loaded


def toy_start(annotation: str, shape: tuple[int, ...]) -> Any:
    """Return a starting point of the first type that an annotation names; a few-shot model where it names none."""
    makers: dict[str, Callable[[], Any]] = {
        "Encoder": lambda: toys.ToyEncoder.of_shape(shape),
        "FewShotModel": lambda: toy_models.ToyModel.of_shape(shape),
        "Predictor": lambda: toy_models.ToyPredictor.of_shape(shape),
        "Backbone": toys.ToyBackbone,
    }
    named = sorted((annotation.find(name), name) for name in makers if name in annotation)
    return makers[named[0][1]]() if named else toy_models.ToyModel.of_shape(shape)


def blind_tasks(shape: tuple[int, ...]) -> tuple[TaskBatch, ImageSet]:
    """Return four test tasks without query labels, and their images without targets."""
    return toys.hide_queries(toys.toy_tasks("test").at(range(4))), toys.toy_images("test", shape)


def support_set(shape: tuple[int, ...]) -> ImageSet:
    """Return a labelled support set: three classes, two images each."""
    images = toys.toy_images("test", shape, targets=True)
    rows = np.concatenate([np.flatnonzero(images.labels == k)[:2] for k in range(3)])
    chosen = toys.take(images, rows)
    target = replace(chosen.targets["class"], names=chosen.class_names[:3])
    return replace(chosen, targets={"class": target})


def _observe(trial: Trial, value: Any) -> Arrays:
    kind, shape = trial.offer.kind, trial.setup.shape
    if kind in ("dataset", "partitioner"):
        return dict(value.to_arrays()[0])
    if kind == "embedder":
        return {"vectors": value.embed(toys.toy_images("test", shape), Run(9))}
    if kind == "learner":
        return dict(value.predict(toys.toy_images("test", shape), Run(9)).to_arrays()[0])
    if kind == "meta_learner":
        batch, images = blind_tasks(shape)
        adapted = value.adapt(support_set(shape), Run(9)).predict(images, Run(9))
        return {"classify": value.classify(batch, images, Run(9)), "adapt": adapted.scores}
    if kind == "task_sampler":
        drawn = {f"draw.{name}": values for name, values in _batch_arrays(value.start().draw(3)).items()}
        for number, batch in enumerate(value.batches()):
            drawn |= {f"batch {number}.{name}": values for name, values in _batch_arrays(batch).items()}
        return drawn
    if kind == "backbone":
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in value.state_dict().items()}
    rows = json.dumps([row.to_json() for row in (*value.rows, *value.comparisons)], default=str)
    return {"rows": np.array([rows]), **value.arrays}


def _batch_arrays(batch: TaskBatch) -> Arrays:
    return {name: getattr(batch, name) for name in ("support", "support_labels", "query", "query_labels", "task")}


def difference(first: Mapping[str, Array], second: Mapping[str, Array], tolerance: float = 0.0) -> str:
    """Return where two sets of named arrays differ, in words, or an empty string. NaN equals NaN."""
    if set(first) != set(second):
        return f"arrays {sorted(first)} and {sorted(second)}"
    for name, one in first.items():
        a, b = np.asarray(one), np.asarray(second[name])
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"'{name}' {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        if a.dtype.kind in "fc" and not np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"'{name}' up to {np.nanmax(np.abs(a.astype(np.float64) - b)):.3g} apart"
        if a.dtype.kind not in "fc" and not np.array_equal(a, b):
            return (
                f"'{name}' different in {int((a != b).sum())} of {a.size} places"
                if a.dtype.names is None
                else f"'{name}'"
            )
    return ""


def arrays_within(value: Any, path: str = "", depth: int = 0) -> Arrays:
    """Return copies of all arrays and tensors inside a value, by their path."""
    if isinstance(value, np.ndarray):
        return {path: value.copy()}
    if hasattr(value, "detach"):
        return {path: value.detach().cpu().numpy().copy()}
    if depth > 5 or isinstance(value, str | bytes | int | float | type) or value is None:
        return {}
    if hasattr(value, "state_dict"):
        return arrays_within(dict(value.state_dict()), path, depth + 1)
    if isinstance(value, Mapping):
        children = dict(value)
    elif isinstance(value, list | tuple):
        children = dict(enumerate(value))
    else:
        children = dict(getattr(value, "__dict__", {}))
    found: Arrays = {}
    for name, child in children.items():
        found |= arrays_within(child, f"{path}.{name}" if path else str(name), depth + 1)
    return found


def read_only(value: Any) -> Any:
    """Return a copy of an input whose images, vectors and parts cannot be written to, as memory-mapped ones cannot."""
    frozen = copy.copy(value)
    for name, child in getattr(value, "__dict__", {}).items():
        if isinstance(child, np.ndarray):
            locked = child.copy()
            locked.flags.writeable = False
            object.__setattr__(frozen, name, locked)
    return frozen
