"""Which term enters which update of which model, shown by gradients (section 3.4 and Algorithm 1 of arXiv:2005.02523)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fewcore import Run
from fewcore_s4mtl.adversarial import Settings, Updates
from fewcore_s4mtl.conv_net import ConvNet
from fewcore_s4mtl.models import Architecture, Shape, drawn
from fewcore_s4mtl.s2mtl import S2mtl
from fewcore_s4mtl.s4mtl import S4mtl
from fewcore_s4mtl.terms import Batch, Objective, Predicted, discriminator_terms, generated, generator_terms, total
from fewcore_s4mtl.training import Rate
from fewcore_s4mtl.transformations import ALL, transformed
from fewcore_s4mtl.u_mtl import UMtl
from fewcore_s4mtl.u_net import UNet

SHAPE = Shape(width=2, levels=1, dropout=0.0)
S4 = Objective(1.0, 0.01, 0.1, kinds=ALL)
S2 = Objective(1.0, 0.01, None)
RATE = Rate(1e-3, 0.9, 1.0, 2)
CPU = torch.device("cpu")


def model_for(objective=S4, classes=2):
    n_kinds = len(objective.kinds)
    return drawn(Architecture("adversarial", 1, 1, classes, SHAPE, n_kinds, objective.reading), Run(3)).train()


def batch_for(objective=S4, n=4, seed=0):
    rng = np.random.default_rng(seed)
    x, upright = (torch.from_numpy(rng.normal(size=(n, 1, 8, 8)).astype(np.float32)) for _ in range(2))
    masks = torch.from_numpy((rng.random((n, 1, 8, 8)) < 0.4).astype(np.float32))
    chosen = rng.integers(len(objective.kinds), size=n) if objective.kinds else np.zeros(n, int)
    changed = transformed(upright, objective.kinds, chosen) if objective.kinds else upright
    keep = upright if objective.kl_geometry == "upright" else None
    return Batch(x, masks, torch.arange(n) % 2, changed, chosen, keep)


def both(objective, threshold=None):
    """Return the terms of both updates as training computes them, the discriminator free in the generator's."""
    model, batch = model_for(objective), batch_for(objective)
    predicted = generated(model, batch)
    of_d = discriminator_terms(objective, model, batch, predicted.detached(), threshold)
    return model, of_d, generator_terms(objective, model, batch, predicted)


def reached(term, network):
    """Return whether a term has a gradient in some parameter of a network."""
    found = torch.autograd.grad(term, list(network.parameters()), allow_unused=True, retain_graph=True)
    return any(one is not None and bool(one.any()) for one in found)


D_TERMS = {"supervised", "true", "generated_labelled", "generated_unlabelled"}
G_TERMS = {"segmentation", "adversarial_labelled", "adversarial_unlabelled"}


@pytest.mark.parametrize(
    ("objective", "of_d", "of_g"),
    [
        (S4, D_TERMS | {"self_supervised"}, G_TERMS | {"divergence"}),
        (S2, D_TERMS, G_TERMS),
        (
            replace(S4, cls_on_pred=True),
            D_TERMS | {"self_supervised", "supervised_predicted"},
            G_TERMS | {"divergence"},
        ),
    ],
)
def test_the_table_of_terms(objective, of_d, of_g):
    _, found_d, found_g = both(objective)
    assert set(found_d) == of_d
    assert set(found_g) == of_g


@pytest.mark.parametrize("objective", [S4, S2])
def test_each_term_reaches_the_networks_that_it_should(objective):
    model, of_d, of_g = both(objective)
    for name, (_, term) in of_d.items():
        assert reached(term, model.discriminator), name
        assert not reached(term, model.generator), name
    for name, (_, term) in of_g.items():
        assert reached(term, model.generator), name
        # The adversarial terms pass through the discriminator, which is frozen in this update.
        assert reached(term, model.discriminator) == name.startswith("adversarial"), name


