"""Announces the built-in components. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


@hookimpl
def fewcore_datasets() -> list[Component]:
    """Offer the data sets."""
    here = "fewcore.builtin"
    return [
        Component(
            "digits", f"{here}.digits:Digits", "scikit-learn's 1,797 handwritten digits, 8 x 8", "doi:10.24432/C50P49"
        ),
        Component(
            "folder",
            f"{here}.folder:Folder",
            "your own images: a folder for each class, or a table of classes, masks and patients",
        ),
    ]


@hookimpl
def fewcore_partitioners() -> list[Component]:
    """Offer the partitioners."""
    here = "fewcore.builtin.partitions"
    return [
        Component("labels", f"{here}:Labels", "the true classes as one partition (oracle)", needs_labels=True),
        Component(
            "random", f"{here}:Random", "each image in a part drawn at random (negative control)", "arXiv:1810.02334"
        ),
        Component("own", f"{here}:Own", "the clusters that the embedder itself has"),
        Component(
            "union", f"{here}:Union", "several partitions in one, with explicit probabilities", "arXiv:1810.02334"
        ),
    ]


@hookimpl
def fewcore_task_samplers() -> list[Component]:
    """Offer the task samplers."""
    target = "fewcore.builtin.episodes:Episodes"
    return [Component("episodes", target, "n-way tasks from the parts of partitions", "arXiv:1810.02334")]


@hookimpl
def fewcore_evaluators() -> list[Component]:
    """Offer the evaluators."""
    here = "fewcore.builtin"
    return [
        Component("few-shot", f"{here}.few_shot:FewShot", "accuracy by way and shot, with paired tests"),
        Component(
            "classification", f"{here}.classification:Classification", "accuracy, AUC, sensitivity, F1 of classes"
        ),
        Component("regression", f"{here}.regression:Regression", "tolerance accuracy and mean absolute difference"),
    ]
