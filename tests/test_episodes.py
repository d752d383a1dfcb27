"""Episodes: the law of the tasks against a slow transcription, purity, uniformity, errors."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from fewcore import DataError, Partitions, PipelineError, Run, distinct_integers, task_uniforms
from fewcore.builtin.episodes import Episodes


def partitions(sizes=(8, 9, 7), unassigned=4, p=1, names=(), weights=None):
    row = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(unassigned, -1)])
    rng = np.random.default_rng(1)
    parts = np.stack([rng.permutation(row) for _ in range(p)])
    return Partitions(parts, np.arange(len(row)), np.empty(0) if weights is None else np.array(weights), names)


def stream(parts, seed=0, **options):
    return Episodes(**options).tasks(parts, Run(seed))


def same(a, b):
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("support", "query", "task", "support_labels"))


def chi_square_p(counts):
    return stats.chisquare(counts).pvalue


def slow_task(parts, weights, n_way, n_shot, n_query, rng):
    """The card's section 5, one draw after the other."""
    need = n_shot + n_query
    able = [p for p in range(len(parts)) if sum((parts[p] == c).sum() >= need for c in range(parts.max() + 1)) >= n_way]
    p = rng.choice(able, p=np.array(weights)[able] / np.array(weights)[able].sum())
    large = [c for c in range(parts.max() + 1) if (parts[p] == c).sum() >= need]
    classes = rng.choice(large, n_way, replace=False)
    rng.shuffle(classes)
    members = [rng.choice(np.flatnonzero(parts[p] == c), need, replace=False) for c in classes]
    return p, classes, members


def test_tasks_obey_the_partition():
    made = partitions(p=5)
    batch = stream(made, n_way=2, n_shot=2, n_query=3).start().draw(300)
    assert batch.support.shape == (300, 4)
    assert batch.query.shape == (300, 6)
    np.testing.assert_array_equal(batch.support_labels[0], [0, 0, 1, 1])
    np.testing.assert_array_equal(batch.query_labels[0], [0, 0, 0, 1, 1, 1])
    for support, query in zip(batch.support, batch.query, strict=True):
        rows = np.concatenate([support.reshape(2, 2), query.reshape(2, 3)], 1)
        assert len(np.unique(rows)) == 10
        fits = [p for p in made.parts if all(len(set(p[r])) == 1 for r in rows) and p[rows[0, 0]] != p[rows[1, 0]]]
        assert fits
        assert all(p[rows].min() >= 0 for p in fits)


def test_task_does_not_depend_on_how_many_are_drawn():
    made = stream(partitions(p=3), n_way=2, n_query=2)
    whole = made.start().draw(3000)
    cursor = made.start()
    for begin in range(0, 3000, 7):
        assert same(cursor.draw(min(7, 3000 - begin)), whole.part(begin, min(begin + 7, 3000)))
    assert same(made.at(np.array([2999, 5]), 2, 1).part(1, 2), whole.part(5, 6))


def test_cursor_goes_on_from_its_state():
    made = stream(partitions(), n_way=2, n_query=2)
    cursor = made.start()
    cursor.draw(11)
    state = cursor.state_dict()
    expected = cursor.draw(5)
    other = made.start()
    other.load_state_dict(state)
    assert same(other.draw(5), expected)
    cursor.load_state_dict(state)
    cursor.observe(expected, np.zeros(5))
    assert same(cursor.draw(5), expected)


def test_seeds_differ_and_repeat():
    draw = [stream(partitions(), seed, n_way=2, n_query=2).start().draw(50) for seed in (0, 0, 1)]
    assert same(draw[0], draw[1])
    assert not same(draw[0], draw[2])


def test_each_way_and_shot_is_a_function_of_its_own():
    made = partitions((20, 20, 20))
    many = list(stream(made, n_way=(2, 3), n_shot=(1, 5), n_tasks=20).batches())
    assert [(b.n_way, b.n_shot, len(b)) for b in many] == [(2, 1, 20), (2, 5, 20), (3, 1, 20), (3, 5, 20)]
    (alone,) = stream(made, n_way=3, n_shot=(5,), n_tasks=40).batches()
    assert same(alone.part(0, 20), many[3])


def test_uniforms_are_uniform_and_independent():
    draws = task_uniforms(12345, np.arange(20_000), 6)
    assert draws.min() >= 0
    assert draws.max() < 1
    for row in draws:
        assert stats.kstest(row, "uniform").pvalue > 1e-4
    both = np.corrcoef(np.vstack([draws, draws[:, ::-1]])) - np.eye(12)
    assert np.abs(both[:6]).max() < 4.5 / np.sqrt(20_000)
    steps = np.corrcoef(draws[:, :-1], draws[:, 1:])[:6, 6:]
    assert np.abs(steps).max() < 4.5 / np.sqrt(20_000)


def test_ordered_samples_are_uniform():
    draws = distinct_integers(task_uniforms(7, np.arange(24_000), 3), np.full(24_000, 4))
    orders = {order: i for i, order in enumerate(permutations(range(4), 3))}
    counts = np.bincount([orders[tuple(column)] for column in draws.T.tolist()], minlength=24)
    assert chi_square_p(counts) > 1e-4


