"""Hyperplane partitions against a slow transcription, and the rules by which planes and partitions are accepted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewcore import DataError, Embeddings, Interrupted, Partitions, Run, child_seed, numpy_generator
from fewcore_cluster.hyperplanes import Hyperplanes, _plane_limits
from fewcore_cluster.planes import Planes, cells, distances, draw_planes, largest_margins, projection_std, sides_of


def embeddings(vectors):
    return Embeddings(vectors, np.arange(len(vectors)) + 50, encoder=None)


def cloud(n=400, e=6, scale=1.0, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, e)) * scale).astype(np.float32)


SMALL = {"n_way": 5, "n_partitions": 20, "min_size": 3, "candidates": 40, "margin": 0.2}


def slow_side(vector, normal, point, margin):
    distance = sum(n * (z - z0) for n, z, z0 in zip(normal, vector.astype(float), point, strict=True))
    return "above" if distance >= margin else "below" if distance <= -margin else "neither"


def slow_partitions(vectors, options, margin, run):
    """The algorithm of the paper's appendix and of its authors' code, one vector and one plane at a time."""
    seed = int(run.rng.integers(2**62))
    n, e = vectors.shape
    rng = numpy_generator(child_seed(seed, "planes"))
    planes = []
    while len(planes) < options["candidates"]:
        normals = rng.uniform(-1, 1, (options["candidates"], e))
        points = rng.uniform(-0.8, 0.8, (options["candidates"], e))
        for normal, point in zip(normals, points, strict=True):
            unit = normal / sum(x * x for x in normal) ** 0.5
            sides = [slow_side(vector, unit, point, margin) for vector in vectors]
            if min(sides.count("above"), sides.count("below")) >= 10 * options["min_size"]:
                planes.append(sides)
    planes = planes[: options["candidates"]]
    h = int(np.ceil(np.log2(options["n_way"])))
    made = []
    for number in range(options["n_partitions"]):
        rng = numpy_generator(child_seed(seed, "partition", number))
        while True:
            chosen = [planes[i] for i in rng.choice(len(planes), h, replace=False)]
            members = {}
            for i in range(n):
                sides = [plane[i] for plane in chosen]
                if "neither" not in sides:
                    members.setdefault(int("".join("01"[side == "above"] for side in sides), 2), []).append(i)
            if sum(len(rows) >= options["min_size"] for rows in members.values()) >= options["n_way"]:
                break
        parts = np.full(n, -1)
        for cell, rows in members.items():
            parts[rows] = cell
        made.append(parts)
    return np.array(made)


@pytest.mark.parametrize("n_way", [2, 5])
def test_partitions_are_those_of_the_slow_transcription(n_way):
    vectors = cloud(150, 3)
    options = {**SMALL, "n_way": n_way, "candidates": 12, "n_partitions": 11}
    found = Hyperplanes(**options, margin_units="absolute").partition(embeddings(vectors), Run(3))
    np.testing.assert_array_equal(found.parts, slow_partitions(vectors, options, 0.2, Run(3)))
    assert (found.parts == -1).any()
    np.testing.assert_array_equal(found.ids, np.arange(150) + 50)


def test_the_margin_is_open_and_a_vector_on_a_plane_without_margin_is_above():
    vectors = torch.tensor([[-2.0], [-1.0], [-0.5], [0.0], [0.5], [1.0], [2.0]])
    planes = Planes(np.ones((1, 1)), np.zeros(1))
    assert sides_of(vectors, planes, 1.0, 2)[1].tolist() == [[0, 0, 2, 2, 2, 1, 1]]
    assert sides_of(vectors, planes, 0.0, 3)[1].tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    good, sides = sides_of(vectors, planes, 1.0, 3)
    assert good.tolist() == [False]
    assert sides.shape == (0, 7)


def test_cells_and_their_sizes():
    sides = torch.tensor([[0, 1, 1, 2, 0], [1, 0, 1, 1, 2], [1, 1, 1, 0, 0]], dtype=torch.uint8)
    found, counts = cells(sides, np.array([[0, 1], [2, 0]]))
    assert found.tolist() == [[1, 2, 3, -1, -1], [2, 3, 3, -1, 0]]
    assert counts.tolist() == [[0, 1, 1, 1], [1, 0, 1, 2]]


@pytest.mark.parametrize("n_way, n_cells", [(2, 2), (3, 4), (4, 4), (5, 8), (10, 16), (20, 32)])
def test_planes_follow_from_the_way(n_way, n_cells):
    options = {"n_way": n_way, "n_partitions": 3, "margin": 0.0, "min_size": 2, "candidates": 20}
    parts = Hyperplanes(**options).partition(embeddings(cloud(900)), Run()).parts
    assert parts.min() == 0
    assert n_cells / 2 < len(np.unique(parts)) <= n_cells
    assert parts.max() < n_cells
    assert all((np.bincount(row) >= 2).sum() >= n_way for row in parts)


def test_planes_have_unit_normals_from_a_cube_and_pass_through_its_points():
    planes = draw_planes(4000, 3, 0.8, numpy_generator(0))
    np.testing.assert_allclose(np.linalg.norm(planes.normals, axis=1), 1)
    # Components of a direction from a cube: the fourth moment is 0.2072 by quadrature, 0.2 for a sphere's.
    rng = np.random.default_rng(1).uniform(-1, 1, (200_000, 3))
    fourth = ((rng / np.linalg.norm(rng, axis=1, keepdims=True)) ** 4).mean()
    assert (planes.normals**4).mean() == pytest.approx(fourth, abs=0.006)
    # The variance of n.z is that of a coordinate of the cube, 0.8^2 / 3; its standard error is 2.5%.
    assert planes.offsets.var() == pytest.approx(0.8**2 / 3, rel=0.1)
    assert (draw_planes(5, 3, 0.0, numpy_generator(0)).offsets == 0).all()


def test_projection_std_is_the_mean_over_directions():
    vectors = cloud(500) * np.array([1, 2, 3, 0.1, 5, 1], np.float32) + 7
    apart = distances(torch.from_numpy(vectors), draw_planes(4000, 6, 0.8, numpy_generator(0))).numpy()
    assert projection_std(vectors) == pytest.approx(np.sqrt(apart.var(1).mean()), rel=0.03)


def test_margins_in_standard_deviations_serve_every_scale():
    made = [
        Hyperplanes(**SMALL, point_range=0.0).partition(embeddings(cloud() * np.float32(scale)), Run()).parts
        for scale in (1, 64)
    ]
    np.testing.assert_array_equal(*made)
    absolute = Hyperplanes(**SMALL, point_range=0.0, margin_units="absolute")
    assert (absolute.partition(embeddings(cloud() * 64), Run()).parts != made[0]).any()


def test_survivors_and_draws_are_logged():
    run = Run()
    vectors = cloud()
    found = Hyperplanes(**{**SMALL, "n_partitions": 8}).partition(embeddings(vectors), run)
    (record,) = run.records
    sizes = np.array([np.bincount(row[row >= 0], minlength=8) for row in found.parts])
    assert record["survivors"] == pytest.approx(np.where(sizes >= 3, sizes, 0).sum(1).mean() / 400)
    assert 0.3 < record["survivors"] < 1
    assert record["draws"] >= 1
    assert record["projection_std"] == pytest.approx(projection_std(vectors))
    whole = Run()
    Hyperplanes(**{**SMALL, "margin": 0.0}).partition(embeddings(vectors), whole)
    assert whole.records[-1]["survivors"] == pytest.approx(1, abs=0.02)


def test_a_partition_does_not_depend_on_how_many_there_are():
    few = Hyperplanes(**{**SMALL, "n_partitions": 3}).partition(embeddings(cloud()), Run(4))
    many = Hyperplanes(**SMALL).partition(embeddings(cloud()), Run(4))
    np.testing.assert_array_equal(few.parts, many.parts[:3])
    assert len({row.tobytes() for row in many.parts}) > 15
    other = Hyperplanes(**SMALL).partition(embeddings(cloud()), Run(5))
    assert (many.parts != other.parts).any()
    assert many.parts.dtype == np.int8


def test_interrupted_partitioning_ends_with_the_same_bits(tmp_path):
    method, given = Hyperplanes(**SMALL), embeddings(cloud())
    whole = method.partition(given, Run(1))
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        method.partition(given, Run(1, checkpoints=tmp_path, stop=lambda: next(answers)))
    resumed = method.partition(given, Run(1, checkpoints=tmp_path))
    np.testing.assert_array_equal(resumed.parts, whole.parts)
    again = Partitions.from_arrays(*whole.to_arrays(), {})
    np.testing.assert_array_equal(again.parts, whole.parts)


def test_largest_margin_is_where_a_partition_is_just_accepted():
    apart = distances(torch.from_numpy(cloud(60, 3)), draw_planes(6, 3, 0.1, numpy_generator(1))).numpy()
    chosen = np.array([[0, 1], [2, 3], [4, 5]])
    for planes, limit in zip(chosen, largest_margins(apart, chosen, 2, 4), strict=True):

        def large(margin, planes=planes):
            kept = (np.abs(apart[planes]) >= margin).all(0)
            cell = (apart[planes] >= 0).T @ [1, 2]
            return (np.bincount(cell[kept], minlength=4) >= 4).sum()

        assert large(limit) >= 2 > large(np.nextafter(limit, np.float32(9), dtype=np.float32))
    assert (largest_margins(apart, chosen, 5, 4) == -np.inf).all()
    limits = _plane_limits(apart, 10)
    for row, limit in zip(apart, limits, strict=True):
        assert min((row >= limit).sum(), (row <= -limit).sum()) >= 10
        assert min((row > limit).sum(), (row < -limit).sum()) < 10


def told(error, options=SMALL, vectors=None, run=0):
    with pytest.raises(DataError) as caught:
        Hyperplanes(**options).partition(embeddings(cloud() if vectors is None else vectors), Run(run))
    assert str(caught.value).startswith(error), str(caught.value)
    return str(caught.value).removeprefix(error)


def test_too_wide_a_margin_is_told_with_one_that_works():
    options = {**SMALL, "margin": 0.8, "n_way": 8, "max_retries": 20}
    rest = told("hyperplanes: partition 0: found at most ", options)
    middle = " cells with at least 3 of 400 images in 21 draws of 3 planes; expected 8 (the vectors' projection std is 0.998; "
    assert rest[1:].startswith(middle)
    margin = float(rest.rpartition("type margin: ")[2].rstrip(")"))
    assert 0.05 < margin < 0.8
    run = Run()
    Hyperplanes(**{**options, "margin": margin}).partition(embeddings(cloud()), run)
    assert run.records[-1]["draws"] < 6
    absolute = {**options, "margin": 9.0, "margin_units": "absolute"}
    rest = told(
        "hyperplanes: found 0 planes in 40 draws with at least 30 of 400 images on either side of margin 9; ", absolute
    )
    assert rest.startswith("expected 40 (the vectors' projection std is 0.998; ")
    margin = float(rest.rpartition("type margin: ")[2].rstrip(")"))
    Hyperplanes(**{**absolute, "margin": margin}).partition(embeddings(cloud()), Run())


def test_vectors_far_from_the_planes_are_told():
    rest = told(
        "hyperplanes: found 0 planes in 40 draws with at least 30 of 400 images on either side of margin ",
        vectors=np.ones((400, 6), np.float32),
    )
    assert rest == (
        "0; expected 40 (the vectors' projection std is 0; no margin helps: whiten the vectors, or lower n_way or min_size)"
    )


def test_bad_vectors_are_refused():
    message = "hyperplanes: found 400 vectors; expected at least 600, 10 min_size on either side of a plane (lower min_size, now 30)"
    assert told(message, {**SMALL, "min_size": 30}) == ""
    assert (
        told("hyperplanes: found vectors (10, 2, 3); expected (n, e), one vector an image", vectors=np.ones((10, 2, 3)))
        == ""
    )
    vectors = cloud()
    vectors[7, 1] = np.inf
    message = (
        "hyperplanes: found NaN or infinity in 1 of 400 vectors, first in row 7; expected finite numbers "
        "(look at the embedder's learning curve)"
    )
    assert told(message, vectors=vectors) == ""
    with pytest.raises(
        ValueError, match=r"^candidates: found 2; expected at least 3, the planes of a partition for n_way 5$"
    ):
        Hyperplanes(n_way=5, candidates=2)
    with pytest.raises(ValueError, match=r"^margin, point_range: found inf, 0.8; expected finite numbers$"):
        Hyperplanes(margin=float("inf"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    given = embeddings(cloud(4000, 32))
    method = Hyperplanes(n_way=10, n_partitions=50, candidates=200)
    on_cpu = method.partition(given, Run(2)).parts
    on_gpu = method.partition(given, Run(2, "cuda")).parts
    # Planes and choices are the same numbers; only a vector within rounding of a margin may change sides.
    assert (on_cpu != on_gpu).mean() < 1e-4
