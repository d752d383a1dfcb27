"""From a model's recipe to the model: what was kept is read, from the folder of the model or from the store."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fewcore.blame import blame
from fewcore.components import Offer
from fewcore.contracts import Embeddings
from fewcore.disk import TEMPORARY, written
from fewcore.errors import DataError, PluginError, Problem
from fewcore.kinds import KINDS
from fewcore.models.records import ModelRecord, Recipe, read_models, write_records
from fewcore.nodes import LazyInputs, returned_class
from fewcore.options import describe_options, read_options
from fewcore.plugins import load_registry
from fewcore.store import Entry, Store, default_root, read_result, user_root, write_result
from fewcore.wiring import verb_parameters

FOLDER = "results"
KEY = re.compile(r"[0-9a-f]{32}")


class Results:
    """Reads results by key. `used` holds those that were read, so that they can be kept beside a model."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.used: dict[str, Entry] = {}
        self._store = store

    def get(self, key: str, title: str) -> Entry:
        """Return a result.

        Raises:
            DataError: it is in neither place; the message says what to type.

        """
        if not KEY.fullmatch(key):
            raise DataError(Problem(str(self.folder), f"'{key}', which is no key of a result", "32 hexadecimal digits"))
        own = self.folder / FOLDER / key
        entry = _read(own, key) if own.is_dir() else Store().get(key)
        if entry is None:
            raise DataError(self._missing(key, title))
        self.used[key] = entry
        return entry

    def _missing(self, key: str, title: str) -> Problem:
        where = str(self.folder)
        if (self.folder / FOLDER).is_dir():
            return Problem(
                where, f"no result of {title}, or a damaged one", "the folder as it was written", "adapt again"
            )
        found = f"no result of {title} in {default_root()}: it was cleaned, or lies elsewhere"
        pipeline = self.folder / "pipeline.yaml"
        advice = f"type fewcore run {pipeline} --out {self.folder} to compute it again"
        kept = Path(self._store) if self._store else user_root()
        if kept != default_root():
            advice = f"the run kept it in {kept}: set FEWCORE_CACHE to that folder; or {advice}"
        return Problem(where, found, "the results that the run kept", advice)


def _read(folder: Path, key: str) -> Entry | None:
    try:
        return read_result(folder, key)
    except (ValueError, KeyError, TypeError, OSError):
        return None


def keep_model(entries: list[Entry], record: ModelRecord, folder: Path) -> None:
    """Write a model with the results that it needs into a folder, in place of the model that was there, if one was.

    The new results are whole before the record names them, and the old ones go after that: what ends in between leaves one
    of the two models.

    Raises:
        ResourceError: the disk is full or cannot be written.

    """
    kept = {entry.key for entry in entries}
    with written(folder):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as temporary:
            for entry in entries:
                # The model's record has the options already, and of files the model needs none.
                recipe = {name: value for name, value in entry.recipe.items() if name not in ("options", "files")}
                write_result(Path(temporary) / entry.key, replace(entry, recipe=recipe))
            for key in kept:
                place = folder / FOLDER / key
                if place.is_dir() and _read(place, key) is None:
                    shutil.rmtree(place)
                if not place.exists():
                    (Path(temporary) / key).rename(place)
        write_records([record], folder)
        for place in (folder / FOLDER).iterdir():
            if KEY.fullmatch(place.name) and place.name not in kept:
                shutil.rmtree(place)


def is_adapted_model(folder: Path) -> bool:
    """Return whether a folder is one that `fewcore adapt` wrote, whose results may go."""
    try:
        records = read_models(folder)
        names = [place.name for place in (folder / FOLDER).iterdir()]
    except (DataError, OSError):
        return False
    run = (folder / "pipeline.yaml").exists() or not all(record.adapted for record in records)
    return bool(records) and not run and all(map(KEY.fullmatch, names))


def to_be_copied(record: ModelRecord) -> ModelRecord:
    """Return a record without the paths of this machine: of the store, and of data that are not needed any more."""
    conditions = {path: value for path, value in record.conditions.items() if not _is_path(path, value)}
    data = record.data
    if data is not None:
        needed = {info.name for info in describe_options(_offer(data).load()) if info.required}
        options = {
            name: Path(value).name if _is_path(name, value) else value
            for name, value in data.options.items()
            if name in needed or not _is_path(name, value)
        }
        data = replace(data, options=options)
    return replace(record, conditions=conditions, data=data, store="")


