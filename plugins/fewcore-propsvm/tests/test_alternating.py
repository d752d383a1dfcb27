"""alter-pSVM against all labelings, the label step against all choices in a bag, and what proportions alone can teach."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fewcore import Interrupted, Run
from fewcore_propsvm.alternating import Bags, alternating_psvm, balanced_labels, best_labels
from fewcore_propsvm.kernels import kernel_matrix
from fewcore_propsvm.svm import svm


def slow_objective(matrix, labels, beta, bias, bag, proportions, C, C_p, eps):
    """The objective, term by term as it is written."""
    total = 0.5 * float(beta @ matrix @ beta)
    for i in range(len(labels)):
        f = float(matrix[i] @ beta) + bias
        total += C * max(0.0, 1 - labels[i] * f)
    for b in range(len(proportions)):
        members = [labels[i] for i in range(len(labels)) if bag[i] == b]
        share = sum(y == 1 for y in members) / len(members)
        total += C_p * len(members) * max(0.0, abs(share - proportions[b]) - eps)
    return total


def slow_label_step(margins, bag, proportions, eps, ratio):
    """The least cost of each bag over all of its labelings."""
    least = 0.0
    for b in range(len(proportions)):
        f = margins[bag == b]
        costs = []
        for labels in itertools.product((1, -1), repeat=len(f)):
            y = np.array(labels)
            share = (y == 1).mean()
            hinge = np.maximum(0, 1 - y * f).sum()
            costs.append(hinge + ratio * len(f) * max(0, abs(share - proportions[b]) - eps))
        least += min(costs)
    return least


def tiny(seed, n=6, k=2):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n, 2)))
    return x @ x.T, np.arange(n) % k, rng.random(k)


@pytest.mark.parametrize("seed", range(6))
def test_the_label_step_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    bag = np.array([0] * 6 + [1] * 4 + [2])
    proportions, eps, ratio = rng.random(3), [0.0, 0.1][seed % 2], 10.0 ** (seed % 4 - 2)
    margins = 2 * rng.normal(size=11)
    labels = best_labels(torch.from_numpy(margins), Bags(bag, proportions), eps, ratio).numpy()
    cost = np.maximum(0, 1 - labels * margins).sum()
    for b in range(3):
        share = (labels[bag == b] == 1).mean()
        cost += ratio * (bag == b).sum() * max(0, abs(share - proportions[b]) - eps)
    assert cost == pytest.approx(slow_label_step(margins, bag, proportions, eps, ratio), abs=1e-7)


def brute_force(seed):
    """A tiny problem, its costs, and the least objective over all labelings."""
    matrix, bag, proportions = tiny(seed)
    how = {"C": 0.5 + seed % 4, "C_p": 1.0 + 2 * (seed % 2), "eps": 0.1 * (seed % 2)}
    best = np.inf
    for signs in itertools.product((1.0, -1.0), repeat=6):
        found = svm(matrix, torch.tensor(signs, dtype=torch.float64), how["C"])
        best = min(best, slow_objective(matrix, signs, found.beta, found.bias, bag, proportions, **how))
    return (matrix, bag, proportions), how, best


@pytest.mark.parametrize("seed", [0, 1, 3, 8, 10])
def test_restarts_without_annealing_reach_the_best_of_all_labelings(seed):
    # Annealing misses the best of 0 and 3 from every start, balanced starts at C miss those of 8 and 10.
    given, how, best = brute_force(seed)
    found = alternating_psvm(*given, restarts=150, anneal=False, run=Run(seed), **how)
    machine = found.machine
    reached = slow_objective(given[0], found.labels.tolist(), machine.beta, machine.bias, *given[1:], **how)
    assert found.objective == pytest.approx(reached, abs=1e-8)
    assert found.objective == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize(("seed", "reaches"), [(0, False), (1, True), (2, True), (3, False), (4, True), (5, True)])
def test_annealing_reaches_the_best_of_most_tiny_problems(seed, reaches):
    given, how, best = brute_force(seed)
    found = alternating_psvm(*given, restarts=10, run=Run(seed), **how)
    assert found.objective >= best - 1e-7
    assert found.objective < 1.2 * best
    if reaches:
        assert found.objective == pytest.approx(best, abs=1e-7)


def test_pure_proportions_leave_the_machine_of_the_clusters():
    rng = np.random.default_rng(0)
    bag = np.arange(60) % 2
    x = torch.from_numpy(rng.normal(size=(60, 4)) + 1.5 * bag[:, None])
    matrix = x @ x.T
    found = alternating_psvm(matrix, bag, np.array([0.0, 1.0]), C_p=1e3, restarts=3, run=Run())
    expected = svm(matrix, torch.from_numpy(np.where(bag == 1, 1.0, -1.0)), 1.0)
    np.testing.assert_array_equal(found.labels.numpy() > 0, bag == 1)
    assert torch.equal(found.machine.beta, expected.beta)
    assert found.machine.bias == expected.bias


def test_negated_proportions_negate_the_machine():
    matrix, bag, proportions = tiny(3, n=12, k=3)
    one = alternating_psvm(matrix, bag, proportions, restarts=12, run=Run(0))
    other = alternating_psvm(matrix, bag, 1 - proportions, restarts=12, run=Run(1))
    assert one.objective == pytest.approx(other.objective, rel=0.02)


def test_restarts_are_balanced_reproducible_and_the_best_is_taken():
    assert abs(int(balanced_labels(9, np.random.default_rng(0)).sum())) == 1
    matrix, bag, proportions = tiny(1, n=24, k=4)
    one, same, other = (alternating_psvm(matrix, bag, proportions, restarts=6, run=Run(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.objectives, same.objectives)
    assert torch.equal(one.machine.beta, same.machine.beta)
    assert one.objective == pytest.approx(one.objectives.min())
    assert len(np.unique(one.objectives.round(6))) > 1 or len(np.unique(other.objectives.round(6))) > 1


def test_an_interrupted_search_ends_with_the_same_bits(tmp_path):
    matrix, bag, proportions = tiny(2, n=24, k=4)
    whole = alternating_psvm(matrix, bag, proportions, restarts=4, run=Run(0))
    for left in (2, 1):
        run = Run(0, checkpoints=tmp_path, checkpoint_every=0.0, stop=lambda: True)
        with pytest.raises(Interrupted):
            alternating_psvm(matrix, bag, proportions, restarts=4, run=run)
        assert left
    again = alternating_psvm(matrix, bag, proportions, restarts=4, run=Run(0, checkpoints=tmp_path))
    np.testing.assert_array_equal(again.labels, whole.labels)
    assert torch.equal(again.machine.beta, whole.machine.beta)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_bags_of_one_side_make_no_crash(share):
    matrix, bag, _ = tiny(0, n=12)
    found = alternating_psvm(matrix, bag, np.full(2, share), restarts=3, run=Run())
    assert found.objective == pytest.approx(0, abs=1e-8)
    assert bool((found.labels == 2 * share - 1).all())


def test_bags_of_one_row_are_labels():
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.normal(size=(20, 3)))
    labels = np.sign(rng.normal(size=20))
    found = alternating_psvm(x @ x.T, np.arange(20), (labels + 1) / 2, C_p=1e3, restarts=2, run=Run())
    np.testing.assert_array_equal(found.labels.numpy(), labels)


def test_equal_rows_and_constant_features():
    bag = np.arange(12) % 2
    flat = alternating_psvm(torch.zeros(12, 12, dtype=torch.float64), bag, np.array([0.2, 0.9]), restarts=2, run=Run())
    assert np.isfinite(flat.objective)
    rows = torch.from_numpy(np.repeat(np.random.default_rng(0).normal(size=(3, 2)), 4, 0))
    found = alternating_psvm(rows @ rows.T, bag, np.array([0.2, 0.9]), restarts=2, run=Run())
    assert np.isfinite(found.objective)


def inverse_calibration(x, bag, proportions, cost=1.0, scale=10.0):
    """InvCal (S. Rueping, ICML 2010), in short: each bag's mean is a row, its label the logit of the bag's share, each
    weighted by the bag's size; support vector regression by its least-squares form."""
    means = np.stack([x[bag == b].mean(0) for b in range(len(proportions))])
    target = np.log(proportions.clip(0.02, 0.98) / (1 - proportions.clip(0.02, 0.98)))
    root = np.sqrt(np.bincount(bag) * cost * scale / len(x))
    a = np.concatenate([means, np.ones((len(means), 1))], 1) * root[:, None]
    weights = np.linalg.solve(a.T @ a + np.diag([*np.ones(x.shape[1]), 1e-9]), a.T @ (target * root))
    return lambda rows: rows @ weights[:-1] + weights[-1] > 0


