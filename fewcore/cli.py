"""The command line. Results go to stdout, progress and logs to stderr.

Nothing that needs torch is imported before a command needs it, so that `fewcore --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from fewcore import __version__
from fewcore.commands.compare import compare
from fewcore.commands.models import adapt, export, predict
from fewcore.commands.new import new
from fewcore.commands.pipeline_options import counted, load_pipeline, pipeline_options
from fewcore.commands.run import run
from fewcore.errors import FewcoreError, Interrupted, PipelineError, Problem, did_you_mean
from fewcore.kinds import KINDS
from fewcore.plugins import load_registry


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


@cli.command()
@pipeline_options
def check(pipeline: str, overrides: tuple[str, ...], seed: int | None, grid: tuple[str, ...]) -> None:
    """Check PIPELINE: everything that can be known before work starts."""
    loaded = load_pipeline(pipeline, overrides, seed, grid)
    sizes = f"{counted(len(loaded.stages), 'stage')}, {counted(len(loaded.cells), 'cell')}"
    click.echo(f"{loaded.name}: {sizes}, no problems")
    click.echo("the files of data sets were not looked at; fewcore explain looks at them", err=True)


@cli.command()
@pipeline_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def explain(pipeline: str, overrides: tuple[str, ...], seed: int | None, grid: tuple[str, ...], as_json: bool) -> None:
    """Say which stages of PIPELINE would run, and why."""
    loaded = load_pipeline(pipeline, overrides, seed, grid)
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
    registry = load_registry()
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

    registry = load_registry()
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

    click.echo(json.dumps(pipeline_schema(load_registry()), indent=1))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def doctor(as_json: bool) -> None:
    """Say what is installed, whether it fits together, and what to type where it does not."""
    from fewcore.doctor import diagnose

    found = diagnose(load_registry())
    if as_json:
        click.echo(json.dumps([entry.to_json() for entry in found], indent=1))
    else:
        for entry in found:
            click.echo(f"{'ok ' if entry.ok else 'BAD'}  {entry.subject}: {entry.found}")
            if entry.advice:
                click.echo(f"     {entry.advice}")
    if not all(entry.ok for entry in found):
        sys.exit(4)


cli.add_command(run)
cli.add_command(compare)
cli.add_command(adapt)
cli.add_command(predict)
cli.add_command(export)
cli.add_command(new)


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
