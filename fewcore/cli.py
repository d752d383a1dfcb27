"""The command line. Results go to stdout, progress and logs to stderr.

Nothing that needs torch is imported before a command needs it, so that `fewcore --help` answers at once.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewcore import __version__
from fewcore.errors import FewcoreError, Interrupted, PipelineError, Problem, did_you_mean
from fewcore.kinds import KINDS
from fewcore.model_commands import adapt, predict

if TYPE_CHECKING:
    from fewcore.pipeline import Pipeline
    from fewcore.plugins import Registry
    from fewcore.session import Session

Command = Callable[..., Any]


class _Commands(click.Group):
    """Suggests the command that was meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or say which one is near."""
        name = args[0] if args else ""
        if name and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.commands)
            raise click.UsageError(
                f"no command '{name}'; expected one of {', '.join(self.commands)}" + (f" ({hint})" if hint else "")
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fewcore")
def cli() -> None:
    """Few-shot learners from unlabelled images: compose, run, compare and report.

    A pipeline is a YAML file that names components; every component comes from a plugin. Try:  fewcore run quickstart
    """


def _options(command: Command) -> Command:
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


def _device_option(command: Command) -> Command:
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")(command)


@cli.command()
@_options
@_device_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report. Default: runs/NAME.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; the last digits of results depend on it.")
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often long stages are saved.",
)
def run(
    pipeline: str,
    overrides: tuple[str, ...],
    seed: int | None,
    grid: tuple[str, ...],
    device: str,
    out: Path | None,
    threads: int | None,
    checkpoint_every: float,
) -> None:
    """Run PIPELINE: a file, or the name of one that is shipped (quickstart).

    Finished stages are reused; a run that was killed goes on where it was. Ctrl-C saves and ends with code 75; a second
    Ctrl-C ends at once. The report is written to the folder --out.
    """
    loaded = _load(pipeline, overrides, seed, grid)
    from fewcore.memory import keep_freed_memory
    from fewcore.run import device_named
    from fewcore.session import Session
    from fewcore.store import Store

    where = device_named(device)
    keep_freed_memory()
    if threads:
        import torch

        torch.set_num_threads(threads)
    folder = out or Path("runs") / loaded.name
    with _stopping() as stop, _progress(folder) as progress:
        session = Session(Store(), where, progress=progress, stop=stop, checkpoint_every=checkpoint_every)
        code = _run_and_report(loaded, session, folder, progress)
    sys.exit(code)


def _run_and_report(pipeline: Pipeline, session: Session, folder: Path, progress: Any) -> int:
    """Run, write the report, print the table; returns the exit code."""
    from rich.console import Console

    from fewcore.disk import write_text
    from fewcore.drawn_rows import write_rows
    from fewcore.records import write_models
    from fewcore.report import summary_table, write_report
    from fewcore.reporting import build_report
    from fewcore.runner import Runner

    began = time.monotonic()
    result = Runner(pipeline, session, progress.say).run()
    command = shlex.join(["fewcore", *sys.argv[1:]])
    report = build_report(pipeline, session, result, command=command, seconds=time.monotonic() - began)
    write_report(report, folder)
    write_text(folder / "pipeline.yaml", report.pipeline)
    write_models(session, result.models, folder)
    write_rows(session, result.nodes, folder)
    for key in session.store.damaged:
        progress.say(f"a stored result was damaged and computed again: {key}")
    for title, text in session.tracebacks.items():
        progress.record({"stage": title, "traceback": text})
    if report.reports:
        Console(width=None if sys.stdout.isatty() else 120).print(summary_table(report))
    if result.failures:
        click.echo(f"{_count(len(result.failures), 'stage')} failed; the report says what is missing", err=True)
    click.echo(f"report: {(folder / 'report.html').resolve()}")
    return result.exit_code


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


@cli.command()
@_options
def check(pipeline: str, overrides: tuple[str, ...], seed: int | None, grid: tuple[str, ...]) -> None:
    """Check PIPELINE: everything that can be known before work starts."""
    loaded = _load(pipeline, overrides, seed, grid)
    sizes = f"{_count(len(loaded.stages), 'stage')}, {_count(len(loaded.cells), 'cell')}"
    click.echo(f"{loaded.name}: {sizes}, no problems")


@cli.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def explain(pipeline: str, overrides: tuple[str, ...], seed: int | None, grid: tuple[str, ...], as_json: bool) -> None:
    """Say which stages of PIPELINE would run, and why."""
    loaded = _load(pipeline, overrides, seed, grid)
    import torch

    from fewcore import explain as explaining
    from fewcore.session import Session
    from fewcore.store import Store

    found = explaining.explain(loaded, Session(Store(), torch.device("cpu")))
    if as_json:
        click.echo(json.dumps([entry.to_json() for entry in found], indent=1))
        return
    width = max(len(entry.stage) for entry in found)
    for entry in found:
        cell = f" [{entry.cell}]" if entry.cell else ""
        click.echo(f"{entry.stage:{width}}  {entry.action:8}  {entry.reason}{cell}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def plugins(as_json: bool) -> None:
    """List every component that is installed, and every plugin that is broken (then the exit code is 4)."""
    registry = _registry()
    clashes = registry.clashes()
    rows = [
        {
            "kind": KINDS[offer.kind].label,
            "name": offer.name,
            "distribution": offer.distribution,
            "version": offer.version,
            "summary": offer.component.summary,
            "paper": offer.component.paper,
            "status": f"clash: write {offer.full_name}" if (offer.kind, offer.name) in clashes else "ok",
        }
        for offer in registry.offers
    ]
    for plugin in registry.broken:
        who = {"kind": "", "name": plugin.entry_point, "distribution": plugin.distribution, "version": plugin.version}
        rows.append({**who, "summary": "", "paper": "", "status": f"broken: {plugin.reason}"})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        _print_plugins(rows)
    if registry.broken:
        sys.exit(4)


def _print_plugins(rows: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("kind", "name", "distribution", "summary", "status", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        shown = (row["kind"], row["name"], f"{row['distribution']} {row['version']}", row["summary"], row["status"])
        table.add_row(*(Text(cell) for cell in shown))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@cli.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def describe(name: str, as_json: bool) -> None:
    """Print what the component NAME does: its options with types, defaults and units, and its source."""
    from fewcore.describe import describe_offer, description_text

    registry = _registry()
    distribution, _, bare = name.rpartition(":")
    offers = [o for o in registry.offers if o.name == bare and distribution in ("", o.distribution)]
    if not offers:
        known = sorted({offer.name for offer in registry.offers})
        raise PipelineError(
            Problem(name, "no such component", "a name that 'fewcore plugins' lists", did_you_mean(bare, known))
        )
    found = [describe_offer(offer) for offer in offers]
    click.echo(json.dumps(found, indent=1) if as_json else "\n\n".join(description_text(entry) for entry in found))


@cli.command()
def schema() -> None:
    """Print a JSON Schema of pipeline files, for editors that complete and check YAML."""
    from fewcore.describe import pipeline_schema

    click.echo(json.dumps(pipeline_schema(_registry()), indent=1))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def doctor(as_json: bool) -> None:
    """Say what is installed, whether it fits together, and what to type where it does not."""
    from fewcore.doctor import diagnose

    found = diagnose(_registry())
    if as_json:
        click.echo(json.dumps([entry.to_json() for entry in found], indent=1))
    else:
        for entry in found:
            click.echo(f"{'ok ' if entry.ok else 'BAD'}  {entry.subject}: {entry.found}")
            if entry.advice:
                click.echo(f"     {entry.advice}")
    if not all(entry.ok for entry in found):
        sys.exit(4)


cli.add_command(adapt)
cli.add_command(predict)


def _registry() -> Registry:
    from fewcore.plugins import load_registry

    return load_registry()


def _load(name: str, overrides: tuple[str, ...], seed: int | None, grid: tuple[str, ...]) -> Pipeline:
    from fewcore import pipeline, yaml12

    values = {path: yaml12.read_value(text) for path, text in (_pair(said, "--set") for said in overrides)}
    if seed is not None:
        values["seed"] = seed
    axes = {
        path: [yaml12.read_value(v) for v in text.split(",")] for path, text in (_pair(said, "--grid") for said in grid)
    }
    return pipeline.load(pipeline.find_file(name), _registry(), overrides=values, grid=axes)


def _pair(said: str, option: str) -> tuple[str, str]:
    path, equals, text = said.partition("=")
    if not equals or not path:
        raise PipelineError(Problem(option, f"'{said}'", "PATH=VALUE, such as stages.maml.inner_steps=3"))
    return path.strip(), text


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed or the process was asked to end; a second one ends at once."""
    asked: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        click.echo("stopping after this step and saving; press Ctrl-C again to end at once", err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(folder: Path) -> Iterator[Any]:
    from fewcore.errors import ResourceError
    from fewcore.progress import Progress

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be made: {error.strerror}; expected a folder that can be written (type --out DIR)"
        ) from error
    with Progress(log=folder / "log.jsonl") as progress:
        yield progress


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        cli.main(args=arguments, prog_name="fewcore", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except Interrupted as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except FewcoreError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("ended at once; finished stages are kept, run again to go on", err=True)
        sys.exit(75)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
