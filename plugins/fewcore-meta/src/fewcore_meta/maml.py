"""MAML: an initialisation from which a few gradient steps on a small support set suffice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from fewcore import (
    Array,
    Arrays,
    Backbone,
    DataError,
    Gather,
    ImageSet,
    Meta,
    Ranks,
    Run,
    TaskBatch,
    TaskStream,
    load_module,
    module_arrays,
    option,
    torch_generator,
)
from fewcore_meta.adaptation import (
    MOMENTUM,
    TRAINED_AT_ONCE,
    VALUES_AT_ONCE,
    AdaptedPredictor,
    TaskNetwork,
    known_queries,
    parts_of,
    predictor_from,
)
from fewcore_meta.batch_norm import RunningAverages, norm_layers
from fewcore_meta.task_history import draw_history, names_of
from fewcore_meta.task_memory import bytes_of_image, estimated_bytes, say_memory
from fewcore_meta.task_scores import mean_accuracy, task_accuracy, task_auc, task_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MONITORED_TASKS = 100
EARLIER = "snapshot."
"""What the names of arrays begin with that are weights at a snapshot."""
HISTORY = "history"


@dataclass(frozen=True)
class Maml:
    """Model-agnostic meta-learning: the initial weights of a network are trained so that a few steps of gradient descent
    on a task's support set give a low loss on its queries.

    Inner loop: full-batch gradient descent on the support set, all weights but those of batch norm. Outer loop: Adam on
    the query loss after the last inner step, averaged over tasks, through the inner steps (second order). A loss is
    summed over classes, of each the mean cross-entropy of its images, inside and outside, so that `inner_lr` means what it
    means in the published code (with a mean over classes, 20-way steps would be 20 times too small), and that a class with
    few queries weighs as much as one with many. At test the first M outputs of the network serve M classes; M may not
    exceed the classes of meta-training.

    `norm` says where batch norm takes its statistics when a task's queries are classified: from these queries
    (`transductive`, as in the paper: a score depends on what else is asked), from the task's support set (`support`), or
    from running averages over the queries of meta-training (`running`; there adaptation at test uses them too). Support
    sets are normalised by themselves in meta-training. Randomness: the backbone's first weights, from `run.generator`.

    Source: C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
    arXiv:1703.03400; values and loss scale of K. Hsu, S. Levine, C. Finn, Unsupervised Learning via Meta-Learning, ICLR
    2019, arXiv:1810.02334. ANIL: A. Raghu, M. Raghu, S. Bengio, O. Vinyals, Rapid Learning or Feature Reuse?, ICLR 2020,
    arXiv:1909.09157.
    Differs from the paper: `support` and `running` are additions; batch norm's statistics are never shared between tasks.
    """

    limits_way: ClassVar[bool] = True
    shares_tasks: ClassVar[bool] = True
    monitors: ClassVar[tuple[str, ...]] = ("validation_tasks", "validation")

    inner_lr: float = option(0.05, "step size of the inner loop, for the loss summed over classes", low=0)
    inner_steps: int = option(5, "inner steps in meta-training", low=0)
    test_steps: int = option(50, "inner steps when a task is classified", paper="50 (ImageNet 100)", low=0)
    iterations: int = option(30_000, "meta-iterations", paper="30,000; miniImageNet and CelebA 60,000", low=0)
    tasks_per_step: int = option(8, "tasks of a meta-iteration", paper="8", low=1)
    learning_rate: float = option(1e-3, "learning rate of Adam in the outer loop", paper="1e-3 (ImageNet 1e-4)", low=0)
    first_order: bool | None = option(
        None, "take inner gradients for constants; null: for volumes alone, where they fill the memory", paper="false"
    )
    checkpointing: bool = option(
        False, "keep of an inner step its weights alone and compute it again: second order in less memory, more slowly"
    )
    anil: bool = option(False, "adapt the head only", paper="false")
    norm: Literal["transductive", "support", "running"] = option(
        "transductive", "statistics of batch norm for queries", paper="transductive"
    )
    clip: float = option(
        0.0,
        "clip each element of the outer gradient to +- this; 0 does not",
        paper="10; Omniglot and MNIST none",
        low=0,
    )
    validate_every: int = option(1_000, "iterations between points of the validation curve; 0 draws none", low=0)
    snapshot_every: int = option(
        0, "iterations between states that are kept, among which `fine-tune` chooses; 0 keeps the last alone", low=0
    )

    def meta_train(
        self,
        tasks: TaskStream,
        images: ImageSet,
        backbone: Backbone,
        run: Run,
        validation: ImageSet | None = None,
        validation_tasks: TaskStream | None = None,
    ) -> MamlModel:
        """Return the meta-trained model. The validation tasks draw a curve (`validation_accuracy`) and choose nothing.

        Raises:
            NumericalError: the loss is NaN or infinite.

        """
        max_way = max(tasks.n_way)
        network = backbone.build(images.shape, max_way, run.generator).to(run.device)
        tasked = TaskNetwork(network, head_only=self.anil)
        tasked.say_if_it_loops()
        optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        gather, cursor = Gather(images, run.device), tasks.start()
        model = MamlModel(self, network, images.shape, max_way)
        if isinstance(tasks, Sized):
            model.task_names = names_of(tasks)
            model.history = np.full((self.iterations, 2, self.tasks_per_step), np.nan, np.float32)
        state: dict[str, Any] = {"network": network, "optimiser": optimiser, "tasks": cursor, "earlier": model.earlier}
        state["history"] = model.history
        for step in run.loop(self.iterations, **state):
            batch = cursor.draw(self.tasks_per_step)
            if step == 0 and len(images.shape) == 4:
                self._say_memory(tasked, images.shape, batch, run.device)
            loss, accuracy, scores = self._outer_gradient(tasked, gather, batch, run.ranks)
            if self.clip:
                torch.nn.utils.clip_grad_value_(network.parameters(), self.clip)
            optimiser.step()
            run.log(loss=loss, accuracy=accuracy)
            cursor.observe(batch, scores)
            if len(model.history):
                model.history[step] = batch.task, scores
            if validation is not None and validation_tasks is not None and self._validates(step):
                run.log(validation_accuracy=_accuracy(model, validation_tasks, validation, run))
            if self.snapshot_every and (step + 1) % self.snapshot_every == 0 and step + 1 < self.iterations:
                model.earlier.append(module_arrays(network))
        return model

    def _is_first_order(self, shape: tuple[int, ...]) -> bool:
        """Return whether inner gradients are constants for images of `shape`."""
        return len(shape) == 4 if self.first_order is None else self.first_order

    def _say_memory(self, tasked: TaskNetwork, shape: tuple[int, ...], batch: TaskBatch, device: torch.device) -> None:
        """Log how much memory a meta-iteration on volumes will take, before it takes it."""
        second = not self._is_first_order(shape)
        part = parts_of(batch, shape, TRAINED_AT_ONCE[device.type])[0]
        needed = estimated_bytes(
            bytes_of_image(tasked, shape, batch.n_way, device),
            batch.support.shape[1],
            batch.query.shape[1],
            self.inner_steps,
            second_order=second,
            checkpointing=self.checkpointing,
        )
        advice = "; checkpointing: true or first_order: true needs less" if second and not self.checkpointing else ""
        say_memory(needed, len(part), advice)

    def _validates(self, step: int) -> bool:
        return self.validate_every > 0 and (step + 1) % self.validate_every == 0

    def _outer_gradient(
        self, tasked: TaskNetwork, gather: Gather, batch: TaskBatch, ranks: Ranks
    ) -> tuple[torch.Tensor, torch.Tensor, Array]:
        """Leave the outer gradient in the network; return the mean loss and accuracy of all queries, and of each task the
        score (t,) that the sampler observes: the area under the ROC curve of two classes, else the accuracy.
        """
        tasked.network.zero_grad()
        averages = RunningAverages(norm_layers(tasked.network) if self.norm == "running" else ())
        n_tasks, mine = len(batch), ranks.share(len(batch))
        told = torch.zeros(3, n_tasks, dtype=torch.float64, device=gather.device)
        at = mine.start
        for part in parts_of(batch.part(mine.start, mine.stop), gather.shape, TRAINED_AT_ONCE[gather.device.type]):
            logits, labels = self._query_logits(tasked, gather, part)
            loss = task_loss(logits, labels)
            (loss.sum() / n_tasks).backward()  # type: ignore[no-untyped-call]
            accuracy = task_accuracy(logits.detach(), labels)
            score = task_auc(logits.detach(), labels) if batch.n_way == 2 else accuracy
            told[:, at : at + len(part)] = torch.stack([loss.detach(), accuracy, score])
            averages.add(len(part) / n_tasks)
            at += len(part)
        ranks.sum_gradients(tasked.network, told, *averages.moves)
        averages.finish()
        return told[0].mean(), told[1].mean(), told[2].float().cpu().numpy()

    def _query_logits(self, tasked: TaskNetwork, gather: Gather, batch: TaskBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (t, q, n_way) after the inner loop, differentiable, and the labels of the queries."""
        support, query = gather(batch.support), gather(batch.query)
        labels, query_labels = (
            torch.tensor(v, device=gather.device).long() for v in (batch.support_labels, batch.query_labels)
        )
        parameters = tasked.adapt(
            tasked.parameters(len(batch)),
            support,
            labels,
            batch.n_way,
            inner_lr=self.inner_lr,
            steps=self.inner_steps,
            second_order=not self._is_first_order(gather.shape),
            checkpointing=self.checkpointing,
        )
        momentum = MOMENTUM if self.norm == "running" else 0.0
        known = known_queries(batch, gather.device)
        logits = tasked.query_logits(parameters, support, query, known, batch.n_way, self.norm, momentum)
        return logits, query_labels


