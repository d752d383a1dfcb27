"""Announces the partitioners. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


@hookimpl
def fewcore_partitioners() -> list[Component]:
    """Offer the partitioners."""
    return [
        Component(
            "kmeans",
            "fewcore_cluster.kmeans:KMeans",
            "k-means partitions under random scalings of the embedding (CACTUs)",
            "arXiv:1810.02334",
        ),
        Component(
            "hyperplanes",
            "fewcore_cluster.hyperplanes:Hyperplanes",
            "cells between random planes through the embedding, with a margin",
            "arXiv:1810.02334",
        ),
    ]
