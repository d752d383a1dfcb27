from fewcore.testing import conformance


@conformance("fewcore-cluster", options={"kmeans": {"n_clusters": 4, "n_partitions": 3, "min_size": 1}})
def test_conformance(offer, check):
    check(offer)
