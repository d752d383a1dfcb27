"""What all commands on pipelines share: the options that change a file, and how a file is loaded with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fewcore.errors import PipelineError, Problem

if TYPE_CHECKING:
    from fewcore.pipeline import Pipeline

Command = Callable[..., Any]


def pipeline_options(command: Command) -> Command:
    """Add the options that all commands on pipelines share."""
    for decorate in (
        click.option(
            "--grid", metavar="PATH=A,B", multiple=True, help="Add an axis of comparison to the pipeline's matrix."
        ),
        click.option("--seed", type=int, help="The seed of all stages; replaces seeds that the file repeats over."),
        click.option(
            "--set",
            "overrides",
            metavar="PATH=VALUE",
            multiple=True,
            help="Replace a value: stages.maml.inner_steps=3.",
        ),
        click.argument("pipeline"),
    ):
        command = decorate(command)
    return command


def device_option(command: Command) -> Command:
    """Add the option that says where to compute."""
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")(command)


def load_pipeline(name: str, overrides: tuple[str, ...], seed: int | None, grid: tuple[str, ...]) -> Pipeline:
    """Return a pipeline as its file and the options say it.

    Raises:
        PipelineError: a file is not found, an option is no PATH=VALUE, or the file has problems: all of them.

    """
    from fewcore import pipeline, yaml12
    from fewcore.plugins import load_registry

    values = {path: yaml12.read_value(text) for path, text in (_pair(said, "--set") for said in overrides)}
    if seed is not None:
        values["seed"] = seed
    axes = {
        path: [yaml12.read_value(v) for v in text.split(",")] for path, text in (_pair(said, "--grid") for said in grid)
    }
    return pipeline.load(pipeline.find_file(name), load_registry(), overrides=values, grid=axes)


def _pair(said: str, option: str) -> tuple[str, str]:
    path, equals, text = said.partition("=")
    if not equals or not path:
        raise PipelineError(Problem(option, f"'{said}'", "PATH=VALUE, such as stages.maml.inner_steps=3"))
    return path.strip(), text


def counted(n: int, what: str) -> str:
    """Return a number of things in words: `1 cell`, `2 cells`."""
    return f"{n} {what}{'s' * (n != 1)}"
