"""The command that writes a new plugin: `fewcore new`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fewcore.kinds import KINDS
from fewcore.new_plugin import METHODS, NewPlugin, write_plugin
from fewcore.plugins import load_registry


@click.command()
@click.argument("name")
@click.option("--kind", required=True, help=f"One of {', '.join(KINDS[kind].label for kind in METHODS)}.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for it. Default: its name, here.")
def new(name: str, kind: str, out: Path | None) -> None:
    """Write a plugin NAME with one small method of a kind: a distribution that installs, passes its tests and runs.

    NAME is that of the component (spectral) or of the distribution (fewcore-spectral). Make the method yours then.
    """
    plugin = NewPlugin.named(name, kind, out)
    files = write_plugin(plugin, load_registry())
    label = KINDS[plugin.kind].label
    click.echo(
        f"{plugin.distribution}: the {label} '{plugin.component}', {len(files)} files in {plugin.folder.resolve()}"
    )
    click.echo("now type:")
    for line in (
        f"cd {shlex.quote(str(plugin.folder))}",
        "python -m pip install -e '.[dev]'",
        "pytest",
        f"fewcore run pipelines/{plugin.component}.yaml",
    ):
        click.echo(f"  {line}")
    click.echo(f"the method is src/{plugin.module}/{plugin.method}.py: make it yours")
