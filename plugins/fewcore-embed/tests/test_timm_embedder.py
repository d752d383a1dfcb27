"""timm's networks as embedders: pooled features, sizes, weights from a file."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fewcore import DataError, ImageSet, ImageSpec, PipelineError, Run
from fewcore_embed.prepare import resized
from fewcore_embed.timm_backbone import Timm
from fewcore_embed.timm_embedder import TimmEmbedder, TimmEncoder

SMALL = "test_resnet"


def pictures(n=3, shape=(3, 40, 48), dtype=np.uint8, value_range=(0, 255)):
    pixels = np.random.default_rng(0).integers(0, 256, (n, *shape))
    pixels = pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(dtype)
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec(shape[1:], shape[0], value_range))


def trained(path, model=SMALL):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = timm.create_model(model, num_classes=10)
    save_file(network.state_dict(), path)
    return network


@pytest.mark.parametrize("size", [0, 32])
def test_features_are_the_pooled_ones_of_the_file(tmp_path, size):
    network, images = trained(tmp_path / "w.safetensors"), pictures()
    sha256 = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    component = TimmEmbedder(SMALL, size, weights=str(tmp_path / "w.safetensors"), sha256=sha256)
    assert component.sources() == (tmp_path / "w.safetensors",)
    encoder = component.fit(Run())
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    network.reset_classifier(0)
    x = torch.from_numpy(images.images) / 255
    x = resized(x, (size, size)) if size else x
    with torch.no_grad():
        expected = network.eval()((x - mean) / std).numpy()
    vectors = encoder.embed(images, Run())
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.dim)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    arrays, meta = encoder.to_arrays()
    (tmp_path / "w.safetensors").unlink()
    np.testing.assert_array_equal(TimmEncoder.from_arrays(arrays, meta, {}).embed(images, Run()), vectors)


def test_random_weights_come_from_the_seed_and_survive_saving():
    images, component = pictures(shape=(1, 33, 33)), TimmEmbedder(SMALL)
    encoder = component.fit(Run(0))
    vectors = encoder.embed(images, Run())
    np.testing.assert_array_equal(component.fit(Run(0)).embed(images, Run(1)), vectors)
    assert (component.fit(Run(1)).embed(images, Run(0)) != vectors).any()
    again = TimmEncoder.from_arrays(*encoder.to_arrays(), {})
    np.testing.assert_array_equal(again.embed(images, Run()), vectors)
    assert component.sources() == ()
    assert again.dim == encoder.dim == vectors.shape[1]


def test_grey_is_three_equal_channels_and_floats_mean_the_same():
    grey = pictures(shape=(1, 32, 32))
    colour = ImageSet(grey.images.repeat(3, 1), grey.ids, grey.groups, ImageSpec((32, 32), 3, (0, 255)))
    floats = pictures(shape=(1, 32, 32), dtype=np.float32, value_range=(0, 1))
    encoder = TimmEmbedder(SMALL).fit(Run())
    vectors = encoder.embed(grey, Run())
    np.testing.assert_allclose(encoder.embed(colour, Run()), vectors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(floats, Run()), vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [0, 48])
def test_a_transformer_sees_its_own_size_or_the_one_asked_for(size):
    encoder = TimmEmbedder("test_vit", size).fit(Run())
    assert encoder.size == (size or timm.get_pretrained_cfg("test_vit").input_size[-1])
    vectors = encoder.embed(pictures(), Run())
    again = TimmEncoder.from_arrays(*encoder.to_arrays(), {})
    np.testing.assert_array_equal(again.embed(pictures(), Run()), vectors)


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(PipelineError, match=r"^timm: found model 'resnt18'; .*did you mean .*resnet18"):
        TimmEmbedder("resnt18").fit(Run())
    with pytest.raises(ValueError, match=r"^weights: found beside pretrained: true"):
        TimmEmbedder(pretrained=True, weights="a.safetensors")
    with pytest.raises(ValueError, match=r"^sha256: found without weights"):
        TimmEmbedder(sha256="0" * 64)
    encoder = TimmEmbedder(SMALL).fit(Run())
    with pytest.raises(DataError, match=r"^timm: found images \(1, 8, 8, 8\); expected 2-D images"):
        encoder.embed(pictures(2, (1, 8, 8, 8)), Run())
    with pytest.raises(DataError, match=r"^timm: found 2 channels; expected 1 \(grey\) or 3"):
        encoder.embed(pictures(2, (2, 8, 8)), Run())
    broken = pictures(2, dtype=np.float32, value_range=(0, 1))
    broken.images[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"^timm: found NaN or infinity in the images"):
        encoder.embed(broken, Run())


def test_another_checksum_is_refused_by_embedder_and_backbone(tmp_path):
    path = tmp_path / "w.safetensors"
    trained(path)
    wrong = {"model": SMALL, "weights": str(path), "sha256": "0" * 64}
    with pytest.raises(DataError, match=r"^timm: weights: .* has the checksum [0-9a-f]{64}; expected 0{64} \(another"):
        TimmEmbedder(**wrong).fit(Run())
    with pytest.raises(DataError, match=r"has the checksum"):
        Timm(**wrong).build((3, 32, 32), 0, torch.Generator())
    assert Timm(**wrong).sources() == (path,)
    assert Timm().sources() == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    images, encoder = pictures(), TimmEmbedder(SMALL).fit(Run())
    expected = encoder.embed(images, Run())
    np.testing.assert_allclose(encoder.embed(images, Run(device="cuda")), expected, rtol=1e-2, atol=1e-3)
