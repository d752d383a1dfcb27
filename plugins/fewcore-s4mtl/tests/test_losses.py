"""Every loss term against a slow transcription of its equation, and the numbers of the readings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import TverskyLoss

from fewcore_s4mtl import losses
from fewcore_s4mtl.annealing import Schedule
from fewcore_s4mtl.heads import Heads


def masks(n=3, k=2, h=5, w=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, k, h, w)) < 0.4).astype(np.float32)
    return torch.from_numpy(truth), torch.from_numpy(rng.random((n, k, h, w)).astype(np.float32))


def logits(n=6, k=4, seed=0, scale=2.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, k)) * scale)


def slow_softmax(row):
    e = [math.exp(v) for v in row]
    return [v / sum(e) for v in e]


def slow_dice(truth, predicted):
    """Eq. 5 of one mask, pixel by pixel, one pixel added to both sides."""
    hit = false = missed = 0.0
    for y, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        hit += y * p
        false += (1 - y) * p
        missed += y * (1 - p)
    return 1 - (hit + 1) / (hit + false / 2 + missed / 2 + 1)


def test_eq_5_sums_each_image_and_structure():
    truth, predicted = masks()
    slow = [slow_dice(t, p) for image in zip(truth, predicted, strict=True) for t, p in zip(*image, strict=True)]
    assert losses.segmentation_loss(truth, predicted).item() == pytest.approx(np.mean(slow), rel=1e-5)


def test_eq_5_over_the_batch_pools_the_pixels_of_all_images():
    truth, predicted = masks()
    slow = [slow_dice(truth[:, k], predicted[:, k]) for k in range(2)]
    assert losses.segmentation_loss(truth, predicted, "batch").item() == pytest.approx(np.mean(slow), rel=1e-5)


@pytest.mark.parametrize("over", ["image", "batch"])
def test_eq_5_is_the_tversky_loss_of_monai_with_both_weights_a_half(over):
    truth, predicted = masks(seed=3)
    peer = TverskyLoss(alpha=0.5, beta=0.5, smooth_nr=1.0, smooth_dr=1.0, batch=over == "batch")
    assert losses.segmentation_loss(truth, predicted, over).item() == pytest.approx(peer(predicted, truth).item())


def test_eq_5_weighs_structures_by_one_over_their_pixels():
    truth, predicted = masks()
    wanted = []
    for t, p in zip(truth, predicted, strict=True):
        share = [1 / (t[k].sum().item() + 1) for k in range(2)]
        wanted.append(sum(s / sum(share) * slow_dice(t[k], p[k]) for k, s in enumerate(share)))
    assert losses.segmentation_loss(truth, predicted, "image", "inverse_volume").item() == pytest.approx(
        np.mean(wanted)
    )


def test_eq_5_of_a_perfect_mask_is_nothing_and_so_is_an_empty_mask_that_is_predicted_empty():
    truth, _ = masks()
    assert losses.segmentation_loss(truth, truth).item() == pytest.approx(0, abs=1e-6)
    empty = torch.zeros(2, 1, 8, 8)
    assert losses.segmentation_loss(empty, empty).item() == 0
    assert losses.segmentation_loss(empty, empty + 1).item() > 0.9


def test_eq_5_as_printed_would_reward_a_full_mask():
    # The printed middle term is "not k" times "not k", the true negatives: a mask that is full everywhere would be ideal.
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2] = 1
    full = torch.ones_like(truth)

    def printed(p):
        hit, negatives, missed = (truth * p).sum(), ((1 - truth) * (1 - p)).sum(), (truth * (1 - p)).sum()
        return (1 - hit / (hit + negatives / 2 + missed / 2)).item()

    assert printed(full) == 0 < printed(truth)
    assert losses.segmentation_loss(truth, full) > losses.segmentation_loss(truth, truth)


def test_eq_6_is_the_mean_over_pixels():
    truth, predicted = masks()
    total = 0.0
    for y, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        y, p = min(max(y, 0.01), 0.99), min(max(p, 0.01), 0.99)
        total += abs((y - p) * math.log(y / p))
    assert losses.divergence_loss(truth, predicted, 0.01).item() == pytest.approx(total / truth.numel(), rel=1e-5)


@pytest.mark.parametrize(
    ("eps", "values"),
    [(1e-7, (0.35, 7.71, 2.07, 14.4)), (1e-3, (0.35, 3.10, 2.07, 6.12)), (1e-2, (0.34, 1.92, 2.04, 4.01))],
)
def test_eq_6_at_four_pixels_depends_on_eps_as_the_formula_says(eps, values):
    for (y, p), wanted in zip([(1, 0.5), (0, 0.5), (1, 0.1), (0, 0.9)], values, strict=True):
        one = torch.tensor([[[[float(y)]]]], dtype=torch.float64), torch.tensor([[[[p]]]], dtype=torch.float64)
        assert losses.divergence_loss(*one, eps).item() == pytest.approx(wanted, abs=0.05 if wanted > 10 else 0.006)


def test_eq_6_pairs_images_or_compares_with_their_mean():
    truth, _ = masks()
    assert losses.paired(truth, "literal") is truth
    assert torch.equal(losses.paired(truth, "batch_mean"), truth.mean(0, keepdim=True).repeat(3, 1, 1, 1))


def test_eqs_7_8_and_11_are_minus_log_of_one_minus_the_probability_of_generated():
    rows = logits()
    slow = np.mean([-math.log(1 - slow_softmax(row)[-1]) for row in rows.tolist()])
    assert losses.adversarial_loss(rows).item() == pytest.approx(slow)


def test_eqs_12_and_13_are_minus_log_of_the_probability_of_generated():
    rows = logits()
    slow = np.mean([-math.log(slow_softmax(row)[-1]) for row in rows.tolist()])
    assert losses.generated_loss(rows).item() == pytest.approx(slow)


def test_a_discriminator_that_is_sure_leaves_a_finite_loss_and_gradient():
    sure = torch.tensor([[0.0, 0.0, 200.0]], requires_grad=True)
    loss = losses.adversarial_loss(sure)
    loss.backward()
    # 1 - softmax is 0 in floats; the exact loss is 200 - log 2.
    assert loss.item() == pytest.approx(200 - math.log(2))
    np.testing.assert_allclose(sure.grad.numpy(), [[-0.5, -0.5, 1.0]], atol=1e-6)


def test_eq_9_is_minus_log_of_the_probability_of_the_class_among_all_outputs():
    rows, classes = logits(), torch.tensor([0, 1, 2, 0, 1, 2])
    slow = [-math.log(slow_softmax(row)[c]) for row, c in zip(rows.tolist(), classes.tolist(), strict=True)]
    assert losses.supervised_loss(rows, classes, 3, None).item() == pytest.approx(np.mean(slow))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_eq_9_leaves_out_what_is_predicted_better_than_the_threshold(threshold):
    rows, classes = logits(12), torch.arange(12) % 3
    kept = []
    for row, c in zip(rows.tolist(), classes.tolist(), strict=True):
        if slow_softmax(row[:3])[c] <= threshold:
            kept.append(-math.log(slow_softmax(row)[c]))
    assert 0 < len(kept) < 12
    assert losses.supervised_loss(rows, classes, 3, threshold).item() == pytest.approx(sum(kept) / len(kept))


def test_eq_9_of_images_that_are_all_left_out_is_zero_without_a_gradient():
    rows = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]], requires_grad=True)
    loss = losses.supervised_loss(rows, torch.tensor([0, 1]), 2, 0.6)
    loss.backward()
    assert loss.item() == 0
    assert not rows.grad.any()


def test_eq_10_is_minus_log_of_the_probability_of_the_transformation():
    rows, chosen = logits(), torch.tensor([3, 1, 0, 2, 2, 1])
    slow = [-math.log(slow_softmax(row)[t]) for row, t in zip(rows.tolist(), chosen.tolist(), strict=True)]
    assert losses.self_supervised_loss(rows, chosen).item() == pytest.approx(np.mean(slow))


def test_outputs_are_read_in_three_ways():
    outputs, chosen = torch.arange(24.0).reshape(2, 12), np.array([0, 3])
    own, shared, joint = Heads(3, 6, "separate_head"), Heads(3, 3, "shared"), Heads(3, 6, "joint")
    assert [heads.size for heads in (own, shared, joint, Heads(3))] == [10, 4, 10, 4]
    assert own.diagnosis(outputs[:, :10])[0].tolist() == [0, 1, 2, 3]
    assert own.surrogate(outputs[:, :10])[0].tolist() == [4, 5, 6, 7, 8, 9]
    assert shared.surrogate(outputs[:, :4])[0].tolist() == shared.diagnosis(outputs[:, :4])[0].tolist() == [0, 1, 2, 3]
    assert (
        joint.diagnosis(outputs[:, :10])[0].tolist() == joint.surrogate(outputs[:, :10])[0].tolist() == list(range(10))
    )
    assert [heads.column(chosen).tolist() for heads in (own, shared, joint)] == [[0, 3], [0, 3], [3, 6]]
    assert all(heads.classes(outputs)[0].tolist() == [0, 1, 2] for heads in (own, shared, joint))


def schedule(kind, n, n_images=713, steps_per_epoch=45, epochs=100):
    return Schedule(kind, steps_per_epoch, epochs, n, n_images)


def test_annealing_starts_at_chance_and_the_schedule_of_uda_ends_near_one():
    for n, last in ((2, 0.997), (3, 0.996)):
        uda = schedule("uda", n)
        assert uda.threshold(0) == pytest.approx(1 / n)
        assert uda.threshold(4499) == pytest.approx(last, abs=1e-3)
        assert uda.threshold(2250) == pytest.approx((1 - math.exp(-2.5)) * (1 - 1 / n) + 1 / n)


@pytest.mark.parametrize(("n", "last"), [(2, 0.530), (3, 0.374)])
def test_the_printed_schedule_within_an_epoch_ends_near_chance(n, last):
    assert schedule("paper_in_epoch", n).threshold(4499) == pytest.approx(last, abs=3e-3)
    assert max(schedule("paper_in_epoch", n).threshold(step) for step in range(4500)) < last + 3e-3


def test_the_printed_schedule_over_all_steps_ends_near_one():
    assert schedule("paper_global", 2).threshold(4499) == pytest.approx(0.999, abs=1e-3)
    wanted = (1 - math.exp(-(1000 * 22 + 1) / (100 * 713))) / 2 + 0.5
    assert schedule("paper_global", 2).threshold(1000) == pytest.approx(wanted)


def test_without_annealing_nothing_is_left_out():
    assert schedule("none", 2).threshold(7) is None
