"""Checks of data sets: images, splits and targets are as they say, and the files behind them are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewcore.components import Offer
from fewcore.contracts import ImageSet
from fewcore.kinds import SPLITS
from fewcore.testing.trial import Setup, Trial, complain


def images_are_as_the_spec_says(offer: Offer, setup: Setup) -> None:
    """Images have the size, channels and range of the spec and are finite; there is something to train on."""
    images: ImageSet = Trial(offer, setup).make()
    wanted = (images.spec.channels, *images.spec.size)
    if images.shape != wanted:
        complain(offer, f"images {images.shape}", f"{wanted}, as the spec says", "ImageSpec(size, channels, range)")
    low, high = images.spec.value_range
    least, most = float(images.images.min()), float(images.images.max())
    if not (low <= least and most <= high):
        complain(
            offer,
            f"values from {least:g} to {most:g}",
            f"{low:g} to {high:g}, as the spec says",
            "the true value_range into ImageSpec",
        )
    for name, values in images.geometry.items():
        if len(values) != len(images):
            complain(
                offer,
                f"geometry '{name}' with {len(values)} rows",
                f"{len(images)}, one an image",
                "arrays with a row an image",
            )


def splits_are_sane(offer: Offer, setup: Setup) -> None:
    """Splits are named train, validation and test and are not empty; no group is in two (ImageSet sees to that)."""
    images: ImageSet = Trial(offer, setup).make()
    for name, ids in images.splits.items():
        if name not in SPLITS or not len(ids):
            complain(
                offer,
                f"the split '{name}' with {len(ids)} images",
                f"images in splits among {', '.join(SPLITS)}",
                "splits={'train': ids, 'validation': ids, 'test': ids}",
            )
    if images.splits and "train" not in images.splits:
        complain(offer, f"the splits {', '.join(images.splits)}", "a split 'train'", "splits={'train': ids, ...}")


def targets_are_sane(offer: Offer, setup: Setup) -> None:
    """The target that `labels` means is named where there are class targets; scales of ratings hold."""
    images: ImageSet = Trial(offer, setup).make()
    classes = [name for name, target in images.targets.items() if target.kind == "class"]
    if classes and images.target not in classes:
        complain(offer, f"target='{images.target}'", f"one of {', '.join(classes)}", f"target='{classes[0]}'")
    for name, target in images.targets.items():
        if target.kind == "ratings" and target.scales is not None:
            inside = (target.values >= target.scales[:, 0]) & (target.values <= target.scales[:, 1])
            if not (inside | np.isnan(target.values)).all():
                complain(
                    offer,
                    f"ratings '{name}' outside their scale {target.scale}",
                    "ratings inside, or NaN",
                    "the true scale into Target, NaN where nobody rated",
                )


def sources_are_files(offer: Offer, setup: Setup) -> None:
    """`sources()`, where there is one, lists files and folders that exist, so that changed files are noticed."""
    trial = Trial(offer, setup)
    if not hasattr(trial.component, "sources"):
        return
    listed = trial.attempt("sources", trial.component.sources)
    for path in listed:
        if not (isinstance(path, Path) and path.exists()):
            complain(
                offer,
                f"{path!r} in sources()",
                "paths of files or folders that exist",
                "tuple[Path, ...] of what load reads",
            )
