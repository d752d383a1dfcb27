"""Checks of what each kind of component makes: shapes, and the laws that fewcore relies on."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fewcore import checkpoint
from fewcore.components import Offer
from fewcore.contracts import Array, ImageSet, ImageSpec, Partitions, Predictions, TaskBatch
from fewcore.errors import DataError
from fewcore.exporting.export import FIELDS, entering
from fewcore.kinds import SPLITS
from fewcore.metrics import MetricReport
from fewcore.run import Run
from fewcore.seeds import torch_generator
from fewcore.tensors import Gather
from fewcore.testing import toys
from fewcore.testing.trial import Setup, Trial, arrays_within, blind_tasks, complain, difference, support_set

CLOSE = 1e-4
"""How far results may be apart that are equal but for rounding, relative to the largest."""

NORMS = ("transductive", "support", "running", "none")


def _wrong(offer: Offer, array: Any, shape: tuple[int | None, ...], what: str, dtype: str = "") -> None:
    """Complain where something is no array of a shape (None fits every length), or not finite."""
    names = ", ".join("any" if size is None else str(size) for size in shape)
    if not isinstance(array, np.ndarray):
        complain(offer, f"{what} of type {type(array).__name__}", f"a numpy array ({names})", ".cpu().numpy()")
    fits = array.ndim == len(shape) and all(s in (None, n) for s, n in zip(shape, array.shape, strict=True))
    if not fits or (dtype and str(array.dtype) != dtype):
        complain(
            offer,
            f"{what} {array.dtype} {array.shape}",
            f"{dtype or 'numbers'} ({names})",
            f"np.asarray(..., dtype='{dtype or array.dtype}') of that shape",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        complain(
            offer, f"{what} with NaN or infinity", "finite numbers", "a guard where it divides or takes logarithms"
        )


def _apart(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return True
    scale = float(np.abs(first).max(initial=1e-12))
    return not np.allclose(first, second, rtol=CLOSE, atol=CLOSE * scale)


def images_are_as_the_spec_says(offer: Offer, setup: Setup) -> None:
    """Images have the size, channels and range of the spec and are finite; there is something to train on."""
    images: ImageSet = Trial(offer, setup).make()
    wanted = (images.spec.channels, *images.spec.size)
    if images.shape != wanted:
        complain(offer, f"images {images.shape}", f"{wanted}, as the spec says", "ImageSpec(size, channels, range)")
    low, high = images.spec.value_range
    least, most = float(images.images.min()), float(images.images.max())
    if not (low <= least and most <= high):
        complain(
            offer,
            f"values from {least:g} to {most:g}",
            f"{low:g} to {high:g}, as the spec says",
            "the true value_range into ImageSpec",
        )
    for name, values in images.geometry.items():
        if len(values) != len(images):
            complain(
                offer,
                f"geometry '{name}' with {len(values)} rows",
                f"{len(images)}, one an image",
                "arrays with a row an image",
            )


def splits_are_sane(offer: Offer, setup: Setup) -> None:
    """Splits are named train, validation and test and are not empty; no group is in two (ImageSet sees to that)."""
    images: ImageSet = Trial(offer, setup).make()
    for name, ids in images.splits.items():
        if name not in SPLITS or not len(ids):
            complain(
                offer,
                f"the split '{name}' with {len(ids)} images",
                f"images in splits among {', '.join(SPLITS)}",
                "splits={'train': ids, 'validation': ids, 'test': ids}",
            )
    if images.splits and "train" not in images.splits:
        complain(offer, f"the splits {', '.join(images.splits)}", "a split 'train'", "splits={'train': ids, ...}")


def targets_are_sane(offer: Offer, setup: Setup) -> None:
    """The target that `labels` means is named where there are class targets; scales of ratings hold."""
    images: ImageSet = Trial(offer, setup).make()
    classes = [name for name, target in images.targets.items() if target.kind == "class"]
    if classes and images.target not in classes:
        complain(offer, f"target='{images.target}'", f"one of {', '.join(classes)}", f"target='{classes[0]}'")
    for name, target in images.targets.items():
        if target.kind == "ratings" and target.scales is not None:
            inside = (target.values >= target.scales[:, 0]) & (target.values <= target.scales[:, 1])
            if not (inside | np.isnan(target.values)).all():
                complain(
                    offer,
                    f"ratings '{name}' outside their scale {target.scale}",
                    "ratings inside, or NaN",
                    "the true scale into Target, NaN where nobody rated",
                )


def sources_are_files(offer: Offer, setup: Setup) -> None:
    """`sources()`, where there is one, lists files and folders that exist, so that changed files are noticed."""
    trial = Trial(offer, setup)
    if not hasattr(trial.component, "sources"):
        return
    listed = trial.attempt("sources", trial.component.sources)
    for path in listed:
        if not (isinstance(path, Path) and path.exists()):
            complain(
                offer,
                f"{path!r} in sources()",
                "paths of files or folders that exist",
                "tuple[Path, ...] of what load reads",
            )


def encoder_keeps_its_shapes(offer: Offer, setup: Setup) -> None:
    """`embed` gives (n, dim) or (n, m, dim) float32, and each image's vector whatever images stand beside it."""
    trial = Trial(offer, setup)
    encoder = trial.make()
    images = toys.toy_images("test", setup.shape)
    vectors = trial.attempt("embed", lambda: encoder.embed(images, Run(9)))
    shape = (len(images), None, encoder.dim) if np.ndim(vectors) == 3 else (len(images), encoder.dim)
    _wrong(offer, vectors, shape, "the vectors of embed", "float32")
    alone = trial.attempt("embed", lambda: encoder.embed(toys.take(images, np.arange(5)), Run(9)))
    if _apart(vectors[:5], alone):
        complain(offer, "vectors that depend on the other images", "evaluation mode", "network.eval() in embed")
    if hasattr(encoder, "assign"):
        _wrong(offer, np.asarray(encoder.assign(vectors)), (len(images),), "the clusters of assign")


