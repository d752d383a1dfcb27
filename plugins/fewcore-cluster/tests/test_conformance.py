from fewcore.testing import conformance

OPTIONS = {
    "kmeans": {"n_clusters": 4, "n_partitions": 3, "min_size": 1},
    "hyperplanes": {"n_way": 3, "n_partitions": 70, "min_size": 1, "candidates": 20, "margin": 0.1},
}


@conformance("fewcore-cluster", options=OPTIONS)
def test_conformance(offer, check):
    check(offer)
