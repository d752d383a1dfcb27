from fewcore.testing import conformance


@conformance("fewcore-slurm", options={"slurm": {"cluster": "local"}})
def test_conformance(offer, check):
    check(offer)
