"""The learners on small pictures: what they learn, what validation chooses, and what they refuse."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from fewcore import DataError, ImageSet, ImageSpec, NumericalError, Run, Target
from fewcore_s4mtl.conv_net import ConvNet
from fewcore_s4mtl.labelled import judged, labelled
from fewcore_s4mtl.pixels import scaled
from fewcore_s4mtl.s2mtl import S2mtl
from fewcore_s4mtl.s4mtl import S4mtl
from fewcore_s4mtl.training import Choice, Course, Passes, Rate, overlap
from fewcore_s4mtl.u_mtl import UMtl
from fewcore_s4mtl.u_net import UNet

SIZE = 16
SMALL = {"width": 4, "levels": 2, "dropout": 0.0, "batch_size": 8}
QUICK = {**SMALL, "epochs": 1, "width": 2}


def discs(n=48, size=SIZE, seed=0, known=None):
    """Discs of class "dark" or "bright" on a noisy ground; the mask is the disc. `known` (n,) bool, or all are labelled."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % 2
    rows, columns = np.mgrid[:size, :size]
    centres, radii = rng.uniform(0.35, 0.65, (n, 2, 1, 1)) * size, rng.uniform(0.2, 0.3, (n, 1, 1)) * size
    masks = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < radii**2
    pixels = 0.5 + (classes[:, None, None] - 0.5) * 0.8 * masks + rng.normal(size=masks.shape) * 0.05
    images = (255 * pixels.clip(0, 1)).astype(np.uint8)[:, None]
    truth, labels = masks[:, None].astype(np.float32), classes.copy()
    if known is not None:
        truth[~known], labels[~known] = np.nan, -1
    targets = {"class": Target("class", labels, ("dark", "bright")), "mask": Target("masks", truth, ("disc",))}
    spec = ImageSpec((size, size), 1, (0, 255))
    return ImageSet(images, 100 + np.arange(n), np.arange(n), spec, targets, {}, "class")


def some(n=48, share=0.25):
    return np.arange(n) < round(share * n)


def blind(images):
    return replace(images, targets={})


def dice(masks, images):
    both, pixels = overlap(masks > 0.5, images.targets["mask"].values)
    return float((2 * both / pixels).mean())


FAST = {**SMALL, "epochs": 16}
BOTH = {"d_learning_rate": 2e-3, "d_decay": 0.9, "g_learning_rate": 5e-3}