def _accuracy(model: MamlModel, tasks: TaskStream, images: ImageSet, run: Run) -> float:
    """Return the accuracy on the first batch of finite tasks that the model's width allows."""
    batch = next((b for b in tasks.batches() if b.n_way <= model.max_way), None)
    if batch is None:
        raise DataError(
            f"maml: found validation tasks of {min(tasks.n_way)} classes and more; expected at most {model.max_way}, "
            "as many as the training tasks have (lower n_way of the validation tasks)"
        )
    batch = batch.part(0, MONITORED_TASKS)
    # Without `run.track`: a stop must wait for the loop, which saves.
    return mean_accuracy(model._classify(batch, images, run), batch)


class MamlModel:
    """A meta-trained initialisation; it is adapted with gradient steps to each task.

    `max_way` is the greatest number of classes that a task may have, `network` the network with the initial weights,
    `earlier` its weights at the snapshots. `history` (i, 2, t) holds of each iteration its tasks and their scores, and
    `task_names` the names of all tasks, where the sampler has a fixed list of them; else both are empty.
    """

    def __init__(self, options: Maml, network: nn.Module, shape: tuple[int, ...], max_way: int) -> None:
        self.options, self.network, self.max_way = options, network, max_way
        self.earlier: list[Arrays] = []
        self.history: Array = np.empty((0, 2, options.tasks_per_step), np.float32)
        self.task_names: tuple[str, ...] = ()
        self._shape = tuple(shape)

    @property
    def snapshots(self) -> tuple[MamlModel, ...]:
        """Earlier states of the model, the first first."""
        networks = [load_module(copy.deepcopy(self.network), arrays) for arrays in self.earlier]
        return tuple(MamlModel(self.options, network, self._shape, self.max_way) for network in networks)

    @property
    def norm(self) -> str:
        """Where batch norm takes its statistics: `transductive`, `support` or `running`."""
        return self.options.norm

    @property
    def draw(self) -> Callable[[Axes], str]:
        """What draws on axes which tasks were drawn and how their scores changed; there is none without a history."""
        if not len(self.history):
            raise AttributeError("draw: there is nothing to draw, since the sampler has no fixed list of tasks")
        return partial(draw_history, self.history, self.task_names)

    def _check_way(self, n_way: int) -> None:
        if n_way > self.max_way:
            raise DataError(
                f"maml: found {n_way} classes; expected at most {self.max_way}, as many as in meta-training "
                "(meta-train with a greater n_way)"
            )

    def classify(self, batch: TaskBatch, images: ImageSet, run: Run) -> Array:
        """Return the logits (t, q, n_way) after `test_steps` inner steps on each task; 0 for padding.

        Raises:
            DataError: tasks have more classes than those of meta-training.

        """
        return self._classify(batch, images, run, partial(run.track, name="tasks"))

    def _classify(
        self,
        batch: TaskBatch,
        images: ImageSet,
        run: Run,
        watch: Callable[[list[TaskBatch]], Iterable[TaskBatch]] = iter,
    ) -> Array:
        """Return what `classify` does, and let `watch` show it."""
        self._check_way(batch.n_way)
        options, gather = self.options, Gather(images, run.device)
        tasked = TaskNetwork(self.network.to(run.device), head_only=options.anil)
        made = [
            tasked.classify(
                tasked.parameters(len(part)),
                part,
                gather,
                inner_lr=options.inner_lr,
                steps=options.test_steps,
                norm=options.norm,
            )
            for part in watch(parts_of(batch, images.shape, VALUES_AT_ONCE[run.device.type]))
        ]
        return np.concatenate(made)

    def adapt(self, support: ImageSet, run: Run) -> AdaptedPredictor:
        """Return a predictor with the weights after `test_steps` inner steps on the images whose class is known.

        Raises:
            DataError: there are more classes than in meta-training, or no image with a known class.

        """
        self._check_way(len(support.class_names))
        options = self.options
        tasked = TaskNetwork(self.network.to(run.device), head_only=options.anil)
        return predictor_from(
            tasked, support, run, inner_lr=options.inner_lr, steps=options.test_steps, norm=options.norm
        )

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return weights and running statistics, now and at the snapshots, and the options."""
        earlier = {f"{EARLIER}{i}.{name}": v for i, arrays in enumerate(self.earlier) for name, v in arrays.items()}
        return {**module_arrays(self.network), **earlier, HISTORY: self.history}, {
            "options": asdict(self.options),
            "shape": list(self._shape),
            "max_way": self.max_way,
            "n_earlier": len(self.earlier),
            "task_names": list(self.task_names),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MamlModel:
        """Build the model again; `inputs` holds the backbone."""
        shape = tuple(meta["shape"])
        network = inputs["backbone"].build(shape, meta["max_way"], torch_generator(0))
        own = {n: v for n, v in arrays.items() if n != HISTORY and not n.startswith(EARLIER)}
        model = cls(Maml(**meta["options"]), load_module(network, own), shape, meta["max_way"])
        model.history, model.task_names = np.array(arrays[HISTORY]), tuple(meta["task_names"])
        for begin in (f"{EARLIER}{i}." for i in range(meta["n_earlier"])):
            model.earlier.append({n.removeprefix(begin): v for n, v in arrays.items() if n.startswith(begin)})
        return model
