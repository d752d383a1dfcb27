"""What DeepCluster makes: a network behind its front end, and the clusters of the epoch that was chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

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
    ImageSpec,
    Meta,
    NumericalError,
    Run,
    load_module,
    module_arrays,
    torch_generator,
)
from fewcore_embed.deepcluster_course import Course
from fewcore_embed.pseudo_labels import Clusters
from fewcore_embed.sobel import FrontEnd

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Watch = Callable[[Sequence[Array]], Iterable[Array]]


class DeepClusterNetwork(nn.Module):
    """Images, as `Gather` gives them, to features (n, e): the front end, then the backbone's network `body`."""

    def __init__(self, front: FrontEnd, body: nn.Module) -> None:
        super().__init__()
        self.front, self.body = front, body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the body's features (n, e)."""
        features: torch.Tensor = self.body(self.front(x))
        return features.flatten(1)


def last_relu(network: nn.Module, x: torch.Tensor) -> str:
    """Return the name of the ReLU whose output is the network's output for x, or '' where the network ends otherwise.

    A ReLU that is called twice is another layer's too, and does not count. The network is left in evaluation mode.
    """
    called: list[str] = []
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            called.append(name)
            outputs[name] = output.detach().clone()

        return hook

    relus = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ReLU)]
    hooks = [module.register_forward_hook(keep(name)) for name, module in relus]
    try:
        with torch.no_grad():
            found = network.eval()(x).flatten(1)
    finally:
        for handle in hooks:
            handle.remove()
    if not called or called.count(called[-1]) > 1 or not torch.equal(outputs[called[-1]].flatten(1), found):
        return ""
    return called[-1]


@contextmanager
def without(network: nn.Module, name: str) -> Iterator[None]:
    """Put the identity in the place of a module of the network for a while; '' is none of them."""
    if not name:
        yield
        return
    parent_name, _, leaf = name.rpartition(".")
    parent, module = network.get_submodule(parent_name), network.get_submodule(name)
    setattr(parent, leaf, nn.Identity())
    try:
        yield
    finally:
        setattr(parent, leaf, module)


@torch.no_grad()
def features_of(
    network: DeepClusterNetwork, left_out: str, gather: Gather, dim: int, batches: Sequence[Array], watch: Watch = iter
) -> Array:
    """Return the features of n images, (n, e) float32, in evaluation mode and without one ReLU.

    `batches` are their rows as `batches_of` cuts them, `watch` shows which is at work. From a GPU features travel while the
    next are computed.

    Raises:
        NumericalError: there is NaN or infinity among them.

    """
    cuda = gather.device.type == "cuda"
    kept = torch.empty(sum(map(len, batches)), dim, pin_memory=cuda)
    network.eval()
    with without(network, left_out):
        for rows, x in zip(watch(batches), gather.each(batches), strict=True):
            kept[int(rows[0]) : int(rows[-1]) + 1].copy_(network(x), non_blocking=cuda)
    if cuda:
        torch.cuda.synchronize(gather.device)
    features: Array = kept.numpy()
    if not np.isfinite(features).all():
        raise NumericalError(
            "deepcluster: found NaN or infinity in the features; expected finite numbers (lower learning_rate)"
        )
    return features


def batches_of(n: int, size: int) -> list[Array]:
    """Return the rows 0 to n - 1 in batches of a size."""
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]


class DeepClusterEncoder:
    """Embeds images with a network trained by DeepCluster; vectors are its features as they are, not whitened.

    `assign` gives the clusters of the chosen epoch, and `network` maps images, as `Gather` gives them, to the features
    that the last ReLU passes, for stages that take it as `start`. `left_out` names the ReLU that vectors do without.
    """

    def __init__(
        self,
        network: DeepClusterNetwork,
        clusters: Clusters,
        shape: tuple[int, ...],
        dim: int,
        left_out: str,
        batch: int,
        course: Course,
    ) -> None:
        self.network, self.clusters, self.course = network, clusters, course
        self.shape, self.dim, self.left_out, self.batch = shape, dim, left_out, batch

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the features of images, (n, e) float32.

        Raises:
            DataError: the images have another shape than those of the training.

        """
        if images.shape != self.shape:
            raise DataError(
                f"deepcluster: found images {images.shape}; expected {self.shape}, as in training "
                "(prepare both in the same way)"
            )
        batches, network = batches_of(len(images), self.batch), self.network.to(run.device)
        watch = partial(run.track, name="embed")
        return features_of(network, self.left_out, Gather(images, run.device), self.dim, batches, watch)

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to features, without the ReLU that vectors do without."""
        network = copy.deepcopy(self.network).cpu().eval()
        if self.left_out:
            network.set_submodule(self.left_out, nn.Identity())
        return network

    def assign(self, vectors: Array) -> Array:
        """Return the cluster of each vector that `embed` made, (n,) int64, among those of the chosen epoch."""
        return self.clusters.assign(vectors)

    def draw(self, axes: Axes) -> str:
        """Draw the silhouette or the mutual information by epoch; return the caption."""
        return self.course.draw(axes)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return weights and clusters as arrays, and what the network is built from; its backbone is an input."""
        arrays = {f"network.{name}": values for name, values in module_arrays(self.network).items()}
        arrays |= {f"clusters.{name}": values for name, values in self.clusters.to_arrays().items()}
        arrays |= {f"course.{name}": values for name, values in self.course.to_arrays().items()}
        meta = {"shape": list(self.shape), "dim": self.dim, "left_out": self.left_out, "batch": self.batch}
        return arrays, {**meta, "sobel": self.network.front.sobel}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> DeepClusterEncoder:
        """Build the encoder from `to_arrays`' result and the stage's backbone."""
        shape = tuple(meta["shape"])
        network = build_network(shape, inputs["backbone"], torch_generator(0), sobel=meta["sobel"])
        load_module(network, _under("network.", arrays))
        clusters = Clusters.from_arrays(_under("clusters.", arrays))
        course = Course.from_arrays(_under("course.", arrays))
        return cls(network.eval(), clusters, shape, meta["dim"], meta["left_out"], meta["batch"], course)


def build_network(
    shape: tuple[int, ...], backbone: Backbone, generator: torch.Generator, *, sobel: bool
) -> DeepClusterNetwork:
    """Return the front end for images of a shape and the backbone's network behind it, drawn from `generator`."""
    front = FrontEnd(shape, sobel=sobel)
    return DeepClusterNetwork(front, backbone.build(front.shape, 0, generator))


def _under(prefix: str, arrays: Mapping[str, Array]) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
