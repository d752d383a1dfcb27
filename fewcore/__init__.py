"""fewcore: few-shot learners from unlabelled images, with every method a plugin.

Everything that a plugin or a notebook needs is exported here. What needs torch or scipy is imported when it is first asked for,
so that `import fewcore` and `fewcore --help` stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fewcore.components import Component, Offer, option
from fewcore.contracts import (
    Array,
    Arrays,
    Embeddings,
    ImageSet,
    ImageSpec,
    Meta,
    Partitions,
    Predictions,
    Seen,
    Target,
    TaskBatch,
)
from fewcore.errors import (
    DataError,
    FewcoreError,
    Interrupted,
    NumericalError,
    PipelineError,
    PluginError,
    Problem,
    ResourceError,
)
from fewcore.hookspecs import hookimpl
from fewcore.metrics import Comparison, Figure, MetricReport, MetricRow, Outcome, StatisticalTest, UnitScores
from fewcore.numbered_tasks import NumberedCursor, class_by_class
from fewcore.protocols import (
    Backbone,
    Encoder,
    FewShotModel,
    PostProcessing,
    Predictor,
    Stored,
    TaskCursor,
    TaskStream,
)
from fewcore.seeds import (
    child_seed,
    distinct_integers,
    numpy_generator,
    task_key,
    task_uniforms,
    torch_generator,
)
from fewcore.tracking.contract import LogEntry, Tracking
from fewcore.workers.executors import Job, last_words

if TYPE_CHECKING:
    from fewcore import grouping, image_files, readers
    from fewcore.boxes import box_figure
    from fewcore.exporting.export import network_for_export
    from fewcore.models.trained import load_model
    from fewcore.ranks import Ranks
    from fewcore.run import Run
    from fewcore.samples import SampleTest, independent_t, one_way_anova, pearson
    from fewcore.statistics import (
        Estimate,
        PairedTest,
        auc,
        bootstrap_comparison,
        delong,
        group_bootstrap,
        hanley_mcneil,
        holm,
        mcnemar,
        mean_interval,
        normal_interval,
        paired_comparison,
        paired_delong,
        share_interval,
        two_sided_p,
        weighted_auc,
    )
    from fewcore.tensors import Gather, load_module, module_arrays

_STATISTICS = (
    "Estimate",
    "PairedTest",
    "auc",
    "bootstrap_comparison",
    "delong",
    "group_bootstrap",
    "hanley_mcneil",
    "holm",
    "mcnemar",
    "mean_interval",
    "normal_interval",
    "paired_comparison",
    "paired_delong",
    "share_interval",
    "two_sided_p",
    "weighted_auc",
)
_LAZY = {"Run": "run", "Ranks": "ranks", "Gather": "tensors", "load_module": "tensors", "module_arrays": "tensors"}
_LAZY |= dict.fromkeys(_STATISTICS, "statistics")
_LAZY |= dict.fromkeys(("SampleTest", "independent_t", "one_way_anova", "pearson"), "samples")
_LAZY |= {"box_figure": "boxes", "load_model": "models.trained", "network_for_export": "exporting.export"}
_MODULES = ("grouping", "image_files", "readers")

__version__ = "0.1.0"

__all__ = [
    "Array",
    "Arrays",
    "Backbone",
    "Comparison",
    "Component",
    "DataError",
    "Embeddings",
    "Encoder",
    "Estimate",
    "FewShotModel",
    "FewcoreError",
    "Figure",
    "Gather",
    "ImageSet",
    "ImageSpec",
    "Interrupted",
    "Job",
    "LogEntry",
    "Meta",
    "MetricReport",
    "MetricRow",
    "NumberedCursor",
    "NumericalError",
    "Offer",
    "Outcome",
    "PairedTest",
    "Partitions",
    "PipelineError",
    "PluginError",
    "PostProcessing",
    "Predictions",
    "Predictor",
    "Problem",
    "Ranks",
    "ResourceError",
    "Run",
    "SampleTest",
    "Seen",
    "StatisticalTest",
    "Stored",
    "Target",
    "TaskBatch",
    "TaskCursor",
    "TaskStream",
    "Tracking",
    "UnitScores",
    "auc",
    "bootstrap_comparison",
    "box_figure",
    "child_seed",
    "class_by_class",
    "delong",
    "distinct_integers",
    "group_bootstrap",
    "grouping",
    "hanley_mcneil",
    "holm",
    "hookimpl",
    "image_files",
    "independent_t",
    "last_words",
    "load_model",
    "load_module",
    "mcnemar",
    "mean_interval",
    "module_arrays",
    "network_for_export",
    "normal_interval",
    "numpy_generator",
    "one_way_anova",
    "option",
    "paired_comparison",
    "paired_delong",
    "pearson",
    "readers",
    "share_interval",
    "task_key",
    "task_uniforms",
    "torch_generator",
    "two_sided_p",
    "weighted_auc",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fewcore.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(f"fewcore.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fewcore' has no attribute '{name}'")
