"""Results: whole or not at all, verified when read, computed once however many want them, never unpickled."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fewcore import ResourceError
from fewcore.store import CHUNK, Store, default_root, digest, file_digest

KEY = "ab" + "0" * 30
ARRAYS = {
    "vectors": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a name: with / everything": np.array([True, False]),
    "empty": np.zeros((0, 5)),
    "number": np.array(3.5),
}
META = {"names": ["é", "b"], "dim": 3}
RECIPE = {"kind": "embedder", "options": {"dim": 3}}
FACTS = {"seconds": 1.5, "records": [{"step": 1, "loss": 2.0}]}


def kept(root, arrays=ARRAYS):
    store = Store(root)
    store.put(KEY, arrays, META, recipe=RECIPE, facts=FACTS)
    return store


def files_of(root):
    return sorted(path for path in (Path(root) / "results").rglob("*") if path.is_file())


def test_what_is_kept_comes_back(tmp_path):
    store = kept(tmp_path)
    assert store.has(KEY)
    for reader in (store, Store(tmp_path)):
        entry = reader.get(KEY)
        assert (entry.key, entry.meta, entry.recipe, entry.facts) == (KEY, META, RECIPE, FACTS)
        assert list(entry.arrays) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(entry.arrays[name], array)
            assert entry.arrays[name].dtype == array.dtype
    assert not store.has("cd" + KEY[2:])
    assert store.get("cd" + KEY[2:]) is None
    assert store.damaged == []


def test_a_result_that_another_puts_there_while_it_is_looked_for_stays(tmp_path, monkeypatch):
    store, put = Store(tmp_path), []

    def looks(look):
        def looked(path, *more):
            found = look(path, *more)
            found = found if isinstance(found, bool) else list(found)
            if not put and path.name == KEY:
                put.append(True)
                kept(tmp_path)
            return found

        return looked

    for name in ("exists", "rglob"):
        monkeypatch.setattr(Path, name, looks(getattr(Path, name)))
    assert store.get(KEY) is None
    assert put
    assert store.damaged == []
    np.testing.assert_array_equal(store.get(KEY).arrays["vectors"], ARRAYS["vectors"])


def test_large_arrays_are_mapped_and_cannot_be_changed(tmp_path):
    store = kept(tmp_path, {"large": np.zeros(CHUNK, np.uint8), "small": np.zeros(3)})
    large = store.get(KEY).arrays["large"]
    assert isinstance(large, np.memmap)
    assert not isinstance(store.get(KEY).arrays["small"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 1


def test_one_flipped_byte_in_any_file_is_found_and_the_entry_removed(tmp_path):
    kept(tmp_path)
    names = [path.name for path in files_of(tmp_path)]
    assert sorted(names) == sorted(
        ["0.npy", "1.npy", "2.npy", "3.npy", *(f"{n}.json" for n in ("facts", "manifest", "meta", "recipe"))]
    )
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        content = files_of(tmp_path)[number].read_bytes()
        for place in {0, len(content) - 1, *rng.integers(0, len(content), 12).tolist()}:
            path = files_of(tmp_path)[number]
            path.write_bytes(
                content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]
            )
            store = Store(tmp_path)
            assert store.get(KEY) is None, f"{name}, byte {place}"
            assert store.damaged == [KEY]
            assert not store.has(KEY)
            kept(tmp_path)
            content = files_of(tmp_path)[number].read_bytes()


def test_a_file_that_is_cut_short_or_gone_is_found(tmp_path):
    for number in range(8):
        for cut in (True, False):
            kept(tmp_path)
            path = files_of(tmp_path)[number]
            if cut:
                path.write_bytes(path.read_bytes()[:-1])
            else:
                path.unlink()
            store = Store(tmp_path)
            assert store.get(KEY) is None
            assert store.damaged == [KEY]


def test_putting_again_replaces(tmp_path):
    store = kept(tmp_path)
    store = Store(tmp_path)
    store.put(KEY, {"x": np.ones(2)}, {}, recipe={}, facts={})
    assert list(Store(tmp_path).get(KEY).arrays) == ["x"]


def test_what_has_been_put_again_is_not_read_from_memory(tmp_path):
    store = kept(tmp_path)
    assert list(store.get(KEY).arrays) == list(ARRAYS)
    store.put(KEY, {"x": np.ones(2)}, {}, recipe={}, facts={})
    assert list(store.get(KEY).arrays) == ["x"]


# ---- nothing is unpickled

EVIL = "import pathlib; pathlib.Path({path!r}).write_text('ran')"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (EVIL.format(path=str(self.path)),)


def test_objects_are_neither_kept_nor_loaded(tmp_path):
    mark = tmp_path / "mark"
    evil = np.empty(1, object)
    evil[0] = Evil(mark)
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.put(KEY, {"evil": evil}, {}, recipe={}, facts={})
    assert not store.has(KEY)
    kept(tmp_path / "store")
    # Somebody who can write to the store can also mend the checksums.
    (path,) = [path for path in files_of(tmp_path / "store") if path.name == "0.npy"]
    with path.open("wb") as file:
        np.save(file, evil, allow_pickle=True)
    manifest = path.parent.parent / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["arrays/0.npy"] = file_digest(path)
    manifest.write_text(json.dumps(content))
    assert Store(tmp_path / "store").get(KEY) is None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Evil(mark)))
    assert Store(tmp_path / "store").get(KEY) is None
    assert not mark.exists()


# ---- processes


def python(code, *arguments, **more):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


RACE = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from fewcore.store import Store
    root, key = Path(sys.argv[1]), sys.argv[2]
    store = Store(root)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(5):
        name = f"{number:02}" + key[2:]
        with store.lock(name):
            if store.get(name) is None:
                with (root / "computed").open("a") as file:
                    file.write(name + "\\n")
                time.sleep(0.05)
                store.put(name, {"x": np.full(3, number)}, {}, recipe={}, facts={})
        assert store.get(name).arrays["x"].tolist() == [number] * 3
"""


