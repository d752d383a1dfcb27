"""Partitioners that are broken in one way each: what is wrong is the line of each class."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from broken import broken, missing
from fewcore import Embeddings, ImageSet, Partitions, Run, option

RUNS = {
    "runs_on_toys",
    "same_seed_gives_the_same",
    "global_random_state_is_untouched",
    "inputs_are_not_modified",
    "inputs_may_be_read_only",
    "labels_are_read_only_where_declared",
    "result_survives_saving",
    "resumes_bit_for_bit",
    "partitions_stand_on_the_rows",
}
"""Checks that fail where the verb does not get as far as a result."""


@dataclass(frozen=True)
class Good:
    """Parts by the sign of a random direction."""

    scale: float = option(1.0, "length of the direction", low=0)

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        direction = self.scale * run.rng.normal(size=embeddings.vectors.shape[1])
        return Partitions((embeddings.vectors @ direction > 0).astype(np.int64)[None], embeddings.ids)


@broken(
    "partitioner",
    "target_is_a_frozen_dataclass",
    "found @dataclass above Thawed; expected a frozen dataclass (write @dataclass(frozen=True))",
)
@dataclass
class Thawed:
    """Not frozen."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return Good().partition(embeddings, run)


@broken(
    "partitioner",
    "docstring_explains_the_method",
    "found no docstring of Silent; expected what the method does, in two or three sentences",
)
@dataclass(frozen=True)
class Silent(Good):  # has no docstring
    pass


@broken("partitioner", "options_are_described", "found an option named 'split'; expected none of the reserved words ")
@dataclass(frozen=True)
class ReservedName(Good):
    """Has an option that a pipeline file uses itself."""

    split: bool = option(False, "whether to split")


@broken(
    "partitioner",
    "options_are_described",
    "found the option 'scale' without a meaning; expected what it means, in one line (write scale: int = option(3, ",
)
@dataclass(frozen=True)
class NoMeaning(Good):
    """Has an option that says nothing."""

    scale: float = 1.0


@broken(
    "partitioner",
    "options_are_described",
    "found a default that its own type or bounds refuse: scale: found -1.0; expected at least 0",
    also={"options_survive_a_file"},
)
@dataclass(frozen=True)
class BadDefault(Good):
    """Its default is out of bounds."""

    scale: float = option(-1.0, "length", low=0)


@broken(
    "partitioner",
    "wrong_options_are_refused",
    "found the option 'thing' (typing.Any) taking {'no': {'such': 'thing'}}; expected an error (write thing: int)",
    also={"options_are_described"},
)
@dataclass(frozen=True)
class AnyOption(Good):
    """An option that takes everything."""

    thing: Any = option(None, "anything")  # noqa: RUF009


@broken(
    "partitioner",
    "options_survive_a_file",
    "found SetOption(scale=1.0, names=('more', 'more')) after a round through YAML; expected SetOption(scale=1.0, ",
)
@dataclass(frozen=True)
class SetOption(Good):
    """An option that no file can give back."""

    names: tuple[str, ...] = option((), "names")

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", (*self.names, "more"))


@broken(
    "partitioner",
    "has_one_verb",
    "found a second public method fit in TwoVerbs; expected one verb, partition (write def _fit)",
)
@dataclass(frozen=True)
class TwoVerbs(Good):
    """Does two things."""

    def fit(self) -> None: ...


@broken(
    "partitioner",
    "has_one_verb",
    "found no method partition in NoVerb; expected the verb of its kind (write def partition(self, ...))",
    also=None,
)
@dataclass(frozen=True)
class NoVerb:
    """Does nothing."""


@broken(
    "partitioner",
    "verb_asks_for_known_inputs",
    "found partition asking for 'pictures'; expected only inputs among images, validation, ",
    also=RUNS,
)
@dataclass(frozen=True)
class UnknownInput(Good):
    """Asks for what nobody gives."""

    def partition(self, pictures: ImageSet, run: Run) -> Partitions:  # type: ignore[override]
        return Partitions(np.zeros((1, len(pictures)), np.int64), pictures.ids)


@broken(
    "partitioner",
    "verb_asks_for_known_inputs",
    "found partition without the parameter 'run'; expected it, beside embeddings",
)
@dataclass(frozen=True)
class NoRun(Good):
    """Asks for no run."""

    def partition(self, embeddings: Embeddings) -> Partitions:  # type: ignore[override]
        return Partitions(np.zeros((1, len(embeddings)), np.int64), embeddings.ids)


@broken(
    "partitioner",
    "result_is_declared",
    "found partition without a return annotation; expected the class of what it makes (Partitions) (write def ",
)
@dataclass(frozen=True)
class Undeclared(Good):
    """Does not say what it makes."""

    def partition(self, embeddings: Embeddings, run: Run):  # type: ignore[no-untyped-def]
        return super().partition(embeddings, run)