def test_the_weights_of_the_terms():
    weighted = Objective(3.0, 0.5, 0.25, kinds=ALL)
    _, of_d, of_g = both(weighted)
    weights = {name: weight for name, (weight, _) in {**of_d, **of_g}.items()}
    assert weights == {
        "supervised": 1,
        "true": 1,
        "generated_labelled": 1,
        "generated_unlabelled": 3,
        "self_supervised": 3,
        "segmentation": 1,
        "adversarial_labelled": 0.5,
        "adversarial_unlabelled": 1.5,
        "divergence": 0.75,
    }
    terms = {"a": (2.0, torch.tensor(3.0)), "b": (0.5, torch.tensor(4.0))}
    assert total(terms).item() == 8


def gradients(loss, network):
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [one for one in found if one is not None]


def test_the_weight_of_the_divergence_changes_s4mtl_and_s2mtl_has_none():
    seen = []
    for kl in (0.1, 10.0):
        model, _, of_g = both(replace(S4, kl=kl))
        seen.append(gradients(total(of_g), model.generator))
    assert any(not torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert not hasattr(S2mtl(), "kl_weight")
    assert not hasattr(S2mtl(), "self_supervision")


def test_without_alpha_unlabelled_images_teach_nothing():
    silent = replace(S4, alpha=0.0)
    model, batch = model_for(silent), batch_for(silent)
    other = batch._replace(unlabelled=torch.randn(4, 1, 8, 8, generator=Run(5).generator))
    found = []
    for one in (batch, other):
        predicted = generated(model, one)
        of_d = gradients(
            total(discriminator_terms(silent, model, one, predicted.detached(), None)), model.discriminator
        )
        found.append(of_d + gradients(total(generator_terms(silent, model, one, predicted)), model.generator))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_head_of_its_own_keeps_transformations_out_of_the_diagnosis_and_shared_logits_do_not():
    for reading, kinds in (("separate_head", ALL), ("shared", ("identity", "flip-horizontal")), ("joint", ALL)):
        objective = replace(S4, reading=reading, kinds=kinds)
        model, of_d, _ = both(objective)
        (_, term) = of_d["self_supervised"]
        (rows,) = torch.autograd.grad(term, [model.discriminator.head.weight])
        assert bool(rows[:2].any()) == (reading != "separate_head")


def test_annealing_reaches_eq_9_alone():
    objective = replace(S4, cls_on_pred=True)
    _, kept, _ = both(objective, threshold=1.0)
    _, dropped, _ = both(objective, threshold=0.0)
    for name in kept:
        same = torch.equal(kept[name][1], dropped[name][1])
        assert same != name.startswith("supervised"), name
    assert dropped["supervised"][1].item() == 0


def test_eq_9_looks_at_the_true_mask_and_the_option_at_the_predicted_one():
    objective = replace(S4, cls_on_pred=True)
    model, batch = model_for(objective), batch_for(objective)
    predicted = generated(model, batch).detached()
    first = discriminator_terms(objective, model, batch, predicted, None)
    moved = predicted._replace(labelled=1 - predicted.labelled)
    second = discriminator_terms(objective, model, batch, moved, None)
    changed = {name for name in first if not torch.equal(first[name][1], second[name][1])}
    assert changed == {"generated_labelled", "supervised_predicted"}
    third = discriminator_terms(objective, model, batch._replace(masks=1 - batch.masks), predicted, None)
    assert {name for name in first if not torch.equal(first[name][1], third[name][1])} == {"supervised", "true"}


def test_masks_of_turned_images_are_turned_back_before_eq_6():
    masks = batch_for().masks
    chosen = np.array([1, 4, 2, 5])
    turned = transformed(masks, ALL, chosen)
    found = {}
    for geometry in ("inverse", "none", "upright"):
        objective = replace(S4, kl_geometry=geometry)
        batch = batch_for(objective)._replace(masks=masks, chosen=chosen)
        predicted = Predicted(masks, turned, masks if geometry == "upright" else None)
        found[geometry] = generator_terms(objective, model_for(), batch, predicted)["divergence"][1].item()
    # A generator that is right about every turned image costs nothing, unless geometry is left as it is.
    assert found["inverse"] == found["upright"] == 0 < found["none"]


def settings():
    return Settings("mask", SHAPE, "rest", RATE, RATE, 4, 1, 1, "float32")


def copied(network):
    return [one.detach().clone() for one in network.parameters()]


def same(before, network):
    return all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_the_discriminators_update_leaves_the_generator_alone_and_the_other_way_round(monkeypatch):
    model, batch = model_for(), batch_for()
    updates = Updates(S4, model, settings(), CPU)
    seen = []
    real = Updates._update

    def spy(adam, loss):
        before = copied(model.generator), copied(model.discriminator)
        real(adam, loss)
        seen.append((same(before[0], model.generator), same(before[1], model.discriminator)))
        if len(seen) == 1:
            assert all(one.grad is None for one in model.generator.parameters())
            model.discriminator.zero_grad()
        else:
            assert all(one.grad is None for one in model.discriminator.parameters())

    monkeypatch.setattr(Updates, "_update", staticmethod(spy))
    updates.step(batch, None)
    assert seen == [(True, False), (False, True)]
    assert all(one.requires_grad for one in model.parameters())


def test_a_step_is_algorithm_1_by_hand():
    batch = batch_for()
    model, slow = model_for(), model_for()
    updates = Updates(S4, model, settings(), CPU)
    updates.step(batch, 0.7)
    adams = [torch.optim.Adam(net.parameters(), 1e-3, (0.9, 0.999)) for net in (slow.discriminator, slow.generator)]
    with torch.no_grad():
        fixed = Predicted(slow.generator(batch.x), slow.generator(batch.unlabelled), None)
    total(discriminator_terms(S4, slow, batch, fixed, 0.7)).backward()
    adams[0].step()
    adams[1].zero_grad()
    fresh = Predicted(slow.generator(batch.x), slow.generator(batch.unlabelled), None)
    total(generator_terms(S4, slow, batch, fresh)).backward()
    adams[1].step()
    for a, b in zip(model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_the_baselines_learn_from():
    x, masks, classes = batch_for().x, batch_for().masks, batch_for().classes
    u_net = drawn(Architecture("u-net", 1, 1, 0, SHAPE), Run(0))
    assert set(UNet()._terms(u_net, x, masks, classes)) == {"segmentation"}
    conv_net = drawn(Architecture("conv-net", 1, 0, 2, SHAPE), Run(0))
    assert set(ConvNet()._terms(conv_net, x, masks, classes)) == {"classification"}
    u_mtl = drawn(Architecture("u-mtl", 1, 1, 2, SHAPE), Run(0))
    terms = UMtl(class_weight=0.5)._terms(u_mtl, x, masks, classes)
    assert {name: weight for name, (weight, _) in terms.items()} == {"segmentation": 1.0, "classification": 0.5}
    # The classifier branches off the bottleneck: cross-entropy reaches the encoder and not the decoder.
    assert reached(terms["classification"][1], u_mtl.generator.downs)
    assert not reached(terms["classification"][1], u_mtl.generator.ups)
    assert not reached(terms["segmentation"][1], u_mtl.head)


def test_options_reach_the_objective(monkeypatch):
    seen = {}

    def spy(objective, settings, *rest):
        seen.update(objective=objective, settings=settings)

    monkeypatch.setattr("fewcore_s4mtl.s4mtl.train", spy)
    said = {
        "alpha": 2.0,
        "adversarial_weight": 0.3,
        "kl_weight": 0.4,
        "self_supervision": "joint",
        "transformations": ("identity", "rotate-180"),
        "annealing": "none",
        "kl_pairing": "batch_mean",
        "kl_eps": 0.02,
        "kl_geometry": "upright",
        "cls_on_pred": True,
        "dice_over": "batch",
        "dice_weights": "inverse_volume",
        "d_lr_floor": 1e-5,
        "unlabelled": "all",
    }
    S4mtl(**said).learn(None, None, Run())
    kinds = ("identity", "rotate-180")
    wanted = Objective(
        2.0, 0.3, 0.4, "joint", kinds, "none", "batch_mean", 0.02, "upright", True, "batch", "inverse_volume"
    )
    assert seen["objective"] == wanted
    assert seen["settings"].discriminator == Rate(1e-4, 0.6, 0.5, 2, 1e-5)
    assert seen["settings"].generator == Rate(2e-3, 0.9, 0.9, 2)
    assert seen["settings"].unlabelled == "all"
