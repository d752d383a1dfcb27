"""The only place that cuts rows and hides targets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewcore import DataError, ImageSet, ImageSpec, PipelineError, Target
from fewcore.views import known_rows, shuffled, split_rows, view, with_target

NAMES = ("none", "benign", "malignant")


def images(n=60, n_each=3, splits=None, seed=0):
    """Return n images in groups of n_each, in the order of their classes, their pixels the id."""
    rng = np.random.default_rng(seed)
    ids = 1000 + 7 * np.arange(n)
    classes = np.sort(rng.integers(0, 3, n))
    groups = 5 + np.arange(n) // n_each
    ratings = rng.uniform(1, 5, (n, 2, 2))
    masks = rng.uniform(0, 1, (n, 1, 2, 2)).astype(np.float32)
    targets = {
        "finding": Target("class", classes, NAMES),
        "ratings": Target("ratings", ratings, ("a", "b"), (1, 5)),
        "masks": Target("masks", masks, ("lesion",)),
        "attributes": Target("attributes", (ratings[:, 0] > 3).astype(np.int8), ("x", "y")),
    }
    pixels = np.broadcast_to(ids[:, None, None, None], (n, 1, 2, 2)).astype(np.float32)
    spec = ImageSpec((2, 2), 1, (0, 1e4))
    geometry = {"origin": ids.astype(float)}
    return ImageSet(pixels.copy(), ids, groups, spec, targets, splits or {}, "finding", geometry)


def own_splits(n=60):
    ids = 1000 + 7 * np.arange(n)
    return {"train": ids[:30], "validation": ids[30:36], "test": ids[36:54]}


def of_pixels(found):
    """Return which image of the original set each row shows."""
    return (found.images[:, 0, 0, 0].astype(int) - 1000) // 7


# ---- shuffled


def test_shuffling_keeps_everything_of_an_image_together():
    before = images(splits=own_splits())
    after = shuffled(before, "key")
    place = of_pixels(after)
    assert sorted(place.tolist()) == list(range(60))
    for name, target in after.targets.items():
        np.testing.assert_array_equal(target.values, before.targets[name].values[place])
    np.testing.assert_array_equal(after.geometry["origin"], before.geometry["origin"][place])
    assert after.source == "key"
    together = before.groups[place]
    for group in np.unique(after.groups):
        assert len(np.unique(together[after.groups == group])) == 1


def test_shuffling_takes_away_what_order_and_ids_tell():
    after = shuffled(images(), "key")
    np.testing.assert_array_equal(after.ids, np.arange(60))
    place = of_pixels(after)
    assert abs(np.corrcoef(place, np.arange(60))[0, 1]) < 0.3
    assert abs(np.corrcoef(after.labels, after.ids)[0, 1]) < 0.3


def test_shuffling_is_the_same_for_all_runs_and_puts_splits_side_by_side():
    one, two = (shuffled(images(splits=own_splits()), "key") for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)
    rows = split_rows(one, None)
    assert {split: (r[0], r[-1]) for split, r in rows.items()} == {
        "train": (0, 29),
        "validation": (30, 35),
        "test": (36, 53),
    }
    assert set(of_pixels(one)[rows["test"]]) == set(range(36, 54))


def test_images_in_a_file_are_moved_in_chunks_into_another(tmp_path, monkeypatch):
    before = images(splits=own_splits())
    mapped = np.memmap(tmp_path / "images", np.float32, "w+", shape=before.images.shape)
    mapped[:] = before.images
    made = []

    def zeros(shape, dtype):
        made.append(np.memmap(tmp_path / "shuffled", dtype, "w+", shape=shape))
        return made[0]

    monkeypatch.setattr("fewcore.views.CHUNK", 7 * before.images[0].nbytes)
    after = shuffled(replace(before, images=mapped), "key", zeros)
    assert after.images is made[0]
    np.testing.assert_array_equal(after.images, shuffled(before, "key").images)


# ---- targets


def test_a_target_is_the_sets_own_a_named_one_or_made_of_classes():
    found = images()
    assert with_target(found, None) is found
    assert with_target(found, "finding").target == "finding"
    made = with_target(found, {"of": "finding", "positive": ["malignant"]})
    assert made.target == "finding: malignant"
    assert made.class_names == ("other", "malignant")
    np.testing.assert_array_equal(made.labels, found.labels == 2)
    both = with_target(found, {"of": "finding", "positive": ["malignant", "benign"]})
    assert both.class_names == ("other", "malignant or benign")
    np.testing.assert_array_equal(both.labels, found.labels > 0)


def test_an_unknown_class_stays_unknown_in_a_made_target():
    found = images()
    found.targets["finding"].values[:5] = -1
    made = with_target(found, {"of": "finding", "positive": ["none"]})
    assert (made.labels[:5] == -1).all()
    assert (made.labels[5:] >= 0).all()


def test_targets_that_are_not_there():
    for said in ("findings", "ratings", {"of": "findings", "positive": ["malignant"]}):
        with pytest.raises(PipelineError) as error:
            with_target(images(), said)
        of = said if isinstance(said, str) else said["of"]
        near = " (did you mean 'finding'?)" if of == "findings" else ""
        assert str(error.value) == f"target: '{of}'; expected one of finding{near}"
    with pytest.raises(PipelineError) as error:
        with_target(images(), {"of": "finding", "positive": ["evil"]})
    assert str(error.value) == "target.positive: ['evil']; expected some of none, benign, malignant"


# ---- splits


@settings(max_examples=60, deadline=None)
@given(
    n_groups=st.integers(12, 40),
    n_each=st.integers(1, 4),
    folds=st.integers(2, 12),
    validation=st.sampled_from([0, 0.1, 0.3]),
    seed=st.integers(0, 5),
)
def test_folds_cut_no_group_and_test_each_image_once(n_groups, n_each, folds, validation, seed):
    found = images(n_groups * n_each, n_each)
    tested = []
    for fold in range(folds):
        spec = {"folds": folds, "fold": fold, "validation": validation, "seed": seed, "by": "group"}
        rows = split_rows(found, spec)
        assert set(rows) == {"train", "test", *(["validation"] if validation else [])}
        assert sum(map(len, rows.values())) == len(found)
        groups = [set(found.groups[r].tolist()) for r in rows.values()]
        assert sum(map(len, groups)) == n_groups
        assert all((np.diff(r) > 0).all() for r in rows.values())
        tested.append(rows["test"])
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(found)))
    sizes = [len(t) // n_each for t in tested]
    assert max(sizes) - min(sizes) <= 1


def test_shares_of_groups():
    rows = split_rows(images(), {"test": 0.25, "validation": 0.2})
    assert {split: len(r) for split, r in rows.items()} == {"train": 36, "validation": 9, "test": 15}
    same, other = (split_rows(images(), {"test": 0.25, "validation": 0.2, "seed": seed}) for seed in (0, 1))
    np.testing.assert_array_equal(same["test"], rows["test"])
    assert not np.array_equal(other["test"], rows["test"])


def test_a_larger_validation_share_leaves_the_test_rows_alone():
    small, large = (split_rows(images(), {"test": 0.25, "validation": share}) for share in (0.1, 0.3))
    np.testing.assert_array_equal(small["test"], large["test"])


def test_no_spec_or_a_seed_alone_means_the_sets_own_splits():
    found = images(splits=own_splits())
    for spec in (None, {}, {"seed": 4}):
        rows = split_rows(found, spec)
        assert {split: len(r) for split, r in rows.items()} == {"train": 30, "validation": 6, "test": 18}


def test_splits_that_cannot_be():
    def refused(spec, **more):
        with pytest.raises(DataError) as error:
            split_rows(images(**more), spec)
        return str(error.value)

    assert refused({"folds": 30}) == "splits.folds: found 20 groups; expected at least 30, one for each fold"
    assert refused({"test": 0.01}) == (
        "splits: found no group for test among 20; expected a larger share or more groups"
    )
    assert refused({"test": 0.2, "validation": 0.01}).startswith("splits: found no group for validation among 20; ")
    assert refused({"test": 0.99}).startswith("splits: found no group for train among 20; ")
    assert refused({"test": 0.2, "by": "image"}) == (
        "splits.by: found 'image' where images belong together in groups; expected by: group"
    )
    assert len(split_rows(images(n_each=1), {"test": 0.2, "by": "image"})["test"]) == 12


# ---- known labels


@settings(max_examples=60, deadline=None)
@given(
    n_each=st.integers(1, 4), by=st.sampled_from([None, "class"]), seed=st.integers(0, 5),
    percents=st.lists(st.integers(1, 100), min_size=2, max_size=4).map(sorted),
)  # fmt: skip
def test_what_a_smaller_share_knows_a_larger_one_knows_too(n_each, by, seed, percents):
    found = images(60, n_each)
    spec = {"by": by} if by else {}
    known = [known_rows(found, {**spec, "share": percent / 100}, seed) for percent in percents]
    for small, large in itertools.pairwise(known):
        assert (small <= large).all()
    for percent, rows in zip(percents, known, strict=True):
        if by is None:
            # Whole groups are taken, so that at most one group goes beyond the share.
            assert 0 <= rows.sum() - 60 * percent // 100 < n_each


def test_shares_are_of_all_rows_and_exact():
    found = images(60, 1)
    for share, wanted in ((0.29, 17), (0.1, 6), (0.5, 30), (1.0, 60)):
        assert known_rows(found, {"share": share}, 0).sum() == wanted
    counts = np.bincount(found.labels[known_rows(found, {"share": 0.35, "by": "class"}, 0)], minlength=3)
    assert counts.tolist() == [7, 7, 7]
    counts = np.bincount(found.labels[known_rows(found, {"number": 20, "by": "class"}, 0)], minlength=3)
    assert counts.tolist() == [7, 7, 6]


def test_whole_groups_are_known():
    found = images(60, 3)
    known = known_rows(found, {"share": 0.3}, 0)
    for group in np.unique(found.groups):
        assert len(np.unique(known[found.groups == group])) == 1


def test_labels_of_some_classes_and_so_many_of_each():
    found = images(60, 1)
    known = known_rows(found, {"classes": ["benign", 2], "per_class": 4}, 0)
    assert np.bincount(found.labels[known], minlength=3).tolist() == [0, 4, 4]
    known = known_rows(found, {"classes": ["none"]}, 0)
    np.testing.assert_array_equal(known, found.labels == 0)
    for wrong in ("malign", 3, -1):
        with pytest.raises(PipelineError) as error:
            known_rows(found, {"classes": [wrong]}, 0)
        near = " (did you mean 'malignant'?)" if wrong == "malign" else ""
        assert str(error.value) == f"labels.classes: '{wrong}'; expected a class of 'finding'{near}"


def test_without_a_spec_all_is_known():
    assert known_rows(images(), None, 0).all()
    assert known_rows(images(), {}, 0).all()


def test_choices_depend_on_the_seed_alone():
    one, same, other = (known_rows(images(60, 1), {"share": 0.2}, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


# ---- views


def test_a_view_shows_nothing_the_known_or_all():
    found = images(splits=own_splits())
    rows = np.arange(10, 20)
    known = np.arange(10) < 4
    blind = view(found, rows, "nothing")
    assert (blind.targets, blind.splits) == ({}, {})
    with pytest.raises(DataError, match="expected needs_labels=True"):
        _ = blind.labels
    everything = view(found, rows, "all", known)
    for name, target in everything.targets.items():
        np.testing.assert_array_equal(target.values, found.targets[name].values[rows])
    part = view(found, rows, "known", known)
    assert (part.labels[4:] == -1).all()
    assert np.isnan(part.targets["masks"].values[4:]).all()
    assert np.isnan(part.targets["ratings"].values[4:]).all()
    assert (part.targets["attributes"].values[4:] == -1).all()
    for target in part.targets.values():
        np.testing.assert_array_equal(target.known, known)
    np.testing.assert_array_equal(part.labels[:4], found.labels[10:14])


def test_hiding_changes_no_truth():
    found = images()
    before = found.labels.copy()
    made = view(found, np.arange(10), "known", np.zeros(10, bool))
    made.targets["finding"].values[:] = 0
    np.testing.assert_array_equal(found.labels, before)


def test_rows_side_by_side_are_not_copied_and_others_are_cut():
    found = images()
    assert np.shares_memory(view(found, np.arange(5, 30), "nothing").images, found.images)
    rows = np.array([3, 5, 50])
    cut = view(found, rows, "all")
    for name in ("images", "ids", "groups"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(found, name)[rows])
    np.testing.assert_array_equal(cut.geometry["origin"], found.geometry["origin"][rows])
    assert len(view(found, np.array([], int), "nothing")) == 0
    # As many rows as side by side ones, but in another order.
    mixed = np.array([4, 6, 5, 7])
    np.testing.assert_array_equal(view(found, mixed, "nothing").ids, found.ids[mixed])
