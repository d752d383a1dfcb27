"""How much memory a part of a meta-iteration will take, measured on two images before training starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewcore_meta.adaptation import TaskNetwork
from fewcore_meta.said_once import say_once
from fewcore_meta.task_scores import task_loss

FEW = 2


class Kept:
    """Counts the bytes that are kept for a backward pass: tensors by the memory that they share, parameters left out."""

    def __init__(self, tasked: TaskNetwork) -> None:
        self._blocks: dict[int, int] = {}
        self._own = {p.untyped_storage().data_ptr() for p in tasked.network.parameters()}
        self._alive: list[Tensor] = []

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor, and keep it, so that no other takes its place in memory."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._blocks[storage.data_ptr()] = storage.nbytes()
            self._alive.append(tensor.detach())
        return tensor

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._blocks.values())


def bytes_of_image(tasked: TaskNetwork, shape: tuple[int, ...], n_way: int, device: torch.device) -> tuple[int, int]:
    """Return the bytes that one image keeps in a forward pass, and in an inner step whose gradient is differentiated again."""
    x = torch.linspace(0, 1, FEW * int(torch.tensor(shape).prod()), device=device).view(1, FEW, *shape)
    labels = torch.arange(FEW, device=device)[None] % n_way
    found = []
    for create_graph in (False, True):
        kept, parameters = Kept(tasked), tasked.parameters(1)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            if create_graph:
                made: Any = tasked.gradients(parameters, x, labels, n_way, running=False, create_graph=True)
            else:
                made = task_loss(tasked.logits(parameters, x, n_way), labels).sum()
        found.append(kept.total // FEW)
        del made
    return found[0], found[1]


def estimated_bytes(
    per_image: tuple[int, int], n_support: int, n_query: int, steps: int, *, second_order: bool, checkpointing: bool
) -> int:
    """Return the bytes that one task of a meta-iteration keeps at most.

    First order keeps the larger of the passes through support and queries. Second order keeps the graphs of all inner
    steps until the queries' loss is differentiated; with checkpointing that of one step at a time.
    """
    forward, graph = per_image
    if not second_order or not steps:
        return forward * max(n_support if steps else 0, n_query)
    if checkpointing:
        return max(graph * n_support, forward * n_query)
    return graph * n_support * steps + forward * n_query


def say_memory(n_bytes: int, n_tasks: int, advice: str) -> None:
    """Say how much memory the tasks that are computed at once will keep."""
    counted = f"{n_tasks} task{'' if n_tasks == 1 else 's'} at once"
    say_once(
        f"maml: a meta-iteration keeps about {n_bytes * n_tasks / 1e9:.2g} GB of activations ({counted}), and may need twice "
        f"that while it computes{advice}"
    )
