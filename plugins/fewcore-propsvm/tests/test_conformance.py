from fewcore.testing import conformance


@conformance(
    "fewcore-propsvm",
    options={
        "proportion-svm": {"restarts": 2},
        "clustering-rf": {"trees": 5},
        "random-forest": {"trees": 5},
    },
)
def test_conformance(offer, check):
    check(offer)
