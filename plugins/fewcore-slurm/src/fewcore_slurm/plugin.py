"""Announces the executor. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


@hookimpl
def fewcore_executors() -> list[Component]:
    """Offer the executor."""
    return [Component("slurm", "fewcore_slurm.executor:Slurm", "workers in jobs of a Slurm cluster, through submitit")]
