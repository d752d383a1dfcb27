"""What a run notes of its models, in `models.json`, so that they can be used on new files without the data they learnt from.

A record says how a model was made - components, options and the keys of their results - and what its images were like. It
holds no weights: these stay in the store, or beside the file in the folder that `fewcore adapt` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewcore.cells import in_common
from fewcore.contracts import IMAGE_DTYPES, ImageSpec, Meta
from fewcore.disk import write_text
from fewcore.errors import DataError, PipelineError, Problem, did_you_mean
from fewcore.kinds import KINDS
from fewcore.store import user_root
from fewcore.wiring import CLASSES, ROW_INPUTS

if TYPE_CHECKING:
    from fewcore.nodes import Node
    from fewcore.session import Session

FILE = "models.json"
FORMAT = 1
MODEL_KINDS = {"learner": "predict", "meta_learner": "adapt"}
"""Kinds of models, and the command that uses a model of each."""
RECIPES = ("recipe", "vectors", "data")
NEVER_KEPT = ("task_sampler", "partitioner")
"""What models are made from, and do without afterwards."""


@dataclass(frozen=True)
class Recipe:
    """How a value was made: the component by its full name, its options, the key of the result, and the inputs' recipes.

    `data` is the key of the data set on whose rows it was made; empty where it was made from none.
    """

    kind: str
    component: str
    version: str
    options: Mapping[str, Any]
    key: str
    data: str
    inputs: Mapping[str, tuple[Recipe, ...]]

    def __post_init__(self) -> None:
        texts = (self.kind, self.component, self.version, self.key, self.data)
        if not (all(isinstance(text, str) for text in texts) and isinstance(self.options, Mapping)):
            raise TypeError("a recipe of other types")
        if self.kind not in KINDS:
            raise ValueError("a recipe of an unknown kind")

    def to_json(self) -> Meta:
        """Return the recipe as JSON."""
        inputs = {name: [recipe.to_json() for recipe in recipes] for name, recipes in self.inputs.items()}
        return {**vars(self), "options": dict(self.options), "inputs": inputs}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_json`'s result."""
        inputs = {name: tuple(map(cls.from_json, found)) for name, found in said["inputs"].items()}
        return cls(**{**said, "inputs": inputs})


@dataclass(frozen=True)
class ModelRecord:
    """A model of a run: its stage, the axis values of its cell, its recipe, and what its images are like.

    `vectors` is the embedder whose vectors stand in for images. `spec` and `dtype` are those of the images; `data` the
    component that read them, where it has steps of its own for new files, without them None. `classes` are the names that scores count; `structures` those of each target of masks.
    `store` is where the run kept its results; empty for the user's own cache folder, whose path would name the user.
    `labelled` counts the images of each class to which the model was adapted, and `adapted` is the result's key.
    """

    stage: str
    conditions: Mapping[str, Any]
    recipe: Recipe
    vectors: Recipe | None
    data: Recipe | None
    spec: ImageSpec
    dtype: str
    classes: tuple[str, ...]
    structures: Mapping[str, tuple[str, ...]]
    store: str
    adapted: str = ""
    labelled: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.recipe.kind not in MODEL_KINDS or self.dtype not in IMAGE_DTYPES:
            raise ValueError("a record of no model")
        if (self.vectors and self.vectors.kind != "embedder") or (self.data and self.data.kind != "dataset"):
            raise ValueError("vectors of no embedder, or images of no data set")
        texts = (self.stage, self.store, self.adapted, *self.classes, *(n for v in self.structures.values() for n in v))
        tables = (self.conditions, self.labelled, self.spec.preparation)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, Mapping) for table in tables):
            raise TypeError("a record of other types")
        said = self.spec.preparation
        steps = () if self.data else (said.get("bits", 1), said.get("max_pixels", 1), *(said.get("window") or ()))
        numbers = (*self.spec.size, self.spec.channels, *self.spec.value_range, *(self.spec.spacing or ()), *steps)
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("images of no sizes or values")

    @property
    def title(self) -> str:
        """The model for people: the stage's name, with the axis values of its cell where there are some."""
        said = ", ".join(f"{path}={value}" for path, value in self.conditions.items())
        return f"{self.stage} ({said})" if said else self.stage

    @property
    def used_by(self) -> str:
        """The command that uses the model: `predict`, or `adapt` where it needs labelled images first."""
        return "predict" if self.adapted else MODEL_KINDS[self.recipe.kind]

    def to_json(self) -> Meta:
        """Return the record as JSON."""
        made = {name: value and value.to_json() for name, value in vars(self).items() if name in RECIPES}
        names = {"classes": list(self.classes), "structures": {k: list(v) for k, v in self.structures.items()}}
        plain = {"conditions": dict(self.conditions), "labelled": dict(self.labelled), "spec": self.spec.to_json()}
        return {**vars(self), **made, **names, **plain}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> ModelRecord:
        """Build a record from `to_json`'s result."""
        made = {
            **{name: said[name] and Recipe.from_json(said[name]) for name in RECIPES},
            "spec": ImageSpec.from_json(said["spec"]),
            "classes": tuple(_listed(said["classes"])),
            "structures": {name: tuple(_listed(names)) for name, names in said["structures"].items()},
        }
        return cls(**{**said, **made})


def _listed(said: Any) -> list[Any]:
    if not isinstance(said, list):
        raise TypeError("a text in place of several")
    return said


