"""The check of networks for export: they say of pixels what the model itself says."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from fewcore.components import Offer
from fewcore.contracts import ImageSpec
from fewcore.errors import DataError
from fewcore.exporting.export import FIELDS, entering
from fewcore.run import Run
from fewcore.tensors import Gather
from fewcore.testing import toys
from fewcore.testing.arrays import is_apart
from fewcore.testing.trial import Setup, Trial, complain, support_set


def exported_network_agrees(offer: Offer, setup: Setup) -> None:
    """`network_for_export`, where there is one, makes from pixels what `predict` or `embed` makes, of one image or of many."""
    trial = Trial(offer, setup)
    model = trial.make()
    if offer.kind == "meta_learner":
        model = trial.attempt("adapt", lambda: model.adapt(support_set(setup.shape), Run(9)))
    images = toys.toy_images("test", setup.shape)
    if not hasattr(model, "network_for_export"):
        return
    network = trial.attempt("network_for_export", lambda: _for_export(model, entering(images.spec, "uint8")))
    if network is None:
        return
    pixels = Gather(images, torch.device("cpu"))(np.arange(len(images)))
    with torch.no_grad():
        many, one = (trial.attempt("the network", functools.partial(network.eval(), x)) for x in (pixels, pixels[:1]))
    if offer.kind == "embedder":
        own, many, one = {"vectors": model.embed(images, Run(9))}, {"vectors": many}, {"vectors": one}
    else:
        made = model.predict(images, Run(9))
        own = {name: getattr(made, name) for name in FIELDS if getattr(made, name) is not None}
    for said in (many, one):
        names = ", ".join(said) if isinstance(said, dict) else type(said).__name__
        if not isinstance(said, dict) or set(said) != set(own):
            expected = f"a dict of tensors named {', '.join(own)}, as predict makes them"
            complain(offer, f"a network for export that makes {names}", expected, "return {'scores': scores}")
        for name, values in own.items():
            count = len(pixels) if said is many else 1
            if not isinstance(said[name], torch.Tensor) or len(said[name]) != count:
                complain(
                    offer,
                    f"{name} of the network for export that are no tensor of {count} rows",
                    "a row an image",
                    "a forward that keeps the first axis",
                )
            if is_apart(values[:count], said[name].numpy()):
                complain(
                    offer,
                    f"other {name} of the network for export",
                    f"those of {'embed' if offer.kind == 'embedder' else 'predict'}",
                    "in its forward what the model itself computes",
                )


def _for_export(model: Any, spec: ImageSpec) -> nn.Module | None:
    """Return the network, or None where the model says why there is none: its answers depend on all images, say."""
    try:
        network: nn.Module = model.network_for_export(spec)
    except DataError:
        return None
    return network