@broken(
    "partitioner",
    "runs_on_toys",
    "found partition giving Embeddings; expected Partitions, as it declares (write -> Embeddings, or ret",
    also=None,
)
@dataclass(frozen=True)
class Other(Good):
    """Makes something else than it says."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return embeddings  # type: ignore[return-value]


@broken(
    "partitioner",
    "same_seed_gives_the_same",
    "in two runs with one seed; expected equal results (write run.rng or run.generator for all randomness)",
    also={"global_random_state_is_untouched", "labels_are_read_only_where_declared"},
)
@dataclass(frozen=True)
class GlobalNumpy(Good):
    """Draws from global random state."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return Partitions(np.random.randint(3, size=(2, len(embeddings))), embeddings.ids)  # noqa: NPY002


@broken(
    "partitioner",
    "global_random_state_is_untouched",
    "found the global random state of torch changed; expected it as it was (write with torch.random.fork_rng(",
)
@dataclass(frozen=True)
class GlobalTorch(Good):
    """Makes a layer, which draws from global random state, and fills it anew."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        nn.init.zeros_(nn.Linear(2, 2).weight)
        return super().partition(embeddings, run)


@broken(
    "partitioner",
    "global_random_state_is_untouched",
    "found the global random state of Python changed; expected it as it was (write rng = run.rng)",
)
@dataclass(frozen=True)
class GlobalPython(Good):
    """Draws a number that it does not use."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        random.random()
        return super().partition(embeddings, run)


@broken(
    "partitioner",
    "inputs_are_not_modified",
    "found its input 'embeddings' changed: 'vectors' up to ",
    also={"inputs_may_be_read_only"},
)
@dataclass(frozen=True)
class Centres(Good):
    """Changes its input."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        vectors = embeddings.vectors
        vectors -= vectors.mean(0)
        return super().partition(embeddings, run)


@broken(
    "partitioner",
    "runs_on_toys",
    "found partition failed on toy inputs with DataError: labels: found no class target; expected needs_labels=True in the component's announcement; expected a result (write needs_labels=True in its announcement)",
    also=RUNS,
)
@dataclass(frozen=True)
class ReadsLabels(Good):
    """Reads labels without saying so."""

    def partition(self, images: ImageSet, run: Run) -> Partitions:  # type: ignore[override]
        return Partitions(images.labels.astype(np.int64)[None], images.ids)


@broken(
    "partitioner",
    "labels_are_read_only_where_declared",
    "when targets are shown; expected labels not read (write needs_labels=True in its announcement)",
)
@dataclass(frozen=True)
class Sneaks(Good):
    """Reads labels where they are shown."""

    def partition(self, images: ImageSet, run: Run) -> Partitions:  # type: ignore[override]
        target = images.targets.get("class")
        parts = np.arange(len(images)) % 3 if target is None else target.values
        return Partitions(np.asarray(parts, np.int64)[None], images.ids)


@broken(
    "partitioner",
    "deterministic_is_honest",
    "with another seed; expected equal results, since it says deterministic (write deterministic = False)",
)
@dataclass(frozen=True)
class FalselyDeterministic(Good):
    """Draws though it says that it does not."""

    deterministic: ClassVar[bool] = True


@broken(
    "partitioner",
    "partitions_stand_on_the_rows",
    "found partitions with other ids than their input; expected its ids, in its order (write Partitions(parts, x.ids))",
)
@dataclass(frozen=True)
class OtherIds(Good):
    """Counts rows instead of giving ids."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        return Partitions(super().partition(embeddings, run).parts, np.arange(len(embeddings)))


@broken(
    "partitioner",
    "runs_on_toys",
    "found partition failed on toy inputs with ZeroDivisionError: by nothing; expected a result",
    also=RUNS,
)
@dataclass(frozen=True)
class Crashes(Good):
    """Fails."""

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        raise ZeroDivisionError("by nothing")


@broken(
    "partitioner",
    "docstring_explains_the_method",
    "found a docstring without the paper arXiv:1234.56789; expected the source (write Source: authors, title, year",
    paper="arXiv:1234.56789",
)
@dataclass(frozen=True)
class NoSource(Good):
    """Does not name the paper that its announcement names."""


@broken(
    "partitioner",
    "verb_asks_for_known_inputs",
    "found needs_labels=True, but partition asks for no images; expected needs_labels=False, or the images (write def ",
    needs_labels=True,
)
@dataclass(frozen=True)
class NeedsNoLabels(Good):
    """Says that it needs labels, and asks for no images."""


# Its module is not there.
missing(
    "partitioner",
    "no_such_module:Thing",
    "target_is_a_frozen_dataclass",
    "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'; expected a target that can be imported "
    "(write target='module:Class')",
)