def test_two_processes_at_once_compute_once(tmp_path):
    both = [python(RACE, tmp_path, KEY, stdin=subprocess.PIPE) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert (tmp_path / "computed").read_text().split() == [f"{number:02}" + KEY[2:] for number in range(5)]


KILLED = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from fewcore.store import Store

    class Slow(dict):
        times = 0

        def values(self):
            self.times += 1
            yield np.zeros(1000)
            if self.times > 1:
                os.kill(os.getpid(), 9)

    Store(Path(sys.argv[1])).put(sys.argv[2], Slow(), {}, recipe={}, facts={})
"""


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    process = python(KILLED, tmp_path, KEY)
    process.communicate(timeout=120)
    assert process.returncode == -9
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    Store(tmp_path)
    assert list((tmp_path / "temporary").iterdir()) == []
    host = os.uname().nodename
    for name in (f"{host}~{os.getpid()}~mine", "elsewhere~1~theirs"):
        (tmp_path / "temporary" / name).mkdir()
    store = Store(tmp_path)
    assert len(list((tmp_path / "temporary").iterdir())) == 2
    assert store.get(KEY) is None


# ---- disks that fail

FULL = """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np
    from fewcore import ResourceError
    from fewcore.store import Store
    root, key = Path(sys.argv[1]), sys.argv[2]
    store = Store(root)
    store.put("cd" + key[2:], {"x": np.arange(3)}, {}, recipe={}, facts={})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        store.put(key, {"x": np.zeros(1_000_000)}, {}, recipe={}, facts={})
    except ResourceError as error:
        print(error)
        print(error.exit_code)
"""


def check_full(output, root):
    message, code = output.splitlines()
    assert code == "5"
    start, rest = message.split(": cannot keep a result: ")
    assert start == str(root)
    assert rest.split(", ", 1)[1].startswith("8 MB needed, ")
    assert rest.endswith(
        " MB free; expected a disk with room (what is finished is kept; set FEWCORE_CACHE to a larger disk and run again)"
    )
    store = Store(root)
    assert not store.has(KEY)
    assert store.get("cd" + KEY[2:]).arrays["x"].tolist() == [0, 1, 2]
    assert list((Path(root) / "temporary").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_disk_that_takes_no_more_leaves_what_is_finished(tmp_path):
    output, errors = python(FULL, tmp_path, KEY).communicate(timeout=120)
    assert output, errors
    check_full(output, tmp_path)


def test_a_full_disk_leaves_what_is_finished(tmp_path):
    """The same on a disk that really is full; skipped where a small one cannot be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here; expected Linux and root")
    try:
        root = tmp_path / "store"
        code = FULL.replace("resource.setrlimit", "(lambda *_: None)")
        output, errors = python(code, root, KEY).communicate(timeout=120)
        assert output, errors
        assert "No space left on device" in output or "requested and" in output
        check_full(output, root)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as error:
        Store(tmp_path / "file" / "store")
    assert str(error.value).startswith(f"{tmp_path}/file/store: cannot make the store: Not a directory")


# ---- names and notes


def test_digests_depend_on_type_shape_and_bytes():
    same = [digest("a", np.arange(3), {"b": 1, "c": 2}), digest("a", np.arange(3), {"c": 2, "b": 1})]
    assert same[0] == same[1]
    assert len(same[0]) == 32
    others = [
        digest("a", np.arange(3)),
        digest("a", np.arange(3).astype(np.int32)),
        digest("a", np.arange(3).reshape(3, 1)),
        digest("a", [0, 1, 2]),
        digest("a", "b"),
        digest("ab"),
        digest(["a", "b"]),
    ]
    assert len(set(others)) == len(others)
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.ascontiguousarray(np.arange(6).reshape(2, 3).T))