def mean_map(x, bag, proportions, penalty=1.0):
    """The mean map (N. Quadrianto et al., JMLR 10, 2009), in short: class means by least squares over bag means, which
    give sum_i y_i x_i, and the logistic regression that has this as its statistic, by gradient descent."""
    means = np.stack([x[bag == b].mean(0) for b in range(len(proportions))])
    shares = np.stack([proportions, 1 - proportions], 1)
    positive, negative = np.linalg.lstsq(shares, means, rcond=None)[0]
    prior = np.average(proportions, weights=np.bincount(bag))
    ones = np.ones((len(x), 1))
    rows = np.concatenate([x, ones], 1)
    statistic = np.append(prior * positive - (1 - prior) * negative, 2 * prior - 1)
    weights = np.zeros(rows.shape[1])
    for _ in range(2000):
        gradient = (np.tanh(rows @ weights)[:, None] * rows).mean(0) - statistic + penalty * weights / len(x)
        weights -= 0.1 * gradient
    return lambda new: new @ weights[:-1] + weights[-1] > 0


def bags_of_breast_cancer(seed, size=16):
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:384], order[384:]
    scaler = StandardScaler().fit(x[train])
    bag = np.arange(384) // size
    shares = np.bincount(bag, y[train]) / size
    return scaler.transform(x[train]), bag, shares, scaler.transform(x[test]), y[test]


