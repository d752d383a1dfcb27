"""The commands that use a trained model: `fewcore adapt` and `fewcore predict` on new files, `fewcore export` in other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewcore.errors import DataError, PipelineError, Problem

if TYPE_CHECKING:
    from fewcore.models.trained import TrainedModel

Command = Callable[..., Any]


def _model_options(command: Command) -> Command:
    """Add the options that say which model is meant."""
    for decorate in (
        click.option("--overwrite", is_flag=True, help="Write in place of what an earlier command wrote."),
        click.option(
            "--cell",
            "cells",
            metavar="PATH=VALUE",
            multiple=True,
            help="Of a stage with several models the one with this value: seed=0, labels.share=0.1.",
        ),
        click.option("--stage", default="", help="The model's stage, where the run has several models."),
    ):
        command = decorate(command)
    return command


def _file_options(command: Command) -> Command:
    """Add the options that say which model is meant, how new files are read, and where it computes."""
    for decorate in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--window",
            nargs=2,
            type=float,
            metavar="LOW HIGH",
            help="Values of files of more than 8 bits that become black and white, where the run's data does not say.",
        ),
        _model_options,
    ):
        command = decorate(command)
    return command


@click.command()
@click.argument("run")
@click.option("--labelled", type=click.Path(path_type=Path), required=True, help="Folder with a sub-folder a class.")
@click.option(
    "--shots", type=click.IntRange(min=1), help="Images of each class to take, drawn by chance. Default: all."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the images of --shots.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@_file_options
def adapt(
    run: str,
    labelled: Path,
    shots: int | None,
    seed: int,
    out: Path,
    stage: str,
    cells: tuple[str, ...],
    overwrite: bool,
    window: tuple[float, float] | None,
    device: str,
) -> None:
    """Teach a few-shot model of RUN the classes of a few labelled images.

    RUN is a folder that fewcore run wrote. What is learnt is written to --out, a folder that needs neither RUN nor its
    data: fewcore predict takes it.
    """
    from fewcore.models.trained import check_model_folder

    check_model_folder(out, overwrite)
    with _loaded(run, "adapt", stage, cells, window, device) as model:
        adapted = model.adapt(labelled, shots, seed, window)
    folder = adapted.save(out, overwrite)
    counts = ", ".join(f"{name} ({count})" for name, count in adapted.record.labelled.items())
    click.echo(f"model: {folder.resolve()}, {adapted.record.stage} adapted to {counts}")


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The table, a name that ends in .csv; or a folder, which gets predictions.csv and masks.",
)
@_file_options
def predict(
    model: str,
    files: tuple[str, ...],
    out: Path,
    stage: str,
    cells: tuple[str, ...],
    overwrite: bool,
    window: tuple[float, float] | None,
    device: str,
) -> None:
    """Say what MODEL makes of new FILES: classes with scores, and masks in each file's own format and geometry.

    MODEL is a folder that fewcore run or fewcore adapt wrote, FILES are images and folders of images: PNG, JPEG, TIFF, and
    what plugins read (NIfTI, DICOM). They go through the steps that the model's images went through. All are checked
    first: where one cannot be used, all such are listed and nothing is written.
    """
    from fewcore.disk import check_writable
    from fewcore.models.file_predictions import Places

    places = Places.of(out)
    check_writable(places.folder)
    if places.table.exists() and not overwrite:
        raise DataError(Problem(str(places.table), "there already", "new files", "type --overwrite, or another --out"))
    with _loaded(model, "predict", stage, cells, window, device) as loaded:
        made = loaded.predict(files, window, skip=places.own)
    made.save(out, overwrite)
    masks = f", {len(made.files) * len(made.structures)} masks in {places.masks.name}" if made.structures else ""
    click.echo(f"predictions: {places.table.resolve()}, {len(made.files)} files{masks}")


@click.command()
@click.argument("model")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The file: .onnx (ONNX), .ts (TorchScript) or .pt2 (torch.export).",
)
@_model_options
def export(model: str, out: Path, stage: str, cells: tuple[str, ...], overwrite: bool) -> None:
    """Write MODEL as a network that other programs run without fewcore.

    MODEL is a folder that fewcore run or fewcore adapt wrote. From images (n, c, h, w) or volumes (n, c, d, h, w) the network
    makes scores and masks. How images must be prepared stands in a JSON file beside it. The file is run and compared with
    the model; one that says something else is not kept. ONNX needs pip install 'fewcore[export]'.
    """
    from fewcore.exporting.export import target_of

    target_of(out, overwrite)
    with _loaded(model, "predict", stage, cells, None, "cpu") as loaded:
        made = loaded.export(out, overwrite)
    click.echo(f"network: {made.path.resolve()}, {loaded.record.title}; how to feed it: {made.description.name}")
    click.echo(f"checked: its outputs are within {made.difference:.1e} of the model's own, relative to the largest")


@contextmanager
def _loaded(
    folder: str, use: str, stage: str, cells: tuple[str, ...], window: tuple[float, float] | None, device: str
) -> Iterator[TrainedModel]:
    """Load a model and show its progress while it is used."""
    from fewcore.models.trained import load_model
    from fewcore.progress import Progress

    if window is not None and not window[0] < window[1]:
        raise PipelineError(Problem("--window", f"{window[0]:g} {window[1]:g}", "a low and a higher value"))
    wrong = [cell for cell in cells if "=" not in cell]
    if wrong:
        raise PipelineError(Problem("--cell", f"'{wrong[0]}'", "PATH=VALUE, such as seed=0"))
    cell = dict(said.split("=", 1) for said in cells)
    with Progress() as progress:
        model = load_model(folder, stage, cell, use=use, device=device, progress=progress)
        for line in model.other_versions:
            click.echo(line, err=True)
        if model.record.spec.preparation.get("per_object"):
            click.echo("the model learnt from patches around objects: each file is taken as one patch", err=True)
        yield model
