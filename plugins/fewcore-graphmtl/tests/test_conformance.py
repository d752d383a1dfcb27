from fewcore.testing import conformance

OPTIONS = {name: {"attribute": "size"} for name in ("graph-mtl", "lasso", "ridge", "constant")}
OPTIONS["trace-norm-mtl"] = {"attribute": "size", "folds": 2}


@conformance("fewcore-graphmtl", options=OPTIONS)
def test_conformance(offer, check):
    check(offer)
