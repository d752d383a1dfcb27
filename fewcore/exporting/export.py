"""A trained model as a network in a file of its own, for programs without fewcore: written, run, and compared with the model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewcore.contracts import Array, Arrays, ImageSet, ImageSpec, Predictions
from fewcore.disk import TEMPORARY, check_writable, written
from fewcore.errors import DataError, NumericalError, Problem
from fewcore.exporting.description import described
from fewcore.exporting.formats import Call, Format, format_of, written_and_opened
from fewcore.models.file_predictions import names_of
from fewcore.models.records import ModelRecord
from fewcore.seeds import numpy_generator
from fewcore.tensors import Gather

TOLERANCE = 1e-4
"""How far a file's outputs may be from the model's own, relative to the largest of these, or to `LEAST` where that is smaller."""
LEAST = 1e-3
CHECKED = 5
"""Images with which a file is compared."""
FIELDS = ("scores", "masks", "values")
SUFFIX = ".json"


@dataclass(frozen=True)
class Exported:
    """A network in the file `path`, and in `description` how to feed it and what comes out, as JSON.

    `difference` is how far its outputs were from the model's own on made-up images, relative to the largest of these.
    """

    path: Path
    description: Path
    difference: float


class Whole(nn.Module):
    """From pixels to what a predictor says, float32 by name; where it learnt from vectors, `encoder` makes them."""

    def __init__(self, network: nn.Module, encoder: nn.Module | None) -> None:
        super().__init__()
        self.network, self.encoder = network, encoder

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the outputs of pixels (n, c, ...)."""
        seen = pixels if self.encoder is None else self.encoder(pixels)[:, :, None, None]
        made = self.network(seen)
        return {name: made[name].float() for name in FIELDS if name in made}


def network_for_export(value: Any, spec: ImageSpec) -> nn.Module:
    """Return the network of a predictor or an encoder, for those that stand on another; `spec` says what enters.

    Raises:
        DataError: it is none that can stand in a file.

    """
    make = getattr(value, "network_for_export", None)
    if make is None:
        found = f"export: found {type(value).__name__}, which is no network that a file can hold"
        raise DataError(f"{found}; expected one that is (use fewcore predict, which takes every model)")
    made: nn.Module = make(spec)
    return made


def entering(spec: ImageSpec, dtype: str) -> ImageSpec:
    """Return the spec of what enters a network, float32: images of 8 bits are divided by 255."""
    return replace(spec, value_range=(0.0, 1.0)) if dtype == "uint8" else spec


def frozen(network: nn.Module, encoder: nn.Module | None) -> Whole:
    """Return a copy on the CPU, in evaluation mode, without gradients."""
    whole = copy.deepcopy(Whole(network, encoder)).cpu().eval()
    whole.requires_grad_(False)
    return whole


def made_up_images(record: ModelRecord) -> ImageSet:
    """Return a few images such as a model takes, bright and dark noise, to compare a file with it."""
    rng = numpy_generator(0)
    low, high = record.spec.value_range
    shape = (CHECKED, record.spec.channels, *record.spec.size)
    exponents = np.geomspace(0.3, 3, CHECKED).reshape(-1, *[1] * (len(shape) - 1))
    values = low + (high - low) * rng.random(shape) ** exponents
    pixels = (np.rint(values) if record.dtype == "uint8" else values).astype(record.dtype)
    return ImageSet(pixels, np.arange(CHECKED), np.arange(CHECKED), record.spec)


def target_of(file: Path, overwrite: bool) -> Format:
    """Return the format of a file to write, before any work is done.

    Raises:
        PipelineError: its name says no format.
        PluginError: libraries are missing.
        DataError: it, or the description beside it, is there already.
        ResourceError: its folder cannot be written.

    """
    how = format_of(file)
    for path in (file, description_of(file)):
        if path.is_dir() or (path.exists() and not overwrite):
            raise DataError(Problem(str(path), "there already", "a new file", "type --overwrite, or another --out"))
    check_writable(file.parent)
    return how


def description_of(file: Path) -> Path:
    """Return the file that describes an exported one: `mine.onnx.json` beside `mine.onnx`."""
    return file.with_name(file.name + SUFFIX)


def write_network(
    file: Path, how: Format, whole: Whole, record: ModelRecord, images: ImageSet, expected: Predictions
) -> Exported:
    """Write a network, run the file, and keep it where it says of images what the model says; `expected` is that.

    Raises:
        NumericalError: the file says something else. It is not kept.
        PluginError: the network cannot stand in such a file.
        ResourceError: the disk is full or cannot be written.

    """
    pixels = Gather(images, torch.device("cpu"))(np.arange(len(images)))
    own = {name: values for name in FIELDS if (values := getattr(expected, name)) is not None}
    facts = described(record, own, names_of(record, expected), expected.value_names)
    with written(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=TEMPORARY) as temporary:
            made = Path(temporary) / file.name
            call = written_and_opened(how, whole, pixels[:2], json.dumps(facts), made)
            difference = _checked(call, pixels, own, record.title, how)
            checked = {"images": len(images), "largest_difference": difference, "tolerance": TOLERANCE}
            text = json.dumps({"file": file.name, "format": how.name, **facts, "checked": checked}, indent=1)
            beside = description_of(made)
            beside.write_text(text + "\n", encoding="utf-8", newline="\n")
            beside.replace(description_of(file))
            made.replace(file)
    return Exported(file, description_of(file), difference)


def _checked(call: Call, pixels: Tensor, own: Mapping[str, Array], title: str, how: Format) -> float:
    """Return how far a file is from the model, with all images in one batch and with one alone."""
    difference = 0.0
    for rows in (slice(0, len(pixels)), slice(0, 1)):
        try:
            made = call(pixels[rows])
        except Exception as error:
            found = f"a {how.name} file that fails on {len(pixels[rows])} images ({type(error).__name__})"
            raise NumericalError(f"{title}: {found}; expected one that takes any number. It was not kept") from error
        difference = max(difference, _apart(made, {name: values[rows] for name, values in own.items()}))
    if not difference <= TOLERANCE:
        found = f"a {how.name} file whose outputs are {difference:.2g} from the model's own, relative to the largest"
        raise NumericalError(f"{title}: {found}; expected at most {TOLERANCE:g}. It was not kept")
    return difference


def _apart(made: Arrays, own: Mapping[str, Array]) -> float:
    if {name: values.shape for name, values in made.items()} != {name: values.shape for name, values in own.items()}:
        return float("inf")
    apart = 0.0
    for name, values in own.items():
        largest = float(np.abs(made[name].astype(np.float64) - values).max(initial=0))
        # A maximum over Python floats would pass over NaN.
        apart = (
            max(apart, largest / max(LEAST, float(np.abs(values).max(initial=0)))) if np.isfinite(largest) else np.inf
        )
    return apart
