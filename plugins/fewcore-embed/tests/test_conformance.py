from fewcore.testing import conformance

OPTIONS = {"acai": {"steps": 3, "batch_size": 8}}
SHAPES = {"timm": (3, 32, 32)}


@conformance("fewcore-embed", options=OPTIONS, shapes=SHAPES)
def test_conformance(offer, check):
    check(offer)
