"""Pairs of a component and a check: every check for every component that a distribution offers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fewcore.components import Offer
from fewcore.errors import PluginError, did_you_mean
from fewcore.kinds import KINDS
from fewcore.plugins import load_registry
from fewcore.testing import (
    checks,
    dataset_checks,
    declaration,
    executor_checks,
    export_checks,
    model_checks,
    rank_checks,
    report_checks,
    task_checks,
    tracker_checks,
)
from fewcore.testing.toys import SHAPE
from fewcore.testing.trial import OptionsFor, Setup

if TYPE_CHECKING:
    import pytest


class Check(Protocol):
    """A check: a plain function that raises a `ConformanceError` where a component does not keep the contract."""

    @property
    def __name__(self) -> str: ...

    def __call__(self, offer: Offer, setup: Setup) -> None:
        """Check an offer, tried with a setup."""
        ...


NOT_RUN_FOR: dict[Check, tuple[str, ...]] = {
    checks.runs_without_optional_inputs: ("dataset", "backbone", "evaluator"),
    checks.inputs_may_be_read_only: ("dataset", "backbone", "evaluator"),
    checks.labels_are_read_only_where_declared: ("dataset", "backbone", "evaluator"),
    checks.inputs_are_not_modified: ("dataset", "backbone"),
    checks.result_survives_saving: ("task_sampler", "backbone", "evaluator"),
    checks.monitors_choose_nothing: ("dataset", "backbone", "evaluator", "partitioner", "task_sampler"),
    checks.deterministic_is_honest: ("backbone",),
    checks.resumes_bit_for_bit: ("dataset", "backbone", "evaluator", "task_sampler"),
    rank_checks.ranks_make_one_model: ("dataset", "backbone", "evaluator", "task_sampler", "partitioner"),
    checks.runs_on_cuda: ("dataset", "backbone", "evaluator", "task_sampler"),
}

DECLARED: tuple[Check, ...] = (
    declaration.target_is_a_frozen_dataclass,
    declaration.docstring_explains_the_method,
    declaration.options_are_described,
    declaration.options_survive_a_file,
    declaration.wrong_options_are_refused,
    declaration.has_one_verb,
    declaration.verb_asks_for_known_inputs,
    declaration.result_is_declared,
)
"""What every component says of itself."""

EVERY_STAGE: tuple[Check, ...] = (
    *DECLARED,
    dataset_checks.sources_are_files,
    checks.runs_on_toys,
    checks.runs_without_optional_inputs,
    checks.same_seed_gives_the_same,
    checks.global_random_state_is_untouched,
    checks.inputs_are_not_modified,
    checks.inputs_may_be_read_only,
    checks.labels_are_read_only_where_declared,
    checks.result_survives_saving,
    checks.monitors_choose_nothing,
    checks.deterministic_is_honest,
    checks.resumes_bit_for_bit,
    rank_checks.ranks_make_one_model,
    checks.runs_on_cuda,
)

OF_KIND: dict[str, tuple[Check, ...]] = {
    "dataset": (
        dataset_checks.images_are_as_the_spec_says,
        dataset_checks.splits_are_sane,
        dataset_checks.targets_are_sane,
    ),
    "embedder": (model_checks.encoder_keeps_its_shapes, export_checks.exported_network_agrees),
    "partitioner": (task_checks.partitions_stand_on_the_rows,),
    "task_sampler": (
        task_checks.tasks_keep_the_contract,
        task_checks.tasks_are_pure,
        task_checks.stream_obeys_its_law,
    ),
    "meta_learner": (
        model_checks.few_shot_model_keeps_its_shapes,
        model_checks.each_task_is_alone,
        export_checks.exported_network_agrees,
    ),
    "learner": (model_checks.predictions_are_announced, export_checks.exported_network_agrees),
    "evaluator": (report_checks.report_is_sane, report_checks.paired_tests_follow_from_units),
    "backbone": (model_checks.network_keeps_its_shapes, model_checks.forward_tasks_agrees),
    "tracker": (tracker_checks.tracking_takes_what_a_run_says, tracker_checks.tracking_may_be_empty),
    "executor": (executor_checks.worker_ends_when_it_is_told, executor_checks.worker_can_be_ended),
}


def checks_for(kind: str) -> tuple[Check, ...]:
    """Return the checks of a kind, in the order in which they are worth reading: what is said, then what is done.

    Each is a plain function: `check(offer, Setup())` raises a `ConformanceError` that says what to write.
    """
    every = EVERY_STAGE if KINDS[kind].is_stage else DECLARED
    general = (check for check in every if kind not in NOT_RUN_FOR.get(check, ()))
    return (*general, *OF_KIND[kind])


def conformance(
    distribution: str,
    *,
    options: Mapping[str, OptionsFor] | None = None,
    skip: Mapping[tuple[str, str], str] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] | None = None,
) -> pytest.MarkDecorator:
    """Return a decorator that calls a test with each component of an installed distribution and each check.

    ```python
    from fewcore.testing import conformance

    @conformance("fewcore-spectral")
    def test_conformance(offer, check):
        check(offer)
    ```

    The keyword arguments are keyed by component name, or by `kind:name` where two kinds share one. `options` makes slow
    methods quick (`{"maml": {"steps": 3}}`), or returns the options for data that it writes into an empty folder.
    `skip` maps (name, check) to the reason. `shapes` gives other toy images: (1, 16, 16) is the default. `inputs` gets
    the toy inputs by name and returns those that are to be others.

    Raises:
        PluginError: the distribution offers nothing, is broken, or a name in an argument is not one of its components.

    """
    import pytest

    offers = _offers(distribution)
    options, skip, shapes, inputs = options or {}, skip or {}, shapes or {}, inputs or {}
    names = {name for offer in offers for name in (offer.name, f"{offer.kind}:{offer.name}")}
    for name in (*options, *shapes, *inputs, *(name for name, _ in skip)):
        if name not in names:
            known = ", ".join(offer.name for offer in offers)
            raise PluginError(f"conformance: '{name}' is not offered by {distribution}; expected one of: {known}")
    pairs = []
    for offer in offers:
        given, shape, change = _of(options, offer), _of(shapes, offer), _of(inputs, offer)
        setup = Setup(given if given is not None else {}, shape or SHAPE, change)
        twice = sum(other.name == offer.name for other in offers) > 1
        label = f"{KINDS[offer.kind].label}:{offer.name}" if twice else offer.name
        for check, reason in _reasons(offer, skip):
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            if check is checks.runs_on_cuda and not torch.cuda.is_available():
                marks.append(pytest.mark.skip(reason="needs a CUDA device"))
            pairs.append(
                pytest.param(offer, functools.partial(check, setup=setup), id=f"{label}-{check.__name__}", marks=marks)
            )
    return pytest.mark.parametrize(("offer", "check"), pairs)


def _offers(distribution: str) -> list[Offer]:
    registry = load_registry()
    broken = [str(b) for b in registry.broken if _same(b.distribution, distribution)]
    offers = [offer for offer in registry.offers if _same(offer.distribution, distribution)]
    if broken:
        raise PluginError(*broken)
    if not offers:
        known = sorted({offer.distribution for offer in registry.offers})
        near = did_you_mean(distribution, known) or f"plugins are: {', '.join(known)}"
        raise PluginError(
            f"no component of '{distribution}' is installed; {near} (type pip install -e . in its folder)"
        )
    return offers


def _reasons(offer: Offer, skip: Mapping[tuple[str, str], str]) -> Iterator[tuple[Check, str]]:
    known = {check.__name__: check for check in checks_for(offer.kind)}
    reasons: dict[str, str] = {}
    for (name, check), reason in skip.items():
        if name in (offer.name, f"{offer.kind}:{offer.name}"):
            if check not in known:
                near = did_you_mean(check, known) or f"expected one of: {', '.join(known)}"
                raise PluginError(f"conformance: skip names the check '{check}'; {near}")
            reasons[check] = reason
    for check_name, function in known.items():
        yield function, reasons.get(check_name, "")


def _of(table: Mapping[str, Any], offer: Offer) -> Any:
    return table.get(f"{offer.kind}:{offer.name}", table.get(offer.name))


def _same(one: str, other: str) -> bool:
    return one.replace("_", "-").replace(".", "-").lower() == other.replace("_", "-").replace(".", "-").lower()
