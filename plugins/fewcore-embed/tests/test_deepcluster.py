"""DeepCluster as a whole: one epoch against its transcription, the choice of an epoch, resuming, saving, volumes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import matplotlib.figure
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewcore import DataError, Encoder, ImageSet, ImageSpec, Interrupted, NumericalError, Run
from fewcore_embed import deepcluster as module
from fewcore_embed.deepcluster import DeepCluster
from fewcore_embed.deepcluster_encoder import DeepClusterEncoder, build_network
from fewcore_embed.pseudo_labels import even_draws

PLAIN = {"crop_scale": (1.0, 1.0), "crop_ratio": 1.0, "flip": False}
TOY = {"n_clusters": 4, "epochs": 3, "batch_size": 24, "pca_dim": 5, "learning_rate": 0.02, "head_learning_rate": 0.1}


@dataclass(frozen=True)
class Small:
    """A convolution and a layer of units; it ends in a ReLU, and may have dropout."""

    width: int = 6
    dropout: float = 0.0

    def build(self, shape, n_outputs, generator):
        kind = nn.Conv2d if len(shape) == 3 else nn.Conv3d
        norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm3d
        pool = nn.AdaptiveAvgPool2d(2) if len(shape) == 3 else nn.AdaptiveAvgPool3d(2)
        with torch.random.fork_rng(devices=[]):
            units = self.width * 2 ** (len(shape) - 1)
            layers = [kind(shape[0], self.width, 3, padding=1), norm(self.width), nn.ReLU(), pool, nn.Flatten()]
            layers += [nn.Dropout(self.dropout), nn.Linear(units, 8), nn.ReLU(inplace=True)]
        for layer in layers:
            if hasattr(layer, "weight") and layer.weight.dim() > 1:
                nn.init.normal_(layer.weight, std=0.3, generator=generator)
                nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)


def image_set(n=72, shape=(1, 8, 8), k=4, seed=0):
    """Pictures of k patterns with noise, of which the first half of the patterns are brighter."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).random((k, *shape))
    pixels = 0.7 * patterns[np.arange(n) % k] + 0.3 * rng.random((n, *shape))
    spec = ImageSpec(shape[1:], shape[0], (0, 255))
    return ImageSet((255 * pixels).astype(np.uint8), np.arange(n), np.arange(n), spec, source=f"set {seed}")


def fit(images=None, backbone=None, run=None, **options):
    return DeepCluster(**{**TOY, **options}).fit(
        image_set() if images is None else images, backbone or Small(), run or Run(0)
    )


def test_an_epoch_is_its_transcription():
    """With whole images and one epoch, every step is computed again from the paper, with the same draws."""
    images, options = image_set(60), DeepCluster(**{**TOY, **PLAIN, "epochs": 1})
    found = options.fit(images, Small(), Run(4))

    run = Run(4)
    network = build_network(images.shape, Small(), run.generator, sobel=False)
    x = torch.from_numpy(images.images).float() / 255
    network.front.mean.fill_(float(x.double().mean()))
    network.front.std.fill_(float(x.double().std(unbiased=False)))
    seed = int(run.rng.integers(2**62))

    def clustered(epoch):
        network.eval()
        body = nn.Sequential(*list(network.body)[:-1])
        with torch.no_grad():
            features = body(network.front(x)).numpy()
        rng = module.numpy_generator(module.child_seed(seed, "clusters", epoch))
        return module.cluster_features(features, 4, 5, 20, 1, rng, torch.device("cpu"))[0].labels

    labels = clustered(0)
    rows = even_draws(labels, module.numpy_generator(module.child_seed(seed, "order", 0)))
    weight = (0.01 * torch.randn(4, 8, generator=run.generator)).requires_grad_()
    bias = torch.zeros(4, requires_grad=True)
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    network.train()
    for batch in np.array_split(rows, 3):
        # the draws for crops, mirror images and dropout, of which nothing is left here
        for size in ((len(batch), 1), (len(batch),), (len(batch), 2), (len(batch),)):
            torch.rand(*size, generator=run.generator)
        torch.randint(2**62, (1,), generator=run.generator)
        loss = F.cross_entropy(network(x[batch]) @ weight.T + bias, torch.from_numpy(labels[batch]))
        network.zero_grad()
        weight.grad = bias.grad = None
        loss.backward()
        with torch.no_grad():
            for name, p in network.named_parameters():
                velocity[name].mul_(0.9).add_(p.grad + 1e-5 * p)
                p -= 0.02 * velocity[name]
            for p in (weight, bias):
                p -= 0.1 * (p.grad + 1e-5 * p)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.assign(found.embed(images, Run())), clustered(1))


def test_vectors_are_what_enters_the_last_relu_or_what_leaves_it():
    images = image_set()
    before, after = fit(images, epochs=1), fit(images, epochs=1, relu=True)
    assert isinstance(before, Encoder)
    assert before.left_out == "body.7"
    assert before.embed(images, Run()).min() < 0
    assert after.embed(images, Run()).min() == 0
    x = torch.from_numpy(images.images).float() / 255
    with torch.no_grad():
        passed = before.network.eval()(x).numpy()
    np.testing.assert_allclose(before.embed(images, Run()).clip(min=0), passed, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"choose": "nmi", "patience": 1}, {"choose": "silhouette"}])
