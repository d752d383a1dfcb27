"""The scores of a run, in `scores.npz`: what each model got on every task or image, so that runs can be compared in pairs.

The file is a zip archive of arrays, `0.npy`, `1.npy` and so on, and of `index.json`, which says whose they are, which evaluator
made them with which options, and what was judged, as digests (see `identity`). It holds no pickle, no image, no file name
and no id; groups are numbered anew. Equal runs write equal bytes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue, TypeAdapter

from fewcore.contracts import Array
from fewcore.disk import write_bytes
from fewcore.errors import DataError
from fewcore.metrics import UnitScores

if TYPE_CHECKING:
    from fewcore.outcomes import Judged
    from fewcore.pipeline import Pipeline
    from fewcore.runner import Result

FILE = "scores.npz"
FORMAT = 1
INDEX = "index.json"
MOST_BYTES = 1 << 30
"""Bytes of all arrays, unpacked, beyond which a file is not read."""
MOST_ARRAYS = 100_000
PLAIN = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
"""The type in which numbers of each kind are used; they are kept in the smallest that holds them exactly."""


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model as the index says them; `arrays` are numbers of files, `on` is what was judged."""

    stage: str
    method: str
    split: str
    name: str
    conditions: dict[str, JsonValue]
    more: dict[str, JsonValue]
    seed: int
    on: dict[str, str]
    arrays: dict[str, int]


@dataclass(frozen=True)
class EvaluatorScores:
    """An evaluator of a run: its stage, its component by the full name, its options, and the scores of its models."""

    stage: str
    component: str
    version: str
    options: dict[str, JsonValue]
    models: list[ModelScores]


@dataclass(frozen=True)
class Index:
    """What `index.json` says; `metrics` is the digest of the rows of the `metrics.json` that was written with it."""

    format: int
    metrics: str
    evaluators: list[EvaluatorScores]


@dataclass(frozen=True, eq=False)
class Judgement:
    """The scores of one model and what it was judged on."""

    units: UnitScores
    on: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a run: its index, and the judgements of each evaluator's stage."""

    index: Index
    judgements: Mapping[str, tuple[Judgement, ...]]


def write_scores(pipeline: Pipeline, result: Result, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the scores of a run; `rows` are those of its `metrics.json`."""
    from fewcore.comparing.identity import Identities
    from fewcore.reports.report import plain
    from fewcore.store import digest

    identities = Identities()
    arrays: list[Array] = []
    evaluators = []
    for stage in (stage for stage in pipeline.stages if stage.kind == "evaluator" and stage.name in result.reports):
        models = []
        wanted = [entry for entry in result.outcomes if entry.outcome.stage in stage.inputs["outcomes"]]
        for units in result.reports[stage.name].units:
            numbers = {name: len(arrays) + i for i, name in enumerate(units.arrays)}
            arrays += [smallest(array) for array in units.arrays.values()]
            facts = (units.stage, units.method, units.split, units.name, plain(units.conditions), plain(units.more))
            on = identities.of([entry for entry in wanted if _is_of(entry, units)])
            models.append(ModelScores(*facts, units.seed, on, numbers))
        options = plain(asdict(stage.component))
        evaluators.append(EvaluatorScores(stage.name, stage.offer.full_name, stage.offer.version, options, models))
    index = Index(FORMAT, digest(list(rows)), evaluators)
    write_bytes(folder / FILE, archive(index, arrays))


def _is_of(entry: Judged, units: UnitScores) -> bool:
    one = entry.outcome
    return (one.stage, one.method, one.split, dict(one.conditions)) == (
        units.stage,
        units.method,
        units.split,
        dict(units.conditions),
    )


def smallest(array: Array) -> Array:
    """Return the numbers in the smallest type that holds them exactly."""
    kind = array.dtype.kind
    types = {"b": (), "f": (np.float16, np.float32)}.get(kind, (np.int8, np.int16, np.int32))
    for type_ in types:
        with np.errstate(over="ignore", invalid="ignore"):
            made = array.astype(type_)
        if np.array_equal(made.astype(PLAIN[kind]), array.astype(PLAIN[kind]), equal_nan=kind == "f"):
            return np.asarray(made)
    return np.asarray(array.astype(PLAIN[kind]))


def archive(index: Index, arrays: Sequence[Array]) -> bytes:
    """Return the bytes of the file, which depend on nothing but its contents."""
    text = json.dumps(asdict(index), allow_nan=False).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        for name, data in ((INDEX, text), *((f"{i}.npy", _npy(array)) for i, array in enumerate(arrays))):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            whole.writestr(info, data)
    return file.getvalue()


def _npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def read_scores(path: Path) -> Scores:
    """Return the scores of a run. Nothing in the file is trusted: neither sizes, nor types, nor that they fit together.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what `write_scores` writes. Other errors of damaged files are made such too.

    """
    try:
        with zipfile.ZipFile(path) as whole:
            sizes = {info.filename: info.file_size for info in whole.infolist()}
            if len(sizes) > MOST_ARRAYS or sum(info.file_size for info in whole.infolist()) > MOST_BYTES:
                raise ValueError(f"more than {MOST_ARRAYS} arrays or {MOST_BYTES >> 20} MiB")
            index = TypeAdapter(Index).validate_json(whole.read(INDEX), strict=True)
            if index.format != FORMAT:
                raise ValueError(f"format {index.format}, not {FORMAT}")
            _check_arrays_are_read_once(index)
            return Scores(index, {one.stage: tuple(_judgements(whole, one)) for one in index.evaluators})
    except (zipfile.BadZipFile, zlib.error, DataError, LookupError, EOFError, RuntimeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_arrays_are_read_once(index: Index) -> None:
    """Refuse an index that names an array twice: a small file could then fill any memory, read again for each model."""
    numbers = [n for one in index.evaluators for model in one.models for n in model.arrays.values()]
    if len(set(numbers)) < len(numbers):
        raise ValueError("an array that stands for two")


def _judgements(whole: zipfile.ZipFile, evaluator: EvaluatorScores) -> list[Judgement]:
    made = []
    for model in evaluator.models:
        arrays = {name: _array(whole.read(f"{number}.npy")) for name, number in model.arrays.items()}
        facts = (model.stage, model.method, model.split, model.name, model.conditions)
        made.append(Judgement(UnitScores(*facts, arrays, model.more, model.seed), model.on))
    return made


def _array(data: bytes) -> Array:
    """Return the array of a `.npy` file, in full precision.

    Raises:
        ValueError: it holds objects, infinity, or other bytes than its heading says.

    """
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    body = data[file.tell() :]
    if fortran or dtype.kind not in PLAIN or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"an array {dtype} {shape} in {len(body)} bytes")
    array: Array = np.frombuffer(body, dtype).reshape(shape).astype(PLAIN[dtype.kind])
    if dtype.kind == "f" and np.isinf(array).any():
        raise ValueError("infinity among the scores")
    return np.asarray(array)
