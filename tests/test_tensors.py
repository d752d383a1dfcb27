"""Images gathered by index: on the device, or from where they lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewcore import Gather, ImageSet, ImageSpec, tensors


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_images_come_from_the_device_or_from_the_file(tmp_path, monkeypatch, share, dtype):
    monkeypatch.setattr(tensors, "MEMORY_SHARE", share)
    pixels = np.memmap(tmp_path / "images", dtype, "w+", shape=(5, 2, 3, 3))
    pixels[:] = np.random.default_rng(0).integers(0, 255, pixels.shape)
    pixels.flush()
    mapped = np.memmap(tmp_path / "images", dtype, "r", shape=(5, 2, 3, 3))
    images = ImageSet(mapped, np.arange(5), np.arange(5), ImageSpec((3, 3), 2, (0, 255)))
    gather = Gather(images, torch.device("cpu"))
    assert (gather._resident is None) == (share == 0.0)
    found = gather(torch.tensor([[4, 0, 4], [1, -1, 2]]))
    assert found.dtype == torch.float32
    wanted = pixels[np.array([[4, 0, 4], [1, 0, 2]])].astype(np.float32)
    np.testing.assert_allclose(found.numpy(), wanted / 255 if dtype == np.uint8 else wanted)
