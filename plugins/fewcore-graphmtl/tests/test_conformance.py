from fewcore.testing import conformance

OPTIONS = {name: {"attribute": "size"} for name in ("graph-mtl", "trace-norm-mtl", "lasso", "ridge", "constant")}


@conformance("fewcore-graphmtl", options=OPTIONS)
def test_conformance(offer, check):
    check(offer)
