"""Checks of what has learnt: encoders, few-shot models, predictors and networks keep their shapes, and look at each image alone."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fewcore.components import Offer
from fewcore.contracts import Array, ImageSet, Predictions, TaskBatch
from fewcore.run import Run
from fewcore.seeds import torch_generator
from fewcore.testing import toys
from fewcore.testing.arrays import check_array, is_apart
from fewcore.testing.trial import Setup, Trial, blind_tasks, complain, support_set

NORMS = ("transductive", "support", "running", "none")


def encoder_keeps_its_shapes(offer: Offer, setup: Setup) -> None:
    """`embed` gives (n, dim) or (n, m, dim) float32, and each image's vector whatever images stand beside it."""
    trial = Trial(offer, setup)
    encoder = trial.make()
    images = toys.toy_images("test", setup.shape)
    vectors = trial.attempt("embed", lambda: encoder.embed(images, Run(9)))
    shape = (len(images), None, encoder.dim) if np.ndim(vectors) == 3 else (len(images), encoder.dim)
    check_array(offer, vectors, shape, "the vectors of embed", "float32")
    alone = trial.attempt("embed", lambda: encoder.embed(toys.take(images, np.arange(5)), Run(9)))
    if is_apart(vectors[:5], alone):
        complain(offer, "vectors that depend on the other images", "evaluation mode", "network.eval() in embed")
    if hasattr(encoder, "assign"):
        check_array(offer, np.asarray(encoder.assign(vectors)), (len(images),), "the clusters of assign")


def few_shot_model_keeps_its_shapes(offer: Offer, setup: Setup) -> None:
    """`classify` gives (t, q, k) float32, `adapt` a predictor with (n, k) scores, `norm` one of the four words."""
    trial = Trial(offer, setup)
    model = trial.make()
    if model.norm not in NORMS:
        complain(
            offer, f"norm={model.norm!r}", f"one of {', '.join(NORMS)}", "norm = 'none' where there is no batch norm"
        )
    batch, images = blind_tasks(setup.shape)
    scores = trial.attempt("classify", lambda: model.classify(batch, images, Run(9)))
    check_array(offer, scores, (*batch.query.shape, batch.n_way), "the scores of classify", "float32")
    made = trial.attempt("adapt", lambda: model.adapt(support_set(setup.shape), Run(9)).predict(images, Run(9)))
    _predicted(offer, made, images, ("scores",))
    check_array(offer, made.scores, (len(images), 3), "the scores of what adapt makes")


def each_task_is_alone(offer: Offer, setup: Setup) -> None:
    """A task's scores do not depend on the tasks beside it, nor, unless `norm` is transductive, on other queries."""
    trial = Trial(offer, setup)
    model = trial.make()
    batch, images = blind_tasks(setup.shape)

    def classify(tasks: TaskBatch) -> Array:
        return np.asarray(trial.attempt("classify", lambda: model.classify(tasks, images, Run(9))))

    scores = classify(batch)
    if is_apart(scores[:1], classify(batch.part(0, 1))):
        complain(
            offer,
            "scores of a task that depend on the tasks beside it",
            "each task on its own",
            "no mean or maximum over the axis of tasks",
        )
    if model.norm != "transductive":
        few = replace(batch, query=batch.query[:, :2], query_labels=batch.query_labels[:, :2])
        if is_apart(scores[:, :2], classify(few)):
            complain(
                offer,
                "scores that depend on other queries",
                f"each query alone, since norm is {model.norm}",
                "no statistic over queries, or norm = 'transductive'",
            )


def predictions_are_announced(offer: Offer, setup: Setup) -> None:
    """`predict` makes what the announcement's `predicts` says, for each image in order, whatever stands beside it."""
    trial = Trial(offer, setup)
    model = trial.make()
    images = toys.toy_images("test", setup.shape)
    made = trial.attempt("predict", lambda: model.predict(images, Run(9)))
    _predicted(offer, made, images, offer.component.predicts)
    alone = trial.attempt("predict", lambda: model.predict(toys.take(images, np.arange(5)), Run(9)))
    for name in offer.component.predicts:
        if is_apart(getattr(made, name)[:5], getattr(alone, name)):
            complain(offer, f"{name} that depend on the other images", "each image alone", "network.eval() in predict")


def _predicted(offer: Offer, made: Any, images: ImageSet, announced: tuple[str, ...]) -> None:
    if not isinstance(made, Predictions):
        complain(offer, f"predict giving {type(made).__name__}", "Predictions", "Predictions(images.ids, scores=...)")
    if not np.array_equal(made.ids, images.ids):
        complain(
            offer, "predictions of other ids", "those of the images, in their order", "Predictions(images.ids, ...)"
        )
    fields = tuple(name for name in ("scores", "masks", "values") if getattr(made, name) is not None)
    if set(fields) != set(announced):
        complain(offer, f"predictions of {', '.join(fields)}", f"{announced}", f"predicts={fields} in its announcement")
    for name in fields:
        array = getattr(made, name)
        check_array(offer, array, (len(images), *[None] * (np.ndim(array) - 1)), name)
    if made.masks is not None and not (made.masks.min() >= 0 and made.masks.max() <= 1):
        complain(offer, "masks outside [0, 1]", "probabilities", "sigmoid of what the network makes")


def network_keeps_its_shapes(offer: Offer, setup: Setup) -> None:
    """`build` gives features (n, e) without outputs and (n, k) with k; only then are there parameters `head.*`."""
    trial = Trial(offer, setup)
    x = torch.rand(4, *setup.shape, generator=torch_generator(0))
    for n_outputs in (0, 3):
        network = trial.attempt("build", functools.partial(trial.verb, setup.shape, n_outputs, torch_generator(0)))
        with torch.no_grad():
            made = trial.attempt("the network", functools.partial(network.eval(), x)).numpy()
        check_array(offer, made, (4, n_outputs or None), f"the result with n_outputs={n_outputs}", "float32")
        names = [name for name, _ in network.named_parameters()]
        head = [name for name in names if name.startswith("head.")]
        if bool(head) != bool(n_outputs):
            expected = "parameters named head.*" if n_outputs else "none named head.*"
            complain(
                offer,
                f"parameters {', '.join(names)} with n_outputs={n_outputs}",
                expected,
                "self.head = nn.Linear(...)",
            )


def forward_tasks_agrees(offer: Offer, setup: Setup) -> None:
    """`forward_tasks`, where there is one, gives for each task what the network with its parameters gives."""
    trial = Trial(offer, setup)
    network = trial.verb(setup.shape, 3, torch_generator(0))
    if not hasattr(network, "forward_tasks"):
        return
    x = torch.rand(2, 4, *setup.shape, generator=torch_generator(1))
    own = dict(network.named_parameters())
    tasks = {n: torch.stack([p, p * 1.1]).detach() for n, p in own.items()}
    with torch.no_grad():
        together = trial.attempt("forward_tasks", lambda: network.forward_tasks(tasks, x))
        for i in range(2):
            alone = torch.func.functional_call(network, {name: values[i] for name, values in tasks.items()}, (x[i],))
            if is_apart(alone.numpy(), together[i].numpy()):
                complain(
                    offer,
                    f"forward_tasks up to {float((alone - together[i]).abs().max()):.2g} off",
                    "forward's",
                    "torch.func.functional_call over the parameters of each task",
                )
