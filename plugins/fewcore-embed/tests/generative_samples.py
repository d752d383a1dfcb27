"""Images and checks that the tests of BiGAN, InfoGAN and VAE share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewcore import DataError, Gather, ImageSet, ImageSpec, Interrupted, Run


def image_set(n=24, size=8, channels=1, dtype=np.uint8, seed=0, value_range=(0, 255)):
    low, high = value_range
    pixels = low + (high - low) * np.random.default_rng(seed).random((n, channels, size, size))
    return of_pixels(pixels.astype(dtype), value_range)


def of_pixels(pixels, value_range=(0, 255)):
    n, channels, *size = pixels.shape
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec(tuple(size), channels, value_range))


def two_sorts(n=64):
    """Return 8 x 8 pictures that are bright on the left, or on the right, with noise: even ones and odd ones."""
    rng = np.random.default_rng(0)
    column = np.mgrid[:8, :8][1]
    pixels = [200 * ((column < 4) == (i % 2 == 0)) + rng.integers(55, size=(8, 8)) for i in range(n)]
    return of_pixels(np.stack(pixels)[:, None].astype(np.uint8))


def check_saving(encoder, images):
    """The vectors, the sheet and the network are those of the encoder that was saved."""
    before = images.images.copy()
    vectors = encoder.embed(images, Run(0))
    assert vectors.shape == (len(images), encoder.dim)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    arrays, meta = encoder.to_arrays()
    again = type(encoder).from_arrays(arrays, meta, {})
    np.testing.assert_array_equal(again.embed(images, Run(0)), vectors)
    np.testing.assert_array_equal(again.sheet.pictures, encoder.sheet.pictures)
    with torch.no_grad():
        direct = again.network(Gather(images, torch.device("cpu"))(np.arange(len(images))))
    np.testing.assert_allclose(direct.numpy(), vectors, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(images.images, before)


def check_seeds(component, images):
    state = torch.get_rng_state()
    first, same, other = (component.fit(images, Run(seed)).embed(images, Run(0)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), state)


def check_resuming(component, images, folder):
    """Interrupted in the middle of the steps, it ends with the bits of an uninterrupted run, the sheet included."""
    whole_run = Run(3)
    whole = component.fit(images, whole_run).to_arrays()[0]
    steps = iter([False, False, True])
    with pytest.raises(Interrupted):
        component.fit(images, Run(3, checkpoints=folder, stop=lambda: next(steps)))
    run = Run(3, checkpoints=folder, checkpoint_every=0.0)
    resumed = component.fit(images, run).to_arrays()[0]
    assert set(whole) == set(resumed)
    for name, values in whole.items():
        np.testing.assert_array_equal(resumed[name], values)
    assert [r["step"] for r in run.records] == [r["step"] for r in whole_run.records]


def check_bad_images(component, method, volumes=False):
    """What no generative embedder can take is refused before training, and what is unlike the training afterwards."""
    if not volumes:
        message = rf"^{method}: found images \(1, 8, 8, 8\); expected 2-D images \(c, h, w\)"
        with pytest.raises(DataError, match=message):
            component.fit(of_pixels(np.zeros((3, 1, 8, 8, 8), np.uint8)), Run(0))
    with pytest.raises(DataError, match=rf"^{method}: found no images; expected at least one$"):
        component.fit(image_set(n=0), Run(0))
    message = rf"^{method}: found value_range \[1, 1\] in the images' spec; expected low < high$"
    with pytest.raises(DataError, match=message):
        component.fit(image_set(dtype=np.float32, value_range=(1, 1)), Run(0))
    pixels = image_set(dtype=np.float32, value_range=(0, 1)).images.copy()
    pixels[5, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match=rf"^{method}: found NaN or infinity in the images; expected finite numbers$"):
        component.fit(of_pixels(pixels, (0, 1)), Run(0))
    pixels[5, 0, 2, 2] = 3
    message = rf"^{method}: found values from .* to 3 in the images; expected 0 to 1, as their spec says \(correct its"
    with pytest.raises(DataError, match=message):
        component.fit(of_pixels(pixels, (0, 1)), Run(0))
    encoder = component.fit(image_set(), Run(0))
    message = (
        rf"^{method}: found images \(1, 16, 16\) in \[0, 1\]; expected \(1, 8, 8\) in \[0, 1\], as in training "
        r"\(prepare both in the same way\)$"
    )
    with pytest.raises(DataError, match=message):
        encoder.embed(image_set(size=16), Run(0))


def check_cuda(component, images):
    """A few steps on the GPU give the CPU's vectors, up to what the order of sums makes of them."""
    on_cpu = component.fit(images, Run(0)).embed(images, Run(0))
    run = Run(0, "cuda")
    on_gpu = component.fit(images, run).embed(images, run)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=2e-2, atol=1e-2)


def double(network, generator, std=0.3):
    """Return the network in float64, every parameter drawn anew."""
    network.double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return network


def slow_norm(x, eps, gain=1.0, bias=0.0):
    """Return x (n, c, ...) less each channel's mean over the batch, divided by its deviation."""
    out = torch.empty_like(x)
    for channel in range(x.shape[1]):
        values = x[:, channel]
        mean = values.mean()
        variance = ((values - mean) ** 2).mean()
        g, b = (v if isinstance(v, float) else v[channel] for v in (gain, bias))
        out[:, channel] = g * (values - mean) / (variance + eps).sqrt() + b
    return out
