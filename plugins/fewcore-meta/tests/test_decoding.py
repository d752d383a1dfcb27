"""Photographs become arrays: squares, limits, broken files."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from data_layouts import colour_of, number_of, photograph
from PIL import Image

from fewcore import Run
from fewcore_meta import decoding
from fewcore_meta.decoding import Photographs, Unreadable, decode, decode_all


def halves(width, height):
    """An image whose left half is red, its right half blue, as PNG."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_square_is_stretched_or_cut_from_the_middle():
    content = photograph((200, 30, 90), (40, 30))
    for fit in ("stretch", "crop"):
        image = decode(content, 20, fit)
        assert (image.shape, image.dtype) == ((3, 20, 20), np.uint8)
        np.testing.assert_allclose(image.mean((1, 2)), (200, 30, 90), atol=3)
    file = io.BytesIO()
    banner = Image.new("RGB", (60, 20), (0, 0, 0))
    banner.paste((255, 255, 255), (20, 0, 40, 20))
    banner.save(file, "PNG")
    assert decode(file.getvalue(), 20, "crop").min() == 255
    assert decode(file.getvalue(), 60, "stretch").mean() == pytest.approx(85, abs=2)
    assert (decode(halves(20, 20), 20, "crop")[0, :, :10] == 255).all()


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size():
    content = photograph((90, 160, 40), (1600, 1200))
    image = decode(content, 50, "crop")
    np.testing.assert_allclose(image.mean((1, 2)), (90, 160, 40), atol=3)


@pytest.mark.parametrize("mode, form", [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "PNG")])
def test_grey_four_colours_and_palettes_become_three_channels(mode, form):
    image = decode(photograph((120, 120, 120), form=form, mode=mode), 16, "stretch")
    np.testing.assert_allclose(image, 120, atol=8)  # a palette is dithered


def bomb(width, height):
    """A PNG of few bytes that declares many pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_is_no_photograph_is_told_at_once_in_the_order_of_the_files(monkeypatch):
    monkeypatch.setattr(decoding, "TOGETHER", 3)
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 5000)
    good = photograph(colour_of(7))
    gif = io.BytesIO()
    Image.new("RGB", (9, 9)).save(gif, "GIF")
    contents = [good, b"", good[:-200], gif.getvalue(), b"x" * 5001, bomb(9000, 9000), bomb(60_000, 60_000), good]
    problems = []
    files = Photographs(len(contents), lambda i: contents[i], lambda i: f"file {i}")
    images = decode_all(files, 8, "stretch", Run(), problems)
    assert [number_of(images[i]) for i in (0, 7)] == [7, 7]
    tail = "; expected a JPEG or PNG image"
    assert [str(problem) for problem in problems] == [
        f"file 1: an empty file{tail}",
        f"file 2: no readable image (OSError){tail}",
        f"file 3: no readable image (UnidentifiedImageError){tail}",
        f"file 4: more than 5,000 bytes{tail}",
        f"file 5: 9000 x 9000 pixels, more than 80,000,000{tail}",
        f"file 6: no readable image (DecompressionBombError){tail}",
    ]
    with pytest.raises(Unreadable, match="an empty file"):
        decode(b"", 8, "crop")


def test_a_file_that_may_not_be_read_is_told(tmp_path):
    problems = []
    files = Photographs(1, lambda _: decoding.read_file(tmp_path), lambda _: "place")
    decode_all(files, 8, "crop", Run(), problems)
    assert [str(p) for p in problems] == ["place: a file that cannot be read (Is a directory); expected one that can"]


def test_many_images_lie_in_a_file(monkeypatch):
    monkeypatch.setattr("fewcore.run.LARGE_ARRAY", 100)
    content = photograph((10, 20, 30))
    images = decode_all(Photographs(5, lambda _: content, str), 8, "crop", Run(), [])
    assert isinstance(images, np.memmap)
    assert images.shape == (5, 3, 8, 8)
