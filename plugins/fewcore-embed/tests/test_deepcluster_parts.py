"""The parts of DeepCluster against slow transcriptions: front end, crops, k-means, even draws, the last ReLU."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.cluster import KMeans
from torch import nn

from fewcore import DataError, Gather, ImageSet, ImageSpec, torch_generator
from fewcore_embed.crops import crop_boxes, cut_out, random_crops
from fewcore_embed.deepcluster import levels_off, piece, seeded, silhouette, standardise
from fewcore_embed.deepcluster_encoder import last_relu, without
from fewcore_embed.pseudo_labels import Clusters, cluster_features, even_draws, lloyd, nearest, without_gaps
from fewcore_embed.sobel import FrontEnd

CPU = torch.device("cpu")


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def image_set(values):
    n = len(values)
    spec = ImageSpec(values.shape[2:], values.shape[1], (0, 1))
    return ImageSet(values, np.arange(n), np.arange(n), spec)


# ---- front end


def slow_sobel(picture):
    """Two maps (2, h, w) of one picture (h, w), pixel by pixel: right less left and bottom less top, turned about."""
    height, width = picture.shape
    padded = np.pad(picture, 1)
    maps = np.zeros((2, height, width))
    for i in range(height):
        for j in range(width):
            around = padded[i : i + 3, j : j + 3]
            left, right = (around[0, c] + 2 * around[1, c] + around[2, c] for c in (0, 2))
            top, bottom = (around[r, 0] + 2 * around[r, 1] + around[r, 2] for r in (0, 2))
            maps[:, i, j] = left - right, top - bottom
    return maps


def test_sobel_is_its_transcription_and_scipys():
    x = pixels(3, 3, 6, 7)
    front = FrontEnd((3, 6, 7), sobel=True)
    found = front(torch.from_numpy(x)).numpy()
    assert found.shape == (3, 2, 6, 7) == (3, *front.shape)
    for image, maps in zip(x, found, strict=True):
        grey = image.astype(np.float64).mean(0)
        np.testing.assert_allclose(maps, slow_sobel(grey), atol=1e-5)
        np.testing.assert_allclose(maps[0], -ndimage.sobel(grey, 1, mode="constant"), atol=1e-5)
        np.testing.assert_allclose(maps[1], -ndimage.sobel(grey, 0, mode="constant"), atol=1e-5)


def test_the_front_end_standardises_by_the_training_images():
    x = pixels(20, 2, 5, 6) * np.array([1, 40], np.float32)[:, None, None] + 3
    front = FrontEnd((2, 5, 6), sobel=False)
    standardise(front, Gather(image_set(x), CPU), 20, 7)
    by_channel = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(front.mean.flatten(), by_channel.mean(1), rtol=1e-5)
    np.testing.assert_allclose(front.std.flatten(), by_channel.std(1), rtol=1e-5)
    out = front(torch.from_numpy(x)).transpose(0, 1).flatten(1)
    np.testing.assert_allclose(out.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(out.std(1, unbiased=False), 1, atol=1e-4)
    assert not list(front.parameters())


def test_a_channel_without_spread_is_only_centred():
    x = pixels(4, 2, 3, 3)
    x[:, 1] = 0.3
    front = FrontEnd((2, 3, 3), sobel=False)
    standardise(front, Gather(image_set(x), CPU), 4, 4)
    np.testing.assert_allclose(front(torch.from_numpy(x))[:, 1], 0, atol=1e-6)


def test_volumes_are_standardised_and_have_no_sobel():
    front = FrontEnd((1, 4, 5, 6), sobel=False)
    x = pixels(3, 1, 4, 5, 6)
    standardise(front, Gather(image_set(x), CPU), 3, 2)
    assert abs(float(front(torch.from_numpy(x)).mean())) < 1e-5
    message = (
        r"^deepcluster: sobel: found images \(1, 4, 5, 6\); expected \(c, h, w\) \(set sobel: false for volumes\)$"
    )
    with pytest.raises(DataError, match=message):
        FrontEnd((1, 4, 5, 6), sobel=True)


# ---- crops


@pytest.mark.parametrize("shape", [(2, 1, 12, 20), (2, 1, 8, 12, 10)])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_crop_reads_the_image_where_its_box_lies(shape, mirror):
    """On an image whose value is its own position along an axis, linear reading is exact: the crop's value is known."""
    sides = torch.tensor([[0.5, 0.75], [0.3, 0.6]])
    centres = torch.tensor([[0.3, 0.6], [0.7, 0.35]])
    n_dims = len(shape) - 2
    if n_dims == 3:
        sides, centres = (torch.cat([torch.full((2, 1), 0.5), t], 1) for t in (sides, centres))
    mirrored = torch.tensor([mirror, False])
    for axis in range(n_dims):
        size = shape[2 + axis]
        ramp = np.moveaxis(
            np.broadcast_to(np.arange(size, dtype=np.float32), (*np.delete(shape, 2 + axis), size)), -1, 2 + axis
        )
        found = cut_out(torch.from_numpy(ramp.copy()), sides, centres, mirrored).numpy()
        assert found.shape == shape
        for i in range(2):
            side, centre = float(sides[i, axis]), float(centres[i, axis])
            places = [(centre - side / 2 + side * (j + 0.5) / size) * size - 0.5 for j in range(size)]
            if mirrored[i] and axis == n_dims - 1:
                places.reverse()
            expected = np.clip(places, 0, size - 1)
            line = np.moveaxis(found[i, 0], axis, -1)
            np.testing.assert_allclose(line, np.broadcast_to(expected, line.shape), atol=1e-3)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_boxes_lie_inside_and_have_the_shares_and_ratios_asked_for(n_dims):
    sides, centres = crop_boxes(4000, n_dims, (0.2, 0.5), 4 / 3, torch_generator(0))
    assert bool((centres - sides / 2 >= -1e-6).all())
    assert bool((centres + sides / 2 <= 1 + 1e-6).all())
    share, ratio = sides.prod(1), sides[:, -1] / sides[:, -2]
    assert 0.2 - 1e-5 <= float(share.min()) < 0.21
    assert 0.49 < float(share.max()) <= 0.5 + 1e-5
    assert float(share.mean()) == pytest.approx(0.35, abs=0.01)
    assert float(ratio.max()) == pytest.approx(4 / 3, rel=0.01)
    assert float(ratio.min()) == pytest.approx(3 / 4, rel=0.01)
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.01)


