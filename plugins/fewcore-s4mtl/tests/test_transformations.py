"""The transformations of self-supervision, image by image, and their inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewcore import DataError
from fewcore_s4mtl.transformations import ALL, check_sides, for_classes, restored, transformed


def by_hand(image, kind):
    turns = {"rotate-90": 1, "rotate-180": 2, "rotate-270": 3}
    if kind in turns:
        return np.rot90(image, turns[kind], (1, 2))
    return {"identity": image, "flip-horizontal": image[:, :, ::-1], "flip-vertical": image[:, ::-1]}[kind]


def test_each_image_goes_through_its_own_transformation_and_back():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 2, 6, 6)))
    chosen = np.array([5, 0, 3, 3, 1, 2, 4, 5, 1])
    changed = transformed(x, ALL, chosen)
    for image, found, number in zip(x.numpy(), changed.numpy(), chosen, strict=True):
        np.testing.assert_array_equal(found, by_hand(image, ALL[number]))
    assert torch.equal(restored(changed, ALL, chosen), x)


def test_gradients_go_back_to_the_pixels_from_which_they_came():
    x = torch.zeros(2, 1, 4, 4, requires_grad=True)
    changed = transformed(x, ALL, np.array([1, 4]))
    changed[0, 0, 0, 0].backward(retain_graph=True)
    assert x.grad[0, 0].nonzero().tolist() == [[0, 3]]
    changed[1, 0, 2, 0].backward()
    assert x.grad[1, 0].nonzero().tolist() == [[2, 3]]


def test_all_transformations_of_an_image_without_symmetry_differ():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(6, 1, 1, 1)
    assert len({tuple(one.flatten().tolist()) for one in transformed(x, ALL, np.arange(6))}) == 6


def test_images_that_are_not_square_are_not_turned_by_a_quarter():
    with pytest.raises(DataError) as error:
        check_sides(ALL, (4, 6), "s4mtl")
    assert str(error.value) == (
        "s4mtl: found rotate-90 among the transformations of images 4 x 6; expected square images (type transformations: "
        "[identity, rotate-180, flip-horizontal, flip-vertical])"
    )
    check_sides(("identity", "rotate-180"), (4, 6), "s4mtl")


def test_logits_that_are_shared_take_as_many_transformations_as_there_are_classes():
    assert for_classes(2, "s4mtl") == ("identity", "flip-horizontal")
    assert for_classes(3, "s4mtl") == ("identity", "rotate-90", "rotate-180")
    with pytest.raises(DataError, match="found 7 classes for 6 transformations; expected at most 6"):
        for_classes(7, "s4mtl")
