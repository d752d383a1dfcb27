"""A table of images with masks, classes and patients: what is read, what is cut out, and everything that can be wrong."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fewcore import DataError, Run, readers
from fewcore.builtin.films import objects_of, widened
from fewcore.builtin.folder import Folder

HEAD = "image,mask,class,patient\n"
DATA = os.environ.get("FEWCORE_DATA", "")


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **how)
    return path


def disc(size, row, column, radius):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def film(root, i, size=(20, 20)):
    """An image of its number and a mask of one disc, whose place says the number."""
    save(root / "images" / f"{i}.png", np.full(size, 10 * i, np.uint8))
    save(root / "masks" / f"{i}.png", 255 * disc(size, 8, 5 + i % 8, 3).astype(np.uint8))
    return f"images/{i}.png,masks/{i}.png,{'sick' if i % 2 else 'well'},p{i // 2}\n"


@pytest.fixture
def root(tmp_path) -> Path:
    """Twelve films of six patients, each of whom has both classes."""
    folder = tmp_path / "set"
    lines = [film(folder, i) for i in range(12)]
    (folder / "labels.csv").write_text(HEAD + "".join(lines))
    return folder


def table(root, *lines, head=HEAD):
    (root / "labels.csv").write_text(head + "\n".join(lines) + "\n")
    return root


def load(root, **options):
    return Folder(str(root), **{"table": "labels.csv", "image_size": 20, "grey": True, **options}).load(Run())


def only(root, **options):
    return load(root, validation_share=0, test_share=0, **options)


def problems(root, **options):
    with pytest.raises(DataError) as caught:
        load(root, **options)
    return [str(problem) for problem in caught.value.problems]


def zipped(root, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, f"{prefix}{file.relative_to(root).as_posix()}")
    return path


# ---- what is read


def test_a_line_says_image_mask_class_and_patient(root):
    made = load(root)
    assert made.images.shape == (12, 1, 20, 20)
    assert made.images.dtype == np.uint8
    mask = made.targets["mask"]
    assert (mask.kind, mask.names, mask.values.shape, mask.values.dtype) == (
        "masks",
        ("mask",),
        (12, 1, 20, 20),
        np.float32,
    )
    assert made.target == "class"
    assert made.class_names == ("sick", "well")
    for pixels, shown, label in zip(made.images[:, 0], mask.values[:, 0], made.labels, strict=True):
        number = int(pixels[0, 0]) // 10
        np.testing.assert_array_equal(shown > 0, disc((20, 20), 8, 5 + number % 8, 3))
        assert made.class_names[label] == ("sick" if number % 2 else "well")
    np.testing.assert_array_equal(made.geometry["size"], [[20, 20]] * 12)
    assert "p1" not in json.dumps(made.to_arrays()[1])


def test_patients_are_groups_and_stay_in_one_split(root):
    made = load(root)
    number = made.images[:, 0, 0, 0] // 10
    np.testing.assert_array_equal(made.groups[:, None] == made.groups, number[:, None] // 2 == number // 2)
    assert set(made.splits) == {"train", "validation", "test"}
    for ids in made.splits.values():
        inside = np.isin(made.ids, ids)
        assert not set(made.groups[inside]) & set(made.groups[~inside])


def test_columns_have_any_names_and_may_be_left_out(root):
    table(root, "images/1.png,,1", "images/2.png,masks/2.png,0", head="film, outline ,tumour\n")
    made = only(
        root,
        image_column="film",
        mask_column="outline",
        class_column="tumour",
        patient_column="",
        structures=("tumour",),
    )
    assert made.class_names == ("0", "1")
    assert made.targets["mask"].names == ("tumour",)
    assert len(np.unique(made.groups)) == 2
    alone = only(root, image_column="film", mask_column="", class_column="", patient_column="")
    assert alone.targets == {}
    assert alone.target == ""


def test_empty_cells_are_not_known(root):
    table(root, "images/1.png,,sick,a", "images/2.png,masks/2.png,,b")
    made = only(root)
    np.testing.assert_array_equal(made.labels, [0, -1])
    np.testing.assert_array_equal(made.targets["mask"].known, [False, True])
    assert np.isnan(made.targets["mask"].values[0]).all()


def test_classes_fix_the_order_of_the_names(root):
    made = load(root, classes=("well", "sick"))
    assert made.class_names == ("well", "sick")
    np.testing.assert_array_equal(made.labels == 1, made.images[:, 0, 0, 0] // 10 % 2)
    table(root, *(f"images/{i}.png,,{i},{i}" for i in (2, 10, 1)))
    assert only(root).class_names == ("1", "2", "10")


def test_the_order_of_the_lines_changes_nothing(root):
    one = load(root)
    lines = (root / "labels.csv").read_text().splitlines()
    table(root, *reversed(lines[1:]))
    other = load(root)
    for name in ("images", "ids", "groups", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert all(np.array_equal(one.splits[name], other.splits[name]) for name in one.splits)


@pytest.mark.parametrize("prefix", ["", "deep/in/it/"])
def test_a_zip_file_gives_what_its_folder_gives(root, tmp_path, prefix):
    path = zipped(root, tmp_path / "set.zip", prefix)
    folder, archive = load(root), load(path)
    np.testing.assert_array_equal(folder.images, archive.images)
    np.testing.assert_array_equal(folder.targets["mask"].values, archive.targets["mask"].values)
    np.testing.assert_array_equal(folder.ids, archive.ids)
    assert Folder(str(path), table="labels.csv").sources() == (path,)
    np.testing.assert_array_equal(load(path, table=f"{prefix}labels.csv").images, folder.images)


def test_sources_are_the_table_and_the_files_that_are_there(root):
    table(root, "images/1.png,masks/1.png,sick,a", "images/2.png,masks/99.png,well,b")
    found = {path.relative_to(root).as_posix() for path in Folder(str(root), table="labels.csv").sources()}
    assert found == {"labels.csv", "images/1.png", "masks/1.png", "images/2.png"}


def test_a_table_may_lie_in_a_folder_of_its_own_and_under_the_data_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path.parent))
    assert len(load(tmp_path.name, table="set/labels.csv")) == 12


def test_masks_are_fitted_as_their_images_are(root):
    inside = disc((40, 24), 22, 10, 7)
    pixels = np.where(inside, 200, 20).astype(np.uint8)
    save(root / "images" / "tall.png", pixels)
    save(root / "masks" / "tall.png", inside)
    table(root, "images/tall.png,masks/tall.png,sick,a")
    for fit in ("pad", "crop", "stretch"):
        made = only(root, fit=fit, image_size=16)
        # Where the image is bright the mask is 1, whatever was done to both.
        shown = made.targets["mask"].values[0, 0] > 0
        np.testing.assert_array_equal(shown, made.images[0, 0] >= 110)
        assert shown.any()


def test_masks_of_several_structures(root):
    values = np.zeros((20, 20), np.uint8)
    values[2:8, 3:9], values[10:15, 4:12] = 1, 2
    save(root / "masks" / "two.png", values)
    table(root, "images/1.png,masks/two.png,sick,a")
    made = only(root, structures=("left", "right"))
    np.testing.assert_array_equal(made.targets["mask"].values[0] > 0, [values == 1, values == 2])
    values[0, 0] = 3
    save(root / "masks" / "two.png", values)
    assert problems(root, structures=("left", "right")) == [
        "labels.csv line 2: masks/two.png: a mask with the value 3; expected 0 to 2 (structures)"
    ]


@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "palette.png", "grey.png", "alpha.png", "deep.png", "f.tif"])
def test_masks_of_every_kind_of_file(root, name):
    inside = disc((20, 20), 8, 9, 4)
    plain = inside.astype(np.uint8)
    image = {
        "palette.png": Image.fromarray(plain).convert("P"),
        "grey.png": Image.fromarray(np.stack([255 * plain] * 3, -1)),
        "alpha.png": Image.fromarray(np.stack([plain, plain, plain, np.full_like(plain, 255)], -1)),
        "deep.png": Image.fromarray(plain.astype(np.uint16) * 4000),
        "f.tif": Image.fromarray(plain.astype(np.float32)),
    }.get(name, Image.fromarray(inside))
    image.save(root / "masks" / name)
    table(root, f"images/1.png,masks/{name},sick,a")
    np.testing.assert_array_equal(only(root).targets["mask"].values[0, 0] > 0, inside)


def test_sixteen_bits_and_eight_become_one_scale(root):
    save(root / "images" / "deep.tif", np.full((20, 20), 4095, np.uint16))
    table(root, "images/deep.tif,,sick,a", "images/1.png,masks/1.png,well,b")
    made = only(root, bits=12)
    assert made.images.dtype == np.float32
    np.testing.assert_allclose(made.images[:, 0, 0, 0], [10 / 255, 1][::1] if made.labels[0] else [1, 10 / 255])


# ---- patches


def instances(root, size=(60, 40)):
    """Two films of one patient and one of another, with three, one and two objects."""
    rng = np.random.default_rng(0)
    places = {"a": [(10, 10, 4), (30, 20, 6), (50, 35, 3)], "b": [(20, 20, 8)], "c": [(5, 5, 4), (40, 30, 5)]}
    for name, objects in places.items():
        mask = np.zeros(size, np.uint8)
        for value, (row, column, radius) in enumerate(objects, 1):
            mask[disc(size, row, column, radius)] = 10 * value
        save(root / "images" / f"{name}.png", np.where(mask, 100 + mask, rng.integers(0, 50, size)).astype(np.uint8))
        save(root / "masks" / f"{name}.png", mask)
    return table(
        root,
        "images/a.png,masks/a.png,well,Doe",
        "images/b.png,masks/b.png,sick,Doe",
        "images/c.png,masks/c.png,sick,Roe",
    )


def test_a_patch_around_each_object(root):
    made = only(instances(root), per_object=True, margin=0.0, image_size=9)
    assert len(made) == 6
    # Discs of the radii 4, 6, 3, 8, 4 and 5 fill their boxes, whatever their size was.
    boxes = made.geometry["box"]
    np.testing.assert_array_equal(boxes[:, 2] - boxes[:, 0], [9, 13, 7, 17, 9, 11])
    np.testing.assert_array_equal(boxes[0], [6, 6, 15, 15])
    np.testing.assert_array_equal(made.targets["mask"].values[0, 0] > 0, disc((9, 9), 4, 4, 4))
    middle = made.images[:, 0, 4, 4]
    np.testing.assert_array_equal(middle, [110, 120, 130, 110, 110, 120])
    assert (made.targets["mask"].values[:, 0, 4, 4] == 1).all()
    np.testing.assert_array_equal(made.labels, [1, 1, 1, 0, 0, 0])
    assert [len(np.unique(made.groups[rows])) for rows in (range(4), range(4, 6), range(6))] == [1, 1, 2]


def test_patches_of_a_film_stay_in_one_split(root):
    instances(root)
    for i in range(9):
        save(root / "images" / f"d{i}.png", np.full((60, 40), i, np.uint8))
    lines = [f"images/d{i}.png,masks/{'abc'[i % 3]}.png,{'sick' if i % 2 else 'well'},p{i}" for i in range(9)]
    table(root, *lines)
    made = load(root, per_object=True, patient_column="", validation_share=0.3, test_share=0.3)
    films = made.images[:, 0, 10, 10]
    assert len(made) == 18
    np.testing.assert_array_equal(made.groups[:, None] == made.groups, films[:, None] == films)
    for ids in made.splits.values():
        inside = np.isin(made.ids, ids)
        assert not set(films[inside]) & set(films[~inside])


def test_the_margin_shows_more_and_black_beyond_the_film(root):
    made = only(instances(root), per_object=True, margin=0.5, image_size=18)
    np.testing.assert_array_equal(made.geometry["box"][3], [4, 4, 38, 38])
    # The object at the film's corner: its box begins above and left of the film.
    assert (made.geometry["box"][4, :2] < 0).all()
    assert (made.images[4, 0, :3] == 0).all()
    assert (made.images[4, 0, 4:, 4:] > 0).mean() > 0.9
    # Neighbours are shown in the image and not in the mask.
    wide = only(root, per_object=True, margin=3.0, image_size=60)
    assert made.targets["mask"].values.sum((1, 2, 3)).min() > 20
    labels = [ndimage.label(mask)[1] for mask in wide.targets["mask"].values[:, 0]]
    assert labels == [1] * 6


@pytest.mark.parametrize("fit, sides", [("pad", (22, 22)), ("stretch", (22, 12)), ("crop", (22, 12))])
def test_boxes_are_squares_unless_they_are_to_be_stretched(root, fit, sides):
    mask = np.zeros((40, 40), np.uint8)
    mask[5:25, 10:20] = 1
    save(root / "images" / "o.png", np.where(mask, 200, 0).astype(np.uint8))
    save(root / "masks" / "o.png", mask)
    table(root, "images/o.png,masks/o.png,sick,a")
    made = only(root, per_object=True, margin=0.05, fit=fit, image_size=8)
    left, upper, right, lower = made.geometry["box"][0]
    assert (lower - upper, right - left) == sides
    share = (made.images[0, 0] > 100).mean()
    assert share < 0.6 if fit == "pad" else share > 0.7


def test_a_line_may_be_an_object(root):
    instances(root)
    head = "image,mask,class,patient,vertebra\n"
    table(root, "images/a.png,masks/a.png,sick,Doe,20", "images/a.png,masks/a.png,well,Doe,10", head=head)
    made = only(root, per_object=True, object_column="vertebra")
    np.testing.assert_array_equal(made.images[:, 0, 10, 10], [110, 120])
    assert [made.class_names[label] for label in made.labels] == ["well", "sick"]
    table(
        root,
        "images/a.png,masks/a.png,sick,Doe,20",
        "images/a.png,masks/a.png,sick,Doe,20",
        "images/b.png,masks/b.png,sick,Doe,7",
        "images/c.png,masks/c.png,sick,Roe,",
        "images/c.png,masks/c.png,sick,Roe,10",
        "images/c.png,masks/a.png,sick,Roe,20",
        head=head,
    )
    assert problems(root, per_object=True, object_column="vertebra") == [
        "labels.csv line 3: the image and the object of line 2 again; expected each once",
        "labels.csv line 4: masks/b.png: no object 7; expected some of the mask's: 10",
        "labels.csv line 5: no vertebra; expected the object's value in the mask, a whole number above 0",
        "labels.csv line 7: another mask or patient than in labels.csv line 6; expected the same for one image",
    ]


def test_boxes_of_objects_equal_a_slow_search():
    mask = np.random.default_rng(0).integers(0, 4, (7, 9)) * 5
    for value, (left, upper, right, lower) in objects_of(mask).items():
        rows, columns = np.nonzero(mask == value)
        assert (left, upper, right, lower) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert sorted(objects_of(mask)) == [5, 10, 15]
    assert objects_of(np.zeros((3, 3), int)) == {}


def test_widened_boxes():
    assert widened((10, 20, 20, 40), 0.0, square=False) == (10, 20, 20, 40)
    assert widened((10, 20, 20, 40), 0.5, square=False) == (0, 10, 30, 50)
    assert widened((10, 20, 20, 40), 0.0, square=True) == (5, 20, 25, 40)
    assert widened((3, 3, 4, 4), 0.0, square=True)[2:] != (3, 3)


# ---- other formats


READER = """
import numpy as np
from fewcore import DataError