@pytest.mark.parametrize(
    ("learner", "makes"),
    [
        (S4mtl(**FAST, **BOTH, cls_on_pred=True), ("masks", "scores")),
        (S2mtl(**FAST, **BOTH, cls_on_pred=True), ("masks", "scores")),
        (UMtl(**FAST, learning_rate=5e-3), ("masks", "scores")),
        (UNet(**FAST, learning_rate=5e-3), ("masks",)),
        (ConvNet(**FAST, learning_rate=2e-3, decay=0.9), ("scores",)),
    ],
    ids=["s4mtl", "s2mtl", "u-mtl", "u-net", "conv-net"],
)
def test_each_learner_finds_discs_and_tells_them_apart(learner, makes):
    test = discs(40, seed=2)
    made = learner.learn(discs(known=some()), discs(24, seed=1), Run(0)).predict(blind(test), Run(1))
    assert (made.masks is not None, made.scores is not None) == ("masks" in makes, "scores" in makes)
    np.testing.assert_array_equal(made.ids, test.ids)
    if "masks" in makes:
        assert made.masks.shape == (40, 1, SIZE, SIZE)
        # A mask that is full everywhere has a Dice of 0.33 here.
        assert dice(made.masks, test) > 0.8
    if "scores" in makes:
        # Half of the discs are bright.
        assert (made.scores.argmax(1) == test.labels).mean() > 0.8
        np.testing.assert_allclose(made.scores.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "said",
    [
        {"self_supervision": "shared"},
        {"self_supervision": "joint"},
        {"kl_geometry": "upright", "kl_pairing": "batch_mean"},
        {"kl_geometry": "none", "annealing": "paper_in_epoch"},
        {"annealing": "paper_global", "cls_on_pred": True},
        {"annealing": "none", "dice_over": "batch", "dice_weights": "inverse_volume"},
        {"upsampling": "transposed", "unlabelled": "all"},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_every_reading_changes_what_is_learnt(said):
    images, validation = discs(known=some()), discs(8, seed=1)
    plain = S4mtl(**QUICK).learn(images, validation, Run(0)).model.state_dict()
    other = S4mtl(**QUICK, **said).learn(images, validation, Run(0)).model.state_dict()
    assert all(bool(value.isfinite().all()) for value in other.values())
    assert plain.keys() != other.keys() or any(
        plain[name].shape != value.shape or not torch.equal(plain[name], value) for name, value in other.items()
    )


def test_two_structures_and_images_that_are_neither_square_nor_a_power_of_two():
    images = discs(16, size=22, known=some(16, 0.5))
    masks = images.targets["mask"].values[:, :, :, :19]
    two = Target("masks", np.concatenate([masks, 1 - masks], 1), ("disc", "ground"))
    spec = ImageSpec((22, 19), 1, (0, 255))
    images = replace(images, images=images.images[..., :19], spec=spec, targets={**images.targets, "mask": two})
    targets = {name: replace(target, values=target.values[:8]) for name, target in images.targets.items()}
    few = {"images": images.images[:8], "ids": images.ids[:8], "groups": images.groups[:8]}
    validation = replace(images, targets=targets, **few)
    kinds = ("identity", "rotate-180", "flip-vertical")
    made = S4mtl(**QUICK, transformations=kinds).learn(images, validation, Run(0)).predict(blind(images), Run())
    assert made.masks.shape == (16, 2, 22, 19)
    with pytest.raises(DataError, match="found rotate-90 among the transformations of images 22 x 19"):
        S4mtl(**QUICK).learn(images, validation, Run(0))


def test_images_of_any_range_are_brought_to_minus_one_to_one():
    images = discs(4)
    spec = replace(images.spec, value_range=(-100.0, 300.0))
    floats = replace(images, images=np.full((4, 1, SIZE, SIZE), 100, np.float32), spec=spec)
    assert scaled(torch.full((1,), 300.0), floats).item() == 1
    assert scaled(torch.full((1,), -100.0), floats).item() == pytest.approx(-1)
    assert scaled(torch.tensor([0.0, 1.0]), images).tolist() == [-1, 1]


# ---- what validation chooses


def course(epochs=5, patience=2, steps=3):
    return Course(epochs, steps, patience)


class Scripted(torch.nn.Module):
    """Says at each look what a script holds: which validation images it gets right."""

    def __init__(self, script):
        super().__init__()
        self.script, self.look = script, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        from fewcore_s4mtl.models import Said

        scores = torch.eye(2)[torch.arange(len(x)) % 2]
        wrong = self.script[int(self.look.detach())]
        scores[:wrong] = scores[:wrong].flip(1)
        return Said(None, scores)


def test_the_first_best_epoch_is_kept_and_patience_ends_training():
    validation = discs(8)
    model = Scripted([4, 2, 3, 2, 0])
    choice = Choice(model, validation, {"classes": validation.labels}, course(), Run())
    ended = []
    for epoch in range(4):
        model.look.data.fill_(epoch)
        ended += [choice.ends(3 * epoch + step) for step in range(3)]
    # Epochs 2 (six of eight right), then 3 and 4, no better: two epochs of patience.
    assert ended == [False] * 11 + [True]
    assert choice.state["mean"]["score"] == 0.75
    assert float(choice.best()[0].look.detach()) == 1


@pytest.mark.parametrize("learner", [S4mtl, S2mtl, UMtl])
def test_masks_and_classes_may_each_have_their_own_epoch(learner, monkeypatch):
    dices, accuracies = iter([0.9, 0.2, 0.3]), iter([0.1, 0.5, 0.9])
    weights = []

    def looked(choice):
        weights.append({name: value.detach().clone() for name, value in choice.model.state_dict().items()})
        return {"dice": next(dices), "accuracy": next(accuracies)}

    monkeypatch.setattr(Choice, "_metrics", looked)
    test = discs(8, seed=2)
    said = {**QUICK, "epochs": 3, "choose": "each"}
    made = learner(**said).learn(discs(known=some()), discs(8, seed=1), Run(0))
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, weights[2][name])
    for name, value in made.for_masks.state_dict().items():
        assert torch.equal(value, weights[0][name])
    predicted = made.predict(blind(test), Run())
    x = scaled(torch.from_numpy(test.images) / 255, test)
    with torch.no_grad():
        np.testing.assert_array_equal(predicted.masks, made.for_masks(x).masks.numpy())
        np.testing.assert_array_equal(predicted.scores, made.model(x).scores.numpy())
    again = type(made).from_arrays(*made.to_arrays(), {}).predict(blind(test), Run())
    np.testing.assert_array_equal(again.masks, predicted.masks)
    np.testing.assert_array_equal(again.scores, predicted.scores)


def test_validation_counts_what_is_known_of_it():
    truth = np.zeros((3, 1, 2, 2), np.float32)
    truth[0, 0, 0], truth[1] = 1, np.nan
    predicted = np.ones((3, 1, 2, 2), bool)
    assert overlap(predicted, truth).tolist() == [[2], [8 + 2]]
    validation = discs(8, seed=1)
    validation.targets["class"].values[:6] = -1
    choice = Choice(Scripted([7]), validation, {"classes": validation.labels}, course(), Run())
    assert choice._metrics() == {"accuracy": 0.5}


def test_a_rate_of_zero_learns_nothing_and_stops_early():
    run = Run(0)
    UNet(**{**SMALL, "epochs": 50}, learning_rate=0.0, patience=2).learn(discs(), discs(8, seed=1), run)
    steps = -(-48 // 8) * 3
    assert run.records[-1]["step"] <= steps
    dices = {record["validation_dice"] for record in run.records if "validation_dice" in record}
    assert len(dices) == 1


def test_an_epoch_is_a_pass_over_the_larger_part_for_all_learners():
    assert Course.of(3, 16, 9, n_labelled=60, n_unlabelled=540) == Course(3, 34, 9)
    assert Course.of(3, 16, 9, n_labelled=600, n_unlabelled=0) == Course(3, 38, 9)


def test_passes_take_every_row_once_and_depend_on_the_step_alone():
    passes = Passes(np.arange(10, 20), 4, seed=3)
    rows = np.concatenate([passes.at(step) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10, 20))
    assert rows[:10].tolist() != rows[10:].tolist()
    np.testing.assert_array_equal(Passes(np.arange(10, 20), 4, seed=3).at(2), rows[8:12])
    assert len(Passes(np.arange(3), 8, seed=0).at(0)) == 8


def test_rates_decay_stepwise_to_a_floor():
    rate = Rate(1e-4, 0.6, 0.5, 2)
    assert [rate.at(epoch) for epoch in (0, 1, 2, 10)] == pytest.approx([1e-4, 1e-4, 5e-5, 3.125e-6])
    assert replace(rate, floor=2e-5).at(10) == 2e-5
    # A floor above the first rate does not raise it.
    assert replace(rate, floor=1.0).at(10) == 1e-4


# ---- what is refused, and what is said


LEARNERS = {"s4mtl": S4mtl, "s2mtl": S2mtl, "u-mtl": UMtl, "u-net": UNet, "conv-net": ConvNet}
WITH_MASKS = [name for name in LEARNERS if name != "conv-net"]
WITH_CLASSES = [name for name in LEARNERS if name != "u-net"]


def refused(name, images, validation=None, **said):
    with pytest.raises(DataError) as error:
        LEARNERS[name](**{**QUICK, **said}).learn(images, validation or discs(8, seed=1), Run(0))
    return str(error.value)


def with_masks(images, values):
    return replace(images, targets={**images.targets, "mask": replace(images.targets["mask"], values=values)})


@pytest.mark.parametrize("name", WITH_MASKS)
def test_masks_of_another_size_are_refused(name):
    images = discs(known=some())
    text = refused(name, with_masks(images, np.zeros((48, 1, 8, 12), np.float32)))
    assert text == f"{name}: found masks of 'mask' 8 x 12 for images 16 x 16; expected masks of the images' size"


@pytest.mark.parametrize("name", WITH_MASKS)
def test_masks_that_are_empty_in_all_labelled_images_are_refused(name):
    images = discs(known=some())
    values = np.where(np.isnan(images.targets["mask"].values), np.nan, 0).astype(np.float32)
    text = refused(name, with_masks(images, values))
    wanted = f"{name}: found only empty masks of disc in 12 labelled images; expected at least one with a pixel inside"
    assert text == wanted


def test_an_empty_mask_is_a_label():
    images = discs(known=some())
    images.targets["mask"].values[0] = 0
    known = labelled(images, "mask", ("class", "mask"), "s4mtl")
    assert 0 in known.rows
    assert not known.masks[0].any()
    assert S4mtl(**QUICK).learn(images, discs(8, seed=1), Run(0)) is not None


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_a_class_without_labelled_images_is_named(name):
    images = discs(known=some())
    images.targets["class"].values[images.labels == 1] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        text = refused(name, images)
    what = "class" if name == "conv-net" else "class and mask"
    assert text == (
        f"{name}: found no labelled image of bright among 6 with a known {what}; expected at least one of each class (raise"
        " labels.share, or type labels: {by: class})"
    )


@pytest.mark.parametrize("name", WITH_MASKS)
def test_an_image_with_a_class_and_no_mask_counts_as_not_labelled_with_a_warning(name):
    images = discs(known=some())
    images.targets["mask"].values[[0, 1]] = np.nan
    text = f"{name}: 2 images have a class and no mask of 'mask', 0 a mask and no class; they count as not labelled"
    with pytest.warns(UserWarning, match=f"^{text}$"):
        LEARNERS[name](**QUICK).learn(images, discs(8, seed=1), Run(0))
    needs = ("mask",) if name == "u-net" else ("class", "mask")
    with pytest.warns(UserWarning, match="2 images have a class"):
        known = labelled(images, "mask", needs, name)
    assert known.rows.tolist() == list(range(2, 12))
    assert known.rest.tolist() == [0, 1, *range(12, 48)]


def test_a_missing_mask_is_nothing_to_conv_net():
    images = discs(known=some())
    images.targets["mask"].values[0] = np.nan
    ConvNet(**QUICK).learn(images, discs(8, seed=1), Run(0))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_loss_that_is_not_finite_stops_training(name):
    rates = (
        {"g_learning_rate": 1e30, "d_learning_rate": 1e30} if name in ("s4mtl", "s2mtl") else {"learning_rate": 1e30}
    )
    with pytest.raises(NumericalError, match=r"is nan at step \d+; expected a finite number \(lower the learning rate"):
        LEARNERS[name](**{**QUICK, "epochs": 5}, **rates).learn(discs(known=some()), discs(8, seed=1), Run(0))


@pytest.mark.parametrize("name", LEARNERS)
def test_nan_in_an_image_is_refused(name):
    images = discs(known=some())
    pixels = images.images.astype(np.float32)
    pixels[3, 0, 2, 2] = np.nan
    assert refused(name, replace(images, images=pixels)) == (
        f"{name}: found NaN or infinity in image 103; expected finite numbers"
    )


def test_masks_that_are_torn_or_no_masks_are_refused():
    images = discs(known=some())
    values = images.targets["mask"].values.copy()
    values[2, 0, 5] = np.nan
    assert refused("u-net", with_masks(images, values)) == (
        "u-net: found NaN in a part of the masks of 'mask' (images 102); expected masks that are known or NaN throughout"
    )
    assert refused("u-net", with_masks(images, 2 * images.targets["mask"].values)).startswith(
        "u-net: found values outside [0, 1] in the masks of 'mask' (images 100, 101, 102, 103, 104 and 7 more)"
    )


def test_other_bad_input_is_refused():
    images = discs(known=some())
    assert refused("u-net", images, mask="lungs") == (
        "u-net: found no masks named 'lungs'; expected one of mask (type mask: mask)"
    )
    assert refused("s4mtl", discs()) == (
        "s4mtl: found no image without labels among 48; expected some (type labels: {share: 0.5, by: class}, or unlabelled:"
        " all)"
    )
    assert refused("u-mtl", discs(known=np.zeros(48, bool))) == (
        "u-mtl: found no training image with a known class and mask; expected some (raise labels.share)"
    )
    assert refused("conv-net", images, levels=4) == (
        "conv-net: found images 16 x 16; expected at least 64 pixels a side for 4 levels (type levels: 2, or a larger image"
        " size)"
    )
    volumes = replace(images, images=images.images[:, :, None], spec=ImageSpec((1, SIZE, SIZE), 1, (0, 255)))
    assert "expected 2-D images (c, h, w)" in refused("conv-net", volumes)
    one = replace(images.targets["class"], values=np.where(images.labels < 0, -1, 0), names=("all",))
    assert refused("conv-net", replace(images, targets={"class": one})) == (
        "conv-net: found 1 classes in 'class'; expected at least 2"
    )


def test_validation_that_can_judge_nothing_is_refused():
    images = discs(known=some())
    nothing = discs(8, seed=1, known=np.zeros(8, bool))
    assert (
        refused("u-net", images, nothing) == "u-net: found no mask of 'mask' among 8 validation images; expected some"
    )
    assert refused("conv-net", images, nothing) == "conv-net: found no class among 8 validation images; expected some"
    assert refused("conv-net", images, discs(8, size=20)) == (
        "conv-net: found validation images (1, 20, 20); expected (1, 16, 16), as in training"
    )
    partly = judged(discs(8, seed=1, known=some(8, 0.5)), images, "mask", ("class", "mask"), "s4mtl")
    assert np.isnan(partly["masks"][4:]).all()
    assert not np.isnan(partly["masks"][:4]).any()


def test_images_of_another_shape_are_not_predicted():
    model = ConvNet(**QUICK).learn(discs(), discs(8, seed=1), Run(0))
    with pytest.raises(DataError, match=r"predict: found images \(1, 20, 20\); expected \(1, 16, 16\), as in training"):
        model.predict(blind(discs(4, size=20)), Run())


@pytest.mark.parametrize("kinds", [("identity",), ("identity", "identity")])
def test_transformations_are_at_least_two_and_distinct(kinds):
    with pytest.raises(ValueError, match="expected at least 2, each once"):
        S4mtl(transformations=kinds)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
@pytest.mark.parametrize("name", LEARNERS)
def test_cuda_learns_what_the_cpu_learns(name):
    semi = name in ("s4mtl", "s2mtl")
    rates = {**BOTH, "cls_on_pred": True} if semi else {"learning_rate": 3e-3, "decay": 0.9}
    learner = LEARNERS[name](**FAST, **rates)
    train, validation, test = discs(known=some()), discs(24, seed=1), discs(40, seed=2)
    on_cpu, on_gpu = (
        learner.learn(train, validation, Run(0, device)).predict(blind(test), Run(1, device))
        for device in ("cpu", "cuda")
    )
    if on_cpu.masks is not None:
        assert dice(on_gpu.masks, test) == pytest.approx(dice(on_cpu.masks, test), abs=0.1)
    if on_cpu.scores is not None:
        assert (on_gpu.scores.argmax(1) == test.labels).mean() > 0.8
