import pytest
import torch

from fewcore import DataError, torch_generator
from fewcore_medical.monai_backbone import MODELS, Monai


@pytest.mark.parametrize("model", MODELS)
def test_every_network_gives_the_features_that_the_table_says(model: str) -> None:
    network = Monai(model=model).build((1, 64, 64), 0, torch_generator(0)).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 64, 64)).shape == (2, MODELS[model][1])


@pytest.mark.parametrize("model", ["densenet121", "resnet10"])
def test_volumes_get_three_dimensional_networks_with_a_head(model: str) -> None:
    network = Monai(model=model).build((2, 32, 32, 32), 3, torch_generator(0)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 2, 32, 32, 32)).shape == (1, 3)
    assert {name for name, _ in network.named_parameters() if name.startswith("head.")} == {"head.weight", "head.bias"}


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (Monai(model="resnet10").build((1, 32, 32), 2, torch_generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [network.state_dict()["head.weight"] for network in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_images_that_are_too_small_are_refused_with_advice() -> None:
    with pytest.raises(DataError, match=r"monai: densenet121 cannot take images \(1, 8, 8\): .*raise image_size"):
        Monai().build((1, 8, 8), 0, torch_generator(0))
    with pytest.raises(DataError, match=r"monai: found images \(8, 8\); expected \(c, h, w\) or \(c, d, h, w\)"):
        Monai().build((8, 8), 0, torch_generator(0))
