"""New files become images like those of a data set, and masks of them go back to the files' own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewcore import Run
from fewcore.builtin.films import structures_of
from fewcore.builtin.folder import Folder
from fewcore.contracts import ImageSpec
from fewcore.image_files import Preparation, Unusable, unfitted
from fewcore.models.new_images import Fitting

FITS = ("pad", "crop", "stretch")


def spec(size=16, channels=1, high=255.0, **preparation):
    return ImageSpec((size, size), channels, (0.0, high), preparation={"grey": channels == 1, **preparation})


def save(path: Path, pixels, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **how)
    return path


def refusal(path: Path, fitting: Fitting) -> str:
    with pytest.raises(Unusable) as caught:
        fitting.read(path)
    return str(caught.value)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("deep", [False, True])
def test_a_file_becomes_the_image_that_the_data_set_made_of_it(tmp_path, fit, grey, deep) -> None:
    rng = np.random.default_rng(0)
    files = [
        save(tmp_path / "set" / f"{i}.png", rng.integers(0, 256, size, np.uint8))
        for i, size in enumerate([(20, 30), (31, 17, 3), (12, 12)])
    ]
    if deep:
        files.append(save(tmp_path / "set" / "z.png", rng.integers(0, 4096, (25, 14), np.uint16)))
    options = {"image_size": 16, "grey": grey, "fit": fit, "bits": 12, "validation_share": 0, "test_share": 0}
    made = Folder(str(tmp_path / "set"), **options).load(Run())
    fitting = Fitting(made.spec, str(made.images.dtype))
    for row, file in enumerate(files):
        found = fitting.read(file)
        assert found.images.dtype == made.images.dtype
        np.testing.assert_array_equal(found.images, made.images[row : row + 1])
        assert found.size == tuple(made.geometry["size"][row])


def test_more_bits_than_the_data_set_has_are_refused_unless_the_values_fit_or_a_window_says_what_they_mean(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    within, beyond = save(tmp_path / "a.png", values), save(tmp_path / "b.png", 10 * values)
    np.testing.assert_array_equal(Fitting(spec(), "uint8").read(within).images[0, 0], values)
    assert refusal(beyond, Fitting(spec(), "uint8")) == (
        "values from 0 to 2550; expected 0 to 255, as in the data set, or the values that become black and white"
        " (--window LOW HIGH)"
    )
    found = Fitting(spec(), "uint8", (550.0, 1550.0)).read(beyond).images[0, 0]
    np.testing.assert_array_equal(found, np.rint(255 * np.clip((10.0 * values - 550) / 1000, 0, 1)))


def test_values_of_12_bits_are_scaled_as_the_data_set_was_and_others_refused(tmp_path) -> None:
    twelve = Fitting(spec(high=1.0, bits=12), "float32")
    found = twelve.read(save(tmp_path / "a.tif", np.full((16, 16), 4095, np.uint16)))
    np.testing.assert_array_equal(found.images, np.ones((1, 1, 16, 16), np.float32))
    assert refusal(save(tmp_path / "b.tif", np.full((16, 16), 4096, np.uint16)), twelve).startswith(
        "values from 4096 to 4096; expected 0 to 4095, as in the data set"
    )
    assert refusal(save(tmp_path / "c.tif", np.full((16, 16), 1.5, np.float32)), twelve).startswith(
        "values from 1.5 to 1.5; expected 0 to 1"
    )


def test_nan_is_refused(tmp_path) -> None:
    path = save(tmp_path / "a.tif", np.full((16, 16), np.nan, np.float32))
    assert refusal(path, Fitting(spec(high=1.0), "float32")) == "NaN or infinite pixels; expected finite values"


def test_eight_bits_fill_the_range_of_a_data_set_of_floats(tmp_path) -> None:
    path = save(tmp_path / "a.png", np.full((16, 16), 51, np.uint8))
    signed = ImageSpec((16, 16), 1, (-1.0, 1.0), preparation={"grey": True})
    np.testing.assert_allclose(Fitting(signed, "float32").read(path).images, -0.6, atol=1e-6)


def test_polarity_is_that_of_the_data_set(tmp_path) -> None:
    path = save(tmp_path / "a.png", np.full((16, 8), 55, np.uint8))
    found = Fitting(spec(invert=True, fit="pad"), "uint8").read(path).images[0, 0]
    assert set(found[:, 4:12].ravel()) == {200}
    assert set(found[:, :4].ravel()) == {0}, "what is padded stays black"
    deep = save(tmp_path / "b.tif", np.full((16, 16), 0.25, np.float32))
    assert set(Fitting(spec(invert=True), "uint8").read(deep).images.ravel()) == {191}


def test_steps_that_new_files_cannot_go_through_leave_only_images_that_have_gone_through_them(tmp_path) -> None:
    cut = Fitting(spec(crop="cube", spacing=1.0), "uint8")
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(cut.read(save(tmp_path / "a.png", pixels)).images[0, 0], pixels)
    assert refusal(save(tmp_path / "b.png", np.zeros((16, 20), np.uint8)), cut) == (
        "20 x 16 pixels, and a data set whose own steps (crop, spacing) new files cannot go through; expected images that"
        " have gone through them, 16 x 16 pixels"
    )


def test_notes_are_no_steps(tmp_path) -> None:
    noted = Fitting(spec(notes={"left_out": ["a"]}), "uint8")
    assert noted.read(save(tmp_path / "b.png", np.zeros((16, 20), np.uint8))).images.shape == (1, 1, 16, 16)


def test_volumes_are_taken_where_they_are_like_those_of_the_data_set(tmp_path) -> None:
    cubes = Fitting(ImageSpec((4, 8, 8), 1, (0.0, 255.0)), "uint8")
    path = save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    assert refusal(path, cubes) == "an image; expected a volume of 4 x 8 x 8 voxels"


def test_a_model_of_other_than_square_images_is_refused(tmp_path) -> None:
    path = save(tmp_path / "a.png", np.zeros((16, 16), np.uint8))
    oblong = ImageSpec((16, 8), 1, (0.0, 255.0))
    assert refusal(path, Fitting(oblong, "uint8")).startswith("a model of images 1 x 16 x 8; expected")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file; expected an image"),
        (b"no image", "no readable image (UnidentifiedImageError); expected PNG, JPEG or TIFF"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, content, message) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png", Fitting(spec(), "uint8")) == message


def test_truncated_strips_and_far_too_large_files_are_refused(tmp_path) -> None:
    whole = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    whole.write_bytes(whole.read_bytes()[:-2000])
    assert refusal(whole, Fitting(spec(), "uint8")) == "truncated or broken (truncated); expected a whole image"
    large = Fitting(spec(max_pixels=100), "uint8")
    path = save(tmp_path / "b.png", np.zeros((20, 20), np.uint8))
    assert refusal(path, large) == "20 x 20 pixels; expected at most 100 in all (max_pixels)"
    other = tmp_path / "a.xyz"
    other.write_bytes(b"x")
    assert refusal(other, Fitting(spec(), "uint8")).startswith("a file of another format; expected PNG, JPEG, TIFF")


# ---- back to the file


def slowly_unfitted(square, size, fit):
    """Return `unfitted` pixel by pixel: where the middle of each pixel of the file lies in the square."""
    (h, w), side = size, len(square)
    longer, shorter = max(h, w), min(h, w)
    made = np.zeros((h, w))
    for row in range(h):
        for column in range(w):
            y, x = row + 0.5, column + 0.5
            if fit == "stretch" or h == w:
                y, x = y * side / h, x * side / w
            elif fit == "pad":
                ih, iw = round(h * side / longer), round(w * side / longer)
                top, left = (side - ih) // 2, (side - iw) // 2
                y, x = top + y * ih / h, left + x * iw / w
                square = square.copy()
                # What padding added has no say: the edge of the image goes on.
                square[:top], square[top + ih :] = square[top], square[top + ih - 1]
                square[:, :left] = square[:, left : left + 1]
                square[:, left + iw :] = square[:, left + iw - 1 : left + iw]
            else:
                y, x = (y - (h - shorter) / 2) * side / shorter, (x - (w - shorter) / 2) * side / shorter
                half = side / shorter / 2
                if min(y, x) < half - 1e-9 or max(y, x) > side - half + 1e-9:
                    continue
            made[row, column] = bilinear(square, y - 0.5, x - 0.5)
    return made


def bilinear(values, y, x):
    y, x = (float(np.clip(place, 0, len(values) - 1)) for place in (y, x))
    r, c = min(int(y), len(values) - 2), min(int(x), len(values) - 2)
    a, b = y - r, x - c
    top = (1 - b) * values[r, c] + b * values[r, c + 1]
    return (1 - a) * top + a * ((1 - b) * values[r + 1, c] + b * values[r + 1, c + 1])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(20, 30), (31, 20), (17, 17), (18, 25)])
def test_masks_go_back_to_where_they_were(fit, size) -> None:
    square = np.random.default_rng(1).random((12, 12)).astype(np.float32)
    found = unfitted(square, size, fit)
    np.testing.assert_allclose(found, slowly_unfitted(square.astype(np.float64), size, fit), atol=2e-5)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(60, 90), (91, 64), (50, 50), (5, 40)])
def test_a_mask_survives_the_way_there_and_back(fit, size) -> None:
    rows, columns = np.ogrid[: size[0], : size[1]]
    y, x = size[0] / 2, size[1] / 2
    mask = ((rows + 0.5 - y) / (0.35 * size[0])) ** 2 + ((columns + 0.5 - x) / (0.35 * size[1])) ** 2 <= 1
    if fit == "crop":
        shorter = min(size)
        # Pixels that the edge of the square cuts are out.
        mask &= (abs(rows + 0.5 - y) <= shorter / 2 - 0.5) & (abs(columns + 0.5 - x) <= shorter / 2 - 0.5)
    how = Preparation(64, True, fit, 16, 10**6)
    fitted = structures_of(mask.astype(np.int64), 1, None, None, how)[0]
    back = Fitting(spec(64, fit=fit), "uint8").restored(fitted.astype(np.float32), size)
    assert back.shape == size
    assert back.dtype == np.uint8
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.9
