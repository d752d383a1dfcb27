"""Tasks between sets of clusters: which there are, what they hold, and in which order they come."""

from collections import Counter
from itertools import chain, combinations

import numpy as np
import pytest

from fewcore import DataError, Partitions, Run
from fewcore_meta import said_once
from fewcore_meta.cluster_subsets import ClusterSubsets, subset_pairs

SIZES = (6, 9, 20)


def partition_of(sizes=SIZES, names=(), unused=0):
    parts = np.concatenate([np.full(size, part) for part, size in enumerate(sizes)] + [np.full(unused, -1)]).astype(
        np.int8
    )
    return Partitions(parts[None], np.arange(len(parts)), names=names)


def stream_of(partitions=None, seed=0, **options):
    return ClusterSubsets(**{"n_shot": 2, "n_query": 5, **options}).tasks(partitions or partition_of(), Run(seed))


def brute_force(k):
    subsets = [frozenset(s) for s in chain.from_iterable(combinations(range(k), n) for n in range(1, k + 1))]
    return {frozenset((a, b)) for a in subsets for b in subsets if not a & b}


@pytest.mark.parametrize(("k", "n_pairs"), [(2, 1), (3, 6), (4, 25), (5, 90), (6, 301)])
def test_all_pairs_of_disjoint_subsets_are_there_once(k, n_pairs):
    pairs = subset_pairs(k)
    sides = [frozenset(frozenset(np.flatnonzero(pair == side)) for side in (0, 1)) for pair in pairs]
    assert len(pairs) == n_pairs
    assert len(set(sides)) == n_pairs
    assert set(sides) == brute_force(k)


def test_a_task_holds_images_of_its_sides_each_once():
    partitions, n_shot, n_query = partition_of(unused=7), 2, 5
    stream, parts = stream_of(partitions), partitions.parts[0]
    cursor = stream.start()
    for _ in range(20):
        batch = cursor.draw(4)
        for i, pair in enumerate(batch.task):
            known = batch.query[i] >= 0
            rows = np.concatenate([batch.support[i], batch.query[i][known]])
            labels = np.concatenate([batch.support_labels[i], batch.query_labels[i][known]])
            assert len(np.unique(rows)) == len(rows)
            assert (batch.query_labels[i][~known] == -1).all()
            sides = {frozenset(np.flatnonzero(stream.pairs[pair] == side)) for side in (0, 1)}
            for label in (0, 1):
                used = frozenset(parts[rows[labels == label]])
                assert any(used <= side for side in sides)
                assert (batch.support_labels[i] == label).sum() == n_shot
                side = next(side for side in sides if used <= side)
                available = sum(SIZES[part] for part in side)
                assert (labels == label).sum() == n_shot + min(n_query, available - n_shot)


def test_either_side_has_either_label_and_every_image_its_turn():
    stream = stream_of(partition_of((6, 8)))
    batch = stream.at(np.zeros(2_000, np.int64), np.arange(2_000))
    first_is_zero = (batch.support[:, 0] < 6).mean()
    assert abs(first_is_zero - 0.5) < 4 * 0.5 / np.sqrt(2_000)
    small = batch.support[batch.support < 6]
    counts = np.bincount(small, minlength=6)
    assert (abs(counts - 4_000 / 6) < 5 * np.sqrt(4_000 / 6)).all()


def test_labels_stay_where_they_are_not_to_be_swapped():
    stream = stream_of(partition_of((6, 8)), swap_labels=False)
    assert (stream.at(np.zeros(50, np.int64), np.arange(50)).support[:, 0] < 6).all()


def test_a_task_depends_on_the_seed_and_its_place_alone():
    one, two, other = stream_of(seed=1), stream_of(seed=1), stream_of(seed=2)
    several = two.start()
    several.draw(3)
    cursor = one.start()
    cursor.draw(3)
    np.testing.assert_array_equal(cursor.draw(2).support, several.draw(2).support)
    assert (one.start().draw(5).support != other.start().draw(5).support).any()


def test_random_takes_different_tasks_and_all_as_often():
    cursor, taken = stream_of().start(), Counter()
    for _ in range(600):
        batch = cursor.draw(4)
        cursor.observe(batch, np.full(4, 0.5))
        assert len(set(batch.task.tolist())) == 4
        taken.update(batch.task.tolist())
    assert set(taken) == set(range(6))
    assert all(abs(n - 400) < 5 * np.sqrt(400 / 3) for n in taken.values())
    # A consumer that reports nothing gets all of them before it gets one again.
    assert sorted(Counter(cursor.draw(12).task.tolist()).values()) == [2] * 6


def test_round_robin_takes_each_once_a_pass_and_shuffles_each_pass():
    cursor = stream_of(order="round-robin").start()
    tasks = np.concatenate([cursor.draw(4).task for _ in range(9)]).reshape(6, 6)
    assert (np.sort(tasks, 1) == np.arange(6)).all()
    assert len({tuple(row) for row in tasks.tolist()}) > 1


def test_curriculum_visits_each_twice_and_then_what_changes_most():
    cursor = stream_of(order="curriculum", exploration=0.0).start()
    scores = {task: iter(np.linspace(0.5, 0.5 + 0.01 * task, 50)) for task in range(6)}
    for _ in range(3):
        batch = cursor.draw(4)
        cursor.observe(batch, np.array([next(scores[task]) for task in batch.task]))
    assert cursor.observed.tolist() == [2] * 6
    for _ in range(10):
        batch = cursor.draw(2)
        assert sorted(batch.task.tolist()) == [4, 5]
        cursor.observe(batch, np.array([next(scores[task]) for task in batch.task]))


