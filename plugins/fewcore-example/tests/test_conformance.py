from fewcore.testing import conformance


@conformance("fewcore-example", options={"nearest-anchors": {"n_parts": 4}})
def test_conformance(offer, check):
    check(offer)
