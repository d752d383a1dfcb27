"""Announces the partitioner. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


@hookimpl
def fewcore_partitioners() -> list[Component]:
    """Offer the partitioner."""
    target = "fewcore_example.nearest_anchors:NearestAnchors"
    return [Component("nearest-anchors", target, "each image goes to the nearest of some images drawn at random")]
