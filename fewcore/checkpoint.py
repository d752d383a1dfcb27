"""Save and load nested state as one file: tensors in safetensors, structure in JSON, a checksum in front. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

DIGEST_LENGTH = 64


def _pack(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return a JSON tree in which tensors and arrays are names in `tensors`."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name = str(len(tensors))
        # The order of a tensor's dimensions in memory is part of it: fused optimisers assume that of their parameters.
        order = sorted(range(value.ndim), key=lambda d: -value.stride()[d]) if isinstance(value, torch.Tensor) else []
        array = value.detach().cpu().permute(order).numpy() if isinstance(value, torch.Tensor) else value
        tensors[name] = np.array(array, order="C", copy=True)
        return {"tensor": name, "order": order} if isinstance(value, torch.Tensor) else {"array": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _pack(child, tensors)] for key, child in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_pack(child, tensors) for child in value]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(
        f"a checkpoint cannot hold {type(value).__name__}; expected tensors, arrays, numbers and containers"
    )


def _unpack(node: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    (kind, value), *_ = node.items()
    if kind == "tensor":
        return torch.from_numpy(tensors[value].copy()).permute(np.argsort(node["order"]).tolist())
    if kind == "array":
        return tensors[value].copy()
    if kind == "items":
        return {key: _unpack(child, tensors) for key, child in value}
    if kind == "list":
        return [_unpack(child, tensors) for child in value]
    return tuple(_unpack(child, tensors) for child in value) if kind == "tuple" else value


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` whole or not at all: to a temporary name, flushed, then renamed.

    `state` may hold dicts, lists, tuples, tensors, arrays, numbers, strings, booleans and None.
    """
    tensors: dict[str, np.ndarray] = {}
    tree = _pack(state, tensors)
    body = save_tensors(tensors or {"": np.zeros(0)}, metadata={"tree": json.dumps(tree)})
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any] | None:
    """Return what `save` wrote, or None where the file is missing, cut short or changed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:DIGEST_LENGTH], content[DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    header_length = int.from_bytes(body[:8], "little")
    tree = json.loads(json.loads(body[8 : 8 + header_length])["__metadata__"]["tree"])
    restored: dict[str, Any] = _unpack(tree, load_tensors(body))
    return restored
