"""k-means against a slow Lloyd and scikit-learn, and the rules by which partitions are drawn and accepted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Peer

from fewcore import DataError, Embeddings, Interrupted, Partitions, Run, numpy_generator
from fewcore_cluster.kmeans import KMeans
from fewcore_cluster.lloyd import _nearest, _refill, _seeds, _split, cluster


def blobs(n=200, d=4, k=5, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * 4
    return (centres[np.arange(n) % k] + rng.normal(size=(n, d)) * spread).astype(np.float32)


def embeddings(vectors):
    return Embeddings(vectors, np.arange(len(vectors)), encoder=None)


def slow_step(vectors, labels, k):
    """One iteration of Lloyd's algorithm, literally."""
    centres = [vectors[labels == j].astype(np.float64).mean(0) for j in range(k)]
    nearest = [int(np.argmin([((x - c) ** 2).sum() for c in centres])) for x in vectors]
    return np.array(centres), np.array(nearest)


def slow_inertia(vectors, labels):
    return sum(((vectors[labels == j] - vectors[labels == j].mean(0)) ** 2).sum() for j in np.unique(labels))


@pytest.mark.parametrize("seed", range(4))
def test_the_end_is_a_fixed_point_of_lloyds_algorithm(seed):
    vectors = np.random.default_rng(seed).normal(size=(150, 3)).astype(np.float32)
    found = cluster(torch.from_numpy(vectors), 7, numpy_generator(seed), 300)
    centres, labels = slow_step(vectors, found.labels, 7)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.centres, centres, atol=1e-5)
    assert found.inertia == pytest.approx(slow_inertia(vectors, found.labels), rel=1e-5)


def test_inertia_is_no_higher_than_that_of_scikit_learn():
    ours, peers = [], []
    for seed in range(6):
        vectors = np.random.default_rng(seed).normal(size=(400, 5)).astype(np.float32)
        ours.append(cluster(torch.from_numpy(vectors), 20, numpy_generator(seed), 300).inertia)
        peers.append(Peer(20, n_init=1, random_state=seed).fit(vectors).inertia_)
    assert np.mean(ours) <= np.mean(peers)


def test_distinct_groups_are_found_whatever_the_seed():
    vectors = blobs()
    for seed in range(8):
        labels = cluster(torch.from_numpy(vectors), 5, numpy_generator(seed), 300).labels
        assert len(np.unique(labels)) == 5
        assert all(len(np.unique(labels[np.arange(200) % 5 == g])) == 1 for g in range(5))


def test_one_cluster_is_the_mean_and_as_many_as_rows_cost_nothing():
    vectors = blobs(30)
    found = cluster(torch.from_numpy(vectors), 1, numpy_generator(0), 10)
    np.testing.assert_allclose(found.centres[0], vectors.mean(0), atol=1e-5)
    assert cluster(torch.from_numpy(vectors), 30, numpy_generator(0), 50).inertia == pytest.approx(0, abs=1e-3)


def test_nearest_gives_both_nearest_centres():
    rng = np.random.default_rng(0)
    vectors, centres = rng.normal(size=(700, 6)).astype(np.float32), rng.normal(size=(9, 6)).astype(np.float32)
    near = _nearest(torch.from_numpy(vectors), torch.from_numpy((vectors**2).sum(1)), torch.from_numpy(centres))
    table = ((vectors[:, None] - centres) ** 2).sum(2)
    order = np.argsort(table, 1)
    np.testing.assert_array_equal(near.first.numpy(), order[:, 0])
    np.testing.assert_array_equal(near.second.numpy(), order[:, 1])
    np.testing.assert_allclose(near.second_square.numpy(), np.sort(table, 1)[:, 1], rtol=1e-3, atol=1e-4)