def partitions_stand_on_the_rows(offer: Offer, setup: Setup) -> None:
    """Partitions are (p, n) and have the ids of the rows that were given, in their order."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    partitions: Partitions = trial.make(arguments=given)
    sources = [value[0] if isinstance(value, tuple) else value for value in given.values()]
    ids = next((value.ids for value in sources if hasattr(value, "ids")), partitions.ids)
    if not np.array_equal(partitions.ids, ids):
        complain(
            offer, "partitions with other ids than their input", "its ids, in its order", "Partitions(parts, x.ids)"
        )


def _labels(batch: TaskBatch) -> Iterator[tuple[int, Array, Array, Array, Array]]:
    for i in range(len(batch)):
        known = batch.query[i] >= 0
        support = batch.support[i], batch.support_labels[i]
        yield i, *support, batch.query[i][known], batch.query_labels[i][known]


def tasks_keep_the_contract(offer: Offer, setup: Setup) -> None:
    """Support and query share no image, each class has its shots, labels count from 0, padding is -1 in both."""
    trial = Trial(offer, setup)
    stream = trial.make()
    n_rows = toys.N_CLASSES * toys.PER_CLASS["train"]
    for batch in (stream.start().draw(8), *stream.batches()):
        if batch.n_way not in stream.n_way or batch.n_shot not in stream.n_shot:
            found = f"a {batch.n_way}-way {batch.n_shot}-shot batch"
            complain(
                offer,
                found,
                f"ways {stream.n_way} and shots {stream.n_shot}, as the stream says",
                "n_way and n_shot as tuples of all that the stream draws",
            )
        if not np.array_equal(batch.query < 0, batch.query_labels < 0):
            complain(offer, "queries padded in rows or labels alone", "-1 in both", "query_labels[query < 0] = -1")
        for i, support, support_labels, query, query_labels in _labels(batch):
            rows = np.concatenate([support, query])
            if len(np.unique(rows)) < len(rows):
                complain(
                    offer,
                    f"task {i} with an image twice, in support or query",
                    "disjoint support and query",
                    "rng.permutation(rows)[: n_shot + n_query], the first n_shot for support",
                )
            if rows.max() >= n_rows:
                complain(
                    offer,
                    f"row {rows.max()} in task {i}",
                    f"rows below {n_rows}, not ids",
                    "places among the stage's rows, from 0",
                )
            if not np.array_equal(np.bincount(support_labels, minlength=batch.n_way), [batch.n_shot] * batch.n_way):
                complain(
                    offer,
                    f"support labels {support_labels.tolist()}",
                    f"{batch.n_shot} of each of {batch.n_way}",
                    "class_by_class(rows, tasks, n_shot)",
                )
            if len(query_labels) and not (query_labels.min() >= 0 and query_labels.max() < batch.n_way):
                complain(
                    offer,
                    f"query labels {query_labels.tolist()}",
                    f"0 to {batch.n_way - 1}",
                    "class_by_class(rows, tasks, n_shot)",
                )


def tasks_are_pure(offer: Offer, setup: Setup) -> None:
    """Classes of a task made from partitions are told apart by one of them: no part is in two classes, none is -1."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    if "partitions" not in given:
        return
    sources = given["partitions"] if isinstance(given["partitions"], tuple) else (given["partitions"],)
    every = np.concatenate([source.parts for source in sources])
    for i, support, support_labels, query, query_labels in _labels(trial.make(arguments=given).start().draw(8)):
        rows, labels = np.concatenate([support, query]), np.concatenate([support_labels, query_labels])
        inside = rows.max() < every.shape[1]
        if not (inside and any(_tells_apart(parts[rows], labels) for parts in every)):
            complain(
                offer,
                f"task {i}, whose classes no partition tells apart",
                "classes made of different parts",
                "images of one part for each label, of one partition",
            )


