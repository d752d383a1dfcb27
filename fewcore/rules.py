"""What the stages of a pipeline must keep together, once they are wired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fewcore.kinds import KINDS
from fewcore.wiring import Report, Wired

EVALUATION_KINDS = ("partitioner", "task_sampler", "embedder")


def check_rules(stages: Sequence[Wired], report: Report) -> None:
    """Check what the wired stages of a cell must keep together."""
    wired = {stage.name: stage for stage in stages}
    started_from = {name for w in wired.values() for name in w.inputs.get("start", ())}
    tests = [w for w in wired.values() if w.kind == "task_sampler" and w.split == "test"]
    for stage in wired.values():
        path = f"stages.{stage.name}"
        if stage.split != "train" and stage.kind not in EVALUATION_KINDS:
            report(
                f"{path}.split",
                f"a {KINDS[stage.kind].label} on {stage.split}",
                f"only {', '.join(EVALUATION_KINDS)} may leave the training rows",
            )
        if stage.kind == "meta_learner" and not tests and stage.name not in started_from:
            report(path, "no test tasks", "a stage such as test: {task_sampler: episodes, split: test}")
        if stage.kind == "meta_learner" and getattr(stage.component, "limits_way", False):
            _check_way(stage, wired, tests, report)


def _ways(stage: Wired) -> tuple[int, ...]:
    n_way = getattr(stage.component, "n_way", ())
    return tuple(n_way) if isinstance(n_way, tuple | list) else (n_way,)


def _check_way(stage: Wired, wired: Mapping[str, Wired], tests: list[Wired], report: Report) -> None:
    trained = max((way for source in stage.inputs.get("tasks", ()) for way in _ways(wired[source])), default=0)
    for test in tests:
        if trained and max(_ways(test), default=0) > trained:
            found = f"{max(_ways(test))}-way test tasks for '{stage.name}', which trains on {trained}-way tasks"
            report(f"stages.{test.name}.n_way", found, f"at most {trained} ways")


def check_evaluators(cells: Sequence[tuple[Wired, ...]], report: Report) -> None:
    """Check that some model of some cell can feed each evaluator: one reads the outcomes of all cells at once."""
    chosen: dict[str, list[Wired]] = {}
    reads: dict[str, set[str]] = {}
    for cell in cells:
        wired = {stage.name: stage for stage in cell}
        for stage in cell:
            if stage.kind == "evaluator":
                reads[stage.name] = set(getattr(stage.component, "reads", ()))
                chosen.setdefault(stage.name, []).extend(wired[name] for name in stage.inputs["outcomes"])
    for name, models in chosen.items():
        made = {what for model in models for what in _makes(model)}
        if not models:
            report(f"stages.{name}", "no model to evaluate", "a stage of the kind learner or meta_learner")
        elif reads[name] and all(map(_makes, models)) and not reads[name] & made:
            found, expected = ", ".join(sorted(made)), " or ".join(sorted(reads[name]))
            report(f"stages.{name}", f"the models make {found}", f"a model that makes {expected}")


def _makes(model: Wired) -> tuple[str, ...]:
    """Return what a model says that it predicts; nothing where a learner does not say."""
    return model.offer.component.predicts or (("few-shot",) if model.kind == "meta_learner" else ())