def test_a_split_lowers_the_inertia_by_what_it_says():
    vectors = torch.from_numpy(np.concatenate([blobs(40, k=2), blobs(40, k=2, seed=9) + 50]))
    labels = torch.arange(80) // 40
    centres = torch.stack([vectors[labels == j].mean(0) for j in range(2)])
    squares = (vectors - centres[labels]).square().sum(1)
    chosen, gain, halves = _split(vectors, labels, centres, squares)
    part = vectors[labels == int(chosen[0])]
    before = ((part - part.mean(0)) ** 2).sum()
    after = torch.cdist(part, halves[0]).min(1).values.square().sum()
    assert gain[0].item() == pytest.approx((before - after).item(), rel=1e-3)


def test_seeds_are_rows_far_apart():
    vectors = torch.from_numpy(blobs(400, k=10, spread=0.01))
    seeds = _seeds(vectors, vectors.square().sum(1), 10, numpy_generator(0))
    assert len(np.unique((torch.cdist(seeds, vectors).argmin(1) % 10).numpy())) == 10


def test_equal_rows_leave_no_error_and_empty_clusters_are_seeded_anew():
    found = cluster(torch.ones(12, 3), 4, numpy_generator(0), 5)
    assert found.inertia == 0
    vectors = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    centres = _refill(vectors, torch.zeros(4, dtype=torch.long), torch.tensor([[1.0], [50.0]]))
    assert centres.tolist() == [[1.0], [9.0]]


LOOSE = {"n_clusters": 5, "min_size": 1, "share": 0.5}


def test_first_partition_is_unscaled_and_others_follow_the_scaling_law(monkeypatch):
    import fewcore_cluster.kmeans as module

    seen = []
    real = module.cluster

    def spy(rows, *rest):
        seen.append(rows.numpy().copy())
        return real(rows, *rest)

    monkeypatch.setattr(module, "cluster", spy)
    vectors = np.abs(blobs(60, d=400)) + 1
    KMeans(n_partitions=3, **LOOSE).partition(embeddings(vectors), Run(0))
    np.testing.assert_array_equal(seen[0], vectors)
    for rows in seen[1:]:
        weights = rows / vectors
        np.testing.assert_allclose(weights, np.tile(weights[0], (60, 1)), rtol=1e-5)
        assert weights.min() >= 0
        assert weights.max() <= 1
        # U(0, 1): mean 1/2 with a standard error of 1 / sqrt(12 * 400); five of them are allowed.
        assert abs(weights[0].mean() - 0.5) < 5 / np.sqrt(12 * 400)
        assert abs(weights[0].var() - 1 / 12) < 0.02
    seen.clear()
    KMeans(n_partitions=2, scaling=False, **LOOSE).partition(embeddings(vectors), Run(0))
    np.testing.assert_array_equal(seen[0], seen[1])


def test_a_partition_does_not_depend_on_how_many_there_are():
    vectors = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    few = KMeans(n_partitions=2, **LOOSE).partition(embeddings(vectors), Run(4))
    many = KMeans(n_partitions=4, **LOOSE).partition(embeddings(vectors), Run(4))
    np.testing.assert_array_equal(few.parts, many.parts[:2])
    assert (many.parts[1] != many.parts[2]).any()
    other = KMeans(n_partitions=2, **LOOSE).partition(embeddings(vectors), Run(5))
    assert (few.parts != other.parts).any()
    assert few.parts.dtype == np.int8


def test_threads_change_no_partition_and_are_as_many_afterwards_as_before():
    vectors = np.random.default_rng(0).normal(size=(3_000, 32)).astype(np.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(
                KMeans(n_clusters=40, n_partitions=5, min_size=1, share=0.5).partition(embeddings(vectors), Run(2))
            )
            with pytest.raises(DataError, match="partition 0"):
                KMeans(n_clusters=40, n_partitions=5, min_size=500, max_retries=0).partition(
                    embeddings(vectors), Run(2)
                )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].parts, found[1].parts)