def _tells_apart(parts: Array, labels: Array) -> bool:
    owners: dict[int, set[int]] = {}
    for part, label in zip(parts.tolist(), labels.tolist(), strict=True):
        owners.setdefault(part, set()).add(label)
    return -1 not in owners and all(len(classes) == 1 for classes in owners.values())


def stream_obeys_its_law(offer: Offer, setup: Setup) -> None:
    """Task i is a function of seed and i (and of observations): cursors agree, go on from a checkpoint, do not interact."""
    trial = Trial(offer, setup)
    stream = trial.make()
    finite = arrays_within(list(stream.batches()))
    if apart := difference(finite, arrays_within(list(stream.batches()))):
        complain(
            offer,
            f"{apart} in two calls of batches()",
            "the same finite tasks every time",
            "batches() as a function of the seed and the task numbers alone",
        )
    first, second = stream.start(), stream.start()
    whole = first.draw(3)
    parts = [second.draw(2), second.draw(1)]
    for name in ("support", "query", "task"):
        pieces = np.concatenate([getattr(part, name) for part in parts])
        if not np.array_equal(getattr(whole, name), pieces):
            complain(
                offer,
                f"other {name} in draw(2) and draw(1) than in draw(3)",
                "equal tasks from two cursors",
                "task i as a function of the seed and i, such as numpy_generator(child_seed(seed, i))",
            )
    first.observe(whole, np.array([0.9, 0.1, 0.5]))
    state = _through_checkpoint(dict(first.state_dict()))
    later = stream.start()
    later.load_state_dict(state)
    if apart := difference(arrays_within(first.draw(4)), arrays_within(later.draw(4))):
        complain(
            offer,
            f"{apart} after state_dict and load_state_dict",
            "the tasks that would have come next",
            "every number that draw changes into state_dict",
        )
    again = trial.make().start()
    if apart := difference(arrays_within(whole), arrays_within(again.draw(3))):
        complain(
            offer,
            f"{apart} in a stream made again from its recipe",
            "the same tasks",
            "the seed of the stream as int(run.rng.integers(2**63))",
        )


def _through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fewcore-conformance-") as folder:
        path = Path(folder) / "state.checkpoint"
        checkpoint.save(path, state)
        return checkpoint.load(path) or {}


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
    _wrong(offer, scores, (*batch.query.shape, batch.n_way), "the scores of classify", "float32")
    made = trial.attempt("adapt", lambda: model.adapt(support_set(setup.shape), Run(9)).predict(images, Run(9)))
    _predicted(offer, made, images, ("scores",))
    _wrong(offer, made.scores, (len(images), 3), "the scores of what adapt makes")