def test_half_of_the_images_are_mirrored_and_none_without_flip():
    x = torch.from_numpy(pixels(400, 1, 4, 4))
    whole = random_crops(x, (1, 1), 1.0, True, torch_generator(0))
    same = torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, x, strict=True)])
    turned = torch.tensor([torch.allclose(a.flip(-1), b, atol=1e-5) for a, b in zip(whole, x, strict=True)])
    assert bool((same ^ turned).all())
    assert 150 < int(turned.sum()) < 250
    assert torch.equal(random_crops(x, (1, 1), 1.0, False, torch_generator(0)), x)


# ---- pseudo-labels


def blobs(n=200, k=5, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return (5 * rng.normal(size=(k, d))[np.arange(n) % k] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_lloyd_is_scikit_learns_from_the_same_centres(iterations):
    points = blobs(d=4)
    first = points[np.random.default_rng(1).choice(len(points), 9, replace=False)]
    model = KMeans(9, init=first, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
    expected = model.fit(points)
    labels, centres, inertia = lloyd(torch.from_numpy(points), torch.from_numpy(first), iterations)
    np.testing.assert_array_equal(labels.numpy(), expected.labels_)
    assert inertia == pytest.approx(expected.inertia_, rel=1e-4)
    np.testing.assert_allclose(centres, expected.cluster_centers_, atol=1e-4)


def slow_lloyd(points, centres, iterations):
    centres = centres.astype(np.float64).copy()

    def assigned():
        return np.array([min(range(len(centres)), key=lambda c: ((p - centres[c]) ** 2).sum()) for p in points])

    labels = assigned()
    for _ in range(iterations):
        distances = [((p - centres[c]) ** 2).sum() for p, c in zip(points, labels, strict=True)]
        far = iter(np.argsort(distances)[::-1])
        moved = [points[labels == c].mean(0) if (labels == c).any() else points[next(far)] for c in range(len(centres))]
        centres, labels = np.array(moved), labels
        labels = assigned()
    return labels, centres


def test_a_cluster_that_loses_all_its_points_gets_the_farthest():
    points = blobs(60, 3, 4)
    first = np.concatenate([points[:3], np.full((1, 4), 100, np.float32), np.full((1, 4), -90, np.float32)])
    labels, centres, _ = lloyd(torch.from_numpy(points), torch.from_numpy(first), 12)
    expected, moved = slow_lloyd(points, first, 12)
    np.testing.assert_array_equal(labels.numpy(), expected)
    np.testing.assert_allclose(centres, moved, atol=1e-4)
    assert (np.bincount(labels, minlength=5) > 0).all()


def test_labels_are_those_of_the_nearest_centres_that_are_returned():
    features = blobs(300, 6, 10)
    clusters, points = cluster_features(features, 6, 4, 2, 1, np.random.default_rng(0), CPU)
    np.testing.assert_allclose(points.norm(dim=1), 1, rtol=1e-5)
    assert points.shape == (300, 4)
    np.testing.assert_array_equal(clusters.labels, nearest(points, torch.from_numpy(clusters.centres))[0])
    np.testing.assert_array_equal(clusters.assign(features), clusters.labels)
    again = Clusters.from_arrays(clusters.to_arrays())
    np.testing.assert_array_equal(again.assign(features[:20]), clusters.labels[:20])
    bare, points = cluster_features(features, 6, None, 2, 1, np.random.default_rng(0), CPU)
    np.testing.assert_allclose(points, features / np.linalg.norm(features, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(Clusters.from_arrays(bare.to_arrays()).assign(features), bare.labels)


def test_n_init_takes_the_tightest():
    features = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)

    def inertia(n_init):
        clusters, points = cluster_features(features, 20, 5, 20, n_init, np.random.default_rng(0), CPU)
        return float(nearest(points, torch.from_numpy(clusters.centres))[1].sum())

    assert inertia(8) < inertia(1)


def test_even_draws_is_the_authors_sampler():
    """Transcription: floor(n / clusters) + 1 of each, in the clusters' order, with replacement only from small ones;
    then shuffled, and the first n kept. The generator is asked for the same numbers in the same order.
    """
    labels = np.array([0] * 30 + [2] * 3 + [5] * 10 + [9] * 7)[np.random.default_rng(0).permutation(50)]
    rng, drawn = np.random.default_rng(3), []
    for name in (0, 2, 5, 9):
        members = [i for i in range(50) if labels[i] == name]
        drawn += list(rng.choice(members, 50 // 4 + 1, replace=len(members) <= 50 // 4 + 1))
    expected = [drawn[i] for i in rng.permutation(len(drawn))][:50]
    np.testing.assert_array_equal(even_draws(labels, np.random.default_rng(3)), expected)


def test_even_draws_are_even_and_repeat_only_small_clusters():
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    rows = even_draws(labels, np.random.default_rng(0))
    assert len(rows) == 1000
    np.testing.assert_allclose(np.bincount(labels[rows]), 1000 / 3, atol=2)
    assert len(set(rows[labels[rows] == 0])) == (labels[rows] == 0).sum()
    assert set(rows[labels[rows] == 2]) <= set(range(990, 1000))


@pytest.mark.parametrize(("n", "pieces"), [(10, 3), (9, 3), (7, 7), (11, 4)])
def test_pieces_are_numpys(n, pieces):
    for number, expected in enumerate(np.array_split(np.arange(n), pieces)):
        np.testing.assert_array_equal(piece(np.arange(n), pieces, number), expected)


def test_labels_without_gaps():
    counted, n = without_gaps(np.array([4, 9, 4, 0]))
    assert (counted.tolist(), n) == ([1, 2, 1, 0], 3)
    with pytest.raises(DataError, match=r"^deepcluster: found all images in one cluster; expected at least two"):
        without_gaps(np.array([4, 4]))


# ---- choosing an epoch


def slow_silhouette(points, labels):
    values = []
    for i, point in enumerate(points):
        distances = [math.dist(point, other) for other in points]
        own = [d for j, d in enumerate(distances) if labels[j] == labels[i] and j != i]
        if not own:
            values.append(0.0)
            continue
        a = sum(own) / len(own)
        others = [[d for j, d in enumerate(distances) if labels[j] == c] for c in set(labels) - {labels[i]}]
        b = min(sum(of) / len(of) for of in others)
        values.append((b - a) / max(a, b))
    return sum(values) / len(values)


def test_the_silhouette_is_its_transcription():
    points = blobs(40, 3)
    labels = np.arange(40) % 3
    labels[7] = 3  # alone in its cluster
    found = silhouette(torch.from_numpy(points), labels, np.arange(40))
    assert found == pytest.approx(slow_silhouette(points.tolist(), labels.tolist()), abs=1e-5)
    rows = np.arange(0, 40, 2)
    found = silhouette(torch.from_numpy(points), labels, rows)
    assert found == pytest.approx(slow_silhouette(points[rows].tolist(), labels[rows].tolist()), abs=1e-5)
    assert silhouette(torch.from_numpy(points), np.zeros(40, int), np.arange(40)) == -1


def slow_nmi(a, b):
    """Mutual information over the mean of the two entropies."""
    n, total = len(a), 0.0
    share = {("a", x): a.count(x) / n for x in a} | {("b", y): b.count(y) / n for y in b}
    for x, y in set(zip(a, b, strict=True)):
        both = sum(1 for pair in zip(a, b, strict=True) if pair == (x, y)) / n
        total += both * math.log(both / share["a", x] / share["b", y])
    entropies = [-sum(share[name, x] * math.log(share[name, x]) for x in set(v)) for name, v in (("a", a), ("b", b))]
    return total / (sum(entropies) / 2)


def test_nmi_is_its_transcription():
    from sklearn.metrics import normalized_mutual_info_score

    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 80)
    b = np.where(rng.random(80) < 0.6, a, rng.integers(0, 4, 80))
    assert normalized_mutual_info_score(a, b) == pytest.approx(slow_nmi(a.tolist(), b.tolist()), abs=1e-9)


def test_levels_off():
    assert not levels_off([0.1, 0.5], 2, 0.01)
    assert not levels_off([0.1, 0.5, 0.6, 0.7], 2, 0.01)
    assert not levels_off([0.5, 0.5, 0.52], 2, 0.01)
    assert levels_off([0.5, 0.5, 0.505], 2, 0.01)
    assert levels_off([0.7, 0.5, 0.6], 2, 0.0)


# ---- the last ReLU


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


def test_the_last_relu_is_found_where_the_network_ends_in_it():
    x = torch.from_numpy(pixels(2, 4)) - 0.5
    with torch.random.fork_rng(devices=[]):
        linear, other = nn.Linear(4, 6), nn.Linear(6, 3)
    ends = nn.Sequential(linear, nn.ReLU(), other, nn.ReLU(inplace=True), nn.Dropout())
    assert last_relu(ends, x) == "3"
    assert last_relu(nn.Sequential(linear, nn.ReLU(), other), x) == ""
    assert last_relu(nn.Sequential(linear, nn.ReLU(), nn.Unflatten(1, (2, 3)), nn.AvgPool1d(3)), x) == ""
    assert last_relu(nn.Sequential(nn.Sequential(linear, nn.ReLU())), x) == "0.1"
    assert last_relu(Shared(), x) == ""
    with torch.no_grad():
        before = other(linear(x).relu())
        with without(ends, "3"):
            assert torch.equal(ends(x), before)
        assert torch.equal(ends(x), before.relu())
    assert list(dict(ends.named_children())) == ["0", "1", "2", "3", "4"]


def test_vgg_of_timm_ends_in_its_last_relu():
    """So `{backbone: timm, model: vgg16_bn}` is clustered as the paper's VGG is: here the same class, with few layers."""
    from timm.models.vgg import VGG

    with torch.random.fork_rng(devices=[]):
        network = VGG([4, "M", 8, "M"], num_classes=0, norm_layer=nn.BatchNorm2d, mlp_ratio=0.01)
    assert last_relu(network, torch.from_numpy(pixels(2, 3, 28, 28))) == "pre_logits.act2"


def test_dropout_draws_from_the_seed_and_leaves_global_state_alone():
    drop, state = nn.Dropout(0.5), torch.get_rng_state()
    outputs = []
    for seed in (1, 1, 2):
        with seeded(seed, CPU):
            outputs.append(drop(torch.ones(100)))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    x = torch.from_numpy(pixels(6, 3, 16, 16))
    for flip in (False, True):
        crops = [random_crops(x.to(d), (0.1, 1), 4 / 3, flip, torch_generator(0)).cpu() for d in ("cpu", "cuda")]
        torch.testing.assert_close(*crops, rtol=1e-3, atol=1e-4)
    features = blobs(2000, 10, 20)
    made = [
        cluster_features(features, 10, 8, 20, 2, np.random.default_rng(0), torch.device(d))[0] for d in ("cpu", "cuda")
    ]
    assert (made[0].labels == made[1].labels).mean() > 0.99
    cuda = torch.device("cuda")
    state, drop, outputs = torch.cuda.get_rng_state(), nn.Dropout(0.5), []
    for _ in range(2):
        with seeded(1, cuda):
            outputs.append(drop(torch.ones(100, device=cuda)))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(torch.cuda.get_rng_state(), state)
