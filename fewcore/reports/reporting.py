"""From the result of a run to its report: records of stages, the data, the environment."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import yaml

from fewcore.contracts import Array, Seen
from fewcore.errors import FewcoreError
from fewcore.nodes import Node, result_class
from fewcore.pipeline import Pipeline
from fewcore.reports.pictures import pictures
from fewcore.reports.report import RunReport, StageRecord, TaskCount
from fewcore.runner import Result
from fewcore.session import Session
from fewcore.wiring import CLASSES

FEW_CLASSES = 5
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")


def build_report(pipeline: Pipeline, session: Session, result: Result, *, command: str, seconds: float) -> RunReport:
    """Return the report of a run, pictures included."""
    nodes = [node for cell in result.nodes for node in cell.values()]
    first = result.nodes[0] if result.nodes else {}
    return RunReport(
        name=pipeline.name,
        pipeline=yaml.safe_dump(pipeline.spec, sort_keys=False, allow_unicode=True, width=120),
        command=command,
        title=pipeline.name,
        stages=_records(session, nodes, result),
        reports=result.reports,
        pictures=pictures(session, _pictured(result)),
        published=published_rows(pipeline.spec.get("published")),
        environment=environment(session.device, nodes, seconds),
        data=_data(session, first),
        candidates=tuple(result.candidates),
        failures=tuple(str(failure) for failure in result.failures),
        task_counts=tuple(_task_counts(session, result.models)),
    )


def environment(device: torch.device, nodes: list[Node], seconds: float) -> dict[str, Any]:
    """Return versions, device and machine. `versions` and `device` are the same whenever the run is repeated here."""
    plugins = {node.stage.offer.distribution: node.stage.offer.version for node in nodes}
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "versions": {**versions, **dict(sorted(plugins.items()))},
        "device": f"{device} ({gpu})" if gpu else str(device),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "wall_seconds": seconds,
    }


def _pictured(result: Result) -> list[dict[str, Node]]:
    """Return the stages that have a result of the cells with the first seed and fold: other repeats look alike."""
    cells: list[dict[str, Node]] = []
    for nodes in result.nodes:
        repeat = next(iter(nodes.values())).cell.repeat
        if repeat == next(iter(result.nodes[0].values())).cell.repeat:
            good = ("computed", "reused")
            cells.append({name: node for name, node in nodes.items() if result.status.get(node.key) in good})
    return cells


def _records(session: Session, nodes: list[Node], result: Result) -> tuple[StageRecord, ...]:
    """Return one record for each distinct key, named as in its first cell."""
    errors = {(failure.stage, failure.cell): str(failure.error) for failure in result.failures}
    records: dict[str, StageRecord] = {}
    for node in nodes:
        stage = node.stage
        entry = session.store.get(node.key)
        facts = entry.facts if entry is not None else {}
        records.setdefault(
            node.key,
            StageRecord(
                name=stage.name,
                kind=stage.kind,
                component=stage.offer.name,
                distribution=stage.offer.distribution,
                version=stage.offer.version,
                options=node.recipe["options"],
                seed=node.seed,
                split=stage.split,
                inputs={name: ", ".join(sources) for name, sources in stage.inputs.items()},
                key=node.key,
                status=result.status.get(node.key, "missing"),
                seconds=float(facts.get("seconds", 0.0)),
                peak_memory_mb=float(facts.get("peak_memory_mb", 0.0)),
                seen=_seen(node.seen, stage.kind),
                conditions=node.cell.axes,
                records=tuple(facts.get("records", ())),
                error=errors.get((stage.name, node.cell.label), ""),
            ),
        )
    return tuple(records.values())


def _task_counts(session: Session, models: list[Node]) -> Iterator[TaskCount]:
    """Yield how many tasks each model was trained on, where its sampler has a fixed list of them."""
    for node in models:
        samplers = [n for n in _upstream(node) if n.stage.kind == "task_sampler" and n.stage.split == "train"]
        # A stream without an end has no length, and making one anew may take long.
        if len(samplers) == 1 and hasattr(result_class(samplers[0].stage), "__len__"):
            try:
                yield TaskCount(node.stage.name, node.cell.matrix, len(session.value(samplers[0])))
            except FewcoreError:  # its clusters are gone from the store: a figure less
                continue


def _upstream(node: Node) -> list[Node]:
    """Return the stages on which a stage depends, each once."""
    found: dict[str, Node] = {}
    names = [name for sources in node.stage.inputs.values() for name in sources if name != CLASSES]
    for name in names:
        found |= {name: node.others[name], **{other.stage.name: other for other in _upstream(node.others[name])}}
    return list(found.values())


def _seen(seen: Seen, kind: str) -> str:
    return "" if kind in ("dataset", "backbone") else str(seen)


def _data(session: Session, nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Return what the page says of the first data set of the file."""
    node = next((node for node in nodes.values() if node.stage.kind == "dataset"), None)
    if node is None:
        return {}
    table = session.table(node)
    images = table.images
    groups = {split: set(images.groups[rows].tolist()) for split, rows in table.rows.items()}
    names = list(groups)
    shared = [f"{a} and {b}" for i, a in enumerate(names) for b in names[i + 1 :] if groups[a] & groups[b]]
    labels = images.labels if images.target else np.empty(0, dtype=int)
    return {
        "images": len(images),
        "size": [images.spec.channels, *images.spec.size],
        "preparation": dict(images.spec.preparation) or "none",
        "splits": {split: len(rows) for split, rows in table.rows.items()},
        "groups": len(np.unique(images.groups)),
        "classes": {s: _counted(labels[rows], images.class_names) for s, rows in table.rows.items()}
        if len(labels)
        else {},
        "known_labels": int(table.known.sum()),
        "split_check": f"a group is in {' and in '.join(shared)}" if shared else "no group is in two splits",
    }


def _counted(labels: Array, names: tuple[str, ...]) -> str | int:
    """Return how many images each class has: `10 no, 6 yes`; of many classes how many there are."""
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    if len(names) > FEW_CLASSES:
        return int((counts > 0).sum())
    return ", ".join(f"{count} {name}" for name, count in zip(names, counts.tolist(), strict=True))


def published_rows(said: Any) -> dict[str, Any]:
    """Return the paper's numbers row by row; a pipeline may write the ways and shots of a row as lists."""
    if not said:
        return {}
    rows: list[dict[str, Any]] = []
    for row in said.get("rows", ()):
        length = max((len(value) for value in row.values() if isinstance(value, list)), default=1)
        rows += [{k: v[i] if isinstance(v, list) else v for k, v in row.items()} for i in range(length)]
    return {"source": str(said.get("source", "")), "rows": rows}