def test_interrupted_partitioning_ends_with_the_same_bits(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    method = KMeans(n_partitions=4, **LOOSE)
    whole = method.partition(embeddings(vectors), Run(1))
    answers = iter([False, True])
    with pytest.raises(Interrupted):
        method.partition(embeddings(vectors), Run(1, checkpoints=tmp_path, stop=lambda: next(answers)))
    resumed = method.partition(embeddings(vectors), Run(1, checkpoints=tmp_path))
    np.testing.assert_array_equal(resumed.parts, whole.parts)


def test_partitions_survive_saving_and_inputs_are_left_alone():
    vectors = blobs()
    before = vectors.copy()
    state = torch.get_rng_state()
    found = KMeans(n_partitions=2, **LOOSE).partition(embeddings(vectors), Run(0))
    np.testing.assert_array_equal(vectors, before)
    assert torch.equal(torch.get_rng_state(), state)
    again = Partitions.from_arrays(*found.to_arrays(), {})
    np.testing.assert_array_equal(again.parts, found.parts)
    assert found.parts.shape == (2, 200)


def test_n_init_takes_the_tightest():
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)

    def inertia(n_init):
        parts = KMeans(n_clusters=25, min_size=1, share=0.5, n_init=n_init).partition(embeddings(vectors), Run(0)).parts
        return slow_inertia(vectors, parts[0])

    assert inertia(6) <= inertia(1)


def test_a_clustering_with_too_few_large_clusters_is_drawn_again(monkeypatch):
    import fewcore_cluster.kmeans as module

    tries = []
    real = module.cluster

    def twice_bad(rows, k, rng, max_iter):
        found = real(rows, k, rng, max_iter)
        tries.append(found)
        if len(tries) < 3:
            found.labels[:] = 0
        return found

    monkeypatch.setattr(module, "cluster", twice_bad)
    vectors = blobs()
    found = KMeans(n_clusters=5, min_size=20).partition(embeddings(vectors), Run(0))
    assert len(tries) == 3
    assert (np.bincount(found.parts[0]) == 40).all()


def test_share_is_exceeded_strictly():
    vectors = blobs()
    with pytest.raises(DataError, match=r"at most 100.0% of 5 clusters .* expected more than 100%"):
        KMeans(n_clusters=5, min_size=20, share=1.0, max_retries=0).partition(embeddings(vectors), Run(0))


def test_errors_say_what_to_do():
    vectors = blobs(40)
    message = (
        r"^kmeans: partition 0: found at most 0.0% of 5 clusters with at least 16 of 40 images in 3 clusterings; "
        r"expected more than 80% \(lower min_size, share or n_clusters, or cluster vectors that are not whitened\)$"
    )
    with pytest.raises(DataError, match=message):
        KMeans(n_clusters=5, max_retries=2).partition(embeddings(vectors), Run(0))
    message = (
        r"^kmeans: found 40 vectors for 500 clusters; expected at least as many vectors as clusters "
        r"\(lower n_clusters\)$"
    )
    with pytest.raises(DataError, match=message):
        KMeans().partition(embeddings(vectors), Run(0))
    with pytest.raises(
        DataError, match=r"^kmeans: found vectors \(40, 2, 2\); expected \(n, e\), one vector an image$"
    ):
        KMeans().partition(embeddings(vectors.reshape(40, 2, 2)), Run(0))
    vectors[3, 1] = np.nan
    message = (
        r"^kmeans: found NaN or infinity in 1 of 40 vectors, first in row 3; expected finite numbers "
        r"\(look at the embedder's learning curve\)$"
    )
    with pytest.raises(DataError, match=message):
        KMeans(n_clusters=5).partition(embeddings(vectors), Run(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    vectors = blobs(2000, k=10)
    on_cpu = cluster(torch.from_numpy(vectors), 10, numpy_generator(0), 300)
    on_gpu = cluster(torch.from_numpy(vectors).cuda(), 10, numpy_generator(0), 300)
    assert on_gpu.inertia == pytest.approx(on_cpu.inertia, rel=1e-4)
