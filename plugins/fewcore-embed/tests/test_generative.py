"""What generative embedders share: the kind of images, and sheets of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generative_samples import image_set, of_pixels
from matplotlib.figure import Figure

from fewcore import DataError
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.sheets import Sheet


def test_a_kind_knows_the_range_that_networks_see():
    assert ImageKind.of(image_set(), "x") == ImageKind((1, 8, 8), (0.0, 1.0))
    kind = ImageKind.of(image_set(dtype=np.float32, value_range=(-1, 3)), "x")
    assert kind.value_range == (-1.0, 3.0)
    found = kind.in_unit_range(torch.tensor([-1.0, 0.0, 3.0]))
    assert found.tolist() == [0.0, 0.25, 1.0]
    assert ImageKind.from_json(kind.to_json()) == kind
    assert str(kind) == "(1, 8, 8) in [-1, 3]"


def test_a_value_may_be_rounded_but_not_outside():
    pixels = np.full((2, 1, 4, 4), 0.1, np.float16)
    assert ImageKind.of(of_pixels(pixels, (0.0, 0.09999)), "x").value_range == (0.0, 0.09999)
    with pytest.raises(
        DataError, match=r"^x: found values from 0.0999756 to 0.0999756 in the images; expected 0 to 0.09,"
    ):
        ImageKind.of(of_pixels(pixels, (0.0, 0.09)), "x")
    kind = ImageKind.of(of_pixels(pixels, (0, 1)), "x")
    bad = pixels.copy()
    bad[1, 0, 3, 3] = np.inf
    with pytest.raises(DataError, match=r"^x: found NaN or infinity in the images; expected finite numbers$"):
        kind.check(of_pixels(bad, (0, 1)), "x")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_sheet_has_ten_pictures_a_row(channels):
    pictures = torch.rand(13, channels, 5, 4, generator=torch.Generator().manual_seed(0))
    sheet = Sheet.of(pictures, "thirteen")
    canvas = sheet.canvas()
    assert canvas.shape == ((2 * 6, 10 * 5, 3) if channels == 3 else (2 * 6, 10 * 5))
    for i in range(13):
        row, column = divmod(i, 10)
        cell = canvas[row * 6 : row * 6 + 5, column * 5 : column * 5 + 4]
        wanted = np.rint(255 * pictures[i].numpy())
        np.testing.assert_array_equal(cell, wanted.transpose(1, 2, 0) if channels == 3 else wanted[0])
    assert (canvas[:, 4] == 255).all()
    assert (canvas[6:, 15:] == 255).all()
    axes = Figure().add_subplot()
    assert sheet.draw(axes) == "thirteen"
    assert axes.images[0].get_array().shape == canvas.shape
    arrays, meta = sheet.to_arrays()
    again = Sheet.from_arrays(arrays, meta)
    np.testing.assert_array_equal(again.canvas(), canvas)


def test_volumes_are_shown_by_their_middle_slice_and_values_are_cut():
    volumes = torch.zeros(1, 1, 5, 2, 2)
    volumes[:, :, 2] = 7
    assert (Sheet.of(volumes, "").pictures == 255).all()
