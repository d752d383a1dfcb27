"""VGG: layers against loops, the published shapes, names of weights, what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fewcore import DataError, ImageSet, ImageSpec, Run
from fewcore_embed.prepare import resized
from fewcore_embed.vgg import Vgg, VggEncoder, VggNetwork, VggSettings

SMALL = {"width": 1 / 32, "size": 64}


def pictures(n=3, shape=(1, 20, 30), dtype=np.uint8, value_range=(0, 255)):
    pixels = np.random.default_rng(0).integers(0, 256, (n, *shape))
    pixels = pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(dtype)
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec(shape[1:], shape[0], value_range))


def written_out(settings, state, x):
    """The networks of the papers, layer by layer; x (n, 3, h, w) in [0, 1], in float64."""
    state = {name: value.double() for name, value in state.items()}
    convs = sorted({int(name.split(".")[1]) for name in state if name.startswith("features")})

    def conv(x, i, **how):
        place = f"features.{convs[i]}"
        return F.conv2d(x, state[f"{place}.weight"], state[f"{place}.bias"], **how).clamp(min=0)

    def normed(x):
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        total = sum(squares[:, k : k + x.shape[1]] for k in range(5))
        return x / (2 + 5e-4 / 5 * total) ** 0.75

    if settings.model == "cnn-f":
        x = x * 255 - torch.tensor([123.68, 116.779, 103.939])[:, None, None].double()
        x = F.max_pool2d(normed(conv(x, 0, stride=4)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(normed(conv(x, 1, padding=2)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(conv(conv(conv(x, 2, padding=1), 3, padding=1), 4, padding=1), 3, 2, ceil_mode=True)
        side = 6
    else:
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[..., None, None]
        x, i = (x - mean) / deviation, 0
        for count in {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}[settings.model]:
            for _ in range(count):
                x, i = conv(x, i, padding=1), i + 1
            x = F.max_pool2d(x, 2)
        side = 7
    assert i == len(convs) if settings.model != "cnn-f" else len(convs) == 5
    x = F.adaptive_avg_pool2d(x, side).flatten(1)
    x = (x @ state["classifier.0.weight"].T + state["classifier.0.bias"]).clamp(min=0)
    x = x @ state["classifier.3.weight"].T + state["classifier.3.bias"]
    if settings.layer == "fc8":
        x = x.clamp(min=0) @ state["classifier.6.weight"].T + state["classifier.6.bias"]
    return x.clamp(min=0) if settings.relu else x


@pytest.mark.parametrize("model", ["cnn-f", "vgg16", "vgg19"])
@pytest.mark.parametrize(("layer", "relu"), [("fc7", True), ("fc7", False), ("fc8", True), ("fc8", False)])
def test_features_are_those_of_the_layers(model, layer, relu):
    images = pictures(2)
    encoder = Vgg(model=model, layer=layer, relu=relu, **SMALL).fit(Run())
    vectors = encoder.embed(images, Run())
    assert vectors.shape == (2, encoder.dim) == (2, 128 if layer == "fc7" else 1000)
    assert vectors.dtype == np.float32
    assert (vectors < 0).any() != relu
    x = resized(torch.from_numpy(images.images).double() / 255, (64, 64)).repeat(1, 3, 1, 1)
    expected = written_out(encoder.settings, encoder.network.state_dict(), x)
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


FAST = 64 * (363 + 1) + 256 * (1600 + 1) + 3 * 256 * (2304 + 1) + (9216 + 1) * 4096 + (4096 + 1) * (4096 + 1000)


@pytest.mark.parametrize(("model", "count"), [("cnn-f", FAST), ("vgg16", 138_357_544), ("vgg19", 143_667_240)])
def test_full_width_has_the_published_number_of_parameters(model, count):
    with torch.device("meta"):
        network = VggNetwork(VggSettings(model, "fc8", relu=False, width=1.0, size=224))
    assert sum(p.numel() for p in network.parameters()) == count


def test_cnn_f_leaves_six_by_six_of_224():
    encoder = Vgg(width=1 / 64).fit(Run())
    assert encoder.network.features(torch.rand(1, 3, 224, 224)).shape == (1, 4, 6, 6)


def test_random_weights_are_those_of_the_seed_and_survive_saving():
    images, component = pictures(), Vgg(**SMALL)
    encoder = component.fit(Run(0))
    vectors = encoder.embed(images, Run())
    np.testing.assert_array_equal(component.fit(Run(0)).embed(images, Run(1)), vectors)
    assert (component.fit(Run(1)).embed(images, Run(0)) != vectors).any()
    arrays, meta = encoder.to_arrays()
    assert not arrays
    np.testing.assert_array_equal(VggEncoder.from_arrays(arrays, meta, {}).embed(images, Run()), vectors)
    floats = pictures(dtype=np.float32, value_range=(0, 1))
    np.testing.assert_allclose(encoder.embed(floats, Run()), vectors, rtol=1e-3, atol=1e-3)


def state_of(model):
    encoder = Vgg(model=model, layer="fc8", **SMALL).fit(Run(5))
    return {name: value.clone() for name, value in encoder.network.state_dict().items()}


NAMES = {
    "torchvision": lambda name: name,
    "caffe": lambda name: (
        {0: "conv1", 4: "conv2", 8: "conv3", 10: "conv4", 12: "conv5"}[int(name.split(".")[1])]
        + name[name.rindex(".") :]
        if name.startswith("features")
        else name.replace("classifier.0", "fc6").replace("classifier.3", "fc7").replace("classifier.6", "fc8")
    ),
}


@pytest.mark.parametrize("names", NAMES)
def test_weights_are_read_from_a_file(tmp_path, names):
    path, state = tmp_path / "fast.safetensors", state_of("cnn-f")
    held = {NAMES[names](name): value for name, value in state.items()}
    if names == "caffe":
        assert set(held) == {
            f"{n}.{k}"
            for n in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
            for k in ("weight", "bias")
        }
        held["fc6.weight"] = held["fc6.weight"].reshape(128, -1, 6, 6)
    save_file(held, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    component = Vgg(layer="fc7", weights=str(path), sha256=sha256, **SMALL)
    assert component.sources() == (path,)
    encoder, images = component.fit(Run()), pictures()
    x = resized(torch.from_numpy(images.images).double() / 255, (64, 64)).repeat(1, 3, 1, 1)
    expected = written_out(encoder.settings, state, x)
    vectors = encoder.embed(images, Run())
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    arrays, meta = encoder.to_arrays()
    assert "classifier.6.weight" not in arrays
    path.unlink()
    np.testing.assert_array_equal(VggEncoder.from_arrays(arrays, meta, {}).embed(images, Run()), vectors)


def test_weights_under_the_names_of_timm_mean_the_same_there(tmp_path):
    with torch.device("meta"):
        trained = timm.create_model("vgg11", num_classes=7)
    names = [name for name in trained.state_dict() if not name.startswith("features")]
    assert {name.rpartition(".")[0] for name in names} == {"pre_logits.fc1", "pre_logits.fc2", "head.fc"}
    state, path = state_of("vgg16"), tmp_path / "deep.safetensors"
    renamed = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    held = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        shaped = value
        if kind == "weight" and layer in ("classifier.0", "classifier.3"):
            shaped = value.reshape(len(value), -1, *((7, 7) if layer == "classifier.0" else (1, 1)))
        held[f"{renamed.get(layer, layer)}.{kind}"] = shaped
    save_file(held, path)
    encoder = Vgg(model="vgg16", layer="fc8", weights=str(path), **SMALL).fit(Run())
    for name, value in encoder.network.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_errors_say_what_to_do(tmp_path):
    def message(path, **more):
        with pytest.raises(DataError) as error:
            Vgg(**{**SMALL, "weights": str(path), **more}).fit(Run())
        return str(error.value)

    path = tmp_path / "w.safetensors"
    assert f"vgg: weights: found '{path}'; expected an existing .safetensors file" in message(path)
    save_file(state_of("cnn-f"), path)
    assert f"expected {'1' * 64} (another file or a damaged one" in message(path, sha256="1" * 64)
    assert "holds 'features.0.weight' (2, 3, 11, 11); expected (4, 3, 11, 11)" in message(path, width=1 / 16)
    assert "lacks" in message(path, model="vgg16")
    with pytest.raises(ValueError, match=r"^sha256: found without weights"):
        Vgg(sha256="1" * 64)
    encoder = Vgg(**SMALL).fit(Run())
    with pytest.raises(DataError, match=r"^vgg: found images \(1, 8, 8, 8\); expected 2-D images"):
        encoder.embed(pictures(2, (1, 8, 8, 8)), Run())
    with pytest.raises(DataError, match=r"^vgg: found 4 channels; expected 1 \(grey\) or 3"):
        encoder.embed(pictures(2, (4, 8, 8)), Run())
    broken = pictures(2, dtype=np.float32, value_range=(0, 1))
    broken.images[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"^vgg: found NaN or infinity in the images"):
        encoder.embed(broken, Run())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    images, encoder = pictures(), Vgg(**SMALL).fit(Run())
    expected = encoder.embed(images, Run())
    np.testing.assert_allclose(
        encoder.embed(images, Run(device="cuda")), expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max()
    )