def write_models(session: Session, nodes: Sequence[Node], folder: Path) -> None:
    """Write the records of a run's models; one that is the same in several cells is noted once, with what these share."""
    records: dict[tuple[str, str], ModelRecord] = {}
    for node in nodes:
        record = _record(session, node)
        before = records.setdefault((record.stage, record.recipe.key), record)
        conditions = in_common(before.conditions, record.conditions)
        records[record.stage, record.recipe.key] = replace(before, conditions=conditions)
    write_records(tuple(records.values()), folder)


def write_records(records: Sequence[ModelRecord], folder: Path) -> None:
    """Write records into a folder, whole or not at all."""
    text = json.dumps({"format": FORMAT, "models": [record.to_json() for record in records]}, indent=1)
    write_text(folder / FILE, text + "\n")


def _record(session: Session, node: Node) -> ModelRecord:
    data = node.others[node.stage.data]
    images = session.table(data).images
    vectors = node.others[node.stage.vectors] if node.stage.vectors else None
    # What has read no labels tells groups apart, of which no one knows the names.
    named = node.stage.offer.component.needs_labels or node.stage.kind == "meta_learner"
    return ModelRecord(
        node.stage.name,
        node.cell.axes,
        _recipe(session, node),
        None if vectors is None else _recipe(session, vectors),
        _recipe(session, data) if hasattr(data.stage.component, "prepare") else None,
        images.spec,
        str(images.images.dtype),
        images.class_names if named else (),
        {name: target.names for name, target in images.targets.items() if target.kind == "masks"},
        "" if session.store.root == user_root() else str(session.store.root),
    )


def _recipe(session: Session, node: Node) -> Recipe:
    stage = node.stage
    inputs = {}
    for name in session.arguments_of(stage, node.cell, node.others):
        sources = [node.others[source] for source in stage.inputs.get(name, ()) if source != CLASSES]
        if name not in ROW_INPUTS and not any(source.stage.kind in NEVER_KEPT for source in sources):
            inputs[name] = tuple(_recipe(session, source) for source in sources)
    data = node.others[stage.data].key if stage.data and stage.kind != "backbone" else ""
    options = node.recipe["options"]
    return Recipe(stage.kind, stage.offer.full_name, stage.offer.version, options, node.key, data, inputs)


def read_models(folder: Path) -> tuple[ModelRecord, ...]:
    """Return the models of a folder that `fewcore run` or `fewcore adapt` wrote.

    Raises:
        DataError: it is no such folder, or what it says cannot be read.

    """
    if not folder.is_dir():
        raise DataError(Problem(str(folder), "no such folder", "a folder of fewcore run or of fewcore adapt"))
    path = folder / FILE
    again = f"fewcore run {folder / 'pipeline.yaml'} --out {folder}"
    try:
        if path.exists() and not path.is_file():
            raise OSError("no regular file")
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise DataError(Problem(str(path), f"format {said['format']}", f"format {FORMAT}", "update fewcore"))
        return tuple(map(ModelRecord.from_json, said["models"]))
    except FileNotFoundError as error:
        expected = "a folder of fewcore run, of this version, or of fewcore adapt"
        type_ = f"type {again}: what is finished is reused" if (folder / "pipeline.yaml").is_file() else ""
        raise DataError(Problem(str(folder), f"no {FILE}", expected, type_)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"no readable records of models ({type(error).__name__})"
        raise DataError(Problem(str(path), found, "the file as it was written", f"type {again}")) from error


def chosen(
    records: Sequence[ModelRecord], folder: Path, use: str, stage: str = "", cell: Mapping[str, Any] | None = None
) -> ModelRecord:
    """Return the one model that is meant; `use` is `predict` or `adapt`.

    Raises:
        PipelineError: there is none, or there are several.

    """
    where = str(folder)
    if not records:
        raise PipelineError(Problem(where, "no finished model", "a run with a learner or a meta-learner"))
    names = sorted({record.stage for record in records})
    if stage and stage not in names:
        raise PipelineError(
            Problem(where, f"no model '{stage}'", f"one of {', '.join(names)}", did_you_mean(stage, names))
        )
    wanted = {path: str(value) for path, value in (cell or {}).items()}
    found = [
        record
        for record in records
        if (not stage or record.stage == stage)
        and all(str(record.conditions.get(path)) == value for path, value in wanted.items())
    ]
    if not found:
        titles = "; ".join(record.title for record in records if not stage or record.stage == stage)
        said = ", ".join(f"{path}={value}" for path, value in wanted.items())
        raise PipelineError(Problem(where, f"no model of the cell {said}", f"one of {titles}"))
    fitting = [record for record in found if record.used_by == use]
    if not fitting:
        raise PipelineError(_other_use(where, found[0], use))
    if len(fitting) > 1:
        first = fitting[0]
        flags = [] if stage else [f"--stage {first.stage}"]
        if len([record for record in fitting if record.stage == first.stage]) > 1:
            flags += [f"--cell {path}={value}" for path, value in first.conditions.items()]
        titles = "; ".join(record.title for record in fitting)
        raise PipelineError(
            Problem(where, f"{len(fitting)} models: {titles}", "one of them", f"type {' '.join(flags)}")
        )
    return fitting[0]


def _other_use(where: str, record: ModelRecord, use: str) -> Problem:
    if use == "predict":
        expected = "one that knows its classes"
        advice = f"type fewcore adapt {where} --labelled DIR --out MODEL, then fewcore predict MODEL"
        return Problem(where, f"{record.title}, a few-shot model, which needs labelled images first", expected, advice)
    found = f"{record.title}, which has learnt its own classes or masks"
    return Problem(where, found, "a few-shot model", f"type fewcore predict {where}")
