"""Multiple-instance learning: places of the last map, the most suspicious of which stands for the image."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from few_shot_samples import two_class_images
from torch import nn

from fewcore import DataError, Run, auc, torch_generator
from fewcore_meta.fine_tune import FineTune
from fewcore_meta.mil import InstanceNetwork, Mil, MilPredictor, instance_loss, instances_of, logits_of


def spotted(n, seed):
    """Dark noise; malignant images have a bright spot of 3 x 3 pixels at any place."""
    images, rng = two_class_images(n, seed), np.random.default_rng(seed)
    pixels = rng.integers(0, 100, images.images.shape, dtype=np.uint8)
    for row in np.flatnonzero(images.labels == 1):
        top, left = rng.integers(0, 4, 2)
        pixels[row, 0, top : top + 3, left : left + 3] = 230
    return replace(images, images=pixels)


class PlacesNetwork(nn.Module):
    """A convolution and a head on its mean."""

    def __init__(self, n_outputs):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, 2)
        self.head = nn.Linear(4, n_outputs)

    def feature_map(self, x):
        return self.convolution(x).relu()

    def forward(self, x):
        return self.head(self.feature_map(x).flatten(2).mean(2))


@dataclass(frozen=True)
class Places:
    def build(self, shape, n_outputs, generator):
        with torch.random.fork_rng():
            network = PlacesNetwork(n_outputs)
        with torch.no_grad():
            for p in network.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        return network


def scratch(epochs=3):
    images, validation = spotted(40, seed=0), spotted(30, seed=1)
    options = FineTune(epochs=epochs, learning_rate=0.01, batch_size=8)
    return options.learn(Places(), images, validation, Run(0))


def learnt(start, run=None, **options):
    images, validation = spotted(40, seed=0), spotted(30, seed=1)
    options = {"epochs": 10, "learning_rate": 0.01, "batch_size": 8, **options}
    return Mil(**options).learn(start, images, validation, run or Run(0))


def test_an_image_is_as_suspicious_as_its_most_suspicious_place():
    network = Places().build((1, 6, 6), 3, torch_generator(0))
    x = torch.rand(5, 1, 6, 6, generator=torch_generator(1))
    found = InstanceNetwork(network)(x)
    for image, logits in zip(x, found, strict=True):
        places = network.feature_map(image[None])[0].flatten(1).T
        best = [-np.inf, -np.inf]
        for place in places:
            a, b, c = network.head(place).tolist()
            best = [max(best[0], b - a), max(best[1], c - a)]
        assert logits.tolist() == pytest.approx([0, *best], rel=1e-5)


def test_the_loss_is_what_its_equations_say():
    evidence = torch.randn(4, 1, 6, generator=torch_generator(0), dtype=torch.float64)
    wanted, weights = torch.tensor([0, 1, 1, 0]), torch.tensor([0.7, 2.0], dtype=torch.float64)
    slow = total = others = 0.0
    for places, label in zip(evidence[:, 0].tolist(), wanted.tolist(), strict=True):
        p = sorted((1 / (1 + np.exp(-z)) for z in places), reverse=True)
        slow -= weights[label].item() * np.log(p[0] if label else 1 - p[0])
        total += weights[label].item()
        others += np.mean(p[1:]) / 4
    made = instance_loss(evidence, wanted, weights, 0.3).item()
    assert made == pytest.approx(slow / total + 0.3 * others, rel=1e-9)
    single = torch.randn(2, 1, 1, generator=torch_generator(0))
    plain = nn.functional.cross_entropy(logits_of(single), torch.tensor([0, 1]))
    assert instance_loss(single, torch.tensor([0, 1]), None, 9.0).item() == pytest.approx(plain.item(), abs=1e-6)


def test_it_learns_from_the_network_that_was_trained_from_scratch():
    start, validation = scratch(), spotted(30, seed=1)
    before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    found = learnt(start, epochs=20)
    scores = found.predict(validation, Run()).scores
    assert auc(scores[:, 1], validation.labels == 1) == pytest.approx(found.facts["score"])
    assert found.facts["score"] > 0.9
    for name, tensor in start.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    again = MilPredictor.from_arrays(*found.to_arrays(), {"start": start})
    np.testing.assert_array_equal(again.predict(validation, Run()).scores, scores)


def test_sparsity_leaves_less_to_the_other_places():
    images, start, shares = spotted(40, seed=0), scratch(), []
    x = torch.from_numpy(images.images.astype(np.float32)) / 255
    for sparsity in (0.0, 3.0):
        network = learnt(start, sparsity=sparsity, epochs=5).network
        with torch.no_grad():
            p = network.evidence(x).sigmoid()
        shares.append(float((p.sum(2) - p.amax(2)).mean()))
    assert shares[1] < 0.8 * shares[0]


def test_a_start_without_places_is_refused():
    with pytest.raises(DataError, match=r"^mil: found a start \(Linear\) without places; expected .*densenet$"):
        instances_of(SimpleNamespace(network=nn.Linear(2, 2)))
    with pytest.raises(DataError, match=r"^mil: found a start \(SimpleNamespace\) without places"):
        instances_of(SimpleNamespace())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    start, validation = scratch(), spotted(30, seed=1)
    wanted = learnt(start, epochs=2).predict(validation, Run()).scores
    made = learnt(start, Run(0, "cuda"), epochs=2).predict(validation, Run(0, "cuda")).scores
    np.testing.assert_allclose(made, wanted, atol=1e-3)
