"""Two closed tables: what a component of each kind does and makes, and what may fill each input of a verb."""

from __future__ import annotations

from dataclasses import dataclass

CONTRACT_VERSION = 1
"""Version of the contracts between fewcore and its plugins. A change makes every stored result stale."""


@dataclass(frozen=True)
class Kind:
    """A kind of component: the hook that offers it, the verb it has, and what the verb makes.

    `option` is what chooses a tracker or an executor on the command line: they change no number, so they stand in no
    pipeline file and in no key. It is empty for the kinds of stages.
    """

    name: str
    hook: str
    verb: str
    makes: str
    extra: str
    option: str = ""

    @property
    def is_stage(self) -> bool:
        """Whether a pipeline file may have stages of this kind."""
        return not self.option

    @property
    def label(self) -> str:
        """The name for people and for `--json`: `task-sampler`."""
        return self.name.replace("_", "-")

    def usage(self, component: str) -> str:
        """Return what chooses a component of this kind: a stage of a pipeline file, or an option of `fewcore run`."""
        return f"{{{self.name}: {component}}}" if self.is_stage else f"{self.option} {component}"


@dataclass(frozen=True)
class Input:
    """An input of a verb: the results that may fill it, and the split from which they must come.

    `split` is `own` where the maker must work on the split of the stage that asks, `validation` where it must work on
    the validation rows, and `any` where the maker has no rows of its own.
    """

    name: str
    made_by: tuple[str, ...]
    split: str
    meaning: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("dataset", "fewcore_datasets", "load", "ImageSet", "medical"),
        Kind("embedder", "fewcore_embedders", "fit", "Encoder", "embed"),
        Kind("partitioner", "fewcore_partitioners", "partition", "Partitions", "cluster"),
        Kind("task_sampler", "fewcore_task_samplers", "tasks", "TaskStream", "meta"),
        Kind("meta_learner", "fewcore_meta_learners", "meta_train", "FewShotModel", "meta"),
        Kind("learner", "fewcore_learners", "learn", "Predictor", "meta"),
        Kind("evaluator", "fewcore_evaluators", "evaluate", "MetricReport", "all"),
        Kind("backbone", "fewcore_backbones", "build", "Module", "meta"),
        Kind("tracker", "fewcore_trackers", "open", "Tracking", "tracking", "--track"),
        Kind("executor", "fewcore_executors", "start", "Job", "slurm", "--jobs 4 --executor"),
    )
}

STAGE_KINDS = tuple(name for name, kind in KINDS.items() if kind.is_stage)
"""The kinds that a stage of a pipeline file may have."""

INPUTS: dict[str, Input] = {
    entry.name: entry
    for entry in (
        Input("images", ("dataset",), "any", "the rows of the stage, as an ImageSet"),
        Input("validation", ("dataset",), "any", "the validation rows, as an ImageSet"),
        Input("embeddings", ("embedder",), "any", "the vectors of the stage's rows and their encoder"),
        Input("partitions", ("partitioner",), "own", "partitions of the stage's rows"),
        Input("tasks", ("task_sampler",), "own", "a stream of training tasks"),
        Input("validation_tasks", ("task_sampler",), "validation", "a finite stream of validation tasks"),
        Input("backbone", ("backbone",), "any", "the network to build"),
        Input("start", ("backbone", "embedder", "meta_learner", "learner"), "any", "where the weights start"),
        Input("outcomes", ("learner", "meta_learner"), "any", "predictions of all models beside the truth"),
    )
}

SPLITS = ("train", "validation", "test")
"""The three splits of a data set. A stage works on `train` unless it says otherwise."""

RESERVED = frozenset({"split", "from", "seed", *STAGE_KINDS})
"""Words that a pipeline file uses itself; no option of a component may have such a name."""