def test_assign_gives_the_clusters_of_the_epoch_that_was_kept(options):
    images = image_set()
    found = fit(images, epochs=6, **options)
    np.testing.assert_array_equal(found.assign(found.embed(images, Run())), found.clusters.labels)
    again = DeepClusterEncoder.from_arrays(*found.to_arrays(), {"backbone": Small()})
    np.testing.assert_array_equal(again.embed(images, Run()), found.embed(images, Run()))
    np.testing.assert_array_equal(again.assign(found.embed(images, Run())), found.clusters.labels)
    with torch.no_grad():
        x = torch.from_numpy(images.images).float() / 255
        torch.testing.assert_close(again.network(x), found.network.eval()(x))


def test_it_finds_the_patterns_of_the_images():
    from sklearn.metrics import normalized_mutual_info_score

    images, run = image_set(144), Run(0)
    found = fit(images, run=run, epochs=8)
    assert normalized_mutual_info_score(np.arange(144) % 4, found.assign(found.embed(images, run))) > 0.8
    assert {"loss", "accuracy", "nmi", "smallest_cluster"} <= {key for record in run.records for key in record}
    assert 0 <= run.records[-1]["nmi"] <= 1


def test_the_largest_silhouette_among_sound_epochs_is_kept(monkeypatch):
    """The silhouette is written down for each epoch: the untrained one and those with small clusters are passed over."""
    values = iter([0.2, 0.9, 0.5, 0.1])
    seen, real, number = [], module.cluster_features, iter(range(10))

    def watched(features, *rest):
        clusters, points = real(features, *rest)
        if next(number) == 2:  # one outlier against the rest
            labels = np.zeros_like(clusters.labels)
            labels[:3] = 1, 2, 3
            clusters = module.Clusters(clusters.axes, clusters.centres, labels)
        seen.append((clusters, features.copy()))
        return clusters, points

    monkeypatch.setattr(module, "cluster_features", watched)
    monkeypatch.setattr(module, "silhouette", lambda *_: next(values))
    images, run = image_set(), Run(0)
    found = fit(images, run=run, choose="silhouette", epochs=4)
    assert len(seen) == 5
    clusters, features = seen[3]
    np.testing.assert_array_equal(found.clusters.labels, clusters.labels)
    np.testing.assert_allclose(found.embed(images, run), features, atol=1e-5)


def test_silhouette_without_a_sound_epoch_is_an_error():
    message = (
        r"^deepcluster: found no epoch in which all 4 clusters have 18 of 74 images \(the smallest had \d+ at most\); "
        r"expected one to choose by silhouette \(lower n_clusters, min_share or min_size, raise n_init, or set choose: last\)$"
    )
    # Of three patterns four clusters make one of two halves.
    with pytest.raises(DataError, match=message):
        fit(image_set(74, k=3), choose="silhouette", min_size=18)


def test_nmi_stops_when_it_levels_off_and_keeps_that_epoch(monkeypatch):
    values = iter([0.3, 0.6, 0.7, 0.7, 0.69, 0.95, 0.95])
    monkeypatch.setattr("sklearn.metrics.normalized_mutual_info_score", lambda *_: next(values))
    count, real = [], module.cluster_features
    monkeypatch.setattr(module, "cluster_features", lambda *given: count.append(1) or real(*given))
    images = image_set()
    stopped = fit(images, choose="nmi", patience=2, epochs=7)
    assert len(count) == 6  # the first, and five that have one before them
    values = iter([0.0] * 9)
    whole = fit(images, epochs=5)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(stopped.network.state_dict()[name], value), name


@pytest.mark.parametrize("options", [{}, {"choose": "silhouette", "n_init": 2}, {"choose": "nmi", "patience": 1}])
def test_a_training_that_is_stopped_after_any_step_ends_the_same(tmp_path, options):
    """Three steps an epoch: stops fall on clusterings, between them, and on the last one. Dropout is drawn too."""
    images, backbone = image_set(), Small(dropout=0.5)
    whole = fit(images, backbone, Run(1), **options)
    stops, found = 0, None
    while found is None:
        steps = iter(range(stops % 2))
        stop = lambda steps=steps: next(steps, None) is None  # noqa: E731
        try:
            run = Run(1, checkpoints=tmp_path, checkpoint_every=0.0, stop=stop)
            found = fit(images, backbone, run, **options)
        except Interrupted:
            stops += 1
            assert stops < 20
    assert stops > 4
    first, second = whole.to_arrays(), found.to_arrays()
    assert first[1] == second[1]
    for name, values in first[0].items():
        np.testing.assert_array_equal(second[0][name], values, err_msg=name)


