"""Announces the learners. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl

TUMOURS = "arXiv:1801.03230"
VALUES = ("values",)


@hookimpl
def fewcore_learners() -> list[Component]:
    """Offer the learners."""
    here = "fewcore_graphmtl"
    return [
        Component(
            "graph-mtl",
            f"{here}.graph_mtl:GraphMtl",
            "ratings learnt together, sparse, along a graph of attributes",
            TUMOURS,
            needs_labels=True,
            predicts=VALUES,
        ),
        Component(
            "trace-norm-mtl",
            f"{here}.trace_norm_learner:TraceNormMtl",
            "ratings learnt in a shared subspace",
            "doi:10.1145/1553374.1553434",
            needs_labels=True,
            predicts=VALUES,
        ),
        Component(
            "lasso",
            f"{here}.lasso:Lasso",
            "sparse linear regression of one rating",
            "doi:10.1111/j.2517-6161.1996.tb02080.x",
            needs_labels=True,
            predicts=VALUES,
        ),
        Component(
            "ridge",
            f"{here}.ridge:Ridge",
            "ridge regression of one rating",
            "doi:10.1080/00401706.1970.10488634",
            needs_labels=True,
            predicts=VALUES,
        ),
        Component(
            "constant",
            f"{here}.constant:Constant",
            "the mean rating of the training images for all",
            TUMOURS,
            needs_labels=True,
            predicts=VALUES,
        ),
    ]