def test_forgetting_counts_as_much_as_learning():
    cursor = stream_of(order="curriculum", exploration=0.0).start()
    for scores in ([0.5] * 6, [0.5, 0.5, 0.1, 0.5, 0.6, 0.5]):
        cursor.observe(stream_of().at(np.arange(6), np.arange(6)), np.array(scores))
    assert cursor.draw(2).task.tolist() == [2, 4]


def test_curriculum_follows_its_rule_in_slow_motion():
    stream = stream_of(order="curriculum", memory=3, exploration=0.0)
    cursor, rng = stream.start(), np.random.default_rng(0)
    memories, last = {task: [] for task in range(6)}, {}
    for _ in range(40):
        batch = cursor.draw(2)
        remembered = [{abs(change) for change in memories[task]} or {np.inf} for task in range(6)]
        # Whatever was drawn from the memories, no task may be left out whose smallest change exceeds all of a taken one.
        for taken in batch.task:
            for other in set(range(6)) - set(batch.task.tolist()):
                assert max(remembered[taken]) >= min(remembered[other])
        scores = rng.random(2)
        cursor.observe(batch, scores)
        for task, score in zip(batch.task.tolist(), scores, strict=True):
            if task in last:
                memories[task] = [score - last[task], *memories[task]][:3]
            last[task] = score
    for task, changes in memories.items():
        kept = cursor.memory[task][~np.isnan(cursor.memory[task])]
        np.testing.assert_allclose(kept, changes)


def test_bandit_remembers_the_scores_themselves():
    cursor = stream_of(order="bandit", exploration=0.0).start()
    cursor.observe(stream_of().at(np.arange(6), np.arange(6)), np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.4]))
    assert cursor.draw(2).task.tolist() == [1, 3]


def test_exploration_takes_other_tasks_as_often_as_it_says():
    cursor = stream_of(order="bandit", exploration=0.3).start()
    scores = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.4])
    cursor.observe(stream_of().at(np.arange(6), np.arange(6)), scores)
    others = []
    for _ in range(2_000):
        batch = cursor.draw(1)
        cursor.observe(batch, scores[batch.task])
        others.append(int(batch.task[0]) != 1)
    share = 0.3 * 5 / 6
    assert abs(np.mean(others) - share) < 5 * np.sqrt(share * (1 - share) / 2_000)


def test_a_score_that_is_no_number_teaches_nothing():
    cursor = stream_of(order="curriculum").start()
    batch = stream_of().at(np.arange(6), np.arange(6))
    for scores in (np.full(6, 0.5), np.full(6, np.nan), np.full(6, 0.7)):
        cursor.observe(batch, scores)
    np.testing.assert_allclose(cursor.memory[:, 0], 0.2)
    assert cursor.observed.tolist() == [2] * 6


@pytest.mark.parametrize("order", ["random", "round-robin", "curriculum", "bandit"])
def test_a_cursor_goes_on_where_it_was(order):
    rng, stream = np.random.default_rng(0), stream_of(order=order)
    cursor, again = stream.start(), stream.start()
    for _ in range(7):
        batch = cursor.draw(4)
        cursor.observe(batch, rng.random(4))
    again.load_state_dict(cursor.state_dict())
    for _ in range(5):
        scores = rng.random(4)
        mine, same = cursor.draw(4), again.draw(4)
        for name in ("support", "query", "task", "support_labels"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(same, name))
        cursor.observe(mine, scores)
        again.observe(same, scores)


def test_a_pair_is_excluded_by_the_names_of_its_parts_in_either_order():
    named = partition_of(names=("none", "benign", "malignant"))
    screening = (("malignant",), ("none", "benign"))
    for pair in (screening, screening[::-1]):
        stream = stream_of(named, exclude=(pair,))
        assert (len(stream), stream.n_excluded) == (5, 1)
        assert {"none, benign | malignant", "malignant | none, benign"}.isdisjoint(map(stream.named, range(5)))
    assert len(stream_of(partition_of(), exclude=((("0",), ("2",)),))) == 5


def test_wrong_exclusions_are_told_all_at_once():
    with pytest.raises(DataError) as error:
        stream_of(
            partition_of(names=("none", "benign", "malignant")),
            exclude=((("cyst",), ("none",)), (("benign",), ("benign",))),
        )
    assert "no part named cyst; expected names among none, benign, malignant" in str(error.value)
    assert "no part in both" in str(error.value)


def test_small_sides_and_empty_parts_give_no_task(caplog):
    said_once.say_once.cache_clear()
    stream = stream_of(partition_of((3, 9, 20)))
    assert (len(stream), stream.n_small) == (3, 3)
    stream_of(partition_of((3, 9, 20)))
    assert caplog.messages == [
        "cluster-subsets: 3 of 6 tasks; of the others a side has fewer than 4 images (2 support + 2; lower n_shot for more)"
    ]
    assert len(stream_of(partition_of((6, 0, 9, 20)))) == 6
    with pytest.raises(DataError, match="lower n_shot") as error:
        stream_of(partition_of((3, 3, 40)), n_shot=5)
    assert "0: 3, 1: 3, 2: 40" in str(error.value)
    with pytest.raises(DataError, match="11 parts"):
        stream_of(partition_of((9,) * 11))


def test_each_of_several_partitions_gives_tasks_of_its_own():
    rows = np.arange(12)
    parts = np.stack([rows // 6, rows % 2]).astype(np.int8)
    stream = stream_of(Partitions(parts, rows))
    assert stream.partition.tolist() == [0, 1]
    batch = stream.at(np.array([1]), np.array([0]))
    zero = batch.support[0][batch.support_labels[0] == 0]
    assert len(set(zero % 2)) == 1


def test_evaluation_takes_each_pair_in_turn():
    (batch,) = stream_of(n_tasks=13).batches()
    assert batch.task.tolist() == [*range(6), *range(6), 0]
