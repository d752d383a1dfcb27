import pytest

from fewcore.testing import conformance


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy
@conformance("fewcore-tracking", options={"mlflow": lambda folder: {"uri": f"sqlite:///{folder}/mlflow.db"}})
def test_conformance(offer, check):
    check(offer)
