"""C3D tuned on targets: which images are positive, the steps of training, one network for each attribute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewcore import DataError, ImageSet, ImageSpec, Interrupted, NumericalError, Run, Target, torch_generator
from fewcore_embed.binary_targets import questions
from fewcore_embed.c3d_network import C3dClassifier, C3dNetwork
from fewcore_embed.c3d_tuned import C3dTuned, TunedC3dEncoder, flipped, rows_of_step
from fewcore_embed.layers import draw_weights

SMALL = {"width": 1 / 32, "epochs": 1}
N = 48


def nodules(n=N, seed=0, channels=1):
    """Cubes, large or small, and dark or bright; rated for both by three readers who differ a little."""
    rng = np.random.default_rng(seed)
    large, bright = rng.integers(0, 2, n), rng.integers(0, 2, n)
    images = np.zeros((n, channels, 16, 16, 16), np.uint8)
    for i in range(n):
        side = 6 if large[i] else 2
        images[i, :, 8 - side : 8 + side, 8 - side : 8 + side, 8 - side : 8 + side] = 240 if bright[i] else 60
    said = np.stack([np.where(large, 4, 2), np.where(bright, 5, 2)], 1)[:, None] + rng.integers(-1, 2, (n, 3, 2)) * 0.5
    said[0, 2] = np.nan
    targets = {
        "ratings": Target("ratings", said, ("size", "brightness / tone"), ((1.0, 5.0), (0.0, 7.0))),
        "grown": Target("class", large, ("small", "large")),
        "kind": Target("class", large + bright, ("a", "b", "c")),
    }
    return ImageSet(images, np.arange(n), np.arange(n), ImageSpec((16,) * 3, channels, (0, 255)), targets, {}, "grown")


def ratings(values, scale, names=("a", "b")):
    images = nodules(len(values))
    return replace(images, targets={"r": Target("ratings", np.array(values, dtype=float), names, scale)}, target="")


def test_positive_is_above_the_middle_of_each_scale_and_ties_and_silence_are_left_out():
    nan = np.nan
    said = [[[3, 4], [3, 3]], [[4, nan], [nan, nan]], [[nan, 3], [nan, 5]], [[2, 3], [3, 2]], [[nan, nan], [1, 6]]]
    one = questions(ratings(said, (1.0, 5.0)), "per-attribute", (), "m")
    each = questions(ratings(said, ((1.0, 5.0), (1.0, 6.0))), "per-attribute", (), "m")
    assert [q.name for q in one] == ["a", "b"]
    # Means of a: 3 (a tie), 4, unknown, 2.5, 1. Means of b: 3.5 (a tie of the second scale), unknown, 4, 2.5, 6.
    np.testing.assert_array_equal(one[0].answers, [nan, 1, nan, 0, 0])
    np.testing.assert_array_equal(one[1].answers, [1, nan, 1, 0, 1])
    np.testing.assert_array_equal(each[0].answers, one[0].answers)
    np.testing.assert_array_equal(each[1].answers, [nan, nan, 1, 0, 1])


def test_a_target_may_be_an_attribute_or_a_class():
    images = nodules()
    (size,) = questions(images, "size", (), "m")
    (grown,) = questions(images, "", (), "m")
    assert (size.name, grown.name) == ("size", "grown")
    known = ~np.isnan(size.answers)
    np.testing.assert_array_equal(size.answers[known], images.labels[known])
    hidden = images.labels.copy()
    hidden[3] = -1
    images = replace(images, targets={"grown": Target("class", hidden, ("small", "large"))})
    (grown,) = questions(images, "grown", (), "m")
    assert np.isnan(grown.answers[3])
    assert not np.isnan(np.delete(grown.answers, 3)).any()


def test_each_pass_takes_every_image_once():
    for n, batch in ((10, 4), (8, 4), (3, 16)):
        steps = -(-n // batch)
        passes = [np.concatenate([rows_of_step(5, n, batch, e * steps + s) for s in range(steps)]) for e in range(2)]
        for rows in passes:
            np.testing.assert_array_equal(np.sort(rows), np.arange(n))
    assert (passes[0] != passes[1]).any() or (rows_of_step(5, 10, 10, 0) != rows_of_step(5, 10, 10, 1)).any()


def test_flips_stay_in_the_plane():
    x = torch.arange(2 * 3 * 4.0).reshape(1, 1, 2, 3, 4).expand(200, 1, 2, 3, 4)
    made = flipped(x, torch_generator(0))
    expected = [x[0], x[0].flip(2), x[0].flip(3), x[0].flip(2, 3)]
    count = [sum(torch.equal(one, way) for one in made) for way in expected]
    assert sum(count) == 200
    assert min(count) > 25


def test_a_step_is_logistic_loss_with_dropout_and_momentum():
    """One network, two steps, written out: gradients by autograd of the loss as the equations have it."""
    images = nodules(8)
    component = C3dTuned(target="grown", **(SMALL | {"epochs": 2}), batch_size=8, learning_rate=0.05, flips=False)
    run = Run(0)
    found = component.fit(images, run).networks[0].state_dict()

    again = Run(0)
    network = C3dClassifier(C3dNetwork((16, 16, 16), 1 / 32))
    draw_weights(network, again.generator)
    seed = int(again.rng.integers(2**62))
    speed = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for step in range(2):
        rows = rows_of_step(seed, 8, 8, step)
        x = torch.from_numpy(images.images[rows]).float() / 255
        y = torch.from_numpy(images.labels[rows]).float()
        kept = (torch.rand(2, 8, 128, generator=again.generator) >= 0.5).float() / 0.5
        h = network.features(x) * kept[0]
        h = torch.relu(h @ network.fc7.weight.T + network.fc7.bias) * kept[1]
        p = torch.sigmoid(h @ network.fc8.weight[0] + network.fc8.bias)
        loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, value in network.named_parameters():
                speed[name] = 0.9 * speed[name] + value.grad + 5e-4 * value
                value -= (0.05 if name.startswith("features") else 0.01) * speed[name]
        assert run.records[step]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert run.records[step]["accuracy"] == pytest.approx(float(((p > 0.5) == (y > 0.5)).float().mean()))
    for name, value in network.features.named_parameters():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def separation(vectors, truth):
    """Return how many deviations the two classes lie apart, along the line between their means."""
    first, second = (vectors[truth == k].astype(np.float64) for k in (0, 1))
    line = second.mean(0) - first.mean(0)
    return (line @ line) / np.sqrt(0.5 * ((first @ line).var() + (second @ line).var()))


def test_each_attribute_has_features_of_its_own_that_tell_it():
    images, others = nodules(64), nodules(40, seed=1)
    encoder = C3dTuned(width=1 / 32, epochs=10).fit(images, Run())
    assert encoder.target_names == ("size", "brightness / tone")
    vectors = encoder.embed(others, Run())
    assert vectors.shape == (40, 2, encoder.dim) == (40, 2, 128)
    assert vectors.dtype == np.float32
    for j, name in enumerate(encoder.target_names):
        (question,) = questions(others, name, (), "m")
        own, other = (separation(vectors[:, i], question.answers) for i in (j, 1 - j))
        assert own > max(1.5, 2 * other)


def test_a_single_target_gives_flat_vectors_and_all_networks_start_alike():
    images = nodules()
    single = C3dTuned(target="size", **SMALL, learning_rate=0.0).fit(images, Run())
    both = C3dTuned(**SMALL, learning_rate=0.0, weight_decay=0.0).fit(images, Run())
    assert single.target_names == ("size",)
    assert single.embed(images, Run()).shape == (N, 128)
    vectors = both.embed(images, Run())
    np.testing.assert_array_equal(vectors[:, 0], vectors[:, 1])
    np.testing.assert_array_equal(vectors[:, 0], single.embed(images, Run()))
    left = C3dTuned(leave_out=("size",), **SMALL).fit(images, Run())
    assert left.target_names == ("brightness / tone",)
    assert left.embed(images, Run()).shape == (N, 1, 128)


@pytest.mark.parametrize("target", ["per-attribute", "size"])
def test_encoder_survives_saving_and_keeps_no_layer_above_the_features(target):
    images = nodules()
    encoder = C3dTuned(target=target, **SMALL).fit(images, Run())
    arrays, meta = encoder.to_arrays()
    assert {name.split(".")[1] for name in arrays} == {*dict(C3dNetwork((16,) * 3, 1 / 32).named_children())}
    again = TunedC3dEncoder.from_arrays(arrays, meta, {})
    assert again.target_names == encoder.target_names
    np.testing.assert_array_equal(again.embed(images, Run()), encoder.embed(images, Run()))


def test_two_runs_and_an_interrupted_one_are_equal(tmp_path):
    images, component = nodules(), C3dTuned(**SMALL, batch_size=8)
    whole, same = (component.fit(images, Run(3)).to_arrays()[0] for _ in range(2))
    stops = [2, 3, 1]

    def run(left):
        calls = iter(range(100))
        return Run(3, checkpoints=tmp_path, checkpoint_every=0.0, stop=lambda: next(calls) >= left)

    for left in stops:
        with pytest.raises(Interrupted):
            component.fit(images, run(left))
    resumed = component.fit(images, run(99)).to_arrays()[0]
    other = component.fit(images, Run(4)).to_arrays()[0]
    for name, values in whole.items():
        np.testing.assert_array_equal(same[name], values)
        np.testing.assert_array_equal(resumed[name], values)
    assert any((other[name] != values).any() for name, values in whole.items())


def test_tuning_starts_from_a_file(tmp_path):
    images, path = nodules(channels=3), tmp_path / "c3d.safetensors"
    trained = C3dClassifier(C3dNetwork((16, 16, 16), 1 / 32))
    draw_weights(trained, torch_generator(8))
    state = {name.removeprefix("features."): value.contiguous() for name, value in trained.state_dict().items()}
    save_file(state, path)
    still = {"learning_rate": 0.0, "head_learning_rate": 0.0, "size": (16, 16, 16), "weights": str(path), **SMALL}
    component = C3dTuned(target="size", **still)
    assert component.sources() == (path,)
    run = Run()
    found = component.fit(images, run).embed(images, Run())
    x = torch.from_numpy(images.images) / 255
    with torch.no_grad():
        np.testing.assert_allclose(found, trained.features.eval()(x).numpy(), rtol=1e-5, atol=1e-6)
    assert C3dTuned().sources() == ()
    with pytest.raises(DataError, match=r"^c3d-tuned: weights: .* holds 'conv1.weight' .*; expected"):
        C3dTuned(target="size", **(still | {"width": 1 / 16})).fit(images, Run())
    save_file(state | {"fc7.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(DataError, match=r"\(fc7\) holds 'weight' \(2, 2\); expected \(128, 128\)"):
        component.fit(images, Run())


def test_errors_say_what_to_do():
    def message(images, **options):
        with pytest.raises(DataError) as error:
            C3dTuned(**(SMALL | options)).fit(images, Run())
        return str(error.value)

    images = nodules()
    one_sided = ratings(np.full((6, 2, 2), 4.0), (1.0, 5.0))
    assert message(one_sided) == (
        "c3d-tuned: a: found 6 positive and 0 negative of 6 training images; expected some of each "
        "(give more labels, or leave it out: leave_out: [a])"
    )
    assert "a: found 0 positive and 0 negative" in message(ratings(np.full((6, 2, 2), np.nan), (1.0, 5.0)))
    assert "found ratings without a scale" in message(ratings(np.ones((6, 2, 2)), None))
    assert message(images, target="sise") == (
        "c3d-tuned: found target 'sise'; expected per-attribute or one of size, brightness / tone, grown, kind"
    )
    assert "found the classes a, b, c; expected two" in message(images, target="kind")
    assert "found leave_out: sise among the rated attributes size, brightness / tone" in message(
        images, leave_out=("sise",)
    )
    assert "found no attribute left" in message(images, leave_out=images.targets["ratings"].names)
    bare = replace(images, targets={}, target="")
    assert "(none); expected at least one, of a data set with ratings" in message(bare)
    assert "neither classes nor ratings" in message(bare, target="size")
    flat = replace(images, images=images.images[:, :, 0])
    assert message(flat).startswith("c3d-tuned: found images (1, 16, 16); expected volumes (c, d, h, w)")
    broken = replace(images, images=np.where(images.images > 100, np.nan, 1).astype(np.float32))
    assert message(broken) == "c3d-tuned: found NaN or infinity in the images; expected finite numbers"
    with pytest.raises(
        ValueError, match=r"^leave_out: found with target 'size'; expected it with target: per-attribute$"
    ):
        C3dTuned(target="size", leave_out=("size",))
    with pytest.raises(ValueError, match=r"^size: found \[1, 1, 1\]"):
        C3dTuned(size=(1, 1, 1))


def test_a_loss_that_explodes_stops_the_tuning():
    with pytest.raises(NumericalError, match=r"loss is (nan|inf) at step \d+; expected a finite number \(lower the"):
        C3dTuned(**SMALL, learning_rate=1e6, batch_size=4).fit(nodules(), Run())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    images, component = nodules(), C3dTuned(**SMALL)
    expected = component.fit(images, Run()).embed(images, Run())
    found = component.fit(images, Run(device="cuda")).embed(images, Run(device="cuda"))
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05 * np.abs(expected).max())
