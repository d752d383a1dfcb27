"""Attribute tasks: against a slow transcription, counts of prototypes, the law of the draws, unknown values, errors."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from fewcore import DataError, ImageSet, ImageSpec, Run, Target
from fewcore_meta.attribute_tasks import AttributeTasks, _ones, _packed, _ranked, _Table


def images(values, names=(), **more):
    n = len(values)
    targets = {"attributes": Target("attributes", np.asarray(values, np.int8), names), **more}
    pixels = np.zeros((n, 1, 2, 2), np.uint8)
    return ImageSet(pixels, np.arange(n) + 70, np.arange(n), ImageSpec((2, 2), 1, (0, 255)), targets)


def table(n=300, a=6, seed=0, unknown=0.05):
    rng = np.random.default_rng(seed)
    values = (rng.random((n, a)) < rng.uniform(0.3, 0.7, a)).astype(np.int8)
    values[rng.random((n, a)) < unknown] = -1
    return values


def slow_prototypes(values, attributes, together):
    """Every set of attributes with every triple that begins with 0, and the images of both classes, literally."""
    for chosen in combinations(attributes, together):
        for rest in product((0, 1), repeat=together - 1):
            triple = (0, *rest)
            match = [i for i, row in enumerate(values) if all(row[a] == b for a, b in zip(chosen, triple, strict=True))]
            opposite = [
                i for i, row in enumerate(values) if all(row[a] == 1 - b for a, b in zip(chosen, triple, strict=True))
            ]
            yield match, opposite


@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_prototypes_are_those_of_the_slow_transcription(together):
    values = table(150)
    found = _Table(values, range(1, 6), together)
    slow = list(slow_prototypes(values, range(1, 6), together))
    assert found.sizes.tolist() == [[len(match), len(opposite)] for match, opposite in slow]
    for number, classes in enumerate(slow):
        least = min(map(len, classes))
        ranks = np.stack([np.linspace(0, len(members) - 1, least).astype(int) for members in classes])[None]
        drawn = found.members(found.prototypes[number : number + 1], ranks)[0]
        for side, members in enumerate(classes):
            assert drawn[side].tolist() == [members[rank] for rank in ranks[0, side]]


def test_candidates_are_those_of_the_paper():
    values = table(40, 40)
    assert len(_Table(values, range(20), 3).prototypes) == 4560
    assert len(_Table(values, range(20, 30), 3).prototypes) == 480
    stream = AttributeTasks(n_shot=1, n_query=1).tasks(images(values), Run())
    large = [min(len(a), len(b)) >= 2 for a, b in slow_prototypes(values, range(20), 3)]
    assert (stream.n_candidates, stream.n_prototypes) == (4560, sum(large))
    assert 0 < stream.n_prototypes < 4560


def test_bits_hold_what_was_packed():
    rng = np.random.default_rng(0)
    columns = rng.random((6, 200)) < 0.4
    words = _packed(columns)
    assert words.shape == (6, 4)
    assert _ones(words).sum(1).tolist() == columns.sum(1).tolist()
    assert _ones(np.array([0, 1, 2**64 - 1, 2**63], np.uint64)).tolist() == [0, 1, 64, 1]
    ranks = np.array([[rng.integers(column.sum(), size=5) for column in pair] for pair in columns.reshape(3, 2, 200)])
    found = _ranked(words.reshape(3, 2, 4), ranks)
    for b in range(3):
        for c in range(2):
            np.testing.assert_array_equal(found[b, c], np.flatnonzero(columns[2 * b + c])[ranks[b, c]])


def test_tasks_ask_for_one_prototype_and_share_no_image():
    values = table()
    batch = AttributeTasks((1, 6), n_shot=3, n_query=4).tasks(images(values), Run()).start().draw(200)
    assert (batch.n_way, batch.n_shot) == (2, 3)
    assert batch.support_labels[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.query_labels[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    seen = set()
    for support, query in zip(batch.support, batch.query, strict=True):
        first, second = np.concatenate([support[:3], query[:4]]), np.concatenate([support[3:], query[4:]])
        assert len({*first, *second}) == 14
        told = [
            chosen
            for chosen in combinations(range(1, 6), 3)
            if len(np.unique(values[first][:, chosen], axis=0)) == 1
            and (values[second][:, chosen] == 1 - values[first[0]][list(chosen)]).all()
            and (values[first[0]][list(chosen)] >= 0).all()
        ]
        assert told
        seen |= set(told)
    assert len(seen) == 10


def test_classes_members_and_prototypes_are_uniform():
    # Attribute 0 alone defines the only task: images 0 to 9 lack it, 10 to 29 have it, two are unknown.
    values = np.array([0] * 10 + [1] * 20 + [-1] * 2)[:, None]
    method = AttributeTasks((0, 1), together=1, n_shot=1, n_query=1)
    batch = method.tasks(images(values), Run()).start().draw(6000)
    lacking = batch.support[:, 0] < 10
    assert stats.binomtest(int(lacking.sum()), 6000).pvalue > 1e-4
    shown = np.concatenate([np.where(lacking, batch.support[:, 1], batch.support[:, 0])])
    assert stats.chisquare(np.bincount(shown, minlength=30)[10:]).pvalue > 1e-4
    assert batch.support.max() < 30


def test_every_usable_prototype_is_drawn_as_often():
    values = np.array(list(product((0, 1), repeat=3)) * 3)
    stream = AttributeTasks((0, 3), n_shot=1, n_query=2).tasks(images(values), Run())
    assert stream.n_prototypes == 4
    batch = stream.start().draw(8000)
    # Of three attributes every class is one row of the cube: its number, or its opposite's, names the prototype.
    cube = values[batch.support[:, 0]] @ [4, 2, 1]
    counts = np.bincount(np.minimum(cube, 7 - cube), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_task_i_depends_on_the_seed_and_i_alone():
    made = images(table())
    method = AttributeTasks((0, 6), n_shot=2, n_query=2, n_tasks=7)
    stream = method.tasks(made, Run(3))
    whole = stream.start().draw(600)
    cursor = stream.start()
    parts = [cursor.draw(t) for t in (1, 255, 300, 44)]
    np.testing.assert_array_equal(whole.support, np.concatenate([part.support for part in parts]))
    (finite,) = method.tasks(made, Run(3)).batches()
    np.testing.assert_array_equal(finite.query, whole.query[:7])
    assert (method.tasks(made, Run(4)).start().draw(600).support != whole.support).any()
    later = stream.start()
    later.load_state_dict(stream.start().state_dict() | {"place": 300})
    np.testing.assert_array_equal(later.draw(5).support, whole.support[300:305])


def test_ranges_that_no_table_has_are_refused():
    with pytest.raises(
        ValueError, match=r"^attributes: found \[4, 6\]; expected a range of at least 3 \(together\), from 0$"
    ):
        AttributeTasks((4, 6))
    with pytest.raises(ValueError, match=r"^attributes: found \[-3, 6\]"):
        AttributeTasks((-3, 6))
    with pytest.raises(DataError) as error:
        AttributeTasks((0, 20)).tasks(images(table()), Run())
    assert (
        str(error.value)
        == "attribute-tasks: found attributes [0, 20] of a table 'attributes' of 6; expected at most [0, 6]"
    )


def test_a_missing_table_and_too_few_images_are_told():
    with pytest.raises(DataError) as error:
        AttributeTasks().tasks(images(table(), more=Target("class", np.zeros(300, int), ("a",))), Run())
    assert "attributes [0, 20]" in str(error.value)
    other = Target("attributes", np.zeros((300, 3), np.int8))
    with pytest.raises(DataError) as error:
        AttributeTasks().tasks(images(table(), other=other), Run())
    assert str(error.value) == (
        "attribute-tasks: found 2 tables of attributes; expected one of attributes, other (type table: attributes)"
    )
    with pytest.raises(DataError) as error:
        AttributeTasks(table="hair").tasks(images(table()), Run())
    assert str(error.value) == "attribute-tasks: found 'hair'; expected one of attributes (type table: attributes)"
    bare = ImageSet(np.zeros((3, 1, 2, 2), np.uint8), np.arange(3), np.arange(3), ImageSpec((2, 2), 1, (0, 255)))
    with pytest.raises(DataError) as error:
        AttributeTasks().tasks(bare, Run())
    assert str(error.value) == (
        "attribute-tasks: found no table of binary attributes; expected a data set with one, such as celeba"
    )
    values = np.array([[0, 0, 0]] * 4 + [[1, 1, 1]] * 9 + [[0, 1, 1]] * 3)
    with pytest.raises(DataError) as error:
        AttributeTasks((0, 3)).tasks(images(values, ("Bald", "Young", "Male")), Run())
    assert str(error.value) == (
        "attribute-tasks: the largest of 4 prototypes (not Bald, not Young, not Male) has 4 and 9 images in its classes; "
        "expected at least 10 in both (5 support + 5 query) (lower n_shot or n_query, or give more images)"
    )
