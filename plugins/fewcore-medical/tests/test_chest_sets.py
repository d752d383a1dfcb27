"""Montgomery, Shenzhen, JSRT and the set that joins them: layouts, classes, masks, splits, and what can be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from chest_layouts import film, save, write_chest, write_jsrt, write_montgomery, write_shenzhen
from PIL import Image

from fewcore import DataError, Run
from fewcore_medical.chest import Chest
from fewcore_medical.chest_films import drawn_splits
from fewcore_medical.jsrt import Jsrt
from fewcore_medical.montgomery import Montgomery
from fewcore_medical.shenzhen import Shenzhen

ADVICE = "(docs/data.md says where it comes from)"
WHOLE = "(put the whole of it there, or set complete: false for a part)"
SETS = {
    "montgomery": (Montgomery, write_montgomery),
    "shenzhen": (Shenzhen, write_shenzhen),
    "jsrt": (Jsrt, write_jsrt),
}


def load(name, folder, **changes):
    cls, write = SETS[name]
    return cls(**{**write(folder), **changes}).load(Run())


def problems(component):
    with pytest.raises(DataError) as caught:
        component.load(Run())
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("montgomery", ("normal", "tuberculosis"), [6, 6]),
        ("shenzhen", ("normal", "tuberculosis"), [6, 6]),
        ("jsrt", ("normal", "nodule"), [4, 8]),
    ],
)
def test_each_set_gives_images_classes_and_masks(tmp_path, name, classes, counts):
    images = load(name, tmp_path)
    assert images.images.shape == (12, 1, 16, 16)
    assert images.images.dtype == np.uint8
    assert images.class_names == classes
    np.testing.assert_array_equal(np.bincount(images.labels), counts)
    mask = images.targets["mask"]
    assert (mask.kind, mask.names, mask.values.shape) == ("masks", ("lungs",), (12, 1, 16, 16))
    known = mask.known
    np.testing.assert_array_equal(known, [i < 9 or name != "shenzhen" for i in range(12)])
    inside = mask.values[known] == 1
    # Lungs are dark, and both lungs are in the mask.
    pixels = images.images[known].astype(int)
    assert pixels[inside].mean() < 80
    assert pixels[~inside].mean() > 190
    assert inside[..., :8].any((1, 2, 3)).all()
    assert inside[..., 8:].any((1, 2, 3)).all()
    assert sorted(images.splits) == ["test", "train", "validation"]
    assert len(np.unique(images.groups)) == 12


def test_raw_values_are_turned_around_and_scaled(tmp_path):
    options = write_jsrt(tmp_path, 2)
    values = np.arange(32 * 32).reshape(32, 32) * 4
    (tmp_path / "All247images" / "JPCNN001.IMG").write_bytes(values.astype(">u2").tobytes())
    images = Jsrt(**{**options, "image_size": 32, "validation_share": 0, "test_share": 0}).load(Run())
    row = int(np.flatnonzero(images.labels == 0)[0])
    np.testing.assert_array_equal(images.images[row, 0], np.rint(255 * (1 - values / 4095)))
    # A few values above 4095 are noise and become black.
    values[0, :5] = 5000
    (tmp_path / "All247images" / "JPCNN001.IMG").write_bytes(values.astype(">u2").tobytes())
    images = Jsrt(**{**options, "image_size": 32, "validation_share": 0, "test_share": 0}).load(Run())
    np.testing.assert_array_equal(images.images[row, 0, 0, :5], 0)


def test_masks_equal_the_files(tmp_path):
    size = (40, 40)
    images = Montgomery(**{**write_montgomery(tmp_path, size=size), "image_size": 40}).load(Run())
    for i in range(12):
        _, left, right = film(size, i)
        np.testing.assert_array_equal(images.targets["mask"].values[i, 0] == 1, left | right)


def test_sixteen_bits_and_png_masks_are_read(tmp_path):
    options = write_jsrt(tmp_path, 3)
    for path in tmp_path.rglob("*.gif"):
        with Image.open(path) as mask:
            folder = path.parent.with_name(path.parent.name.replace(" ", "_"))
            folder.mkdir(exist_ok=True)
            mask.convert("L").save(folder / f"{path.stem}.png")
        path.unlink()
    assert Jsrt(**options, masks=True).load(Run()).targets["mask"].known.all()
    options = write_montgomery(tmp_path / "m", wrapped=False)
    deep = np.rint(65535 * film((40, 30), 0)[0]).astype(np.uint16)
    plain = Montgomery(**options).load(Run())
    save(tmp_path / "m" / "CXR_png" / "MCUCXR_0001_0.png", deep)
    np.testing.assert_array_equal(Montgomery(**options).load(Run()).images, plain.images)


def test_films_may_be_padded(tmp_path):
    images = load("montgomery", tmp_path, fit="pad")
    assert (images.images[..., :2] == 0).all()
    assert (images.images[..., 2:-2] > 0).all()
    assert (images.targets["mask"].values[..., :2] == 0).all()


@pytest.mark.parametrize("name", SETS)
def test_masks_may_be_left_out(tmp_path, name):
    cls, write = SETS[name]
    options = write(tmp_path)
    images = cls(**options, masks=False).load(Run())
    assert set(images.targets) == {"class"}
    assert len(cls(**options, masks=False).sources()) == 12
    assert len(cls(**options).sources()) == {"montgomery": 36, "shenzhen": 21, "jsrt": 36}[name]


@pytest.mark.parametrize("name", SETS)
def test_a_part_must_be_asked_for(tmp_path, name):
    cls, write = SETS[name]
    found = problems(cls(**{**write(tmp_path), "complete": True}))
    expected = {
        "montgomery": ["6 images of class normal; expected 80", "6 images of class tuberculosis; expected 58"],
        "shenzhen": [
            "6 images of class normal; expected 326",
            "6 images of class tuberculosis; expected 336",
            "9 masks; expected 566",
        ],
        "jsrt": ["4 images of class normal; expected 93", "8 images of class nodule; expected 154"],
    }
    assert found == [f"{name}: {text} {WHOLE}" for text in expected[name]]


def test_missing_folders_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    for cls, name in ((Montgomery, "montgomery"), (Shenzhen, "shenzhen"), (Jsrt, "jsrt"), (Chest, "montgomery")):
        with pytest.raises(DataError) as caught:
            cls().sources()
        assert str(caught.value).startswith(
            f"{tmp_path}/{name}: no folder; expected the folder of the set (docs/data.md"
        )
    assert problems(Montgomery()) == [
        f"{tmp_path}/montgomery/CXR_png: no images; expected the folder CXR_png with PNG files {ADVICE}"
    ]
    assert problems(Jsrt()) == [f"{tmp_path}/jsrt: no images; expected files such as JPCLN001.IMG {ADVICE}"]
    assert len(problems(Chest())) == 4


def test_all_that_is_wrong_with_montgomery_is_told(tmp_path):
    options = write_montgomery(tmp_path)
    base = tmp_path / "MontgomerySet"
    (base / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png").unlink()
    save(base / "ManualMask" / "leftMask" / "MCUCXR_0002_1.png", np.ones((20, 30), bool))
    save(base / "ManualMask" / "rightMask" / "MCUCXR_0003_0.png", np.zeros((40, 30), bool))
    cut = base / "CXR_png" / "MCUCXR_0004_1.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (base / "CXR_png" / "MCUCXR_0005_0.png").rename(base / "CXR_png" / "MCUCXR_0005_7.png")
    assert problems(Montgomery(**options)) == [
        f"{base}/CXR_png/MCUCXR_0005_7.png: another name; expected MCUCXR_\\d{{4}}_([01]).png, whose last digit says the "
        "class",
        f"{base}/ManualMask/leftMask/MCUCXR_0001_0.png: no mask; expected the mask of MCUCXR_0001_0.png {ADVICE}",
        f"{base}/ManualMask/leftMask/MCUCXR_0002_1.png: a mask of 30 x 20 pixels; expected 30 x 40, as its image",
        f"{base}/ManualMask/rightMask/MCUCXR_0003_0.png: an empty mask; expected a lung",
        f"{base}/CXR_png/MCUCXR_0004_1.png: no readable image (OSError); expected a whole PNG, GIF or TIFF file",
    ]


def test_all_that_is_wrong_with_shenzhen_is_told(tmp_path):
    options = write_shenzhen(tmp_path)
    save(tmp_path / "mask" / "CHNCXR_0099_1_mask.png", np.ones((36, 40), bool))
    save(tmp_path / "mask" / "mask" / "CHNCXR_0001_0_mask.png", np.ones((10, 10), bool))
    assert problems(Shenzhen(**options)) == [
        f"{tmp_path}/mask/CHNCXR_0099_1_mask.png: a mask without its image; expected CHNCXR_0099_1.png {ADVICE}",
        f"{tmp_path}/mask/mask/CHNCXR_0001_0_mask.png: a mask of 10 x 10 pixels; expected 40 x 36, as its image",
    ]
    for path in tmp_path.glob("mask/**/*.png"):
        path.unlink()
    expected = "the folder `mask` with files such as CHNCXR_0001_0_mask.png, or masks: false"
    assert problems(Shenzhen(**options)) == [f"{tmp_path}/mask: no masks; expected {expected} {ADVICE}"]


def test_all_that_is_wrong_with_jsrt_is_told(tmp_path):
    options = write_jsrt(tmp_path)
    films = tmp_path / "All247images"
    masks = tmp_path / "scratch"
    (films / "JPCNN001.IMG").write_bytes(bytes(100))
    swapped = (films / "JPCLN002.IMG").read_bytes()
    (films / "JPCLN002.IMG").write_bytes(np.frombuffer(swapped, ">u2").astype("<u2").tobytes())
    (masks / "fold1" / "masks" / "left lung" / "JPCLN003.gif").unlink()
    save(masks / "fold2" / "masks" / "right lung" / "JPCNN004.gif", np.full((10, 16), 255, np.uint8))
    (films / "JPCXX005.IMG").write_bytes(bytes(2048))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "jpcln006.img").write_bytes(bytes(2048))
    found = problems(Jsrt(**options))
    swapped = f"{films}/JPCLN002.IMG: "
    assert [swapped if text.startswith(swapped) else text for text in found] == [
        f"{tmp_path}: no mask of the left lung; expected JPCLN003.gif or JPCLN003.png in SCR's folders of that name "
        f"{ADVICE}",
        f"{films}/JPCXX005.IMG: another name; expected JPCLN and three digits (nodule), or JPCNN (none)",
        f"{tmp_path}/copy/jpcln006.img: the image of {films}/JPCLN006.IMG again; expected each image once",
        swapped,
        f"{films}/JPCNN001.IMG: 100 bytes; expected 2,048: 32 x 32 pixels of two bytes",
        f"{masks}/fold2/masks/right lung/JPCNN004.gif: a mask of 16 x 10 pixels; expected 32 x 32, as its image, or the same "
        "proportions",
    ]
    assert found[3].endswith("of the values above 4095; expected 12 bits, the high byte first")


def test_the_official_size_of_raw_files_is_checked(tmp_path):
    options = write_jsrt(tmp_path, 1)
    del options["side"]
    assert problems(Jsrt(**options)) == [
        f"{tmp_path}/All247images/JPCNN001.IMG: 2,048 bytes; expected 8,388,608: 2048 x 2048 pixels of two bytes"
    ]


def test_splits_hold_every_class_in_its_share():
    labels = np.repeat([0, 1, 2], [452, 345, 154])
    split = drawn_splits(labels, {"test": 228, "validation": 69, "train": 615}, 0)
    for name, n in (("train", 615), ("validation", 69), ("test", 228), ("", 39)):
        counts = np.bincount(labels[split == name], minlength=3)
        assert counts.sum() == n
        np.testing.assert_allclose(counts, n * np.bincount(labels) / 951, atol=2)
    other = drawn_splits(labels, {"test": 228, "validation": 69, "train": 615}, 1)
    assert (split != other).any()


def test_shares_must_leave_something_for_training():
    for cls, _ in SETS.values():
        with pytest.raises(
            ValueError, match=r"validation_share and test_share: found 0.5 and 0.5; expected a sum below"
        ):
            cls(validation_share=0.5, test_share=0.5)


# ---- the three together


def test_chest_joins_the_three_under_one_rule(tmp_path):
    images = Chest(**write_chest(tmp_path)).load(Run())
    assert images.images.shape == (30, 1, 16, 16)
    assert images.class_names == ("normal", "tuberculosis", "nodule")
    assert {name: len(ids) for name, ids in images.splits.items()} == {"train": 18, "validation": 3, "test": 9}
    assert images.targets["mask"].known.all()
    # 15 normal, 10 with tuberculosis and 8 with nodules have masks; three are left out by lot.
    np.testing.assert_allclose(np.bincount(images.labels), [15 * 30 / 33, 10 * 30 / 33, 8 * 30 / 33], atol=1)
    for split in images.splits.values():
        assert set(images.labels[np.isin(images.ids, split)]) == {0, 1, 2}


def test_what_chest_left_out_is_listed(tmp_path):
    images = Chest(**write_chest(tmp_path)).load(Run())
    left_out = json.loads(json.dumps(images.spec.to_json()))["preparation"]["notes"]["left_out"]
    assert left_out["without a mask"] == ["CHNCXR_0010_1", "CHNCXR_0011_0", "CHNCXR_0012_1"]
    assert len(left_out["by lot"]) == 3
    assert all(name[:3] in ("MCU", "CHN", "JPC") for name in left_out["by lot"])


def test_chest_is_drawn_by_its_option_and_not_by_the_seed(tmp_path):
    options = write_chest(tmp_path)
    one, same, other = (
        Chest(**options).load(Run(0)),
        Chest(**options).load(Run(1)),
        Chest(**options, draw=1).load(Run(0)),
    )
    np.testing.assert_array_equal(one.images, same.images)
    np.testing.assert_array_equal(one.splits["test"], same.splits["test"])
    left = [images.spec.preparation["notes"]["left_out"]["by lot"] for images in (one, other)]
    assert left[0] != left[1]


def test_too_few_films_and_problems_of_all_sets_are_told(tmp_path):
    options = write_chest(tmp_path)
    assert problems(Chest(**{**options, "n_train": 30})) == [
        "chest: 33 films with masks; expected at least 42: n_train, n_validation and n_test (lower them)"
    ]
    found = problems(Chest(**{**options, "complete": True}))
    assert [text.split(":")[0] for text in found] == ["montgomery"] * 2 + ["shenzhen"] * 3 + ["jsrt"] * 2
    assert len(Chest(**options).sources()) == 36 + 21 + 36
