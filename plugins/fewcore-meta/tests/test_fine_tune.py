"""Fine-tuning: whatever it starts from, the epoch that is best on validation is kept."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from few_shot_samples import two_class_images
from torch import nn
from torch.nn import functional

from fewcore import DataError, Gather, Interrupted, Run, auc, torch_generator
from fewcore.testing import ToyBackbone
from fewcore_meta.fine_tune import FineTune, WithHead, classifier
from fewcore_meta.supervised import validation_score

SHAPE = (1, 6, 6)


def trained(n_outputs, seed=0):
    return SimpleNamespace(network=ToyBackbone().build(SHAPE, n_outputs, torch_generator(seed)))


def tuned(start=None, images=None, seed=0, run=None, **options):
    images, validation = images or two_class_images(40, seed=0), two_class_images(30, seed=1)
    options = {"epochs": 4, "learning_rate": 0.01, "batch_size": 8, **options}
    return FineTune(**options).learn(start or ToyBackbone(), images, validation, run or Run(seed))


def test_it_learns_and_keeps_the_epoch_that_is_best_on_validation():
    found, validation = tuned(epochs=10), two_class_images(30, seed=1)
    scores = found.predict(validation, Run()).scores
    assert auc(scores[:, 1], validation.labels == 1) == pytest.approx(found.facts["score"])
    assert found.facts["score"] > 0.9
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    # Stopped there, training would have ended with the same network.
    again = tuned(epochs=found.facts["epoch"])
    np.testing.assert_array_equal(again.predict(validation, Run()).scores, scores)


def test_a_head_of_as_many_outputs_is_kept_and_another_gets_a_new_layer():
    with_head, without = trained(2), trained(0)
    kept = classifier(with_head, SHAPE, 2, torch_generator(1))
    added = classifier(without, SHAPE, 2, torch_generator(1))
    assert isinstance(added, WithHead)
    assert not isinstance(kept, WithHead)
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(kept(x), with_head.network(x))
    torch.testing.assert_close(added.network(x), without.network(x))
    assert added(x).shape == (3, 2)


def test_a_head_of_another_number_of_classes_is_replaced_not_built_upon():
    start = trained(2)
    changed = classifier(start, SHAPE, 3, torch_generator(1))
    assert type(changed) is type(start.network)
    assert changed.head.weight.shape == (3, start.network.head.in_features)
    assert start.network.head.out_features == 2
    other = {n: v for n, v in changed.state_dict().items() if not n.startswith("head.")}
    torch.testing.assert_close(other, {n: start.network.state_dict()[n] for n in other})


@pytest.mark.parametrize("moved", [False, True])
def test_running_statistics_begin_at_the_training_images_where_there_are_none(moved):
    images = two_class_images(40, seed=0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2)
    )
    for layer in (network[1], network[3]):
        # As after a start that moved them: nothing is to be begun.
        layer.running_mean += float(moved)
    found = tuned(SimpleNamespace(network=network), images, epochs=1, learning_rate=0.0, batch_size=40)
    mean, pixels = found.network[1].running_mean, Gather(images, torch.device("cpu"))(np.arange(len(images)))
    with torch.no_grad():
        expected = network[0](pixels).mean((0, 2, 3))
        # What leaves the first norm has the mean 0 and the spread 1, so that the second sees its positive part.
        second = functional.batch_norm(network[0](pixels), None, None, training=True).relu().mean((0, 2, 3))
    assert torch.allclose(mean, expected, atol=1e-4) is not moved
    assert torch.allclose(found.network[3].running_mean, second, atol=1e-3) is not moved


def test_the_start_is_left_as_it_was():
    start = trained(2)
    before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    tuned(start)
    for name, tensor in start.network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_the_best_of_the_snapshots_is_taken():
    blind = trained(2)
    with torch.no_grad():
        for parameter in blind.network.parameters():
            parameter.zero_()
    good = tuned(epochs=10)
    start = SimpleNamespace(network=blind.network, snapshots=(SimpleNamespace(network=good.network),))
    found = tuned(start, learning_rate=0.0, epochs=1)
    assert found.facts["start"] == 0
    assert found.facts["score"] == pytest.approx(good.facts["score"])


def test_all_classes_weigh_the_same_however_many_images_they_have():
    images = two_class_images(40, seed=0)
    network = ToyBackbone().build(SHAPE, 2, torch_generator(0))
    labels = np.array([0] * 30 + [1] * 10)
    images.targets["class"].values[:] = labels
    run = Run()
    tuned(trained(2), images, run=run, epochs=1, batch_size=40, learning_rate=0.0)
    with torch.no_grad():
        x = torch.from_numpy(images.images.astype(np.float32)) / 255
        each = torch.nn.functional.cross_entropy(network(x), torch.from_numpy(labels), reduction="none").numpy()
    slow = (each[:30].mean() + each[30:].mean()) / 2
    assert run.records[0]["loss"] == pytest.approx(slow, rel=1e-5)


def test_images_without_a_label_are_not_learnt_from():
    images = two_class_images(40, seed=0)
    images.targets["class"].values[20:] = -1
    noisy = two_class_images(40, seed=0)
    noisy.targets["class"].values[20:] = -1
    noisy.images[20:] = 255 - noisy.images[20:]
    validation = two_class_images(30, seed=1)
    first, second = (tuned(images=one).predict(validation, Run()).scores for one in (images, noisy))
    np.testing.assert_array_equal(first, second)


def test_more_classes_are_judged_by_mean_recall():
    images = two_class_images(6, seed=0)
    images.targets["class"].values[:] = [0, 0, 0, 0, 1, 1]
    target = images.targets["class"]
    object.__setattr__(target, "names", ("a", "b", "c"))
    target.values[5] = 2
    scores = np.eye(3)[[0, 0, 0, 1, 1, 1]]
    assert validation_score(scores, images, np.arange(6)) == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_interrupted_it_ends_with_the_same_bits(tmp_path):
    whole = tuned()
    answers = iter([False] * 6 + [True])
    with pytest.raises(Interrupted):
        tuned(run=Run(0, checkpoints=tmp_path, stop=lambda: next(answers)))
    resumed = tuned(run=Run(0, checkpoints=tmp_path))
    assert resumed.facts == whole.facts
    for name, values in whole.to_arrays()[0].items():
        np.testing.assert_array_equal(values, resumed.to_arrays()[0][name])


def test_a_missing_class_and_a_start_without_a_network_are_refused():
    images = two_class_images(40, seed=0)
    images.targets["class"].values[images.labels == 1] = -1
    with pytest.raises(DataError, match="no labelled training image of malignant"):
        tuned(images=images)
    with pytest.raises(DataError, match="without a network"):
        tuned(SimpleNamespace(vectors=None))
    found, small = tuned(), two_class_images(4, seed=0, side=5)
    with pytest.raises(DataError, match="as in training"):
        found.predict(small, Run())