def _is_path(name: str, value: Any) -> bool:
    said = isinstance(value, str) and bool(value)
    return said and (name == "path" or value.startswith("~") or Path(value).is_absolute())


def other_versions(record: ModelRecord) -> tuple[str, ...]:
    """Return a line for each component of a model that is installed in another version than that which made it.

    Raises:
        PluginError: no plugin offers a component.

    """
    recipes = [recipe for recipe in (record.recipe, record.vectors, record.data) if recipe is not None]
    lines = []
    while recipes:
        recipe = recipes.pop(0)
        offer = _offer(recipe)
        if offer.version != recipe.version:
            made = f"the model was made with {offer.full_name} {recipe.version}"
            lines.append(f"{made}; {offer.version} is installed, and what it says may differ")
        recipes += [source for sources in recipe.inputs.values() for source in sources]
    return tuple(dict.fromkeys(lines))


def _offer(recipe: Recipe) -> Offer:
    return load_registry().find(recipe.kind, recipe.component)


def component_of(recipe: Recipe) -> tuple[Offer, Any]:
    """Return the component of a recipe with its options, and who offers it.

    Raises:
        PluginError: no plugin offers it (the message says what to install), or it has other options now.

    """
    offer = _offer(recipe)
    component, problems = read_options(offer.load(), dict(recipe.options))
    if component is None:
        raise PluginError(*problems, title=f"{offer.full_name} {offer.version}, with options of {recipe.version}")
    return offer, component


def built(recipe: Recipe, results: Results) -> tuple[Any, Offer]:
    """Return the value of a recipe as it was kept, and who offers its component.

    Raises:
        DataError: a result is gone.
        PluginError: a plugin is missing, or has changed so that it cannot read what it wrote.

    """
    offer, component = component_of(recipe)
    if recipe.kind == "backbone":
        return component, offer
    cls = returned_class(type(component), KINDS[recipe.kind].verb, offer.full_name)
    entry = results.get(recipe.key, offer.name)
    return _restored(cls, entry, recipe, results, (offer, component)), offer


def adapted(recipe: Recipe, entry: Entry, results: Results) -> tuple[Any, Offer]:
    """Return the predictor that the few-shot model of a recipe made and `entry` holds, and who offers the model.

    Raises:
        DataError: a result is gone.
        PluginError: as for `built`.

    """
    offer, component = component_of(recipe)
    few_shot = returned_class(type(component), KINDS[recipe.kind].verb, offer.full_name)
    cls = returned_class(few_shot, "adapt", offer.full_name)
    if getattr(cls, "_is_protocol", False):
        found = f"{offer.full_name}: {few_shot.__name__}.adapt, which says that it makes a {cls.__name__}"
        raise PluginError(f"{found}; expected the class itself, through which it is loaded")
    return _restored(cls, entry, recipe, results, (offer, component)), offer


def _restored(cls: type[Any], entry: Entry, recipe: Recipe, results: Results, maker: tuple[Offer, Any]) -> Any:
    offer, component = maker
    many = {parameter.name for parameter in verb_parameters(type(component), recipe.kind) if parameter.many}

    def argument(name: str) -> Any:
        for source in recipe.inputs[name]:
            if source.data and recipe.data and source.data != recipe.data:
                found = f"{recipe.component} beside {source.component}, which learnt from images of another data set"
                raise DataError(Problem(str(results.folder), found, "one data set: new files are of one kind"))
        values = tuple(built(source, results)[0] for source in recipe.inputs[name])
        if name == "embeddings":
            # Of new files no vectors are known: the encoder is all there is.
            return Embeddings(np.empty((0, int(values[0].dim)), np.float32), np.empty(0, np.int64), values[0])
        return values if name in many else values[0]

    if not callable(getattr(cls, "from_arrays", None)):
        raise PluginError(f"{offer.full_name}: {cls.__name__} has no from_arrays; expected a class that can be kept")
    with blame(f"{offer.full_name} {offer.version}, which wrote this as {recipe.version}", offer):
        return cls.from_arrays(entry.arrays, entry.meta, LazyInputs(tuple(recipe.inputs), argument))
