"""Tests of masks that pair no models: over all models at once, between the classes of the images, of pixel counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fewcore import Array, StatisticalTest, grouping, independent_t, one_way_anova, pearson
from fewcore_medical.judged_masks import JudgedMasks

INDEPENDENT = "takes the models' numbers as independent, though of the same images"


def shown_of(tested: Sequence[JudgedMasks], reference: grouping.Subject | None) -> list[JudgedMasks]:
    """Return what is shown and tested by class: the reference, and the last cell of each other model."""
    last: dict[tuple[str, str], JudgedMasks] = {}
    for one in tested:
        key = (one.subject.model, one.structure)
        if key not in last or last[key].subject is not reference:
            last[key] = one
    return list(last.values())


def mask_tests(
    tested: Sequence[JudgedMasks], shown: Sequence[JudgedMasks], *, everything: bool
) -> tuple[StatisticalTest, ...]:
    """Return all tests with Holm's correction over them together.

    `everything` adds one analysis of variance over all models at all their conditions.
    """
    made = [*_over_models(tested)]
    if everything:
        for structure in dict.fromkeys(one.structure for one in tested):
            every = [one for one in tested if one.structure == structure]
            made += _anova(every, "all models at all conditions", every[0].more)
    for one in shown:
        made += [*_between_classes(one), *_of_pixels(one)]
    return grouping.corrected_tests(made)


def _over_models(tested: Sequence[JudgedMasks]) -> Iterator[StatisticalTest]:
    """Yield the analysis of variance of each set of models at equal conditions."""
    done = set()
    for one in tested:
        conditions = one.subject.others
        same = [
            other
            for other in tested
            if other.structure == one.structure
            and np.array_equal(other.ids, one.ids)
            and all(conditions.get(axis, value) == value for axis, value in other.subject.others.items())
            and set(other.subject.others) <= set(conditions)
        ]
        key = frozenset(map(id, same))
        if len({other.subject.model for other in same}) > 1 and key not in done:
            done.add(key)
            names = ", ".join(other.subject.model for other in same)
            yield from _anova(same, names, {**conditions, **one.more})


def _anova(judged: Sequence[JudgedMasks], about: str, conditions: dict[str, Any]) -> Iterator[StatisticalTest]:
    if len(judged) > 1:
        found = one_way_anova([one.dice_of(one.counted) for one in judged])
        yield grouping.statistical_test("dice_per_image", about, found, conditions, INDEPENDENT)


def by_class(one: JudgedMasks) -> dict[str, Array]:
    """Return the Dice of the images of each class, averaged within groups: numbers that are independent."""
    made = {}
    for number, name in enumerate(one.class_names):
        found = one.dice_of(one.classes == number)
        if len(found):
            made[name] = found
    return made


def _between_classes(one: JudgedMasks) -> Iterator[StatisticalTest]:
    """Yield whether the Dice differs between the classes of the images: of all at once, of two, of one and the rest."""
    classes = by_class(one)
    if len(classes) < 2:
        return
    name, conditions = one.subject.model, {**one.subject.others, **one.more}
    found = one_way_anova(list(classes.values()))
    yield grouping.statistical_test("dice_per_image", f"{name}: {', '.join(classes)}", found, conditions)
    for a, b in combinations(classes, 2):
        found = independent_t(classes[a], classes[b])
        yield grouping.statistical_test("dice_per_image", f"{name}: {a} − {b}", found, conditions)
    values = np.concatenate(list(classes.values()))
    owner = np.repeat(list(classes), [len(numbers) for numbers in classes.values()])
    for a in list(classes)[: len(classes) if len(classes) > 2 else 1]:
        found = pearson(owner == a, values)
        yield grouping.statistical_test("dice_per_image", f"{name}: {a} or not", found, conditions)


def _of_pixels(one: JudgedMasks) -> Iterator[StatisticalTest]:
    """Yield how the predicted number of foreground pixels goes with the true one."""
    pair = (one.true_pixels, one.predicted_pixels.mean(0))
    found = pearson(*(grouping.means_of_groups(values, one.groups) for values in pair))
    about = f"{one.subject.model}: true and predicted pixels"
    yield grouping.statistical_test("foreground_pixels", about, found, {**one.subject.others, **one.more})
