"""The command that puts runs side by side: `fewcore compare`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fewcore.errors import PipelineError, Problem


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option(
    "--baseline", type=click.Path(path_type=Path), help="The RUN that others are compared with. Default: the first."
)
@click.option("--stage", "stages", metavar="NAME", multiple=True, help="Only the models of this name; may be repeated.")
@click.option(
    "--pair",
    "pairs",
    metavar="A=B",
    multiple=True,
    help="Compare model A of the baseline with model B of the other runs, and no others; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for comparison.html, .md and .json.")
def compare(
    runs: tuple[Path, ...],
    baseline: Path | None,
    stages: tuple[str, ...],
    pairs: tuple[str, ...],
    as_json: bool,
    out: Path | None,
) -> None:
    """Put runs side by side, with paired tests. A RUN is a folder that fewcore run wrote.

    Models of the same stage and conditions are tested on the same tasks or images, Holm's correction spanning all tests.
    Where runs were not judged on the same, it is said why, and their numbers stand side by side alone.
    """
    named = _pairs(pairs, stages)
    if len(runs) < 2:
        raise PipelineError(Problem("RUN", "one folder", "two or more", f"type fewcore compare {runs[0]} OTHER"))
    chosen = baseline or runs[0]
    if chosen.resolve() not in {run.resolve() for run in runs}:
        raise PipelineError(Problem("--baseline", str(chosen), f"one of {', '.join(map(str, runs))}"))

    from fewcore.comparing import report as comparison
    from fewcore.comparing.compare import Choice
    from fewcore.comparing.compare import compare as compared
    from fewcore.comparing.runs import read_runs
    from fewcore.plugins import load_registry

    read = read_runs(runs)
    first = next(run for run in read if run.folder.resolve() == chosen.resolve())
    made = compared(read, first, load_registry(), Choice(stages, named))
    if out is not None:
        comparison.write_comparison(made, out)
    if as_json:
        click.echo(comparison.json_text(made), nl=False)
    else:
        from rich.console import Console

        comparison.show(made, Console(width=None if sys.stdout.isatty() else 100))
        if out is not None:
            click.echo(f"comparison: {(out / 'comparison.html').resolve()}")


def _pairs(said: tuple[str, ...], stages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return what --pair names.

    Raises:
        PipelineError: one is no A=B, or --stage is there too.

    """
    made = []
    problems = []
    for text in said:
        first, _, second = text.partition("=")
        if not first or not second:
            problems.append(Problem("--pair", f"'{text}'", "A=B, two names of models", "type --pair maml=protonets"))
        made.append((first.strip(), second.strip()))
    if said and stages:
        problems.append(Problem("--stage", "beside --pair", "one of the two: pairs name their models"))
    if problems:
        raise PipelineError(*problems)
    return tuple(made)
