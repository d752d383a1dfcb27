"""The watch for collapse and batch norm's last statistics against slow transcriptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewcore import NumericalError, torch_generator
from fewcore_embed.adversarial import CollapseWatch, take_population_statistics

X = torch.rand(16, 1, 4, 4, generator=torch_generator(0))
ALIKE = X[:1] + 0.01 * X


def watched(patience, losses, made):
    """Return the step at which the watch raises, and its message; None where it does not."""
    watch = CollapseWatch("gan", patience, torch.device("cpu"))
    for step, (loss, pictures) in enumerate(zip(losses, made, strict=True)):
        try:
            watch.observe(step, torch.tensor(loss), pictures, X)
        except NumericalError as error:
            return step, str(error)
    return None


def test_a_won_discriminator_is_told_after_patience():
    found = watched(30, [0.5] * 10 + [5e-4] * 90, [X] * 100)
    assert found == (
        49,
        "gan: at step 49 the discriminator's loss has been below 0.001 for 40 steps: the generator learns nothing from it "
        "any more; expected two sides of equal strength (lower learning_rate, train fewer steps, give more images, or raise "
        "patience)",
    )


def test_pictures_that_are_alike_are_told_after_patience():
    step, message = watched(30, [0.5] * 100, [X] * 30 + [ALIKE] * 70)
    assert step == 74
    assert message.startswith(
        "gan: at step 74 the generated pictures have been all alike for 45 steps, their variance less"
    )


def test_one_good_step_starts_the_count_anew():
    losses = ([5e-4] * 20 + [0.5]) * 5
    assert watched(21, losses, [X] * len(losses)) is None
    assert watched(20, [2e-3] * 200, [X] * 200) is None


def test_variance_is_compared_with_the_datas():
    """0.01 of the spread is 1e-4 of the variance and counts as alike; 0.05 of it is 2.5e-3 and does not."""
    assert watched(1, [0.5] * 25, [X[:1] + 0.05 * X] * 25) is None
    assert watched(1, [0.5] * 25, [ALIKE] * 25) is not None


def test_counts_are_part_of_a_checkpoint():
    first, second = (CollapseWatch("gan", 9, torch.device("cpu")) for _ in range(2))
    for step in range(7):
        first.observe(step, torch.tensor(1e-5), X, X)
    second.load_state_dict(first.state_dict())
    assert second.counts.tolist() == [7, 0]


def test_population_statistics_are_means_over_batches():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh(), nn.BatchNorm1d(3))
    network.train()
    network(torch.randn(5, 3, generator=torch_generator(1)))
    batches = [3 * torch.randn(8, 3, generator=torch_generator(seed)) + seed for seed in range(4)]
    take_population_statistics(network, iter(batches))
    means = np.mean([batch.numpy().mean(0) for batch in batches], 0)
    variances = np.mean([batch.numpy().var(0, ddof=1) for batch in batches], 0)
    np.testing.assert_allclose(network[0].running_mean.numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(network[0].running_var.numpy(), variances, rtol=1e-5)
    inner = [np.tanh((b - b.mean(0)) / np.sqrt(b.var(0) + 1e-5)) for b in (batch.numpy() for batch in batches)]
    np.testing.assert_allclose(network[2].running_mean.numpy(), np.mean([h.mean(0) for h in inner], 0), atol=1e-6)
    assert not network.training
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(network[0].running_mean.numpy(), batches[0].numpy().mean(0), rtol=1e-5)