def test_files_are_read_once_for_each_path_size_and_time(tmp_path):
    store = Store(tmp_path / "store")
    path = tmp_path / "image"
    path.write_bytes(b"one")
    first = store.fingerprint(path)
    assert first == file_digest(path)
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.fingerprint(path) == first
    os.utime(path, ns=(0, 0))
    assert store.fingerprint(path) == file_digest(path) != first


def test_a_folder_is_known_by_the_names_sizes_and_times_of_its_files(tmp_path):
    store, folder = Store(tmp_path / "store"), tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    for name in ("a/1", "a/2", "b/1"):
        (folder / name).write_bytes(b"one")
        os.utime(folder / name, ns=(0, 0))
    seen = [store.fingerprint(folder)]
    assert store.fingerprint(folder) == seen[0]
    os.utime(folder / "b/1", ns=(0, 1))
    seen.append(store.fingerprint(folder))
    (folder / "b/1").write_bytes(b"more")
    os.utime(folder / "b/1", ns=(0, 1))
    seen.append(store.fingerprint(folder))
    (folder / "b/1").rename(folder / "a/3")
    seen.append(store.fingerprint(folder))
    (folder / "a/3").unlink()
    seen.append(store.fingerprint(folder))
    assert len(set(seen)) == len(seen)


def test_recipes_are_noted_by_pipeline_cell_and_stage(tmp_path):
    store = Store(tmp_path)
    store.note_recipe("p", "seed 1", "embed", RECIPE)
    assert Store(tmp_path).last_recipe("p", "seed 1", "embed") == RECIPE
    assert store.last_recipe("p", "seed 2", "embed") is None
    (note,) = (tmp_path / "latest").iterdir()
    note.write_text("{")
    assert store.last_recipe("p", "seed 1", "embed") is None


def test_checkpoints_are_dropped(tmp_path):
    store = Store(tmp_path)
    folder = store.checkpoints(KEY)
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "train.checkpoint").write_text("x")
    store.drop_checkpoints(KEY)
    store.drop_checkpoints(KEY)
    assert not folder.exists()


def test_the_place_of_results_can_be_said(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWCORE_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("FEWCORE_CACHE")
    assert default_root().name == "fewcore"
