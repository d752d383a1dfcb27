"""Announces the meta-learners, their baselines, the backbone and Omniglot. Nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl

CACTUS = "arXiv:1810.02334"
TASK_DESIGN = "arXiv:1907.07816"


@hookimpl
def fewcore_meta_learners() -> list[Component]:
    """Offer the meta-learners and the few-shot baselines."""
    here = "fewcore_meta"
    return [
        Component("maml", f"{here}.maml:Maml", "an initialisation from which few steps suffice", "arXiv:1703.03400"),
        Component(
            "protonets", f"{here}.protonets:ProtoNets", "nearest class mean in a learnt space", "arXiv:1703.05175"
        ),
        Component("knn", f"{here}.knn:Knn", "vote of the nearest support vectors", CACTUS),
        Component("linear", f"{here}.linear:Linear", "logistic regression on the support vectors", CACTUS),
        Component("mlp", f"{here}.mlp:Mlp", "one hidden layer on the support vectors", CACTUS),
        Component(
            "cluster-matching",
            f"{here}.cluster_matching:ClusterMatching",
            "clusters named by the support set; a query takes the name of its nearest",
            CACTUS,
        ),
        Component(
            "protoclr",
            f"{here}.protoclr:ProtoClr",
            "prototypical networks on distorted copies of unlabelled images",
            "arXiv:2006.11325",
        ),
        Component("scratch", f"{here}.scratch:Scratch", "a fresh network trained on each support set", CACTUS),
    ]


@hookimpl
def fewcore_backbones() -> list[Component]:
    """Offer the backbones."""
    here = "fewcore_meta"
    return [
        Component("conv4", f"{here}.conv4:Conv4", "four blocks of 3 x 3 convolutions", "arXiv:1703.03400"),
        Component(
            "fully-connected",
            f"{here}.fully_connected:FullyConnected",
            "hidden layers, for embeddings as images",
            CACTUS,
        ),
        Component(
            "cactus-resnet", f"{here}.cactus_resnet:CactusResNet", "residual blocks, for 224 x 224 pixels", CACTUS
        ),
    ]


@hookimpl
def fewcore_datasets() -> list[Component]:
    """Offer the data sets."""
    here = "fewcore_meta"
    doi = "doi:10.1126/science.aab3050"
    ravi = "https://openreview.net/forum?id=rJY0-Kcll"
    return [
        Component("omniglot", f"{here}.omniglot:Omniglot", "1,623 handwritten characters", doi),
        Component("mnist", f"{here}.mnist:Mnist", "70,000 handwritten digits", "doi:10.1109/5.726791"),
        Component(
            "mini-imagenet", f"{here}.mini_imagenet:MiniImageNet", "100 classes of ImageNet, 600 images each", ravi
        ),
        Component("celeba", f"{here}.celeba:CelebA", "202,599 faces with 40 binary attributes", "arXiv:1411.7766"),
        Component(
            "imagenet",
            f"{here}.imagenet:ImageNet",
            "1.28 million photographs of 1,000 classes, miniImageNet's test classes held out",
            "doi:10.1007/s11263-015-0816-y",
        ),
    ]


@hookimpl
def fewcore_task_samplers() -> list[Component]:
    """Offer the task samplers."""
    return [
        Component(
            "attribute-tasks",
            "fewcore_meta.attribute_tasks:AttributeTasks",
            "two-way tasks from a table of binary attributes, three at a time",
            CACTUS,
            needs_labels=True,
        ),
        Component(
            "cluster-subsets",
            "fewcore_meta.cluster_subsets:ClusterSubsets",
            "two-way tasks between sets of clusters, in an order that may follow how well they are learnt",
            TASK_DESIGN,
        ),
    ]


@hookimpl
def fewcore_learners() -> list[Component]:
    """Offer the learners."""
    here = "fewcore_meta"
    return [
        Component(
            "fine-tune",
            f"{here}.fine_tune:FineTune",
            "a network trained on all labels, from scratch or from one that is trained already",
            TASK_DESIGN,
            needs_labels=True,
            predicts=("scores",),
        ),
        Component(
            "mil",
            f"{here}.mil:Mil",
            "a trained network that judges an image by its most suspicious place",
            "arXiv:1705.08550",
            needs_labels=True,
            predicts=("scores",),
        ),
        Component(
            "multi-task",
            f"{here}.multi_task:MultiTask",
            "a network that learns the classes and a sampler's tasks at the same time",
            TASK_DESIGN,
            needs_labels=True,
            predicts=("scores",),
        ),
        Component(
            "nearest-neighbour",
            f"{here}.nearest_neighbour:NearestNeighbour",
            "the class of the nearest labelled vector, with a score",
            TASK_DESIGN,
            needs_labels=True,
            predicts=("scores",),
        ),
    ]
