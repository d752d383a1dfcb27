"""Announces the trackers. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl

HERE = "fewcore_tracking"


@hookimpl
def fewcore_trackers() -> list[Component]:
    """Offer the trackers."""
    return [
        Component("tensorboard", f"{HERE}.tensorboard:TensorBoard", "curves and results as TensorBoard shows them"),
        Component("mlflow", f"{HERE}.mlflow:MLflow", "curves, results and pages as runs of an MLflow experiment"),
    ]
