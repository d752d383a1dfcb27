"""Components described for people and for editors: options, inputs, source, and a schema of pipeline files."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fewcore.components import Offer
from fewcore.errors import FewcoreError
from fewcore.kinds import INPUTS, KINDS, SPLITS
from fewcore.options import describe_options, json_schema
from fewcore.wiring import verb_parameters

if TYPE_CHECKING:
    from fewcore.plugins import Registry


def describe_offer(offer: Offer) -> dict[str, Any]:
    """Return what a component is, as JSON. It is imported.

    Raises:
        PluginError: it cannot be imported.

    """
    cls = offer.load()
    component = offer.component
    return {
        "kind": KINDS[offer.kind].label,
        "name": offer.name,
        "distribution": offer.distribution,
        "version": offer.version,
        "summary": component.summary,
        "paper": component.paper,
        "needs_labels": component.needs_labels,
        "predicts": list(component.predicts),
        "inputs": [{"name": p.name, "optional": p.optional} for p in verb_parameters(cls, offer.kind)],
        "makes": KINDS[offer.kind].makes,
        "options": [_jsonable(asdict(option)) for option in describe_options(cls)],
        "text": inspect.getdoc(cls) or "",
        "usage": KINDS[offer.kind].usage(offer.name),
        "is_stage": KINDS[offer.kind].is_stage,
    }


def _jsonable(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(entry)
    except TypeError:
        entry["default"] = str(entry["default"])
    return entry


def description_text(found: dict[str, Any]) -> str:
    """Return a description for a terminal."""
    asks = (
        ", ".join(f"{p['name']}{' (where from: says so)' if p['optional'] else ''}" for p in found["inputs"])
        or "nothing"
    )
    chosen = [f"On the command line: fewcore run PIPELINE {found['usage']}"]
    if found["is_stage"]:
        labels = "reads those that are known" if found["needs_labels"] else "hidden from it"
        chosen = [f"In a pipeline: {found['usage']}", f"Asks for: {asks}. Makes: {found['makes']}. Labels: {labels}."]
    lines = [
        f"{found['kind']} {found['name']}  ({found['distribution']} {found['version']})",
        "",
        found["text"],
        "",
        *chosen,
        *([f"Paper: {found['paper']}"] if found["paper"] else []),
        "",
        "Options:" if found["options"] else "Options: none.",
    ]
    for option in found["options"]:
        default = "required" if option["required"] else f"default {json.dumps(option['default'])}"
        unit = f" {option['unit']}" if option["unit"] else ""
        bounds = " to ".join(str(b) for b in (option["low"], option["high"]) if b is not None)
        notes = [
            default + unit,
            *([f"at least {bounds}" if option["high"] is None else f"from {bounds}"] if bounds else []),
        ]
        notes += [f"paper: {option['paper']}"] if option["paper"] else []
        lines.append(f"  {option['name']}: {option['type']}  ({'; '.join(notes)})")
        lines += textwrap.wrap(option["meaning"], 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def pipeline_schema(registry: Registry) -> dict[str, Any]:
    """Return a JSON Schema (2020-12) of pipeline files for what is installed. Components that fail to import are left out."""
    offers = [offer for offer in registry.offers if KINDS[offer.kind].is_stage]
    stages = [schema for offer in offers if (schema := _stage_schema(offer)) is not None]
    values = {"type": "object", "description": "dotted paths and lists of values"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fewcore pipeline",
        "type": "object",
        "required": ["fewcore", "stages"],
        "additionalProperties": False,
        "properties": {
            "fewcore": {"const": 1, "description": "version of the file format"},
            "name": {"type": "string"},
            "seed": {"type": "integer", "default": 0},
            "target": {"type": ["string", "object"], "description": "the class that learners and evaluators mean"},
            "splits": {"type": "object", "description": "folds, or shares of test and validation; by group or image"},
            "labels": {
                "type": "object",
                "description": "training targets that are known: share, number, per_class, classes",
            },
            "repeat": {**values, "description": "averaged over"},
            "matrix": {"type": ["object", "array"], "description": "compared"},
            "skip": {"type": "array", "description": "cells of the matrix that are left out"},
            "select": {"type": "object", "description": "chosen on validation rows: by, over"},
            "published": {"type": "object", "description": "the paper's numbers, shown beside ours: source, rows"},
            "stages": {"type": "object", "additionalProperties": {"anyOf": stages}},
        },
    }


def _stage_schema(offer: Offer) -> dict[str, Any] | None:
    try:
        options = json_schema(offer.load())
    except FewcoreError:
        return None
    source = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    inputs = {"type": "object", "properties": dict.fromkeys(INPUTS, source), "additionalProperties": False}
    own = {
        offer.kind: {"enum": [offer.name, offer.full_name], "description": offer.component.summary},
        "from": {"anyOf": [*source["anyOf"], inputs], "description": "which stages fill the inputs"},
        "split": {"enum": list(SPLITS), "default": "train"},
        "seed": {"type": "integer"},
    }
    schema = {
        "type": "object",
        "title": f"{KINDS[offer.kind].label} {offer.name}",
        "required": [offer.kind, *options.get("required", ())],
        "properties": {**own, **options.get("properties", {})},
        "additionalProperties": False,
    }
    return {**schema, **({"$defs": options["$defs"]} if "$defs" in options else {})}
