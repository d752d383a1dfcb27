"""What predictors offer for `fewcore export`: a network that says of each image what they say, or the reason why there is none."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from few_shot_samples import Flat, two_class_images

from fewcore import DataError, Embeddings, Gather, Run
from fewcore_meta.adaptation import TaskNetwork, predictor_from
from fewcore_meta.augmentation import Distortion
from fewcore_meta.batch_norm import keep_statistics, statistics_of_first
from fewcore_meta.conv4 import Conv4
from fewcore_meta.fine_tune import FineTune
from fewcore_meta.nearest_neighbour import NearestNeighbour
from fewcore_meta.protoclr_model import ProtoClrModel, ProtoClrPredictor
from fewcore_meta.protonets import ProtoNetsPredictor
from fewcore_meta.prototype_classifier import PrototypeClassifier

SIDE = 12
CPU = torch.device("cpu")
SUPPORT, QUERY = two_class_images(6, 0, SIDE), two_class_images(9, 1, SIDE)
SPEC = replace(QUERY.spec, value_range=(0.0, 1.0))
"""What enters a network: images of 8 bits are divided by 255."""


def network(n_outputs: int):
    """A small conv4 whose running statistics are neither 0 and 1 nor those of any batch below."""
    made = Conv4(filters=4).build(SUPPORT.shape, n_outputs, torch.Generator().manual_seed(0))
    made.train()(Gather(two_class_images(32, 2, SIDE), CPU)(np.arange(32)))
    return made.eval()


def adapted(norm: str):
    """What `maml` makes of a support set."""
    return predictor_from(TaskNetwork(network(3)), SUPPORT, Run(0), inner_lr=0.1, steps=2, norm=norm)


def prototypes(norm: str):
    """What `protonets` makes of a support set."""
    pixels = Gather(SUPPORT, CPU)(np.arange(len(SUPPORT))).numpy()
    return ProtoNetsPredictor(network(0), norm, pixels, SUPPORT.labels, 2)


def views(norm: str = "running", distance: str = "euclidean", tune_steps: int = 0):
    """What `protoclr` makes of a support set: three views, of which two are distorted."""
    pixels = Gather(SUPPORT, CPU)(np.arange(len(SUPPORT))).numpy()
    distortion = Distortion(rotate=20, shift=0.1, elastic=0.1, jitter=0.2)
    classifier = PrototypeClassifier(distance=distance, tune_steps=tune_steps, tune_rate=0.1)
    model = ProtoClrModel(network(0), SUPPORT.shape, (0.0, 1.0), norm, 5, 3, distortion, classifier)
    return ProtoClrPredictor(model, pixels, SUPPORT.labels, 2)


def fine_tuned():
    return FineTune(epochs=1).learn(Conv4(filters=4), SUPPORT, QUERY, Run(0))


PREDICTORS = {
    "fine-tune": fine_tuned,
    "maml, running": lambda: adapted("running"),
    "maml, support": lambda: adapted("support"),
    "protonets, running": lambda: prototypes("running"),
    "protonets, support": lambda: prototypes("support"),
    "protoclr": views,
    "protoclr, cosine": lambda: views(distance="cosine"),
    "protoclr, tuned": lambda: views(tune_steps=5),
    "protoclr, tuned, cosine": lambda: views(distance="cosine", tune_steps=5),
}


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_network_says_what_the_predictor_says_of_each_image_alone(name):
    predictor = PREDICTORS[name]()
    expected = predictor.predict(QUERY, Run(0)).scores
    pixels = Gather(QUERY, CPU)(np.arange(len(QUERY)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        made = predictor.network_for_export(SPEC).eval()
        traced = torch.jit.trace(made, (pixels[:2],), strict=False, check_trace=False)
        for run in (made, traced):
            for count in (9, 1):
                found = run(pixels[:count])["scores"].numpy()
                np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert expected.std() > 0
    np.testing.assert_array_equal(predictor.predict(QUERY, Run(0)).scores, expected, "the predictor is as it was")


@pytest.mark.parametrize("make", [adapted, prototypes, views])
def test_a_score_that_depends_on_other_images_is_refused(make):
    with pytest.raises(DataError, match="norm: transductive, whose score of an image depends on the others"):
        make("transductive").network_for_export(SPEC)


def test_an_encoder_that_is_no_network_is_named():
    vectors = Flat().embed(SUPPORT, Run(0))
    made = NearestNeighbour().learn(SUPPORT, Embeddings(vectors, SUPPORT.ids, Flat()), Run(0))
    with pytest.raises(DataError, match="found Flat, which is no network that a file can hold"):
        made.network_for_export(SPEC)


def test_kept_statistics_are_those_of_the_first_images():
    pixels = Gather(QUERY, CPU)(np.arange(len(QUERY)))
    with torch.no_grad():
        with statistics_of_first(reference := network(0), 4):
            expected = reference(pixels)
        keep_statistics(kept := network(0), pixels[:4])
        torch.testing.assert_close(kept(pixels), expected)
