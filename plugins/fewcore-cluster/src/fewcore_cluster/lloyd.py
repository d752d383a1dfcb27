"""k-means of one set of vectors: Lloyd's algorithm, with merges traded for splits and rows that cannot change skipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from fewcore import Array

SETTLED = 2e-3
DRAWS = 6
SEED_BATCH = 192
SMALLEST = 1e-30
TRADING_ROUNDS, WORTH_TRADING = 8, 2e-4
SPLIT_SHARE = 3
SPLIT_ROUNDS = 3
SLACK = 1e-4
CPU_BLOCK = 2**18
GPU_BLOCK = 2**26


@dataclass(frozen=True, eq=False)
class Clusters:
    """A local minimum of the sum of squared distances (`inertia`): labels (n,) int64 and centres (k, d) float32."""

    labels: Array
    centres: Array
    inertia: float
    n_iter: int


@dataclass(eq=False)
class _Nearest:
    """Nearest and second nearest centre of each row: their numbers, and the squared distances to them."""

    first: torch.Tensor
    second: torch.Tensor
    first_square: torch.Tensor
    second_square: torch.Tensor


def _two_smallest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the columns of the smallest and second smallest score of each row, and these scores; scores are spoilt."""
    if scores.device.type == "cpu":  # numpy's argmin is several times as fast as torch's
        table, rows = scores.numpy(), np.arange(len(scores))
        first = table.argmin(1)
        low = table[rows, first]
        table[rows, first] = np.inf
        second = table.argmin(1)
        return tuple(map(torch.from_numpy, (first, second, low, table[rows, second])))  # type: ignore[return-value]
    low, first = scores.min(1)
    scores.scatter_(1, first[:, None], torch.inf)
    low_2, second = scores.min(1)
    return first, second, low, low_2


