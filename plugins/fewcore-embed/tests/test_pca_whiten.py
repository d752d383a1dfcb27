"""PCA-whitening against scikit-learn's, what fewcore asks of post-processing, and statistics of the test rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, PostProcessing, Run, pipeline
from fewcore.plugins import load_registry
from fewcore.runner import Runner
from fewcore.session import Session
from fewcore.store import Store
from fewcore_embed.pca_whiten import PcaWhiten, PcaWhitened
from fewcore_embed.principal import CHUNK, principal

CPU = torch.device("cpu")


class Flat:
    """Pixels as vectors: an encoder to stand under the whitening."""

    dim = 12

    def embed(self, images, run):
        return images.images.reshape(len(images), -1).astype(np.float32)


def correlated(n=300, e=12, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, e)) @ rng.normal(size=(e, e)) + 7).astype(np.float32)


def embeddings(vectors):
    return Embeddings(vectors, np.arange(len(vectors)), Flat())


@pytest.mark.parametrize(("n", "e", "dim"), [(300, 12, 5), (300, 12, 12), (9, 30, 6), (CHUNK + 50, 4, 3)])
def test_it_is_scikit_learns_whitened_pca(n, e, dim):
    """Signs of directions are free; both n > e and n <= e, and more rows than one chunk."""
    vectors = correlated(n, e)
    expected = PCA(dim, whiten=True, svd_solver="full").fit_transform(vectors.astype(np.float64))
    found = PcaWhiten(dim=dim).fit(embeddings(vectors), Run()).transform(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=2e-3)


def test_unit_length_divides_by_the_length_after_whitening():
    vectors = correlated()
    white = PcaWhiten(dim=5).fit(embeddings(vectors), Run()).transform(vectors)
    unit = PcaWhiten(dim=5, unit_length=True).fit(embeddings(vectors), Run()).transform(vectors)
    for one, expected in zip(unit, white, strict=True):
        np.testing.assert_allclose(one, expected / np.sqrt((expected**2).sum()), rtol=1e-5, atol=1e-6)


def test_the_sign_of_a_direction_is_fixed():
    axes = principal(correlated(), 12, CPU, "x")
    largest = np.abs(axes.matrix).argmax(0)
    assert (axes.matrix[largest, np.arange(12)] > 0).all()


def test_directions_without_spread_are_left_out():
    vectors = correlated()
    vectors[:, 3], vectors[:, 5] = vectors[:, 4], 2.5
    assert PcaWhiten().fit(embeddings(vectors), Run()).dim == 10
    few = PcaWhiten().fit(embeddings(correlated(6)), Run())
    assert few.dim == 5
    assert np.isfinite(few.transform(correlated(20, seed=1))).all()


def test_it_is_post_processing_and_survives_saving():
    pixels = np.random.default_rng(0).random((40, 3, 2, 2)).astype(np.float32)
    images = ImageSet(pixels, np.arange(40), np.arange(40), ImageSpec((2, 2), 3, (0, 1)))
    vectors = Flat().embed(images, Run())
    before = vectors.copy()
    encoder = PcaWhiten(dim=4, unit_length=True).fit(embeddings(vectors), Run())
    np.testing.assert_array_equal(vectors, before)
    assert isinstance(encoder, PostProcessing)
    assert isinstance(encoder.base, Flat)
    assert encoder.dim == 4
    arrays, meta = encoder.to_arrays()
    again = PcaWhitened.from_arrays(arrays, meta, {"embeddings": embeddings(vectors)})
    np.testing.assert_array_equal(again.embed(images, Run()), encoder.embed(images, Run()))
    np.testing.assert_array_equal(encoder.embed(images, Run()), encoder.transform(vectors))


def test_errors_say_what_to_do():
    with pytest.raises(DataError, match=r"^pca-whiten: found 1 vectors; expected at least two$"):
        PcaWhiten().fit(embeddings(correlated(1)), Run())
    with pytest.raises(
        DataError, match=r"^pca-whiten: found vectors \(4, 2, 3\); expected \(n, e\), one vector an image$"
    ):
        PcaWhiten().fit(embeddings(np.zeros((4, 2, 3), np.float32)), Run())
    for shape in ((4, 3), (3, 4)):
        with pytest.raises(DataError, match=r"^pca-whiten: found equal vectors throughout; expected some spread$"):
            PcaWhiten().fit(embeddings(np.full(shape, 0.1, np.float32)), Run())
    broken = correlated(20)
    broken[2, 2] = np.nan
    with pytest.raises(DataError, match=r"^pca-whiten: found NaN or infinity in the vectors; expected finite numbers"):
        PcaWhiten().fit(embeddings(broken), Run())


TEXT = """fewcore: 1
name: whole-test-split
stages:
  data:   {dataset: digits}
  tune:   {task_sampler: episodes, split: validation, n_way: 5, n_shot: 1, n_tasks: 5}
  test:   {task_sampler: episodes, split: test, n_way: 5, n_shot: 1, n_tasks: 20}
  pixels: {embedder: pixels}
  white:  {embedder: EMBEDDER, split: test, from: pixels}
  honest: {embedder: EMBEDDER, from: pixels}
  knn:    {meta_learner: knn, from: {embeddings: white, validation_tasks: tune}}
  knn-honest: {meta_learner: knn, from: {embeddings: honest, validation_tasks: tune}}
  score:  {evaluator: few-shot}
"""


@pytest.mark.parametrize("embedder", ["pca-whiten, dim: 8, unit_length: true", "whiten"])
def test_statistics_of_the_whole_test_split_are_marked_transductive(tmp_path, embedder):
    """What the paper's baselines on DeepCluster features do: the report says so, of these rows and of no others."""
    path = tmp_path / "p.yaml"
    path.write_text(TEXT.replace("EMBEDDER", embedder))
    read = pipeline.load(path, load_registry())
    session = Session(Store(tmp_path / "store"), CPU)
    result = Runner(read, session).run()
    assert not result.failures
    seen = {row.stage: row.seen for report in result.reports.values() for row in report.rows}
    assert "transductive: white" in seen["knn"]
    assert "transductive" not in seen["knn-honest"]

    ((cell, stages),) = read.cells
    nodes = session.plan(cell, stages)
    pixels, rows = session.vectors(nodes["pixels"], nodes["data"]), session.table(nodes["data"]).rows
    for name, split in (("white", "test"), ("honest", "train")):
        vectors = session.vectors(nodes[name], nodes["data"])
        component = nodes[name].stage.component
        alone = component.fit(Embeddings(np.array(pixels[rows[split]]), rows[split], Flat()), Run())
        np.testing.assert_allclose(vectors, alone.transform(np.array(pixels)), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
@pytest.mark.parametrize(("n", "e"), [(300, 12), (9, 30)])
def test_cuda_agrees_with_the_cpu(n, e):
    vectors = correlated(n, e)
    on_cpu = PcaWhiten(dim=6).fit(embeddings(vectors), Run()).transform(vectors)
    on_gpu = PcaWhiten(dim=6).fit(embeddings(vectors), Run(0, "cuda")).transform(vectors)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)
