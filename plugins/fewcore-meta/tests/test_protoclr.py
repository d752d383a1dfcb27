"""ProtoCLR: its step, what training gives, neighbours, views at test, starts, resuming, saving, refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from few_shot_samples import (
    Tasks,
    assert_padding_changes_nothing,
    assert_saved_answers_are_equal,
    draw,
    hidden,
    image_set,
    labelled,
    make_images,
    make_patterns,
    plain,
)
from torch import nn

from fewcore import DataError, ImageSet, ImageSpec, Interrupted, PipelineError, Run
from fewcore_meta.augmentation import Distortion, distorted
from fewcore_meta.conv4 import Conv4
from fewcore_meta.protoclr import ProtoClr

NET = Conv4(filters=4, n_blocks=2, downsample="pool", scale=True)
FEW = {"iterations": 6, "n_images": 8, "n_views": 2}
TESTS = [
    {},
    {"test_views": 3},
    {"tune_steps": 4},
    {"queries": "together"},
    {"queries": "balanced", "distance": "cosine", "temperature": 0.2},
]


def train(images=None, run=None, start=None, **options):
    images = make_patterns() if images is None else images
    return ProtoClr(**{**FEW, **options}).meta_train(images, NET, run or Run(seed=3), start)


def weights(model):
    return model.to_arrays()[0]


def same_weights(one, other):
    a, b = weights(one), weights(other)
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_steps_are_adam_on_the_paper_s_loss():
    images = make_patterns()
    options = ProtoClr(**FEW, learning_rate=0.01, schedule="cosine", elastic=0.02)
    model = options.meta_train(images, NET, Run(seed=5))
    run = Run(seed=5)
    network = NET.build(images.shape, 0, run.generator)
    run.rng.integers(2**63)  # the seed of the views at test
    adam = torch.optim.Adam(network.parameters())
    for step in range(6):
        rows = run.rng.choice(96, 8, replace=False)
        run.rng.random((8, 2))  # which of an image and its neighbours; there are none
        pixels = torch.from_numpy(images.images[rows])
        draws = Distortion(15, 0.1, 1.25, 15, 0.02).draw(16, (8, 8), run.generator)
        copies = distorted(pixels.repeat_interleave(2, 0), draws, (0, 1))
        made = network(torch.cat([pixels, copies]))
        loss = 0.0
        for i in range(8):
            for q in range(2):
                distances = torch.stack([((made[8 + 2 * i + q] - made[j]) ** 2).sum() for j in range(8)])
                loss = loss + (distances[i] + torch.logsumexp(-distances, 0)) / 16
        adam.param_groups[0]["lr"] = 0.005 * (1 + np.cos(np.pi * step / 6))
        adam.zero_grad()
        loss.backward()
        adam.step()
    for name, values in network.state_dict().items():
        np.testing.assert_allclose(weights(model)[f"network.{name}"], values.numpy(), atol=2e-5)


def test_it_learns_classes_that_nobody_named():
    images, unseen = make_patterns(40, 8, 12, 0.1), make_patterns(20, 8, 12, 0.3, seed=1)
    batch = draw(unseen, 60, 5, 1)
    right = {}
    for iterations in (0, 60):
        model = train(images, iterations=iterations, n_images=30, shift=0.0, learning_rate=3e-3)
        right[iterations] = (model.classify(hidden(batch), unseen, Run()).argmax(-1) == batch.query_labels).mean()
    assert right[60] > right[0] + 0.05
    assert right[60] > 0.5


def test_labels_are_not_read():
    images = make_patterns()
    assert same_weights(train(images, neighbours=2), train(plain(images, np.arange(96)), neighbours=2))


def test_turned_images_are_classes_of_their_own():
    # An image and its turned self answer alike without turning in training; with it, the turned supports are used.
    images = make_patterns()
    assert not same_weights(train(images), train(images, turn=True))
    assert same_weights(train(images, turn=True), train(images, turn=True))


def test_queries_are_views_of_mutual_neighbours():
    run, rows = Run(), np.array([0, 2, 3])
    near = np.array([[1, -1, 2], [0, -1, -1], [-1, -1, -1], [-1, 0, 1]])
    drawn = ProtoClr(n_views=3000)._queries(rows, near, run)
    for row, chosen in zip(drawn, ([0, 1, 2], [2], [3, 0, 1]), strict=True):
        found, counts = np.unique(row, return_counts=True)
        assert set(found) == set(chosen)
        assert counts.min() > 3000 / len(chosen) - 150  # five standard errors of a share of 3000


def test_neighbours_are_found_when_they_should_be():
    options = ProtoClr(iterations=10, neighbours=2, neighbours_after=0.25, refresh=3)
    assert [step for step in range(10) if options._finds_neighbours(step)] == [3, 6, 9]
    assert not any(ProtoClr(iterations=10)._finds_neighbours(step) for step in range(10))
    images = make_patterns(noise=0.02)
    assert not same_weights(train(images, neighbours=3, neighbours_after=0.0), train(images))


def test_neighbours_help_where_distortions_do_not_show_what_varies():
    # Copies of an image vary by nothing; the classes vary in half of the numbers, which only neighbours show.
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 10)
    pixels = rng.normal(size=(400, 16, 1, 1))
    pixels[:, :8] = 2 * rng.normal(size=(40, 8, 1, 1))[labels] + 0.1 * rng.normal(size=(400, 8, 1, 1))
    images = image_set(pixels, labels, (-9, 9))
    batch = draw(images, 200, 5, 1)
    right = {}
    for neighbours in (0, 5):
        options = ProtoClr(
            80, 40, 2, 5e-3, rotate=0, shift=0, zoom=1, shear=0, elastic=0, neighbours=neighbours, neighbours_after=0.1,
            refresh=20,
        )  # fmt: skip
        model = options.meta_train(images, Linear(), Run())
        right[neighbours] = (model.classify(hidden(batch), images, Run()).argmax(-1) == batch.query_labels).mean()
    assert right[5] > right[0] + 0.02  # four standard errors of 5,000 queries


@dataclass(frozen=True)
class Linear:
    """One linear layer."""

    def build(self, shape, n_outputs, generator):
        network = nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 8))
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        return network


@pytest.mark.parametrize("options", TESTS, ids=str)
def test_saved_model_and_predictor_answer_bit_for_bit(options):
    images = make_patterns()
    model = train(images, **options)
    batch = hidden(draw(images, 4, 3, 2))
    assert_saved_answers_are_equal(model, batch, images, {"backbone": NET}, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", TESTS[:3], ids=str)
def test_padding_changes_nothing(options):
    images = make_patterns()
    assert_padding_changes_nothing(train(images, **options), draw(images, 4, 3, 1), images)


def test_views_at_test_are_averaged_and_alike_for_all_images():
    images = make_patterns()
    model, single = train(images, test_views=4), train(images)
    assert same_weights(model, single)
    draws = model._draws()
    pixels = torch.from_numpy(images.images[:5])
    with torch.no_grad():
        made = model.network(pixels)
        for view in range(3):
            made = made + torch.cat(
                [model.network(distorted(x[None], draws.repeated(view, 1), (0, 1))) for x in pixels]
            )
    torch.testing.assert_close(model._embed(pixels, draws), made / 4, atol=1e-5, rtol=1e-5)
    batch = hidden(draw(images, 3, 3, 1))
    assert np.abs(model.classify(batch, images, Run()) - single.classify(batch, images, Run())).max() > 1e-3


@pytest.mark.parametrize("options", TESTS, ids=str)
def test_other_queries_matter_only_where_that_is_said(options):
    images = make_patterns()
    model, batch = train(images, **options), hidden(draw(images, 3, 3, 1))
    fewer = replace(batch, query=batch.query[:, :4], query_labels=batch.query_labels[:, :4])
    scores = model.classify(batch, images, Run())[:, :4], model.classify(fewer, images, Run())
    together = "queries" in options
    assert model.norm == ("transductive" if together else "running")
    assert np.allclose(*scores, atol=1e-4) != together


def test_a_start_lends_its_network():
    images = make_patterns()
    model = train(images)
    again = train(images, start=model, iterations=0, queries="balanced")
    assert same_weights(model, again)
    assert again.norm == "transductive"
    further = train(images, start=model, iterations=2)
    assert not same_weights(model, further)
    other = Conv4(filters=5, n_blocks=2, downsample="pool", scale=True)
    with pytest.raises(DataError) as caught:
        ProtoClr(**FEW).meta_train(images, other, Run(), model)
    assert str(caught.value) == (
        "protoclr: found a start whose network differs in blocks.0.convolution.weight, blocks.0.norm.bias, "
        "blocks.0.norm.running_mean; expected the same backbone (give both stages one backbone)"
    )
    with pytest.raises(DataError, match=r"^protoclr: found object as start; expected a model that has a network$"):
        train(images, start=object())


def test_validation_tasks_draw_a_curve_and_change_nothing():
    images, other = make_patterns(), make_patterns(seed=1)
    tune, run = draw(other, 5, 3, 1), Run(seed=3)
    options = ProtoClr(**FEW, validate_every=3)
    watched = options.meta_train(images, NET, run, None, other, Tasks(tune))
    assert same_weights(watched, train(images))
    curve = [r["validation_accuracy_3_way_1_shot"] for r in run.records if "validation_accuracy_3_way_1_shot" in r]
    assert len(curve) == 2
    right = watched.classify(hidden(tune), other, Run()).argmax(-1) == tune.query_labels
    assert curve[-1] == pytest.approx(right.mean())


def test_a_run_that_was_stopped_ends_with_the_same_numbers(tmp_path):
    options = {"neighbours": 2, "refresh": 2, "turn": True}
    whole = train(**options)
    left = [False] * 3 + [True]
    stopped = Run(seed=3, checkpoints=tmp_path, checkpoint_every=0.0, stop=partial(left.pop, 0))
    with pytest.raises(Interrupted):
        train(run=stopped, **options)
    assert same_weights(train(run=Run(seed=3, checkpoints=tmp_path), **options), whole)
    assert not same_weights(train(run=Run(seed=4), **options), whole)


def test_classifying_can_be_stopped_and_shows_its_progress():
    images, shown = make_patterns(), []
    model, batch = train(images), hidden(draw(images, 2, 3, 1))

    class Sink:
        def update(self, name, done, total, values):
            shown.append((name, done, total))

    with pytest.raises(Interrupted, match="run again"):
        model.classify(batch, images, Run(stop=lambda: True))
    model.classify(batch, images, Run(name="protoclr", progress=Sink()))
    assert shown == [("protoclr: images", 1, 1)]


def test_colour_images_take_crops_flips_and_jitter():
    rng = np.random.default_rng(0)
    images = image_set(rng.random((30, 3, 8, 8)), np.arange(30) % 3, (0, 1))
    model = train(images, crop=0.3, flip=True, jitter=0.5, grey=0.2)
    assert np.isfinite(model.classify(hidden(draw(images, 2, 3, 1)), images, Run())).all()
    assert not same_weights(model, train(images))


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ValueError, match=r"^tune_steps: found 5 with queries: together; expected 0, or queries: alone$"
    ):
        ProtoClr(tune_steps=5, queries="together")
    with pytest.raises(DataError, match=r"^protoclr.grey: found 0.5 with images of 1 channels; expected three \(set g"):
        train(grey=0.5)
    ids = np.arange(3)
    volumes = ImageSet(np.zeros((3, 1, 2, 4, 4), np.float32), ids, ids, ImageSpec((2, 4, 4), 1, (0, 1)))
    with pytest.raises(DataError, match=r"^protoclr: found images of shape \(1, 2, 4, 4\); expected \(c, h, w\)$"):
        train(volumes)
    with pytest.raises(DataError, match=r"^protoclr: found 1 training images; expected at least two$"):
        train(plain(make_patterns(), np.arange(1)))
    with pytest.raises(DataError, match=r"^support: found no image of k1; expected one or more of each class$"):
        train().adapt(labelled(make_patterns(), np.array([0]), [0], 2), Run())

    class Batchwise:
        def build(self, shape, n_outputs, generator):
            layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten())
            nn.init.normal_(layers[0].weight, generator=generator)
            return layers

    with pytest.raises(PipelineError, match="protoclr: found a backbone that always normalises with the whole batch"):
        ProtoClr(**FEW).meta_train(make_patterns(), Batchwise(), Run())


def test_vectors_train_as_images_do():
    images = make_images(dim=16)
    model = ProtoClr(**FEW, elastic=0.0).meta_train(images, Linear(), Run())
    assert model.norm == "none"
    assert np.isfinite(model.classify(hidden(draw(images, 2, 3, 1)), images, Run())).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", TESTS, ids=str)
def test_cuda_equals_cpu(options):
    images = make_patterns()
    batch = hidden(draw(images, 20, 3, 2))
    made = [train(images, Run(3, d), **options).classify(batch, images, Run(device=d)) for d in ("cpu", "cuda")]
    np.testing.assert_allclose(made[1], made[0], rtol=1e-2, atol=1e-2)
