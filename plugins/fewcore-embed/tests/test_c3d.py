"""C3D: its layers against loops, sizes, weights from files and from seeds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewcore import DataError, ImageSet, ImageSpec, Run, torch_generator
from fewcore_embed.c3d import C3d, C3dEncoder
from fewcore_embed.c3d_network import C3dNetwork, grid
from fewcore_embed.layers import draw_weights
from fewcore_embed.prepare import resized_volume

WIDTH = 1 / 64


def volumes(n=3, shape=(1, 16, 16, 16), dtype=np.uint8, value_range=(0, 255), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape))
    pixels = pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(dtype)
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec(shape[1:], shape[0], value_range))


def network_of(size=(16, 16, 16), width=WIDTH, **more):
    network = C3dNetwork(size, width, **more)
    draw_weights(network, torch_generator(0))
    return network.eval()


def slow_conv(x, weight, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
    _, d, h, w = x.shape
    made = np.zeros((len(weight), d, h, w))
    for z in range(d):
        for row in range(h):
            for column in range(w):
                block = padded[:, z : z + 3, row : row + 3, column : column + 3]
                made[:, z, row, column] = (weight * block).sum((1, 2, 3, 4)) + bias
    return np.maximum(made, 0)


def slow_pool(x, depth=2, border=0):
    x = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)), constant_values=-np.inf)
    c, d, h, w = x.shape[0], x.shape[1] // depth, x.shape[2] // 2, x.shape[3] // 2
    made = np.zeros((c, d, h, w))
    for z in range(d):
        for row in range(h):
            for column in range(w):
                block = x[:, depth * z : depth * z + depth, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                made[:, z, row, column] = block.max((1, 2, 3))
    return made


def slow_fc6(x, network):
    """The layers as the paper lists them, the volume given three equal channels, each rectified before it is pooled."""
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    x = np.repeat(x, 3, 0) if len(x) == 1 else x
    for group, pool in (
        (["conv1"], {"depth": 1}),
        (["conv2"], {}),
        (["conv3a", "conv3b"], {}),
        (["conv4a", "conv4b"], {}),
        (["conv5a", "conv5b"], {"border": 1}),
    ):
        for name in group:
            x = slow_conv(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        x = slow_pool(x, **pool)
    return np.maximum(weights["fc6.weight"] @ x.reshape(-1) + weights["fc6.bias"], 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_the_layers(channels):
    network = network_of()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.1, generator=torch_generator(1))
        x = torch.rand(2, channels, 16, 16, 16, generator=torch_generator(2))
        found = network(x).numpy()
        raw = C3dNetwork((16, 16, 16), WIDTH, relu=False)
        raw.load_state_dict(network.state_dict())
        unrectified = raw(x).numpy()
    assert found.shape == (2, 64)
    np.testing.assert_allclose(found, [slow_fc6(one.double().numpy(), network) for one in x], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(np.maximum(unrectified, 0), found)
    assert (unrectified < 0).any()


def test_the_papers_size_gives_8192_numbers_to_4096_units():
    assert 512 * np.prod(grid((16, 112, 112))) == 8192
    assert 512 * np.prod(grid((16, 128, 171))) == 15360
    with torch.device("meta"):
        network = C3dNetwork((16, 112, 112), 1.0)
    assert sum(p.numel() for p in network.parameters()) == 27_655_936 + 8192 * 4096 + 4096


@pytest.mark.parametrize("size", [(16, 16, 16), (16, 32, 32), (32, 32, 32), (17, 50, 23)])
def test_the_grid_is_what_the_pools_leave(size):
    network = network_of(size)
    assert network(torch.rand(1, 1, *size)).shape == (1, 64)


def test_volumes_are_resized_by_means_where_they_shrink_and_lines_where_they_grow():
    x = torch.rand(1, 1, 4, 4, 4, generator=torch_generator(0))
    made = resized_volume(x, (2, 4, 8))
    means = x.unflatten(2, (2, 2)).mean(3)
    place = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    expected = [np.interp(place, np.arange(4), row) for row in means[0, 0].reshape(-1, 4).numpy()]
    np.testing.assert_allclose(made[0, 0].numpy(), np.reshape(expected, (2, 4, 8)), rtol=1e-5)
    assert resized_volume(x, (4, 4, 4)) is x


def test_by_default_volumes_keep_their_size_up_to_the_papers():
    encoder = C3d(width=WIDTH).fit(Run())
    sizes = [(32, 32, 32), (8, 20, 200), (4, 4, 4)]
    found = [encoder.settings.size_for(volumes(1, (1, *size))) for size in sizes]
    assert found == [(16, 32, 32), (16, 20, 112), (16, 16, 16)]
    assert encoder.embed(volumes(2, (1, 20, 20, 20)), Run()).shape == (2, 64)


def test_random_weights_are_those_of_the_seed_and_survive_saving():
    images = volumes()
    encoder = C3d(width=WIDTH).fit(Run(0))
    vectors = encoder.embed(images, Run(1))
    assert vectors.shape == (3, encoder.dim) == (3, 64)
    assert vectors.std() > 0
    np.testing.assert_array_equal(C3d(width=WIDTH).fit(Run(0)).embed(images, Run(2)), vectors)
    assert (C3d(width=WIDTH).fit(Run(1)).embed(images, Run(0)) != vectors).any()
    arrays, meta = encoder.to_arrays()
    assert not arrays
    np.testing.assert_array_equal(C3dEncoder.from_arrays(arrays, meta, {}).embed(images, Run()), vectors)


def test_floats_mean_the_same_as_bytes_and_the_range_is_that_asked_for():
    images, floats = volumes(), volumes(dtype=np.float32, value_range=(0, 1))
    encoder = C3d(width=WIDTH, value_range=(-1.0, 1.0)).fit(Run())
    np.testing.assert_allclose(encoder.embed(floats, Run()), encoder.embed(images, Run()), rtol=1e-4, atol=1e-6)
    x = torch.from_numpy(images.images).float() / 255 * 2 - 1
    network = C3dNetwork((16, 16, 16), WIDTH)
    draw_weights(network, torch_generator(encoder.seed))
    with torch.no_grad():
        np.testing.assert_allclose(encoder.embed(images, Run()), network(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_read_from_a_file(tmp_path, prefix):
    network, path = network_of((16, 16, 16)), tmp_path / "c3d.safetensors"
    state = {f"{prefix}{name}": value.contiguous() for name, value in network.state_dict().items()}
    save_file({**state, "fc8.bias": torch.zeros(487)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    component = C3d(width=WIDTH, size=(16, 16, 16), weights=str(path), sha256=sha256)
    assert component.sources() == (path,)
    assert C3d().sources() == ()
    encoder, images = component.fit(Run()), volumes()
    with torch.no_grad():
        expected = network(torch.from_numpy(images.images) / 255).numpy()
    np.testing.assert_allclose(encoder.embed(images, Run()), expected, rtol=1e-5, atol=1e-6)
    again = C3dEncoder.from_arrays(*encoder.to_arrays(), {})
    path.unlink()
    np.testing.assert_array_equal(again.embed(images, Run()), encoder.embed(images, Run()))


class Bomb:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return (print, ("run from a weights file",))


def test_weights_that_are_none_are_refused(tmp_path, capsys):
    def message(path, **more):
        with pytest.raises(DataError) as error:
            C3d(**{"width": WIDTH, "size": (16, 16, 16), "weights": str(path), **more}).fit(Run())
        return str(error.value)

    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file({name: value.contiguous() for name, value in network_of().state_dict().items()}, good)
    assert "expected an existing .safetensors file" in message(tmp_path / "none.safetensors")
    assert f"has the checksum {hashlib.sha256(good.read_bytes()).hexdigest()}; expected {'0' * 64}" in message(
        good, sha256="0" * 64
    )
    bad.write_bytes(good.read_bytes()[:1000])
    assert "bad.safetensors is no safetensors file" in message(bad)
    assert "'conv1.weight' (1, 3, 3, 3, 3); expected (2, 3, 3, 3, 3) (width, model and size" in message(
        good, width=1 / 32
    )
    assert "holds 'fc6.weight' (64, 8); expected" in message(good, size=(16, 32, 32))
    save_file({"conv1.weight": torch.zeros(1)}, bad)
    assert "lacks 17 of the network's 18 parameters, the first 'conv1.bias'" in message(bad)
    save_file({"conv1.weight": torch.tensor([torch.nan])}, bad)
    assert "holds NaN or infinity in 'conv1.weight'" in message(bad)
    pickled = tmp_path / "bomb.pt"
    torch.save({"conv1.weight": Bomb()}, pickled)
    assert "expected an existing .safetensors file (torch's own format may hold code" in message(pickled)
    assert capsys.readouterr().out == ""


def test_errors_say_what_to_do():
    encoder = C3d(width=WIDTH).fit(Run())
    flat = ImageSet(np.zeros((2, 1, 8, 8), np.uint8), np.arange(2), np.arange(2), ImageSpec((8, 8), 1, (0, 255)))
    with pytest.raises(DataError, match=r"^c3d: found images \(1, 8, 8\); expected volumes .* \(set crop: volume"):
        encoder.embed(flat, Run())
    with pytest.raises(DataError, match=r"^c3d: found images \(1, 1, 8, 8\); expected at least 2 pixels a side"):
        encoder.embed(volumes(2, (1, 1, 8, 8)), Run())
    with pytest.raises(DataError, match=r"^c3d: found 2 channels; expected 1 \(grey\) or 3"):
        encoder.embed(volumes(2, (2, 16, 16, 16)), Run())
    broken = volumes(2, dtype=np.float32, value_range=(0, 1))
    broken.images[1, 0, 3, 3, 3] = np.inf
    with pytest.raises(DataError, match=r"^c3d: found NaN or infinity in the images; expected finite numbers$"):
        encoder.embed(broken, Run())
    with pytest.raises(DataError, match=r"^c3d: found value_range \[1, 1\] in the images' spec; expected low < high$"):
        encoder.embed(volumes(2, dtype=np.float32, value_range=(1, 1)), Run())
    with pytest.raises(ValueError, match=r"^size: found \[8, 112, 112\]; expected at least \[16, 16, 16\]"):
        C3d(size=(8, 112, 112))
    with pytest.raises(ValueError, match=r"^value_range: found \[1.0, 1.0\]; expected \[low, high\] with low < high$"):
        C3d(value_range=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"^sha256: found without weights; expected the file"):
        C3d(sha256="0" * 64)
    with pytest.raises(ValueError, match=r"^sha256: found 'abc'; expected 64 digits 0-9a-f \(type sha256sum FILE\)$"):
        C3d(weights="x.safetensors", sha256="abc")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    images, encoder = volumes(), C3d(width=1 / 8).fit(Run())
    expected = encoder.embed(images, Run())
    np.testing.assert_allclose(encoder.embed(images, Run(device="cuda")), expected, rtol=1e-2, atol=1e-3)
