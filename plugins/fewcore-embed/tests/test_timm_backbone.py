"""timm's networks: heads, features, reproducible weights, weights from a file."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fewcore import DataError, PipelineError, torch_generator
from fewcore_embed.timm_backbone import Timm

SMALL = "test_resnet"


def build(shape=(1, 32, 32), n_outputs=3, seed=0, **options):
    return Timm(**({"model": SMALL} | options)).build(shape, n_outputs, torch_generator(seed))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_outputs_and_features(channels):
    x = torch.rand(2, channels, 32, 32)
    network = build((channels, 32, 32)).eval()
    assert network(x).shape == (2, 3)
    assert {n for n, _ in network.named_parameters() if n.startswith("head.")} == {"head.weight", "head.bias"}
    features = build((channels, 32, 32), 0).eval()
    assert features(x).shape == (2, network.head.in_features)
    assert not [n for n, _ in features.named_parameters() if n.startswith("head.")]
    torch.testing.assert_close(network.head(features(x)), network(x))


def test_the_default_is_resnet18():
    assert Timm().build((3, 32, 32), 0, torch_generator(0))(torch.rand(2, 3, 32, 32)).shape == (2, 512)


def test_a_transformer_takes_the_size_of_the_images():
    network = Timm(model="test_vit").build((1, 48, 48), 2, torch_generator(0)).eval()
    assert network(torch.rand(2, 1, 48, 48)).shape == (2, 2)


def test_weights_come_from_the_generator_alone():
    state, own = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, same, other = (dict(build(seed=seed).named_parameters()) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == own).all()  # noqa: NPY002
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_weights_are_read_from_a_file(tmp_path):
    torch.manual_seed(3)
    trained = timm.create_model(SMALL, num_classes=10)
    path = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    network = build((3, 32, 32), 0, weights=str(path)).eval()
    x = torch.rand(2, 3, 32, 32)
    config = trained.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    trained.reset_classifier(0)
    torch.testing.assert_close(network(x), trained.eval()((x - mean) / std))
    grey = build((1, 32, 32), 0, weights=str(path)).eval()
    assert grey(x[:, :1]).shape == network(x).shape


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(PipelineError, match=r"^timm: found model 'resnt18'; .*did you mean .*resnet18"):
        build(model="resnt18")
    with pytest.raises(PipelineError, match=r"\(timm.list_models\(\) lists them\)$"):
        build(model="qqqqqqqq")
    with pytest.raises(DataError, match=r"^timm: found images \(1, 8, 8, 8\); expected 2-D images \(c, h, w\)"):
        build((1, 8, 8, 8))
    with pytest.raises(ValueError, match=r"^weights: found beside pretrained: true; expected one of them$"):
        Timm(pretrained=True, weights="a.safetensors")
    with pytest.raises(DataError, match=r"expected an existing .safetensors file$"):
        build(weights=str(tmp_path / "none.safetensors"))
    pickled = tmp_path / "weights.pth"
    torch.save({}, pickled)
    with pytest.raises(DataError, match=r"expected an existing .safetensors file$"):
        build(weights=str(pickled))
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors")
    with pytest.raises(DataError, match=r"text.safetensors is no safetensors file"):
        build(weights=str(text))
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(DataError, match=r"lacks \d+ of test_resnet's parameters, the first 'conv1"):
        build(weights=str(other))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    network, x = build().eval(), torch.rand(2, 1, 32, 32)
    expected = network(x)
    torch.testing.assert_close(network.cuda()(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
