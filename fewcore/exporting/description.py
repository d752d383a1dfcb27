"""What a stranger must know to feed an exported network and to read what it says, as JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fewcore
from fewcore.contracts import Array, ImageSpec, Meta
from fewcore.exporting.formats import INPUT
from fewcore.models.new_images import STEPS
from fewcore.models.rebuilding import to_be_copied
from fewcore.models.records import ModelRecord

FITS = {
    "pad": "resize it so that its longer side fits, and put it in the middle of black",
    "crop": "cut out its middle square, and resize that",
    "stretch": "resize it to the square, whatever its proportions",
}
MEANING = {
    "scores": "the likeliest class has the highest score; only scores of one image can be compared",
    "masks": "shares in [0, 1]: from 0.5 on a pixel belongs to the structure",
    "values": "in the unit of the target",
}


def described(
    record: ModelRecord,
    made: Mapping[str, Array],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    values: tuple[str, ...],
) -> Meta:
    """Return how to feed a network and what comes out: `made` are examples of its outputs, by name.

    `names` are those of the classes and of the structures, `values` those of the values.
    """
    columns = {"scores": names[0], "masks": names[1], "values": values}
    outputs = [
        {
            "name": name,
            "shape": ["n", *array.shape[1:]],
            "dtype": "float32",
            "names": list(columns[name]),
            "meaning": MEANING[name],
        }
        for name, array in made.items()
    ]
    recipe = record.recipe
    return {
        "fewcore": fewcore.__version__,
        "model": {
            "stage": record.stage,
            "component": recipe.component,
            "version": recipe.version,
            "options": dict(recipe.options),
            "labelled": dict(record.labelled),
        },
        "input": _input(record),
        "outputs": outputs,
        "batch": "any number of images; what is said of one does not depend on the others (statistics of batch norm are fixed)",
    }


def _input(record: ModelRecord) -> Meta:
    spec, eight_bits = record.spec, record.dtype == "uint8"
    return {
        "name": INPUT,
        "shape": ["n", spec.channels, *spec.size],
        "dtype": "float32",
        "range": [0.0, 1.0] if eight_bits else list(spec.value_range),
        "spacing_mm": list(spec.spacing) if spec.spacing else None,
        "preparation": dict(spec.preparation),
        "steps": list(_steps(record)),
    }


def _steps(record: ModelRecord) -> list[str]:
    """Return in words the steps from a file to the network's input, in their order."""
    spec, said = record.spec, record.spec.preparation
    low, high = spec.value_range
    size = " x ".join(map(str, spec.size))
    last = f"black is {low:g} and white is {high:g}: scale the values so"
    if record.dtype == "uint8":
        last = "round to 256 levels, 0 to 255, and divide by 255: black is 0 and white is 1"
    if record.data is not None:
        data = to_be_copied(record).data
        assert data is not None
        own = (
            f"the steps of the data set {data.component} {data.version} with the options {dict(data.options)}: fewcore"
        )
        return [f"{own} predict does them, and without fewcore they must be done as its page says", last]
    steps = [f"{name}: {said[name]} (the data set's own)" for name in sorted(set(said) - STEPS - {"notes"})]
    if said.get("window"):
        steps.append(f"of files of more than 8 bits, {said['window'][0]:g} is black and {said['window'][1]:g} white")
    elif "bits" in said:
        steps.append(f"of files of more than 8 bits, 0 is black and {2 ** int(said['bits']) - 1} white")
    return [*steps, *_plain_steps(spec, size), last]


def _plain_steps(spec: ImageSpec, size: str) -> list[str]:
    said: Mapping[str, Any] = spec.preparation
    if len(spec.size) == 3:
        return [f"a volume of {size} voxels (slices, rows, columns) is taken as it is"]
    steps = ["turn it as its EXIF tag says"]
    if said.get("invert"):
        steps.append("invert it: black becomes white")
    colours = {1: "make it grey: 0.299 red + 0.587 green + 0.114 blue", 3: "red, green and blue; grey three times"}
    steps.append(colours.get(spec.channels, f"{spec.channels} channels"))
    return [*steps, f"{FITS[said.get('fit', 'pad')]}: {size} pixels, bilinear with antialiasing (Pillow's)"]
