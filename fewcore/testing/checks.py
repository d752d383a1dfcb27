"""Checks that every component must pass when it runs on toys: reproducible, honest, without side effects."""

from __future__ import annotations

import inspect
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch

from fewcore.components import Offer
from fewcore.contracts import ImageSet, Target
from fewcore.errors import Interrupted
from fewcore.run import Run
from fewcore.seeds import numpy_generator, torch_generator
from fewcore.testing.trial import (
    STORED,
    Setup,
    Trial,
    arrays_within,
    blind_tasks,
    complain,
    difference,
    read_only,
    support_set,
)

INTERRUPTIONS = 3


def runs_on_toys(offer: Offer, setup: Setup) -> None:
    """The verb runs on tiny inputs and returns what it declares."""
    trial = Trial(offer, setup)
    trial.behaviour(trial.make())


def runs_without_optional_inputs(offer: Offer, setup: Setup) -> None:
    """Inputs with a default may be missing and those typed `| None` may be None: a pipeline need not give them."""
    trial = Trial(offer, setup)
    given = trial.arguments(all_of_them=False)
    if None in given.values() or set(given) != set(trial.arguments()):
        trial.behaviour(trial.make(arguments=given))


def same_seed_gives_the_same(offer: Offer, setup: Setup) -> None:
    """Two runs with one seed give equal results, whatever global random state is."""
    trial = Trial(offer, setup)
    with _global_random_state(1):
        first = trial.behaviour(trial.make(Run(0)))
    with _global_random_state(2):
        second = trial.behaviour(trial.make(Run(0)))
    if apart := difference(first, second):
        complain(
            offer, f"{apart} in two runs with one seed", "equal results", "run.rng or run.generator for all randomness"
        )


def global_random_state_is_untouched(offer: Offer, setup: Setup) -> None:
    """Neither the verb nor its result changes the random state of numpy, torch or Python."""
    trial = Trial(offer, setup)
    with _global_random_state(5):
        before = _random_states()
        trial.behaviour(trial.make(Run(0)))
        after = _random_states()
    changed = [name for name, state in before.items() if state != after[name]]
    if changed:
        # Making a torch layer draws its first weights, even where they are drawn again from run.generator.
        layers = "with torch.random.fork_rng(devices=[]): around the making of layers, their weights from run.generator"
        write = layers if changed == ["torch"] else "rng = run.rng"
        complain(offer, f"the global random state of {' and '.join(changed)} changed", "it as it was", write)


def inputs_are_not_modified(offer: Offer, setup: Setup) -> None:
    """What a verb gets is also another stage's: it changes none of it."""
    trial = Trial(offer, setup)
    given = trial.arguments()
    before = {name: arrays_within(value) for name, value in given.items()}
    trial.behaviour(trial.make(arguments=given))
    for name, value in given.items():
        if apart := difference(before[name], arrays_within(value)):
            complain(offer, f"its input '{name}' changed: {apart}", "inputs left as they are", f"a copy of {name}")


def inputs_may_be_read_only(offer: Offer, setup: Setup) -> None:
    """Images, vectors and partitions may be memory-mapped files, which cannot be written to."""
    trial = Trial(offer, setup)
    given = {
        name: tuple(map(read_only, value)) if isinstance(value, tuple) else read_only(value)
        for name, value in trial.arguments().items()
    }
    trial.make(arguments=given)


def labels_are_read_only_where_declared(offer: Offer, setup: Setup) -> None:
    """Without `needs_labels` a component works with hidden targets, and shown ones change nothing."""
    if offer.component.needs_labels:
        return
    trial = Trial(offer, setup)
    hidden = trial.behaviour(trial.make())
    shown = trial.arguments(targets=True)
    for name in ("images", "validation"):
        if isinstance(shown.get(name), ImageSet):
            shown[name] = _other_targets(shown[name])
    if apart := difference(hidden, trial.behaviour(trial.make(arguments=shown))):
        complain(offer, f"{apart} when targets are shown", "labels not read", "needs_labels=True in its announcement")


def result_survives_saving(offer: Offer, setup: Setup) -> None:
    """What is saved as arrays and JSON and loaded again behaves bit for bit as before, an adapted predictor included."""
    if offer.kind not in STORED:
        return
    trial = Trial(offer, setup)
    given = trial.arguments()
    value = trial.make(arguments=given)
    before = trial.behaviour(value)
    again = trial.reloaded(value, given)
    if apart := difference(before, trial.behaviour(again)):
        complain(offer, f"{apart} after saving and loading", "equal results", "all of its state in to_arrays")
    if offer.kind == "meta_learner":
        _, images = blind_tasks(setup.shape)
        adapted = trial.attempt("adapt", lambda: value.adapt(support_set(setup.shape), Run(9)))
        _says_what_it_makes(trial, value, adapted)
        first = adapted.predict(images, Run(9)).to_arrays()[0]
        second = trial.reloaded(adapted, given, "what adapt makes").predict(images, Run(9)).to_arrays()[0]
        if apart := difference(first, second):
            complain(
                offer,
                f"{apart} after saving and loading what adapt makes",
                "equal predictions",
                "all of its state in its to_arrays",
            )


