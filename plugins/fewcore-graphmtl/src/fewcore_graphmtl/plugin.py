"""Announces the learners. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


def _learner(name: str, target: str, summary: str, paper: str) -> Component:
    return Component(name, f"fewcore_graphmtl.{target}", summary, paper, needs_labels=True, predicts=("values",))


@hookimpl
def fewcore_learners() -> list[Component]:
    """Offer the learners."""
    tumours = "arXiv:1801.03230"
    low_rank = "doi:10.1145/1553374.1553434"
    tibshirani = "doi:10.1111/j.2517-6161.1996.tb02080.x"
    hoerl = "doi:10.1080/00401706.1970.10488634"
    return [
        _learner(
            "graph-mtl", "graph_mtl:GraphMtl", "ratings learnt together, sparse, along a graph of attributes", tumours
        ),
        _learner("trace-norm-mtl", "trace_norm_learner:TraceNormMtl", "ratings learnt in a shared subspace", low_rank),
        _learner("lasso", "lasso:Lasso", "sparse linear regression of one rating", tibshirani),
        _learner("ridge", "ridge:Ridge", "ridge regression of one rating", hoerl),
        _learner("constant", "constant:Constant", "the mean rating of the training images for all", tumours),
    ]