def read(path):
    if path.read_bytes().startswith(b"bad"):
        raise DataError("numbers that are none; expected numbers")
    return np.loadtxt(path, ndmin=2)
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A distribution of a stranger that reads text files."""
    site = tmp_path / "site"
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fewcore.readers]\ntxt = stranger_reader:read\n")
    (site / "stranger_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(str(site))
    readers.offered.cache_clear()
    yield site / "stranger_reader.py"
    readers.offered.cache_clear()
    sys.modules.pop("stranger_reader", None)


def test_what_is_installed_is_looked_through_once_and_not_for_each_file(root, reader, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(readers, "entry_points", lambda group: looked.append(group) or entry_points(group=group))
    for number in range(20):
        np.savetxt(tmp_path / f"{number}.txt", [[number]])
        assert readers.read_values(tmp_path / f"{number}.txt", f"{number}.txt").item() == number
        assert not readers.can_write(f"{number}.txt")
    assert sorted(looked) == ["fewcore.readers", "fewcore.writers"]


def test_plugins_read_other_formats(root, reader, tmp_path):
    values = np.linspace(-1000, 1000, 400).reshape(20, 20)
    np.savetxt(root / "images" / "ct.txt", values)
    np.savetxt(root / "masks" / "ct.txt", values > 0)
    table(root, "images/ct.txt,masks/ct.txt,sick,a", "images/1.png,masks/1.png,well,b")
    made = only(root, window=(-500.0, 500.0))
    row = int(np.flatnonzero(made.labels == 0)[0])
    np.testing.assert_allclose(made.images[row, 0], np.clip((values + 500) / 1000, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(made.targets["mask"].values[row, 0] > 0, values > 0)
    assert reader in Folder(str(root), table="labels.csv").sources()
    archive = only(zipped(root, tmp_path / "set.zip"), window=(-500.0, 500.0))
    np.testing.assert_array_equal(archive.images, made.images)
    assert problems(root) == [
        "labels.csv line 2: images/ct.txt: values from -1000 to 1000; expected 0 to 65535 (bits: 16), or the values that "
        "become black and white (window: [LOW, HIGH])"
    ]


def test_files_that_readers_refuse_are_told(root, reader):
    (root / "images" / "a.txt").write_text("bad")
    np.savetxt(root / "images" / "b.txt", [[1, np.nan]])
    np.savetxt(root / "masks" / "c.txt", [[0, 0.5]])
    (root / "images" / "e.bmp").write_text("")
    table(
        root,
        "images/a.txt,,sick,a",
        "images/b.txt,,sick,b",
        "images/1.png,masks/c.txt,sick,c",
        "images/e.bmp,,sick,e",
    )
    assert problems(root) == [
        "labels.csv line 2: images/a.txt: numbers that are none; expected numbers",
        "labels.csv line 3: images/b.txt: float64 (1, 2); expected one image, or slices, of finite numbers",
        "labels.csv line 4: masks/c.txt: a mask of other values than whole numbers from 0; expected 0 where nothing is",
        "labels.csv line 5: images/e.bmp: a file of another format; expected PNG, JPEG, TIFF, or what a plugin reads "
        "(NIfTI and DICOM: pip install 'fewcore[medical]')",
    ]


# ---- what can be wrong


def test_everything_wrong_with_a_table_is_told_at_once(root, tmp_path):
    rng = np.random.default_rng(0)
    save(root / "masks" / "small.png", np.zeros((10, 20), np.uint8))
    save(root / "masks" / "lossy.jpg", np.zeros((20, 20), np.uint8))
    save(root / "masks" / "colour.png", rng.integers(0, 255, (20, 20, 3)).astype(np.uint8))
    save(root / "masks" / "nan.tif", np.full((20, 20), np.nan, np.float32))
    save(root / "masks" / "half.tif", np.full((20, 20), 0.5, np.float32))
    save(root / "images" / "nan.tif", np.full((20, 20), np.nan, np.float32))
    whole = save(root / "images" / "cut.png", rng.integers(0, 255, (60, 60)).astype(np.uint8))
    whole.write_bytes(whole.read_bytes()[:900])
    whole = save(root / "masks" / "cut.png", rng.integers(0, 2, (60, 60)).astype(np.uint8))
    whole.write_bytes(whole.read_bytes()[:300])
    (root / "images" / "empty.png").touch()
    save(tmp_path / "secret.png", np.zeros((20, 20), np.uint8))
    table(
        root,
        "images/0.png,masks/small.png,well,a",
        "images/99.png,masks/1.png,sick,b",
        "images/1.png,masks/99.png,sick,c",
        "images/2.png,masks/2.png,cyst,d",
        "images/3.png,masks/3.png,sick,e",
        "./images/3.png,masks/3.png,sick,e",
        "images/4.png,masks/nan.tif,well,f",
        "images/5.png,masks/5.png,NaN,g",
        "images/nan.tif,masks/6.png,well,h",
        "images/cut.png,masks/7.png,sick,i",
        "images/7.png,masks/7.png,sick,",
        "images/8.png,masks/8.png,well",
        "images/9.png,masks/9.png,sick,j,k",
        ",masks/10.png,sick,l",
        "images/10.png,masks/lossy.jpg,sick,l",
        "images/11.png,masks/colour.png,sick,l",
        "../secret.png,,sick,l",
        "images/empty.png,,sick,l",
        "images/a\0b.png,,sick,l",
        "images/6.png,masks/half.tif,well,m",
        "images/./../images,,sick,l",
    )
    save(root / "images" / "big.png", np.zeros((60, 60), np.uint8))
    with (root / "labels.csv").open("a") as file:
        file.write("images/big.png,masks/cut.png,sick,n\n")
    found = problems(root, classes=("well", "sick"))
    assert found == [
        "labels.csv line 2: masks/small.png: a mask of 10 x 20 pixels; expected 20 x 20, as its image has",
        "labels.csv line 3: images/99.png: no such file; expected a path from the table's folder",
        "labels.csv line 4: masks/99.png: no such file; expected a path from the table's folder",
        "labels.csv line 5: an unknown class 'cyst'; expected one of well, sick",
        "labels.csv line 7: the image of line 6 again; expected each once",
        "labels.csv line 8: masks/nan.tif: a mask with NaN or infinite pixels; expected whole numbers",
        "labels.csv line 9: 'NaN' as class; expected an empty cell where it is not known",
        "labels.csv line 10: images/nan.tif: NaN or infinite pixels; expected finite values",
        "labels.csv line 11: images/cut.png: truncated or broken (truncated); expected a whole image",
        "labels.csv line 12: no patient; expected a name or number that is the same for all images of a patient",
        "labels.csv line 13: no patient; expected a name or number that is the same for all images of a patient",
        "labels.csv line 14: more values than columns; expected as many",
        "labels.csv line 15: no image; expected a path from the table's folder",
        "labels.csv line 16: masks/lossy.jpg: a mask as JPEG, which changes values; expected PNG, TIFF or a format of a "
        "plugin",
        "labels.csv line 17: masks/colour.png: a coloured mask; expected one whole number a pixel",
        "labels.csv line 18: ../secret.png: a file that lies elsewhere; expected one in the table's folder",
        "labels.csv line 19: images/empty.png: an empty file; expected an image",
        "labels.csv line 20: images/a\0b.png: no such file; expected a path from the table's folder",
        "labels.csv line 21: masks/half.tif: a mask of other values than whole numbers from 0; expected 0 where nothing "
        "is",
        "labels.csv line 22: images: no such file; expected a path from the table's folder",
        "labels.csv line 23: masks/cut.png: truncated or broken (OSError); expected a whole mask",
    ]


def test_missing_columns_are_told(root):
    table(root, "images/0.png,well", head="image,label\n")
    assert problems(root, class_column="lable", object_column="", patient_column="") == [
        "labels.csv: no column 'lable'; expected one of image, label (class_column: NAME, or \"\" where the table has none)",
        "labels.csv: no column 'mask'; expected one of image, label (mask_column: NAME, or \"\" where the table has none)",
    ]
    table(root, "images/0.png,a,b", head="image,class,class\n")
    assert problems(root, mask_column="", patient_column="") == [
        "labels.csv: the column 'class' twice; expected each column once"
    ]


def test_empty_masks_have_no_objects(root):
    save(root / "masks" / "none.png", np.zeros((20, 20), np.uint8))
    table(root, "images/0.png,masks/none.png,well,a", "images/1.png,,sick,b", "images/2.png,masks/2.png,well,c")
    assert problems(root, per_object=True) == [
        "labels.csv line 2: masks/none.png: an empty mask; expected an object, which is a value above 0 (per_object)",
        "labels.csv line 3: images/1.png: no mask; expected an instance mask for each image (per_object)",
    ]
    # Where images are whole, an empty mask says that nothing is there.
    made = only(root)
    np.testing.assert_array_equal(made.targets["mask"].values[0], 0)


def test_classes_that_are_empty_or_small_are_told(root):
    assert problems(root, classes=("well", "sick", "rare"), min_per_class=2) == [
        "class 'rare' has 0 images; expected at least 2 (min_per_class)"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\xff\xfe",
            "labels.csv: no text in UTF-8; expected a CSV file with a line of column names (save it as UTF-8)",
        ),
        (HEAD.encode(), "labels.csv: no rows; expected a line for each image"),
        (b"", "labels.csv: no column 'image'; expected one of none (image_column: NAME)"),
        (b'image,mask,class,patient\n"a\x00', "labels.csv line 2: "),
    ],
)
def test_tables_that_are_none_are_told(root, content, message):
    (root / "labels.csv").write_bytes(content)
    assert problems(root)[0].startswith(message)


def test_tables_and_folders_that_are_not_there_are_told(root, tmp_path, monkeypatch):
    monkeypatch.delenv("FEWCORE_DATA", raising=False)
    assert problems(root, table="other.csv") == [
        f"table: no other.csv in {root}; expected a CSV file in the folder (table: FILE)"
    ]
    assert problems(root, table="../x/labels.csv")[0].startswith("table: no ../x/labels.csv in ")
    assert problems(tmp_path / "nothing") == [
        f"folder: no folder and no zip file '{tmp_path / 'nothing'}'; expected a folder or zip file of images "
        "(path: FOLDER, or set FEWCORE_DATA)"
    ]
    (tmp_path / "no.zip").write_text("no zip")
    assert problems(tmp_path / "no.zip")[0].startswith("folder: no folder and no zip file ")
    path = zipped(tmp_path, tmp_path.parent / "two.zip", "a/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/labels.csv", HEAD)
    assert problems(path) == [
        f"table: 2 labels.csv in {path}; expected one CSV file of that name (table: FOLDER/FILE, its path in the zip)"
    ]


def test_damaged_files_in_a_zip_file_are_told(root, tmp_path):
    rng = np.random.default_rng(0)
    save(root / "images" / "0.png", rng.integers(0, 255, (40, 40)).astype(np.uint8))
    table(root, "images/0.png,,well,a", "images/1.png,masks/77.png,sick,b")
    path = zipped(root, tmp_path / "set.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("images/0.png").header_offset
    content = bytearray(path.read_bytes())
    content[start + 300 : start + 320] = bytes(20)
    path.write_bytes(bytes(content))
    assert problems(path) == [
        "labels.csv line 2: images/0.png: not readable (BadZipFile); expected a whole zip file",
        "labels.csv line 3: masks/77.png: no such file in the zip file; expected a path from the table's folder",
    ]


def test_links_that_leave_the_folder_are_refused(root, tmp_path):
    outside = save(tmp_path / "outside.png", np.zeros((20, 20), np.uint8))
    (root / "images" / "link.png").symlink_to(outside)
    (root / "images" / "inside.png").symlink_to(root / "images" / "1.png")
    table(root, "images/link.png,,sick,a", "images/inside.png,,sick,b")
    assert problems(root) == [
        "labels.csv line 2: images/link.png: a file that lies elsewhere; expected one in the table's folder"
    ]


def test_options_that_do_not_fit():
    for options, message in (
        ({"per_object": True}, "per_object: found no table"),
        ({"per_object": True, "table": "a.csv", "mask_column": ""}, "per_object: found no table, no mask_column"),
        ({"object_column": "object", "table": "a.csv"}, "object_column: found 'object'; expected per_object: true"),
        ({"table": "a.csv", "groups": "x"}, "groups: found a regular expression beside a table"),
        ({"structures": ()}, r"structures: found \[\]; expected at least one name"),
        ({"structures": ("a", "a")}, "structures: found"),
        ({"window": (1.0,)}, r"window: found \[1.0\]; expected a low and a higher value"),
        ({"window": (1.0, 1.0)}, "window: found"),
        ({"image_column": ""}, "image_column: found no name"),
    ):
        with pytest.raises(ValueError, match=message):
            Folder("x", **options)


def test_holding_out_classes_needs_a_class_for_each_image(root):
    table(root, "images/1.png,,sick,a", "images/2.png,masks/2.png,,b")
    assert problems(root, split_by="classes") == [
        "folder: split_by: classes, and images without a class; expected a class for each image"
    ]


def test_real_lung_tumours():
    path = Path(DATA) / "lungct" / "lungct_dev.zip"
    if not DATA or not path.is_file():
        pytest.skip("FEWCORE_DATA holds no lungct: no real masks here")
    options = {"class_column": "tumour", "structures": ("tumour",), "image_size": 64}
    made = load("lungct/lungct_dev.zip", **options)
    assert len(made) == 130
    assert made.class_names == ("0", "1")
    present = made.targets["mask"].values.any((1, 2, 3))
    with zipfile.ZipFile(path) as archive:
        text = io.TextIOWrapper(archive.open("lungct/labels.csv")).read().split()[1:]
        with Image.open(archive.open("lungct/masks/a01_0.png")) as image:
            sides = image.size
    said = sorted(line.split(",") for line in text)
    np.testing.assert_array_equal(made.labels, [int(line[3]) for line in said])
    assert len(np.unique(made.groups)) == len({line[2] for line in said})
    # A tumour is drawn where the table says that there is one.
    np.testing.assert_array_equal(present, made.labels == 1)
    assert made.geometry["size"][0].tolist() == list(sides)[::-1]
    np.testing.assert_array_equal([len(made.splits[name]) > 10 for name in made.splits], True)
