from fewcore.testing import conformance


@conformance("fewcore-medical", options={"monai": {"model": "resnet10"}}, shapes={"monai": (1, 32, 32)})
def test_conformance(offer, check):
    check(offer)
