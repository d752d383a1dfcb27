"""A folder of one's own images: what is read, how it is split, and everything that can be wrong with it."""

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewcore import DataError, Run
from fewcore.builtin.folder import Folder


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **how)
    return path


def many(root, classes=("benign", "malignant"), n=20, size=(10, 10)):
    rng = np.random.default_rng(0)
    for name in classes:
        for i in range(n):
            save(root / name / f"p{i // 2:02d}_{i}.png", rng.integers(256, size=size, dtype=np.uint8))
    return root


def load(root, **options):
    return Folder(str(root), **{"image_size": 8, "grey": True, **options}).load(Run())


def only(root, **options):
    return load(root, validation_share=0, test_share=0, **options)


def problems_of(root, **options):
    with pytest.raises(DataError) as error:
        load(root, **options)
    return str(error.value)


def huge_png(path, width, height):
    """A PNG of 57 bytes that says it has any number of pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


# ---- what is read


def test_classes_are_sub_folders(tmp_path):
    made = load(many(tmp_path))
    assert made.images.shape == (40, 1, 8, 8)
    assert made.images.dtype == np.uint8
    assert made.class_names == ("benign", "malignant")
    np.testing.assert_array_equal(np.bincount(made.labels), [20, 20])
    assert made.spec.size == (8, 8)
    assert made.spec.value_range == (0, 255)
    np.testing.assert_array_equal(made.geometry["size"], [[10, 10]] * 40)
    assert sorted(made.ids) == list(range(40))
    assert abs(np.corrcoef(made.ids, made.labels)[0, 1]) < 0.4


@pytest.mark.parametrize("suffix", ["_mask", "_mask_1", "-seg", " GT"])
def test_masks_beside_their_images_are_refused(tmp_path, suffix):
    root = many(tmp_path, n=4)
    save(root / "benign" / f"p00_0{suffix}.png", np.zeros((10, 10), np.uint8))
    assert problems_of(root).endswith(
        f"1 files named as masks of others, the first is benign/p00_0{suffix}.png; expected images alone (move the masks "
        "out, or name them in a table: table)"
    )


def test_a_name_like_a_masks_without_its_image_is_an_image(tmp_path):
    root = many(tmp_path, n=4)
    save(root / "benign" / "gas_mask.png", np.zeros((10, 10), np.uint8))
    assert len(load(root)) == 9


def test_some_classes_are_read_and_the_others_passed_over(tmp_path):
    root = many(tmp_path, ("benign", "malignant", "normal"))
    made = load(root, classes=("malignant", "benign"))
    assert len(made) == 40
    assert made.class_names == ("benign", "malignant")
    assert {path.parent.name for path in Folder(str(root), classes=("benign",)).sources()} == {"benign"}
    text = problems_of(root, classes=("benign", "malign", "norm"))
    assert "'malign'" in text
    assert "'norm'" in text
    assert "some of benign, malignant, normal" in text


def test_images_alone_have_no_classes(tmp_path):
    for i in range(10):
        save(tmp_path / f"{i}.PNG", np.full((8, 8), i, np.uint8))
    made = load(tmp_path)
    assert made.targets == {}
    assert {name: len(ids) for name, ids in made.splits.items()} == {"train": 5, "validation": 2, "test": 3}
    np.testing.assert_array_equal(made.images[:, 0, 0, 0], np.arange(10))


def test_other_files_are_passed_over(tmp_path):
    root = many(tmp_path)
    (root / "README.txt").write_text("hello")
    (root / "benign" / ".hidden.png").write_text("no image")
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_text("no image")
    assert len(load(root)) == 40


def test_sources_lists_files_and_load_changes_nothing(tmp_path):
    root = many(tmp_path)
    save(root / "benign" / "deeper" / "z.jpg", np.zeros((9, 9), np.uint8))
    sources = Folder(str(root)).sources()
    assert len(sources) == 41
    assert list(sources) == sorted(sources)
    before = {path: path.read_bytes() for path in sources}
    load(root)
    assert before == {path: path.read_bytes() for path in sources}


def test_relative_paths_are_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    many(tmp_path / "mine")
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    assert len(load("mine")) == 40


def test_same_folder_same_set(tmp_path):
    root = many(tmp_path)
    one, other = Folder(str(root)).load(Run(0)), Folder(str(root)).load(Run(7))
    for name in ("images", "ids", "groups", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert all(np.array_equal(one.splits[name], other.splits[name]) for name in one.splits)


def test_spec_is_json_and_holds_no_names(tmp_path):
    made = load(many(tmp_path / "canary"))
    text = json.dumps(made.to_arrays()[1])
    assert "p00" not in text
    assert "canary" not in text


def test_colour_and_grey(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    save(tmp_path / "a.png", red)
    np.testing.assert_array_equal(only(tmp_path, grey=False).images[0, :, 0, 0], [200, 0, 0])
    assert only(tmp_path).images[0, 0, 0, 0] == round(200 * 0.299)


def test_grey_files_in_a_colour_set_and_palettes(tmp_path):
    save(tmp_path / "a.png", np.full((8, 8), 77, np.uint8))
    Image.fromarray(np.full((8, 8), 1, np.uint8)).save(tmp_path / "b.tif")
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0] * 3 + [10, 20, 30])
    palette.save(tmp_path / "c.png")
    Image.new("1", (8, 8), 1).save(tmp_path / "d.png")
    made = only(tmp_path, grey=False).images[:, :, 4, 4]
    np.testing.assert_array_equal(made, [[77] * 3, [1] * 3, [10, 20, 30], [255] * 3])


def test_transparent_shows_white(tmp_path):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    save(tmp_path / "a.png", clear)
    np.testing.assert_array_equal(only(tmp_path).images[0, 0, :, 0], [0] * 4 + [255] * 4)


def test_exif_orientation_is_obeyed(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, :4] = 240
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    save(tmp_path / "a.jpg", pixels, exif=exif, quality=100)
    found = only(tmp_path).images[0, 0]
    np.testing.assert_array_equal(found > 120, np.rot90(pixels, -1) > 120)


@pytest.mark.parametrize(
    "fit, rows", [("pad", [0] * 2 + [90] * 4 + [0] * 2), ("crop", [90] * 8), ("stretch", [90] * 8)]
)
def test_fit(tmp_path, fit, rows):
    save(tmp_path / "a.png", np.full((8, 16), 90, np.uint8))
    made = only(tmp_path, fit=fit)
    np.testing.assert_array_equal(made.images[0, 0, :, 3], rows)
    np.testing.assert_array_equal(made.geometry["size"], [[8, 16]])


def test_crop_takes_the_middle_and_stretch_all(tmp_path):
    pixels = np.repeat([[10, 200, 200, 10]], 8, 0).repeat(4, 1).astype(np.uint8)
    save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(only(tmp_path, fit="crop").images[0, 0, 0], [200] * 8)
    assert only(tmp_path, fit="stretch").images[0, 0, 0].min() == 10


def test_sixteen_bits_keep_one_scale(tmp_path):
    dark, bright = np.full((8, 8), 1000, np.uint16), np.full((8, 8), 4095, np.uint16)
    save(tmp_path / "a.png", dark)
    save(tmp_path / "b.tif", bright)
    save(tmp_path / "c.png", np.full((8, 8), 51, np.uint8))
    made = only(tmp_path)
    assert made.images.dtype == np.float32
    assert made.spec.value_range == (0, 1)
    np.testing.assert_allclose(made.images[:, 0, 0, 0], [1000 / 65535, 4095 / 65535, 51 / 255], rtol=1e-6)
    np.testing.assert_allclose(only(tmp_path, bits=12).images[:2, 0, 0, 0], [1000 / 4095, 1], rtol=1e-6)
    assert "b.tif: values from 4095 to 4095; expected [0, 2047] (bits: 11)" in problems_of(tmp_path, bits=11)


def test_float_files_must_lie_in_their_range(tmp_path):
    save(tmp_path / "a.tif", np.full((8, 8), 0.25, np.float32))
    np.testing.assert_array_equal(only(tmp_path, grey=False).images, np.full((1, 3, 8, 8), 0.25))
    save(tmp_path / "b.tif", np.full((8, 8), -3, np.float32))
    save(tmp_path / "c.tif", np.full((8, 8), np.nan, np.float32))
    text = problems_of(tmp_path)
    assert "b.tif: values from -3.0 to -3.0; expected [0, 1]" in text
    assert "c.tif: NaN or infinite pixels; expected finite values" in text


# ---- splits


def test_every_class_has_its_share(tmp_path):
    made = load(many(tmp_path, n=20), validation_share=0.2, test_share=0.3)
    for name, size in (("train", 10), ("validation", 4), ("test", 6)):
        np.testing.assert_array_equal(np.bincount(made.labels[np.isin(made.ids, made.splits[name])]), [size, size])


def test_groups_stay_together(tmp_path):
    made = load(many(tmp_path), groups=r"(p\d+)_")
    assert len(np.unique(made.groups)) == 10
    assert (np.bincount(made.groups) == 4).sum() == 10  # p00 to p09 stand in both classes
    for ids in made.splits.values():
        inside = np.isin(made.ids, ids)
        assert not set(made.groups[inside]) & set(made.groups[~inside])


def test_whole_classes_are_held_out(tmp_path):
    made = load(many(tmp_path, classes="abcdefgh", n=3), split_by="classes", validation_share=0.125, test_share=0.25)
    classes = {name: set(made.labels[np.isin(made.ids, ids)].tolist()) for name, ids in made.splits.items()}
    assert {name: len(found) for name, found in classes.items()} == {"train": 5, "validation": 1, "test": 2}
    assert len(set.union(*classes.values())) == 8


def test_groups_across_held_out_classes_are_refused(tmp_path):
    many(tmp_path, classes="abcd")
    assert problems_of(tmp_path, split_by="classes", groups=r"(p\d+)_") == (
        "folder: groups with images in classes of several splits; expected each group in classes of one split "
        "(split_by: images)"
    )


def test_classes_cannot_be_held_out_where_there_are_none(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    assert problems_of(tmp_path, split_by="classes") == (
        "folder: split_by: classes without classes; expected a sub-folder for each class"
    )


def test_empty_splits_are_refused(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    assert problems_of(tmp_path) == (
        "folder: no images left for test and validation; expected images in every split "
        "(change validation_share and test_share)"
    )
    assert set(only(tmp_path).splits) == {"train"}


# ---- what can be wrong


def test_all_problems_at_once(tmp_path):
    root = many(tmp_path / "set", n=6)
    (root / "normal").mkdir()
    save(root / "rare" / "a.png", np.zeros((8, 8), np.uint8))
    (root / "benign" / "empty.png").touch()
    (root / "benign" / "text.jpg").write_text("not an image")
    whole = save(root / "benign" / "cut.png", np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:900])
    photo = save(root / "benign" / "cut.jpg", np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8))
    photo.write_bytes(photo.read_bytes()[:900])
    huge_png(root / "benign" / "bomb.png", 10_000, 10_000)
    huge_png(root / "benign" / "worse.png", 60_000, 60_000)
    pages = [Image.new("L", (8, 8))] * 3
    pages[0].save(root / "benign" / "pages.tif", save_all=True, append_images=pages[1:])
    outside = save(tmp_path / "outside.png", np.zeros((8, 8), np.uint8))
    (root / "benign" / "link.png").symlink_to(outside)
    (root / "malignant" / "folder").symlink_to(tmp_path)
    assert problems_of(root, min_per_class=6) == "\n".join(
        [
            f"folder {root}: 11 problems",
            "  - benign/link.png: a link out of the folder; expected the file itself",
            "  - malignant/folder: a link to a folder; expected the folder itself",
            "  - class 'normal' has 0 images; expected at least 6 (min_per_class)",
            "  - class 'rare' has 1 image; expected at least 6 (min_per_class)",
            "  - benign/bomb.png: 10000 x 10000 pixels; expected at most 50,000,000 in all (max_pixels)",
            "  - benign/cut.jpg: truncated or broken (truncated); expected a whole image",
            "  - benign/cut.png: truncated or broken (truncated); expected a whole image",
            "  - benign/empty.png: an empty file; expected an image",
            "  - benign/pages.tif: 3 pages; expected one (a volume needs another data set)",
            "  - benign/text.jpg: no readable image (UnidentifiedImageError); expected PNG, JPEG or TIFF",
            "  - benign/worse.png: far too many pixels; expected at most 50,000,000 (max_pixels)",
        ]
    )


def test_links_that_stay_inside_are_read(tmp_path):
    root = many(tmp_path, n=2)
    (root / "benign" / "again.png").symlink_to(root / "benign" / "p00_0.png")
    assert len(only(root)) == 5


def test_names_without_group(tmp_path):
    root = many(tmp_path)
    save(root / "benign" / "stray.png", np.zeros((8, 8), np.uint8))
    assert "benign/stray.png: no group: 'p[0-9]+_' does not match; expected a name with one" in problems_of(
        root, groups="p[0-9]+_"
    )


def test_images_beside_folders(tmp_path):
    save(many(tmp_path) / "loose.png", np.zeros((8, 8), np.uint8))
    assert "1 images beside 2 sub-folders; expected images in sub-folders, one a class, or images alone" in problems_of(
        tmp_path
    )


def test_nothing_there(tmp_path, monkeypatch):
    assert problems_of(tmp_path) == (
        f"folder {tmp_path}: 1 problem\n"
        "  - no images; expected PNG, JPEG or TIFF files, or a sub-folder of them for each class"
    )
    monkeypatch.delenv("FEWCORE_DATA", raising=False)
    assert problems_of("no-such-folder") == (
        "folder: no folder 'no-such-folder'; expected a folder of images (path: FOLDER, or set FEWCORE_DATA)"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path):
    root = many(tmp_path)
    (root / "benign" / "p00_0.png").chmod(0)
    assert "benign/p00_0.png: " in problems_of(root)


def test_strips_are_refused(tmp_path):
    save(tmp_path / "a.png", np.zeros((1, 40_000), np.uint8))
    assert "a.png: 40000 x 1 pixels; expected no such strip" in problems_of(tmp_path)


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match=r"validation_share and test_share: found 0.5 and 0.5; expected a sum below 1"):
        Folder("x", validation_share=0.5, test_share=0.5)
    with pytest.raises(ValueError, match="groups: found no regular expression: "):
        Folder("x", groups="(")


def test_real_ultrasound(tmp_path):
    home = os.environ.get("FEWCORE_DATA")
    if not home:
        pytest.skip("FEWCORE_DATA is not set: no real images here")
    with zipfile.ZipFile(Path(home) / "busi" / "busi_dev.zip") as archive:
        archive.extractall(tmp_path)
    (root,) = {path.parent.parent for path in tmp_path.rglob("*.png")}
    made = load(root, image_size=64)
    assert len(made) == 546
    assert made.class_names == ("benign", "malignant", "normal")
    assert 30 < made.images.mean() < 130
