"""Toy components of every kind, and the registry in which they stand beside fewcore's own."""

from __future__ import annotations

from fewcore import Component, Offer
from fewcore.builtin import plugin
from fewcore.kinds import KINDS
from fewcore.plugins import Registry

TOYS: dict[str, tuple[Component, ...]] = {
    "dataset": (
        Component("toy-classes", "toys.data:ToyClasses", "60 classes of 20 images"),
        Component("toy-patients", "toys.data:ToyPatients", "117 patients with 2 images each"),
    ),
    "embedder": (
        Component("acai", "toys.embedders:Acai", "a random linear map"),
        Component("whiten", "toys.embedders:Whiten", "whitened vectors"),
        Component("pca-whiten", "toys.embedders:Whiten", "whitened vectors"),
        Component("deepcluster", "toys.embedders:DeepCluster", "a drawn network with clusters"),
        Component("vae", "toys.embedders:Vae", "a drawn network"),
        Component("gist", "toys.embedders:Gist", "fixed filters"),
        Component("c3d", "toys.embedders:C3d", "features for each rating", needs_labels=True),
    ),
    "partitioner": (Component("kmeans", "toys.tasks:KMeans", "clusters"),),
    "task_sampler": (
        Component("attribute-tasks", "toys.tasks:AttributeTasks", "tasks of attributes", needs_labels=True),
        Component("cluster-subsets", "toys.tasks:ClusterSubsets", "tasks of unions of clusters"),
    ),
    "backbone": (Component("net", "toys.nets:Net", "a linear network"),),
    "meta_learner": (
        Component("maml", "toys.meta:Maml", "a trained network"),
        Component("protonets", "toys.meta:ProtoNets", "a trained network"),
        Component("knn", "toys.meta:Knn", "neighbours"),
        Component("cluster-matching", "toys.meta:ClusterMatching", "class means"),
        Component("scratch", "toys.meta:Scratch", "an untrained network"),
    ),
    "learner": (
        Component("fine-tune", "toys.learners:FineTune", "a head", "", True, ("scores",)),
        Component("mil", "toys.learners:Mil", "bags", "", True, ("scores",)),
        Component("nearest-neighbour", "toys.learners:NearestNeighbour", "nearest", "", True, ("scores",)),
        Component("s4mtl", "toys.learners:S4mtl", "masks and classes", "", True, ("scores", "masks")),
        Component("s2mtl", "toys.learners:S4mtl", "masks and classes", "", True, ("scores", "masks")),
        Component("u-mtl", "toys.learners:S4mtl", "masks and classes", "", True, ("scores", "masks")),
        Component("u-net", "toys.learners:Unet", "masks", "", True, ("masks",)),
        Component("conv-net", "toys.learners:ConvNet", "classes", "", True, ("scores",)),
        Component("lasso", "toys.vectors:Lasso", "one rating", "", True, ("values",)),
        Component("graph-mtl", "toys.vectors:GraphMtl", "all ratings", "", True, ("values",)),
        Component("proportion-svm", "toys.vectors:ProportionSVM", "two bags", "", False, ("scores",)),
        Component("clustering", "toys.vectors:Clustering", "two clusters", "", False, ("scores",)),
        Component("orient", "toys.vectors:Orient", "which is which", "", True, ("scores",)),
        Component("shaky", "toys.vectors:Shaky", "fails where it is told to", "", True, ("scores",)),
    ),
    "evaluator": (Component("segmentation", "toys.evaluators:Segmentation", "overlap of masks"),),
}


def registry() -> Registry:
    """Return the toys and what fewcore brings itself."""
    own = [
        Offer(kind.name, component, "fewcore", "0.1")
        for kind in KINDS.values()
        for component in getattr(plugin, kind.hook, list)()
    ]
    toys = [Offer(kind, component, "fewcore-toys", "0.1") for kind, found in TOYS.items() for component in found]
    return Registry((*own, *toys))