def test_the_report_shows_the_epoch_that_was_kept():
    run = Run(0)
    found = fit(run=run, choose="silhouette", epochs=4)
    logged = [record["silhouette"] for record in run.records if "silhouette" in record]
    np.testing.assert_allclose(found.course.silhouette, logged, rtol=1e-6)
    best = np.where(found.course.eligible, found.course.silhouette, -np.inf)
    assert found.course.chosen == best.argmax() + 1
    arrays, meta = found.to_arrays()
    again = module.DeepClusterEncoder.from_arrays(arrays, meta, {"backbone": Small()})
    axes = matplotlib.figure.Figure().add_subplot()
    assert f"the dot is epoch {found.course.chosen}, which was kept" in again.draw(axes)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), logged, rtol=1e-6)
    assert axes.lines[2].get_xdata().tolist() == [found.course.chosen]
    plain = fit(epochs=3).course
    assert (len(plain.silhouette), len(plain.nmi), plain.chosen) == (0, 3, 3)
    assert plain.draw(matplotlib.figure.Figure().add_subplot()).startswith("Normalised mutual information")


def test_volumes_are_clustered_with_a_network_of_their_own():
    images, run = image_set(40, (1, 6, 8, 8)), Run(0)
    found = fit(images, run=run, choose="silhouette", n_clusters=3, pca_dim=None, batch_size=8)
    assert found.embed(images, run).shape == (40, 8)
    assert np.bincount(found.assign(found.embed(images, run)), minlength=3).min() >= 2


def test_networks_without_a_last_relu_give_their_features():
    class Linear:
        def build(self, shape, n_outputs, generator):
            linear = nn.utils.skip_init(nn.Linear, 64, 8)
            nn.init.normal_(linear.weight, std=0.2, generator=generator)
            nn.init.zeros_(linear.bias)
            return nn.Sequential(nn.Flatten(), linear)

    assert fit(backbone=Linear()).left_out == ""


def test_images_and_global_state_are_left_as_they_were():
    images, state = image_set(), torch.get_rng_state()
    before = copy.deepcopy(images.images)
    fit(images, Small(dropout=0.5), sobel=True)
    np.testing.assert_array_equal(images.images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_errors_say_what_to_do():
    message = (
        r"^deepcluster: found 3 images for 4 clusters; expected at least as many images as clusters, and 4 "
        r"\(lower n_clusters\)$"
    )
    with pytest.raises(DataError, match=message):
        fit(image_set(3))
    message = r"^deepcluster: found 24 images for 4 clusters of at least 7; expected 28 at least \(lower min_size or n_clusters\)$"
    with pytest.raises(DataError, match=message):
        fit(image_set(24), choose="silhouette", min_size=7)
    flat = image_set()
    flat.images[:] = 7
    with pytest.raises(
        DataError, match=r"^deepcluster \(features\): found equal vectors throughout; expected some spread"
    ):
        fit(flat)
    with pytest.raises(DataError, match=r"^deepcluster: found all images in one cluster; expected at least two"):
        fit(flat, pca_dim=None, n_clusters=2)
    nan = ImageSet(np.full((8, 1, 4, 4), np.nan, np.float32), np.arange(8), np.arange(8), ImageSpec((4, 4), 1, (0, 1)))
    with pytest.raises(DataError, match=r"^deepcluster: found NaN or infinity in the images; expected finite numbers$"):
        fit(nan)
    with pytest.raises(NumericalError):
        fit(learning_rate=1e30, **PLAIN)
    encoder = fit(epochs=1)
    message = r"^deepcluster: found images \(1, 9, 9\); expected \(1, 8, 8\), as in training \(prepare both in the same way\)$"
    with pytest.raises(DataError, match=message):
        encoder.embed(image_set(4, (1, 9, 9)), Run())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_scale": (0.5, 0.2)}, r"^crop_scale: found 0.5 to 0.2; expected 0 < lowest <= highest <= 1$"),
        ({"crop_scale": (0.0, 0.2)}, r"^crop_scale: found 0 to 0.2; expected 0 < lowest <= highest <= 1$"),
        (
            {"choose": "silhouette", "n_clusters": 25},
            r"^min_share: found 0.05 for 25 clusters; expected at most 0.04, since all of them must have it$",
        ),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeepCluster(**options)


def test_defaults_are_the_papers():
    options = DeepCluster()
    assert (options.epochs, options.batch_size, options.pca_dim, options.kmeans_iterations) == (200, 256, 256, 20)
    assert (options.learning_rate, options.momentum, options.weight_decay) == (0.05, 0.9, 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
@pytest.mark.parametrize("sobel", [False, True])
def test_cuda_agrees_with_the_cpu(sobel):
    """One epoch: later ones may cluster otherwise where features differ in their last digits."""
    images = image_set(144)
    on_cpu = fit(images, epochs=1, sobel=sobel).embed(images, Run(0))
    run = Run(0, "cuda")
    found = fit(images, run=run, epochs=1, sobel=sobel)
    np.testing.assert_allclose(found.embed(images, run), on_cpu, rtol=2e-2, atol=2e-2)
    assert np.bincount(found.assign(found.embed(images, run)), minlength=4).sum() == 144
