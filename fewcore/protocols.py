"""What the values that components make must be able to do.

Nothing here is inherited: a class that has the members fits. Every value that a stage makes saves itself with
`to_arrays` and is built again by the class method `from_arrays`; fewcore finds that class as the return annotation of
the component's verb. `inputs` are the inputs of the stage by name, loaded when they are asked for, so that a value
refers to what it was made from instead of copying it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from fewcore.contracts import Array, Arrays, ImageSet, Meta, Predictions, TaskBatch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fewcore.run import Run


@runtime_checkable
class Stored(Protocol):
    """A value that saves itself as named arrays and JSON, without pickle."""

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return named arrays and JSON from which `from_arrays` builds an equal value."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Self:
        """Build the value. `inputs` are those of the stage that made it, by name."""
        ...


@runtime_checkable
class Encoder(Stored, Protocol):
    """What an embedder makes. An encoder with clusters of its own also has `assign(vectors) -> (n,)` integers; one that
    is a network has `network`, a `torch.nn.Module`, for stages that take it as `start`. Its class may have `draw(axes)`, as a
    `Predictor` may, and `network_for_export(spec)`, whose network makes the vectors (n, e).
    """

    @property
    def dim(self) -> int:
        """Length e of a vector."""
        ...

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return a vector for each image: (n, e) or (n, m, e) float32, in evaluation mode."""
        ...


@runtime_checkable
class PostProcessing(Encoder, Protocol):
    """What an embedder makes that asks for `embeddings`: `base` made them, `transform` changes them."""

    @property
    def base(self) -> Encoder:
        """The encoder whose vectors are changed."""
        ...

    def transform(self, vectors: Array) -> Array:
        """Return the changed vectors, (n, e) float32, from the base's (n, e')."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A component of the kind `backbone`. It is its own value, and is never stored."""

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        """Return a network for images of `shape` (c, h, w) or (c, d, h, w), on the CPU, drawn from `generator`.

        With `n_outputs=0` it gives features (n, e); otherwise (n, n_outputs), and the classifier's parameters are named
        `head.*`. The network may offer `forward_tasks(parameters, x)`, which computes all tasks at once: every adapted
        parameter with a leading t, x (t, n, c, h, w), result (t, n, n_outputs). It may offer `feature_map(x)`, (n, e, h', w')
        or (n, e, d', h', w'), whose mean over places are the features, for learners that judge places, such as `mil`.
        """
        ...


@runtime_checkable
class TaskCursor(Protocol):
    """One consumer's place in a stream of tasks."""

    def draw(self, t: int) -> TaskBatch:
        """Return the next t tasks."""
        ...

    def observe(self, batch: TaskBatch, scores: Array) -> None:
        """Tell the sampler how well each task of a batch went, (t,); samplers without feedback do nothing."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return the place, for a checkpoint: numbers, strings, lists and arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` returned."""
        ...


@runtime_checkable
class TaskStream(Protocol):
    """What a task sampler makes: frozen, made again from its recipe, never stored.

    `n_way` and `n_shot` hold every way and shot that it can draw.
    """

    @property
    def n_way(self) -> tuple[int, ...]:
        """Every number of classes that a task of this stream can have."""
        ...

    @property
    def n_shot(self) -> tuple[int, ...]:
        """Every number of support images a class that a task of this stream can have."""
        ...

    def start(self) -> TaskCursor:
        """Return a fresh cursor for one consumer."""
        ...

    def batches(self) -> Iterator[TaskBatch]:
        """Yield the finite tasks of evaluation: one batch of `n_tasks` for each way and shot."""
        ...


@runtime_checkable
class Predictor(Stored, Protocol):
    """What a learner makes. It may have `draw(axes)`, which draws on matplotlib axes what was learnt and returns the
    caption; the report shows it. So may a few-shot model.

    One whose answer is a function of the image alone may have `network_for_export(spec)`, which `fewcore export` asks for: a
    `torch.nn.Module` from pixels (n, c, h, w) or (n, c, d, h, w), float32 as `Gather` gives them, to a dict of what `predict`
    makes, `scores`, `masks` and `values`. `spec` says what enters: size, channels and range. It raises `DataError`
    where what is said of an image depends on others.
    """

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return predictions for images whose targets are hidden, in their order."""
        ...


@runtime_checkable
class FewShotModel(Stored, Protocol):
    """What a meta-learner makes. It may have `network` for `start`, and `snapshots`, earlier states of itself."""

    @property
    def norm(self) -> str:
        """How batch norm takes its statistics at test: `transductive`, `support`, `running`, or `none`."""
        ...

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return scores (t, q, k) float32 for the queries of tasks whose query labels are hidden."""
        ...

    def adapt(self, support: ImageSet, run: Run) -> Predictor:
        """Return a predictor for the classes of a labelled support set. It is loaded through the annotated class."""
        ...