def each_task_is_alone(offer: Offer, setup: Setup) -> None:
    """A task's scores do not depend on the tasks beside it, nor, unless `norm` is transductive, on other queries."""
    trial = Trial(offer, setup)
    model = trial.make()
    batch, images = blind_tasks(setup.shape)

    def classify(tasks: TaskBatch) -> Array:
        return np.asarray(trial.attempt("classify", lambda: model.classify(tasks, images, Run(9))))

    scores = classify(batch)
    if _apart(scores[:1], classify(batch.part(0, 1))):
        complain(
            offer,
            "scores of a task that depend on the tasks beside it",
            "each task on its own",
            "no mean or maximum over the axis of tasks",
        )
    if model.norm != "transductive":
        few = replace(batch, query=batch.query[:, :2], query_labels=batch.query_labels[:, :2])
        if _apart(scores[:, :2], classify(few)):
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
        if _apart(getattr(made, name)[:5], getattr(alone, name)):
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
        _wrong(offer, array, (len(images), *[None] * (np.ndim(array) - 1)), name)
    if made.masks is not None and not (made.masks.min() >= 0 and made.masks.max() <= 1):
        complain(offer, "masks outside [0, 1]", "probabilities", "sigmoid of what the network makes")


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
            if _apart(values[:count], said[name].numpy()):
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


def network_keeps_its_shapes(offer: Offer, setup: Setup) -> None:
    """`build` gives features (n, e) without outputs and (n, k) with k; only then are there parameters `head.*`."""
    trial = Trial(offer, setup)
    x = torch.rand(4, *setup.shape, generator=torch_generator(0))
    for n_outputs in (0, 3):
        network = trial.attempt("build", functools.partial(trial.verb, setup.shape, n_outputs, torch_generator(0)))
        with torch.no_grad():
            made = trial.attempt("the network", functools.partial(network.eval(), x)).numpy()
        _wrong(offer, made, (4, n_outputs or None), f"the result with n_outputs={n_outputs}", "float32")
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
            if _apart(alone.numpy(), together[i].numpy()):
                complain(
                    offer,
                    f"forward_tasks up to {float((alone - together[i]).abs().max()):.2g} off",
                    "forward's",
                    "torch.func.functional_call over the parameters of each task",
                )


def report_is_sane(offer: Offer, setup: Setup) -> None:
    """Rows name their model, their interval holds their value, and the report is JSON; the input is not judged twice."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    report: MetricReport = trial.make(arguments=given)
    stages = {outcome.stage: outcome.method for outcome in given["outcomes"]}
    if not report.rows and not report.left_out:
        complain(
            offer,
            "no rows, and no model left out",
            "rows, or the names of the models that lack what it needs",
            "MetricReport(rows, left_out=...)",
        )
    for row in report.rows:
        # A row of no model is the evaluator's own reference, such as a constant guess, and says so by its method.
        if stages.get(row.stage, row.stage) != row.method:
            complain(
                offer,
                f"a row of '{row.stage}' ({row.method})",
                f"stage and method of an outcome: {stages}",
                "MetricRow(metric, value, ci95, n, outcome.stage, outcome.method)",
            )
        low, high = row.ci95
        slack = 1e-9 * max(1.0, abs(row.value))
        if math.isfinite(low) and math.isfinite(high) and not low - slack <= row.value <= high + slack:
            complain(
                offer,
                f"{row.metric} {row.value:g} outside its interval {row.ci95}",
                "low <= value <= high",
                "ci95=(low, high) around the value, NaN where there is none",
            )
        if row.n < 1:
            complain(
                offer, f"{row.metric} of n={row.n}", "what was counted, at least 1", "n=the number of images or tasks"
            )
        try:
            json.dumps(row.to_json())
        except TypeError as error:
            complain(offer, f"a row that is no JSON: {error}", "plain numbers and text", "float(value)")
    unknown = set(report.left_out) - set(stages)
    if unknown:
        complain(
            offer,
            f"left_out naming {', '.join(sorted(unknown))}",
            f"stages among {', '.join(sorted(stages))}",
            "outcome.stage for the model",
        )
