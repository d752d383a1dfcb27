from fewcore.testing import conformance

TINY = {"width": 2, "levels": 2, "epochs": 1, "batch_size": 36}
WITH_MASKS = {**TINY, "mask": "masks"}
SEMI = {**WITH_MASKS, "unlabelled": "all", "choose": "each"}
OPTIONS = {
    "s4mtl": SEMI,
    "s2mtl": SEMI,
    "u-mtl": WITH_MASKS,
    "u-net": WITH_MASKS,
    "conv-net": TINY,
}


@conformance("fewcore-s4mtl", options=OPTIONS)
def test_conformance(offer, check):
    check(offer)
