"""Multi-task regression of ratings. `plugin` announces the learners; the solvers are imported when first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewcore_graphmtl.graph_sparse import srmtl
    from fewcore_graphmtl.structure import structure_matrix
    from fewcore_graphmtl.trace_norm import trace_norm_mtl

_LAZY = {
    "srmtl": "graph_sparse",
    "structure_matrix": "structure",
    "trace_norm_mtl": "trace_norm",
}

__all__ = ["srmtl", "structure_matrix", "trace_norm_mtl"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"fewcore_graphmtl.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fewcore_graphmtl' has no attribute '{name}'")
