"""Weights of trained networks from a local file: read without running anything in it, checked before use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fewcore import DataError

CHUNK = 1 << 20
SUFFIX = ".safetensors"


def check_options(weights: str, sha256: str) -> None:
    """Refuse a checksum that is none, or one without a file.

    Raises:
        ValueError: saying which.

    """
    if sha256 and not weights:
        raise ValueError("sha256: found without weights; expected the file that it belongs to (set weights: FILE)")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256: found '{sha256}'; expected 64 digits 0-9a-f (type sha256sum FILE)")


def weight_files(weights: str) -> tuple[Path, ...]:
    """Return the files that a component with this option reads, whose content enters its key."""
    return (Path(weights),) if weights else ()


def check_file(weights: str, sha256: str, method: str) -> Path:
    """Return the path of a file of weights that is there and is the one that was meant.

    Raises:
        DataError: the file is missing, of no known suffix, or has another checksum than `sha256` (not '').

    """
    path = Path(weights)
    if not path.is_file() or path.suffix != SUFFIX:
        raise DataError(
            f"{method}: weights: found '{path}'; expected an existing {SUFFIX} file (torch's own format may hold code: "
            "convert it with safetensors.torch.save_file)"
        )
    if sha256:
        total = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                total.update(chunk)
        if total.hexdigest() != sha256:
            raise DataError(
                f"{method}: weights: {path} has the checksum {total.hexdigest()}; expected {sha256} "
                "(another file or a damaged one: fetch it again, or correct sha256)"
            )
    return path


def read_weights(weights: str, sha256: str, method: str) -> dict[str, torch.Tensor]:
    """Return the named tensors of a safetensors file; the prefix `module.` of parallel training is taken off.

    Raises:
        DataError: as `check_file`; the file cannot be read, is empty, or holds NaN.

    """
    path = check_file(weights, sha256, method)
    held = _read(path, method)
    tensors = {name.removeprefix("module."): value for name, value in held.items()}
    if not tensors:
        raise DataError(f"{method}: weights: {path} holds no named tensors; expected a network's state dict")
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise DataError(f"{method}: weights: {path} holds NaN or infinity in '{broken[0]}'; expected finite numbers")
    return tensors


def _read(path: Path, method: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{method}: weights: {path} is no safetensors file: {error}") from error


def fill(network: nn.Module, tensors: Mapping[str, torch.Tensor], where: str, method: str) -> None:
    """Fill all of a network's parameters from tensors of the same names; what else is there is passed over.

    Raises:
        DataError: a parameter is missing or has another shape; `where` names the file.

    """
    own = network.state_dict()
    missing = [name for name in own if name not in tensors]
    if missing:
        raise DataError(
            f"{method}: weights: {where} lacks {len(missing)} of the network's {len(own)} parameters, the first "
            f"'{missing[0]}'; expected the weights of this network under these names"
        )
    for name, value in own.items():
        if tensors[name].shape != value.shape:
            raise DataError(
                f"{method}: weights: {where} holds '{name}' {tuple(tensors[name].shape)}; expected {tuple(value.shape)} "
                "(width, model and size must be those of the weights)"
            )
    network.load_state_dict({name: tensors[name].to(value.dtype) for name, value in own.items()})