@pytest.mark.slow
def test_known_proportions_of_random_bags_beat_inverse_calibration_and_the_mean_map():
    ours, theirs, maps = [], [], []
    for seed in range(3):
        x, bag, shares, new, truth = bags_of_breast_cancer(seed)
        rows = torch.from_numpy(x)
        found = alternating_psvm(rows @ rows.T, bag, shares, restarts=1, run=Run(seed)).machine
        said = (new @ (x.T @ found.beta.numpy()) + found.bias) > 0
        ours.append((said == truth).mean())
        theirs.append((inverse_calibration(x, bag, shares)(new) == truth).mean())
        maps.append((mean_map(x, bag, shares)(new) == truth).mean())
    assert np.mean(ours) > np.mean(theirs), (ours, theirs, maps)
    assert np.mean(ours) > np.mean(maps), (ours, theirs, maps)
    assert np.mean(ours) > 0.93


def test_an_rbf_kernel_finds_a_ring():
    rng = np.random.default_rng(0)
    radius = np.repeat([0.5, 2.0], 60)
    angle = rng.random(120) * 2 * np.pi
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + 0.05 * rng.normal(size=(120, 2))
    inner, order = radius < 1, rng.permutation(120)
    x, inner = x[order], inner[order]
    bag = np.arange(120) // 10
    shares = np.bincount(bag, inner) / 10
    rows = torch.from_numpy(x)
    found = alternating_psvm(kernel_matrix(rows, rows, "rbf", 1.0), bag, shares, restarts=2, run=Run())
    assert ((found.labels.numpy() > 0) == inner).mean() > 0.95
    linear = SVC(kernel="linear").fit(x, inner)
    assert (linear.predict(x) == inner).mean() < 0.8


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 40)))
    bag = (rng.random(300) < 0.4).astype(int)
    found = []
    for device in ("cpu", "cuda"):
        rows = x.to(device)
        found.append(alternating_psvm(rows @ rows.T, bag, np.array([0.3, 0.7]), restarts=3, run=Run(0, device)))
    np.testing.assert_allclose(found[0].objectives, found[1].objectives, rtol=1e-8)
    torch.testing.assert_close(found[0].machine.margins, found[1].machine.margins.cpu(), rtol=0, atol=1e-8)
