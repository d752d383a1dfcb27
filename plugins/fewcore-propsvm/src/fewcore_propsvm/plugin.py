"""Announces the learners. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl

HERE = "fewcore_propsvm"
PAPER = "arXiv:1801.03230"


def _learner(name: str, target: str, summary: str, paper: str, needs_labels: bool) -> Component:
    return Component(name, f"{HERE}.{target}", summary, paper, needs_labels, predicts=("scores",))


@hookimpl
def fewcore_learners() -> list[Component]:
    """Offer the learners."""
    blind = [
        ("proportion-svm", "proportion_svm:ProportionSVM", "a machine from clusters and their share of positives"),
        ("clustering", "clustering:Clustering", "the nearest centroid of a partition's parts"),
        ("clustering-svm", "clustering_svm:ClusteringSVM", "a support vector machine on the parts of a partition"),
        ("clustering-rf", "clustering_rf:ClusteringRF", "a random forest on the parts of a partition"),
    ]
    svm, forest = "doi:10.1007/BF00994018", "doi:10.1023/A:1010933404324"
    return [
        *(_learner(*one, PAPER, False) for one in blind),
        _learner("svm", "supervised_svm:SupervisedSVM", "a support vector machine on the labels", svm, True),
        _learner("random-forest", "random_forest:RandomForest", "a random forest on the labels", forest, True),
        _learner("orient", "orient:Orient", "says by labels which cluster is which class", PAPER, True),
    ]