def _nearest(vectors: torch.Tensor, squares: torch.Tensor, centres: torch.Tensor) -> _Nearest:
    """Compare vectors (n, d), of squared lengths (n,), with all centres (k, d), block by block."""
    k = len(centres)
    step = max(256, (CPU_BLOCK if vectors.device.type == "cpu" else GPU_BLOCK) // k)
    centre_squares, turned = centres.square().sum(1), centres.T
    buffer = torch.empty((min(step, len(vectors)), k), device=vectors.device)
    found = [
        _two_smallest(torch.addmm(centre_squares, rows, turned, alpha=-2, out=buffer[: len(rows)]))
        for rows in torch.split(vectors, step)
    ]
    first, second, low, low_2 = (torch.cat(column) for column in zip(*found, strict=True))
    return _Nearest(first, second, (low + squares).clamp(min=0), (low_2 + squares).clamp(min=0))


def _seeds(vectors: torch.Tensor, squares: torch.Tensor, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Return k rows as first centres: greedy k-means++.

    Each is the best of `DRAWS` rows drawn with a probability proportional to the squared distance `gap` (n,) to the
    nearest centre so far. Draws are made and compared with all rows in batches; one that was drawn with probability
    proportional to an older gap is kept with probability gap / older gap, which makes it a draw by the present gap.
    """
    n = len(vectors)
    chosen = [int(rng.integers(n))]
    gap = (vectors - vectors[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        total = gap.double().cumsum(0)
        if float(total[-1]) <= 0:  # fewer distinct rows than clusters: the rest is left to the re-seeding of empty ones
            return vectors[chosen + rng.permutation(n)[: k - len(chosen)].tolist()]
        size = DRAWS * min(SEED_BATCH // DRAWS, 1 + len(chosen) // 2, k - len(chosen))
        places = torch.from_numpy(rng.random(size)).to(vectors.device) * total[-1]
        drawn = torch.searchsorted(total, places).clamp(max=n - 1)
        products, lengths = vectors[drawn] @ vectors.T, squares[drawn][:, None]
        older, luck, rows = gap[drawn].clamp(min=SMALLEST), rng.random(size), drawn.tolist()
        left = np.arange(size)
        while len(left) and len(chosen) < k:
            share = (gap[drawn] / older).cpu().numpy()
            left = left[luck[left] < share[left]]
            if not len(left) or (len(left) < DRAWS < size):
                break
            now, left = torch.from_numpy(left[:DRAWS]).to(vectors.device), left[DRAWS:]
            gaps = torch.minimum(torch.add(squares + lengths[now], products[now], alpha=-2), gap)
            best = int(gaps.sum(1).argmin())
            chosen.append(rows[int(now[best])])
            gap = gaps[best].clamp(min=0)
    return vectors[chosen]


def _sums(values: torch.Tensor, parts: torch.Tensor, k: int) -> torch.Tensor:
    """Return the sums (k, d) of the rows (n, d) of each part; the order of addition is fixed on the CPU."""
    if values.device.type == "cpu":
        n = len(values)
        ones = np.ones(n, np.float32)
        member = sparse.csc_matrix((ones, parts.numpy(), np.arange(n + 1)), shape=(k, n))
        return torch.from_numpy(np.asarray(member @ values.numpy()))
    return torch.zeros(k, values.shape[1], device=values.device).index_add_(0, parts, values)


def _means(vectors: torch.Tensor, labels: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Return the means (k, d) of each cluster's rows; an empty cluster keeps its centre."""
    counts = torch.bincount(labels, minlength=len(centres))[:, None]
    return torch.where(counts > 0, _sums(vectors, labels, len(centres)) / counts.clamp(min=1), centres)


def _refill(vectors: torch.Tensor, labels: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Put the centre of each empty cluster on one of the rows that lie farthest from theirs."""
    empty = (torch.bincount(labels, minlength=len(centres)) == 0).nonzero()[:, 0]
    if len(empty):
        far = (vectors - centres[labels]).square().sum(1).topk(len(empty)).indices
        centres = centres.index_copy(0, empty, vectors[far])
    return centres


def _split(
    vectors: torch.Tensor, labels: torch.Tensor, centres: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut the third of the clusters with most inertia in two, by a few rounds of 2-means, all at once.

    Returns the clusters (m,), by how much each cut lowers the inertia (m,), and the centres of the halves (m, 2, d).
    """
    k = len(centres)
    inertia = torch.bincount(labels, squares.double(), minlength=k)
    chosen = inertia.topk(-(-k // SPLIT_SHARE)).indices
    m = len(chosen)
    place = torch.full((k,), -1, device=labels.device).index_copy(0, chosen, torch.arange(m, device=labels.device))
    rows = (place[labels] >= 0).nonzero()[:, 0]
    part = place[labels[rows]]
    offsets = vectors[rows] - centres[chosen][part]
    # The row farthest from the centre shows the first axis: the last of its part in the order of distance.
    outwards = offsets.square().sum(1).argsort()
    order = outwards[part[outwards].argsort(stable=True)]
    last = torch.bincount(part, minlength=m).cumsum(0) - 1
    axis, threshold = offsets[order[last.clamp(min=0)]], torch.zeros(m, device=labels.device)
    for _ in range(SPLIT_ROUNDS):
        halves = part * 2 + ((offsets * axis[part]).sum(1) > threshold[part])
        counts = torch.bincount(halves, minlength=2 * m).reshape(m, 2)
        means = _sums(offsets, halves, 2 * m).reshape(m, 2, -1) / counts.clamp(min=1)[..., None]
        axis = means[:, 1] - means[:, 0]
        threshold = (means.mean(1) * axis).sum(1)
    gain = torch.where((counts > 0).all(1), (counts * means.square().sum(2)).sum(1), 0.0)
    return chosen, gain, centres[chosen][:, None] + means


def _trade(vectors: torch.Tensor, centres: torch.Tensor, near: _Nearest) -> tuple[torch.Tensor, float]:
    """Dissolve the clusters that are cheapest to dissolve and cut those that gain most by it, pair by pair, while the
    gain exceeds the cost. Returns the new centres and the expected fall of the inertia.

    A dissolved cluster's rows go to their second nearest centres; those clusters are not dissolved in the same round,
    so that the expected costs stay right.
    """
    k = len(centres)
    cost = torch.zeros(k, dtype=torch.float64, device=vectors.device)
    cost.index_add_(0, near.first, (near.second_square - near.first_square).double())
    chosen, gain, halves = _split(vectors, near.first, centres, near.first_square)
    costs, gains, numbers = cost.tolist(), gain.tolist(), chosen.tolist()
    labels, second = near.first.cpu().numpy(), near.second.cpu().numpy()
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(k + 1))
    fall, centres = 0.0, centres.clone()
    dissolved: set[int] = set()
    kept: set[int] = set()
    candidates = iter(np.argsort(-np.asarray(gains), kind="stable").tolist())
    best = next(candidates, None)
    for gone in np.argsort(costs, kind="stable").tolist():
        if gone in kept:
            continue
        while best is not None and (numbers[best] in dissolved or numbers[best] == gone):
            best = next(candidates, None)
        if best is None or gains[best] <= costs[gone]:
            break
        centres[gone], centres[numbers[best]] = halves[best]
        dissolved.add(gone)
        kept |= {numbers[best], *second[order[bounds[gone] : bounds[gone + 1]]].tolist()}
        fall += gains[best] - costs[gone]
        best = next(candidates, None)
    return centres, fall


def _trades(vectors: torch.Tensor, squares: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Alternate Lloyd's iterations with trades, while these lower the inertia by more than 2 in 10,000."""
    done = 0
    while done < TRADING_ROUNDS:
        done += 1
        near = _nearest(vectors, squares, centres)
        inertia = float(near.first_square.sum())
        if inertia <= 0:
            break
        centres, fall = _trade(vectors, _means(vectors, near.first, centres), near)
        if fall <= WORTH_TRADING * inertia:
            break
    return centres, done


def _settle(
    vectors: torch.Tensor, squares: torch.Tensor, centres: torch.Tensor, max_iter: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Run Lloyd's algorithm to its end, comparing only rows whose nearest centre may have changed.

    `own` (n,) stays above the distance to a row's centre and `others` (n,) below that to every other centre, by the
    triangle inequality: they change by the ways that the centres moved. Only where they meet are distances computed.
    """
    near = _nearest(vectors, squares, centres)
    labels, own, others = near.first, near.first_square.sqrt(), near.second_square.sqrt()
    iteration = 0
    while iteration < max_iter:
        iteration += 1
        moved = _refill(vectors, labels, _means(vectors, labels, centres))
        ways = (moved - centres).square().sum(1).sqrt()
        centres = moved
        own += ways[labels]
        others -= ways.max()
        rows = (own * (1 + SLACK) >= others).nonzero()[:, 0]
        own[rows] = (vectors[rows] - centres[labels[rows]]).square().sum(1).sqrt()
        rows = rows[own[rows] * (1 + SLACK) >= others[rows]]
        again = _nearest(vectors[rows], squares[rows], centres)
        changed = int((again.first != labels[rows]).sum())
        labels[rows], own[rows], others[rows] = again.first, again.first_square.sqrt(), again.second_square.sqrt()
        if changed <= SETTLED * len(vectors):
            break
    return labels, centres, iteration


def cluster(vectors: torch.Tensor, n_clusters: int, rng: np.random.Generator, max_iter: int) -> Clusters:
    """Return `n_clusters` clusters of vectors (n, d) float32, computed on the vectors' device.

    It starts from rows drawn by `rng` (greedy k-means++). The first iterations of Lloyd's algorithm are followed each by
    a trade of merges for splits, which frees it from a poor start. It ends when at most
    two rows in a thousand change its cluster, or after `max_iter` more iterations.
    """
    origin = vectors.mean(0)
    vectors = vectors - origin
    squares = vectors.square().sum(1)
    centres, done = _seeds(vectors, squares, n_clusters, rng), 0
    if n_clusters > 1:
        centres, done = _trades(vectors, squares, centres)
    labels, centres, more = _settle(vectors, squares, centres, max_iter)
    inertia = float((vectors - centres[labels]).square().sum(dtype=torch.float64))
    return Clusters(labels.cpu().numpy(), (centres + origin).cpu().numpy(), inertia, done + more)
