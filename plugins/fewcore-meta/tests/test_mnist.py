"""MNIST: the idx format, the validation images, downloads, and every way in which files can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest
from data_layouts import idx, write_mnist

from fewcore import DataError, Run
from fewcore_meta import mnist
from fewcore_meta.mnist import Mnist


def load(folder, **options):
    return Mnist(**{"path": str(folder), "complete": False, "validation": 15, **options}).load(Run())


def problems(folder, **options):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return [str(problem) for problem in caught.value.problems]


def of(images, split):
    """Return the numbers in the file of a split's images."""
    rows = np.isin(images.ids, images.splits[split])
    return sorted(images.images[rows, 0, 0, 0].tolist())


def test_the_last_training_images_validate(tmp_path):
    write_mnist(tmp_path)
    images = load(tmp_path)
    assert (images.images.shape, images.images.dtype) == ((80, 1, 28, 28), np.uint8)
    assert of(images, "train") == list(range(45))
    assert of(images, "validation") == list(range(45, 60))
    assert of(images, "test") == list(range(20))
    np.testing.assert_array_equal(images.labels, images.images[:, 0, 0, 0] % 10)
    assert images.class_names == tuple("0123456789")
    assert set(load(tmp_path, validation=0).splits) == {"train", "test"}
    np.testing.assert_array_equal(images.ids, load(tmp_path).ids)
    assert abs(np.corrcoef(images.ids, np.arange(80))[0, 1]) < 0.4


def test_packed_and_unpacked_files_are_the_same(tmp_path):
    write_mnist(tmp_path / "a")
    write_mnist(tmp_path / "b", packed=False)
    np.testing.assert_array_equal(load(tmp_path / "a").images, load(tmp_path / "b").images)
    assert [path.name for path in Mnist(path=str(tmp_path / "b")).sources()] == [
        name.removesuffix(".gz") for name in mnist.OFFICIAL
    ]


def test_images_are_scaled(tmp_path):
    write_mnist(tmp_path)
    small, whole = load(tmp_path, image_size=14), load(tmp_path)
    assert small.images.shape == (80, 1, 14, 14)
    assert small.spec.size == (14, 14)
    np.testing.assert_allclose(small.images.mean((1, 2, 3)), whole.images.mean((1, 2, 3)), rtol=0.05)


def rewrite(folder, name, content):
    (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    write_mnist(tmp_path)
    rewrite(tmp_path, "train-images-idx3", idx(np.zeros((60, 28, 27))))
    rewrite(tmp_path, "train-labels-idx1", idx(np.zeros(60))[:-4])
    rewrite(tmp_path, "t10k-images-idx3", idx(np.zeros((20, 28, 28))) + b"x")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    tail = "; expected the official file (delete it and fetch it again)"
    found = problems(tmp_path)
    assert found[:3] == [
        f"{tmp_path}/train-images-idx3-ubyte.gz: another header (00000803 0000003c 0000001c 0000001b){tail}",
        f"{tmp_path}/train-labels-idx1-ubyte.gz: fewer bytes than its 60 entries need{tail}",
        f"{tmp_path}/t10k-images-idx3-ubyte.gz: more bytes than its 20 entries need{tail}",
    ]
    assert found[3].startswith(f"{path}: a file that cannot be read (Compressed file ended before")
    assert len(found) == 4


def test_other_damage_is_told(tmp_path):
    write_mnist(tmp_path)
    rewrite(tmp_path, "train-images-idx3", struct.pack(">4I", 0x0803, 2**31, 28, 28))
    rewrite(tmp_path, "t10k-images-idx3", b"\0\0")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip file")
    found = problems(tmp_path)
    assert "2,147,483,648 entries declared, more than 1,000,000" in found[0]
    assert "t10k-images-idx3-ubyte.gz: 2 bytes; expected" in found[1]
    assert "a file that cannot be read (Not a gzipped file" in found[2]


def test_labels_that_do_not_fit_are_told(tmp_path):
    write_mnist(tmp_path)
    rewrite(tmp_path, "train-labels-idx1", idx(np.arange(59) % 11))
    assert problems(tmp_path) == [
        f"{tmp_path}/train-labels-idx1-ubyte.gz: 59 labels of 60 images; expected one of each",
        f"{tmp_path}/train-labels-idx1-ubyte.gz: a label 10; expected 0 to 9",
    ]


def test_a_part_of_mnist_must_be_asked_for(tmp_path):
    write_mnist(tmp_path)
    advice = "(put the whole of it there, or set complete: false for a part)"
    assert problems(tmp_path, complete=True)[0] == (
        f"{tmp_path}/train-images-idx3-ubyte.gz: 60 images; expected 60000 {advice}"
    )
    assert problems(tmp_path, validation=60) == [
        "validation: 60 of 60 training images; expected some left for training (lower it)"
    ]


def test_missing_files_say_where_to_put_them_and_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWCORE_DATA", str(tmp_path))
    found = problems("")
    assert len(found) == 4
    place, address = tmp_path / "mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"
    assert found[1] == (
        f"{place}: no train-labels-idx1-ubyte.gz; expected the file (set fetch: true in the mnist stage, or type: "
        f"curl --create-dirs -o '{place}/train-labels-idx1-ubyte.gz' {address}/train-labels-idx1-ubyte.gz)"
    )
    with pytest.raises(DataError):
        Mnist().sources()


def test_missing_files_are_fetched_whole_and_right(tmp_path, monkeypatch):
    write_mnist(tmp_path / "served")
    facts = {}
    for name in mnist.OFFICIAL:
        content = (tmp_path / "served" / name).read_bytes()
        facts[name] = (len(content), hashlib.sha256(content).hexdigest())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(mnist, "SOURCE", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(mnist, "OFFICIAL", facts)
        images = load(tmp_path / "new", fetch=True)
        name = "t10k-labels-idx1-ubyte.gz"
        (tmp_path / "new" / name).unlink()
        monkeypatch.setattr(mnist, "OFFICIAL", {**facts, name: (facts[name][0], "0" * 64)})
        (found,) = problems(tmp_path / "new", fetch=True)
        server.shutdown()
    np.testing.assert_array_equal(images.images, load(tmp_path / "served").images)
    assert found.startswith("mnist.fetch: http://127.0.0.1:")
    assert not (tmp_path / "new" / name).exists()