def _says_what_it_makes(trial: Trial, value: Any, adapted: Any) -> None:
    """Refuse an `adapt` whose annotation does not name the class through which fewcore will load what it made."""
    said = trial.attempt("the annotation of adapt", lambda: get_type_hints(type(value).adapt).get("return"))
    if said is not type(adapted):
        found = f"adapt, which says that it makes {getattr(said, '__name__', said)}, and a {type(adapted).__name__}"
        write = f"def adapt(self, support: ImageSet, run: Run) -> {type(adapted).__name__}"
        complain(trial.offer, found, "the class of what it makes as its return annotation", write)


def monitors_choose_nothing(offer: Offer, setup: Setup) -> None:
    """Inputs named in `monitors` draw curves and choose nothing: without them the result is the same."""
    trial = Trial(offer, setup)
    watched = getattr(trial.cls, "monitors", ())
    given = trial.arguments()
    optional = {
        name for name in watched if name in given and trial.parameters[name].default is not inspect.Parameter.empty
    }
    if not optional:
        return
    with_them = trial.behaviour(trial.make(arguments=given))
    without = trial.behaviour(trial.make(arguments={n: v for n, v in given.items() if n not in optional}))
    if apart := difference(with_them, without):
        names = ", ".join(sorted(optional))
        complain(offer, f"{apart} without {names}", "an equal result, since monitors names it", "a monitors without it")


def deterministic_is_honest(offer: Offer, setup: Setup) -> None:
    """A component that says `deterministic` gives the same for every seed, since the seed is not in its key."""
    trial = Trial(offer, setup)
    if not getattr(trial.cls, "deterministic", False):
        return
    first, second = (trial.behaviour(trial.make(Run(seed))) for seed in (0, 1))
    if apart := difference(first, second):
        complain(
            offer, f"{apart} with another seed", "equal results, since it says deterministic", "deterministic = False"
        )


def resumes_bit_for_bit(offer: Offer, setup: Setup) -> None:
    """Interrupted after a step and started again, it ends with the same result as without an interruption."""
    trial = Trial(offer, setup)
    whole = trial.behaviour(trial.make())
    interrupted = 0
    with tempfile.TemporaryDirectory(prefix="fewcore-conformance-") as folder:
        value = None
        for left in reversed(range(INTERRUPTIONS + 1)):
            run = Run(
                0, checkpoints=Path(folder), checkpoint_every=0.0, stop=(lambda: True) if left else (lambda: False)
            )
            try:
                value = trial.make(run)
                break
            except Interrupted:
                interrupted += 1
    if interrupted and (apart := difference(whole, trial.behaviour(value))):
        complain(
            offer,
            f"{apart} after {interrupted} interruptions",
            "the result of an uninterrupted run",
            "all that a step changes in run.loop(n, network=..., optimiser=...), and all randomness from run",
        )


def runs_on_cuda(offer: Offer, setup: Setup) -> None:
    """On a GPU it makes results of the same names, shapes and dtypes, finite where the CPU's are."""
    trial = Trial(offer, setup)
    expected = trial.behaviour(trial.make())
    found = trial.behaviour(trial.make(Run(0, "cuda")))
    for name, values in expected.items():
        other = found.get(name)
        if other is None or other.shape != values.shape or other.dtype != values.dtype:
            apart = f"'{name}' {getattr(other, 'shape', 'missing')} on CUDA"
            write = "values.cpu().numpy() of what is computed on run.device"
            complain(offer, apart, f"{values.dtype} {values.shape}", write)
        if values.dtype.kind == "f" and not np.array_equal(np.isfinite(values), np.isfinite(other)):
            complain(
                offer,
                f"'{name}' not finite on CUDA",
                "finite numbers, as on the CPU",
                "the same computation on run.device",
            )


@contextmanager
def _global_random_state(seed: int) -> Iterator[None]:
    """Set the global random states for a while."""
    before = np.random.get_state(), torch.get_rng_state(), random.getstate()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    torch.set_rng_state(torch_generator(seed).get_state())
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before[0])  # noqa: NPY002
        torch.set_rng_state(before[1])
        random.setstate(before[2])


def _random_states() -> Mapping[str, Any]:
    _, keys, *place = np.random.get_state()  # noqa: NPY002
    return {
        "numpy": (np.asarray(keys).tobytes(), place),
        "torch": torch.get_rng_state().tolist(),
        "Python": random.getstate(),
    }


def _other_targets(images: ImageSet) -> ImageSet:
    """Return the set with its targets permuted: whoever reads them gives another result."""
    order = numpy_generator(1).permutation(len(images))
    targets: dict[str, Target] = {n: replace(t, values=t.values[order]) for n, t in images.targets.items()}
    return replace(images, targets=targets)