def test_whole_set_is_a_permutation():
    draws = np.sort(distinct_integers(task_uniforms(7, np.arange(500), 9), np.full(500, 9)), 0)
    np.testing.assert_array_equal(draws, np.tile(np.arange(9)[:, None], 500))


def test_classes_and_members_are_uniform_whatever_their_size():
    made = partitions((6, 30, 60, 120))
    batch = stream(made, n_way=2, n_shot=1, n_query=5).start().draw(12_000)
    classes = made.parts[0][batch.support].astype(int)
    pairs = np.bincount(classes[:, 0] * 4 + classes[:, 1], minlength=16).reshape(4, 4)
    assert np.diag(pairs).sum() == 0
    assert chi_square_p(pairs[~np.eye(4, dtype=bool)]) > 1e-4
    for part in range(4):
        members = np.flatnonzero(made.parts[0] == part)
        shown = batch.support[classes == part]
        assert chi_square_p([(shown == m).sum() for m in members]) > 1e-4


def test_law_agrees_with_the_slow_sampler():
    weights = (0.6, 0.1, 0.3)
    row = np.repeat([0, 1, 2, -1], [4, 6, 3, 2])
    parts = np.stack([row, np.roll(row, 5), np.where(row == 0, 1, row)])  # in the last one, part 0 is empty
    made = Partitions(parts, np.arange(15), np.array(weights))
    batch = stream(made, n_way=2, n_shot=1, n_query=3).start().draw(20_000)
    rng = np.random.default_rng(0)

    def counts(supports):
        return np.bincount(supports[:, 0] * 15 + supports[:, 1], minlength=225)

    slow = [slow_task(parts, weights, 2, 1, 3, rng)[2] for _ in range(20_000)]
    fast, slow = counts(batch.support), counts(np.array([[m[0] for m in task] for task in slow]))
    seen = fast + slow > 0
    assert stats.chi2_contingency(np.stack([fast[seen], slow[seen]])).pvalue > 1e-4


def test_partitions_come_by_weight_and_those_too_small_are_left_out():
    blocks = np.full((3, 40), -1)
    blocks[0, :10], blocks[0, 10:20] = 0, 1
    blocks[1, 20:30], blocks[1, 30:] = 0, 1
    blocks[2, :8] = np.arange(8)  # eight parts of one image
    made = stream(Partitions(blocks, np.arange(40), np.array([0.2, 0.3, 0.5])), n_way=2, n_query=5)
    assert made.left_out == 1
    first = (made.start().draw(10_000).support < 20).all(1).sum()
    assert stats.binomtest(int(first), 10_000, 0.4).pvalue > 1e-4


def test_weight_zero_is_never_drawn():
    parts = np.stack([np.repeat([0, 1, -1], [5, 5, 10]), np.repeat([-1, 0, 1], [10, 5, 5])])
    made = stream(Partitions(parts, np.arange(20), np.array([0.0, 1.0])), n_way=2, n_query=4)
    assert made.left_out == 0
    assert made.start().draw(500).support.min() >= 10


def test_too_few_classes_of_enough_images():
    made = partitions((3, 10, 1), names=("benign", "malignant", "normal"))
    with pytest.raises(DataError) as error:
        stream(made, n_way=2)
    assert str(error.value) == (
        "episodes: 3 problems\n"
        "  - found 1 part with at least 6 images; expected 2 (n_way) (lower n_way, n_shot or n_query)\n"
        "  - class 'benign' has 3 images; a task needs 6 (1 support + 5 query)\n"
        "  - class 'normal' has 1 image; a task needs 6 (1 support + 5 query)"
    )
    assert error.value.exit_code == 3


def test_too_small_parts_without_names():
    with pytest.raises(DataError, match="found 2 parts with at least 6 images in the best of 2 partitions; expected 3"):
        stream(partitions((8, 9, 5), p=2), n_way=3)
    with pytest.raises(DataError, match=r"its parts have 9, 8, 5 images; a task needs 6 \(1 support \+ 5 query\)"):
        stream(partitions((8, 9, 5), p=2), n_way=3)


def test_training_wants_one_way_and_shot():
    made = stream(partitions((20, 20, 20)), n_way=(2, 3), n_shot=1)
    with pytest.raises(PipelineError) as error:
        made.start()
    assert str(error.value) == (
        "episodes: found n_way [2, 3] and n_shot [1] where tasks are trained on; expected one of each "
        "(write n_way: 2, n_shot: 1)"
    )


@pytest.mark.parametrize("options", [{"n_way": 1}, {"n_way": ()}, {"n_shot": 0}, {"n_shot": (1, 1)}, {"n_way": (5, 1)}])
def test_bad_options(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}: found .*; expected distinct integers from"):
        Episodes(**options)


def test_inputs_stay_as_they_are():
    made = partitions(p=2)
    before = made.parts.copy()
    made.parts.setflags(write=False)
    stream(made, n_way=2, n_query=2).start().draw(100)
    np.testing.assert_array_equal(made.parts, before)
