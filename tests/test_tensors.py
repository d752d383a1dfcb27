"""Images gathered by index: on the device, or from where they lie."""

from __future__ import annotations

import threading

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


class Noted(np.ndarray):
    """An array that notes which rows are read by which thread."""

    read: list

    def __getitem__(self, where):
        if isinstance(where, np.ndarray):
            self.read.append((threading.current_thread().name, where.tolist()))
        return np.asarray(super().__getitem__(where))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_comes_next_is_read_ahead_where_images_stay_in_their_file(monkeypatch, share):
    monkeypatch.setattr(tensors, "MEMORY_SHARE", share)
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 2, 2)
    images = ImageSet(pixels, np.arange(6), np.arange(6), ImageSpec((2, 2), 1, (0, 255)))
    gather = Gather(images, torch.device("cpu"))
    gather._array = pixels.view(Noted)
    gather._array.read = read = []
    wanted = torch.from_numpy(pixels).float() / 255
    assert torch.equal(gather(np.array([0, 1]), then=np.array([2, 3])), wanted[:2])
    assert torch.equal(gather(np.array([2, 3]), then=np.array([4])), wanted[2:4])
    # Whoever asks for something else gets that.
    assert torch.equal(gather(np.array([5])), wanted[5:])
    assert torch.equal(torch.cat(list(gather.each([np.array([0, 4]), np.array([1])]))), wanted[[0, 4, 1]])
    if share:
        assert not read
        return
    ahead = [rows for thread, rows in read if thread.startswith("fewcore-gather")]
    assert ahead == [[2, 3], [4], [1]]
    assert [rows for thread, rows in read if not thread.startswith("fewcore-gather")] == [[0, 1], [5], [0, 4]]


def test_a_read_that_fails_ahead_is_told_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(tensors, "MEMORY_SHARE", 0.0)
    images = ImageSet(np.zeros((3, 1, 2, 2), np.uint8), np.arange(3), np.arange(3), ImageSpec((2, 2), 1, (0, 255)))
    gather = Gather(images, torch.device("cpu"))
    assert len(gather(np.array([0]), then=np.array([7]))) == 1
    with pytest.raises(IndexError):
        gather(np.array([7]))
