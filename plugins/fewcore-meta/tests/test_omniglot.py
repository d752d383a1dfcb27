"""Omniglot: both layouts, polarity, splits, downloads, and every way in which files can be wrong."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import struct
import threading
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewcore import DataError, Run
from fewcore_meta.download import fetch_file
from fewcore_meta.omniglot import Omniglot

DATA = os.environ.get("FEWCORE_DATA", "")
HALVES = {"images_background": ("Greek", 3), "images_evaluation": ("Klingon", 2)}


@cache
def drawing(number, size=105):
    """A black stroke on white, 1 bit, as the official files are; its place tells its number."""
    image = Image.new("1", (size, size), 1)
    for x in range(40):
        for dy in range(6):
            image.putpixel((10 + number * 2 + x, 20 + dy), 0)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def members(half):
    alphabet, n = HALVES[half]
    for c in range(n):
        for i in range(20):
            yield f"{alphabet}/character{c + 1:02d}/{c:04d}_{i + 1:02d}.png", drawing(i)


def write_zips(folder, change=None, extra=()):
    """Write two tiny zip files; `change` maps a member's path to other content, or to None to leave it out."""
    folder.mkdir(parents=True, exist_ok=True)
    for half in HALVES:
        with zipfile.ZipFile(folder / f"{half}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in members(half):
                content = (change or {}).get(path, content)
                if content is not None:
                    archive.writestr(f"{half}/{path}", content)
            for path, content in extra:
                archive.writestr(path, content)
    return folder


def write_folders(folder):
    for half in HALVES:
        for path, content in members(half):
            file = folder / half / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return folder


def tiny(folder, **options):
    return Omniglot(
        **{"path": str(folder), "complete": False, "protocol": "lake", "validation_characters": 1, **options}
    )


def load(folder, **options):
    return tiny(folder, **options).load(Run())


def problems(folder, **options):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    assert caught.value.exit_code == 3
    return [str(problem) for problem in caught.value.problems]


def test_zips_and_folders_give_the_same(tmp_path):
    zipped, extracted = load(write_zips(tmp_path / "a")), load(write_folders(tmp_path / "b"))
    assert zipped.images.shape == (100, 1, 28, 28)
    assert zipped.images.dtype == np.uint8
    np.testing.assert_array_equal(zipped.images, extracted.images)
    np.testing.assert_array_equal(zipped.ids, extracted.ids)
    np.testing.assert_array_equal(zipped.labels, extracted.labels)
    assert zipped.class_names == extracted.class_names
    assert zipped.class_names == (
        *(f"Greek/character0{i}" for i in (1, 2, 3)),
        "Klingon/character01",
        "Klingon/character02",
    )


def test_strokes_are_255_on_0_and_labels_come_from_the_path(tmp_path):
    images = load(write_zips(tmp_path), image_size=105)
    first = images.images[0, 0]
    assert set(np.unique(first)) == {0, 255}
    assert (first[20:26, 10:50] == 255).all()
    assert first.sum() == 255 * 40 * 6
    np.testing.assert_array_equal(images.labels, np.repeat(np.arange(5), 20))
    assert images.spec.value_range == (0, 255)
    assert images.spec.size == (105, 105)


def test_scaling_down_smooths_and_keeps_the_ink(tmp_path):
    whole, small = load(write_zips(tmp_path), image_size=105), load(tmp_path)
    assert len(np.unique(small.images)) > 10
    np.testing.assert_allclose(small.images.mean((1, 2, 3)), whole.images.mean((1, 2, 3)), rtol=0.1)


def test_ids_say_nothing_of_the_class_and_loading_twice_gives_the_same(tmp_path):
    images, again = load(write_zips(tmp_path)), load(tmp_path)
    # The mean id of a class would be far from the middle for the first and last, were ids in the order of the files.
    means = [images.ids[images.labels == k].mean() for k in range(5)]
    assert max(abs(m - 49.5) for m in means) < 25
    np.testing.assert_array_equal(images.ids, again.ids)
    np.testing.assert_array_equal(images.groups, images.ids)


def classes_of(images, split):
    return set(images.labels[np.isin(images.ids, images.splits[split])].tolist())


def test_lake_tests_on_the_evaluation_alphabets(tmp_path):
    images = load(write_zips(tmp_path))
    assert classes_of(images, "test") == {3, 4}
    assert len(classes_of(images, "validation")) == 1
    assert classes_of(images, "train") | classes_of(images, "validation") == {0, 1, 2}
    assert {s: len(i) for s, i in images.splits.items()} == {"train": 40, "validation": 20, "test": 40}


def test_junk_of_archives_is_passed_over(tmp_path):
    junk = [
        ("__MACOSX/images_background/Greek/character01/._0000_01.png", b"junk"),
        ("images_background/Greek/character01/._0000_01.png", b"junk"),
        ("images_background/.DS_Store", b"junk"),
        ("images_background/Greek/character01/notes.txt", b"junk"),
        ("../../evil.png", drawing(1)),
        ("images_background/../../character01/evil.png", drawing(1)),
        ("/images_background/Greek/character01/evil.png", drawing(1)),
    ]
    folder = write_zips(tmp_path / "data", extra=junk)
    before = sorted(p for p in tmp_path.rglob("*"))
    assert len(load(folder)) == 100
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_the_zip_is_read_where_there_is_a_folder_too(tmp_path):
    write_zips(write_folders(tmp_path))
    assert [path.name for path in tiny(tmp_path).sources()] == ["images_background.zip", "images_evaluation.zip"]


def test_sources_lists_every_drawing_of_a_folder(tmp_path):
    write_folders(tmp_path)
    assert len(tiny(tmp_path).sources()) == 100
    assert all(path.is_file() for path in tiny(tmp_path).sources())


def bomb(width, height):
    """A PNG of few bytes that declares many pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_all_that_is_wrong_with_drawings_is_told_at_once(tmp_path):
    a, b = "Greek/character01/0000_", "Klingon/character02/0001_"
    wrong = {
        f"{a}01.png": drawing(0)[:-40],
        f"{a}02.png": b"GIF89a not a PNG at all, whatever its name",
        f"{a}03.png": bomb(60_000, 60_000),
        f"{a}04.png": b"\0" * (2**20 + 1),
        f"{a}05.png": b"",
        f"{a}06.png": bomb(0, 5),
        f"{b}01.png": None,
    }
    found = problems(write_zips(tmp_path, wrong))
    zips = [f"{tmp_path}/{half}.zip" for half in HALVES]
    where = f"{zips[0]}: images_background/{a}"
    tail = "; expected a PNG image of one drawing"
    assert found[0].startswith(f"{where}01.png: a broken image (")
    assert found[0].endswith(tail)
    assert found[1:6] == [
        f"{where}02.png: no PNG image{tail}",
        f"{where}03.png: 60000 x 60000 pixels, more than 1024 a side or none{tail}",
        f"{where}04.png: 1,048,577 bytes, more than 1,048,576{tail}",
        f"{where}05.png: no PNG image{tail}",
        f"{where}06.png: 0 x 5 pixels, more than 1024 a side or none{tail}",
    ]
    assert found[6:] == [f"{zips[1]}: Klingon/character02: 19 drawings; expected 20"]


def test_a_member_that_declares_less_than_it_holds_is_not_unpacked(tmp_path):
    write_zips(tmp_path, {"Greek/character01/0000_01.png": b"\0" * 2**22})
    path = tmp_path / "images_background.zip"
    lying = path.read_bytes().replace(struct.pack("<I", 2**22), struct.pack("<I", 300))
    path.write_bytes(lying)
    (found,) = problems(tmp_path)
    assert "images_background/Greek/character01/0000_01.png: " in found
    assert found.endswith("; expected a PNG image of one drawing")


def test_a_truncated_zip_is_told_beside_the_other_half_s_problems(tmp_path):
    write_zips(tmp_path, {"Klingon/character01/0000_01.png": None})
    path = tmp_path / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-100])
    found = problems(tmp_path)
    assert found[0].startswith(f"{path}: no readable zip file (")
    assert found[0].endswith("); expected the official file (delete it and fetch it again)")
    assert found[1] == f"{tmp_path}/images_evaluation.zip: Klingon/character01: 19 drawings; expected 20"


def test_damaged_bytes_inside_a_zip_are_told(tmp_path):
    write_zips(tmp_path)
    path = tmp_path / "images_background.zip"
    content = bytearray(path.read_bytes())
    content[60:70] = b"\xff" * 10
    path.write_bytes(bytes(content))
    found = problems(tmp_path)
    assert any("a file that cannot be read (" in problem or "no readable zip" in problem for problem in found)


def test_missing_files_say_where_to_put_them_and_what_to_type(tmp_path):
    source = "https://github.com/brendenlake/omniglot/raw/master/python"
    assert problems(tmp_path) == [
        f"{tmp_path}: no {half}.zip and no folder {half}; expected one of the two (set fetch: true in the omniglot stage, "
        f"or type: curl -L --create-dirs -o '{tmp_path}/{half}.zip' {source}/{half}.zip)"
        for half in HALVES
    ]
    with pytest.raises(DataError):
        tiny(tmp_path).sources()


def test_the_folder_is_looked_for_under_fewcore_data_then_in_the_user_s(tmp_path, monkeypatch):
    write_zips(tmp_path / "omniglot")
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    assert len(load("")) == 100
    monkeypatch.delenv("FEWCORE_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    assert str(Path("fewcore") / "omniglot") in problems("")[0]


def test_a_part_of_omniglot_must_be_asked_for(tmp_path):
    write_zips(tmp_path)
    advice = "(put the whole of it there, or set complete: false for a part)"
    want = [
        f"images_background: 3 characters; expected 964 {advice}",
        f"images_evaluation: 2 characters; expected 659 {advice}",
    ]
    assert problems(tmp_path, complete=True) == want
    assert problems(tmp_path, validation_characters=3) == [
        "validation_characters: 3 of 3 background characters; expected some left for training (lower it)"
    ]
    assert problems(tmp_path, protocol="cactus") == [
        "protocol: 5 characters; expected at least 17 for three splits (protocol: lake)"
    ]


def test_a_character_of_both_halves_is_told(tmp_path):
    write_zips(tmp_path)
    with zipfile.ZipFile(tmp_path / "images_evaluation.zip", "a") as archive:
        for i in range(20):
            archive.writestr(f"images_evaluation/Greek/character01/9_{i}.png", drawing(i))
    assert problems(tmp_path) == [
        f"{tmp_path}/images_evaluation.zip: Greek/character01: a character of both halves; expected a name in one of them"
    ]


@pytest.fixture
def server(tmp_path):
    """Serve a folder on this machine alone; no test leaves it."""
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}", tmp_path / "served"
        made.shutdown()
        thread.join()


def test_a_download_is_whole_and_right_or_not_there(server, tmp_path):
    address, served = server
    content = bytes(range(256)) * 1000
    (served / "x.zip").write_bytes(content)
    target, right = tmp_path / "new" / "x.zip", hashlib.sha256(content).hexdigest()
    fetch_file(f"{address}/x.zip", len(content), right, target, "omniglot")
    assert target.read_bytes() == content
    target.unlink()
    by_hand = f"(download {address}/x.zip by hand to {target})"
    for n_bytes, digest in ((len(content), "0" * 64), (100, right), (len(content) + 1, right)):
        with pytest.raises(DataError) as caught:
            fetch_file(f"{address}/x.zip", n_bytes, digest, target, "omniglot")
        assert f"; expected {n_bytes:,} bytes with SHA-256 {digest} {by_hand}" in str(caught.value)
        assert not list(target.parent.iterdir())
    with pytest.raises(
        DataError, match=r"^omniglot.fetch: http://.*/no.zip: HTTP Error 404: .*; expected a download \(download"
    ):
        fetch_file(f"{address}/no.zip", 1, right, target, "omniglot")
    assert not list(target.parent.iterdir())


real = pytest.mark.skipif(not (Path(DATA) / "omniglot").is_dir() or not DATA, reason="FEWCORE_DATA holds no omniglot")


@real
def test_the_real_characters_by_both_protocols():
    images = Omniglot(path=str(Path(DATA) / "omniglot")).load(Run())
    assert images.images.shape == (32460, 1, 28, 28)
    assert len(images.class_names) == 1623
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(1623, 20))
    parts = [classes_of(images, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [1100, 100, 423]
    assert len(set.union(*parts)) == 1623
    assert [len(ids) for ids in images.splits.values()] == [22000, 2000, 8460]
    # Ink is sparse, and the corners are background.
    assert 10 < images.images.mean() < 40
    assert images.images[:, 0, 0, 0].mean() < 5
    lake = Omniglot(protocol="lake")._characters(964, 659)
    assert {split: len(part) for split, part in lake.items()} == {"train": 864, "validation": 100, "test": 659}
    assert lake["test"].min() == 964
    other = Omniglot(protocol_seed=1)._characters(964, 659)
    assert set(other["train"].tolist()) != parts[0]
