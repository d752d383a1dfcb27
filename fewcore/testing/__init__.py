"""The conformance kit for authors of plugins, shipped with fewcore. The core itself never imports it.

Four lines test every component of a plugin; see `conformance`. The toys are of use in a method's own tests too.
"""

from __future__ import annotations

from fewcore.testing.conformance import Check, checks_for, conformance
from fewcore.testing.toy_models import ToyModel, ToyPredictor
from fewcore.testing.toys import (
    ToyBackbone,
    ToyEncoder,
    ToyStream,
    hide,
    hide_queries,
    toy_embeddings,
    toy_images,
    toy_outcomes,
    toy_partitions,
    toy_tasks,
)
from fewcore.testing.trial import ConformanceError, Setup

__all__ = [
    "Check",
    "ConformanceError",
    "Setup",
    "ToyBackbone",
    "ToyEncoder",
    "ToyModel",
    "ToyPredictor",
    "ToyStream",
    "checks_for",
    "conformance",
    "hide",
    "hide_queries",
    "toy_embeddings",
    "toy_images",
    "toy_outcomes",
    "toy_partitions",
    "toy_tasks",
]
