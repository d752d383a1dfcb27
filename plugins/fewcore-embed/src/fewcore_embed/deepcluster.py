"""DeepCluster: a network trained to tell apart the clusters of its own features, clustered anew before each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from fewcore import (
    Array,
    Backbone,
    DataError,
    Gather,
    ImageSet,
    Run,
    child_seed,
    load_module,
    module_arrays,
    numpy_generator,
    option,
)
from fewcore_embed.crops import random_crops
from fewcore_embed.deepcluster_course import Course
from fewcore_embed.deepcluster_encoder import (
    DeepClusterEncoder,
    DeepClusterNetwork,
    batches_of,
    build_network,
    features_of,
    last_relu,
)
from fewcore_embed.layers import Dense
from fewcore_embed.pseudo_labels import Clusters, cluster_features, even_draws, without_gaps
from fewcore_embed.sobel import FrontEnd

HEAD_SPREAD = 0.01
SILHOUETTE_ROWS = 5000
SMALLEST_BATCH = 4


def standardise(front: FrontEnd, gather: Gather, n: int, size: int) -> None:
    """Give a front end the mean and standard deviation of each channel over n images; a constant channel has spread 1.

    Raises:
        DataError: NaN or infinity in the images.

    """
    total = torch.zeros(front.mean.numel(), dtype=torch.float64, device=gather.device)
    squares, count = torch.zeros_like(total), 0
    for rows in batches_of(n, size):
        pixels = gather(rows).transpose(0, 1).flatten(1).double()
        total, squares, count = total + pixels.sum(1), squares + pixels.square().sum(1), count + pixels.shape[1]
    mean = total / count
    variance = squares / count - mean.square()
    if not bool(torch.isfinite(variance).all()):
        raise DataError("deepcluster: found NaN or infinity in the images; expected finite numbers")
    spread = torch.where(variance > 1e-10 * (1 + mean.square()), variance.clamp(min=0).sqrt(), 1.0)
    front.mean.copy_(mean.view_as(front.mean))
    front.std.copy_(spread.view_as(front.std))


def silhouette(points: torch.Tensor, labels: Array, rows: Array) -> float:
    """Return the mean silhouette of some rows of points (n, d) with labels (n,), among each other.

    That is the mean of (b - a) / max(a, b), a being a point's mean Euclidean distance to the others of its cluster, b the
    least mean distance to another cluster, and 0 for a cluster of one. -1 where the rows lie in a single cluster.
    """
    from sklearn.metrics import silhouette_score

    among = len(np.unique(labels[rows]))
    if not 2 <= among < len(rows):
        return -1.0
    return float(silhouette_score(points[torch.from_numpy(rows).to(points.device)].cpu().numpy(), labels[rows]))


def levels_off(values: list[float], patience: int, tolerance: float) -> bool:
    """Return whether none of the last `patience` values exceeds the best before them by more than `tolerance`."""
    if len(values) <= patience:
        return False
    return max(values[-patience:]) <= max(values[:-patience]) + tolerance


def piece(rows: Array, n_pieces: int, number: int) -> Array:
    """Return one of the pieces into which rows are cut: as even as can be, longer ones first."""
    size, longer = divmod(len(rows), n_pieces)
    start = number * size + min(number, longer)
    return rows[start : start + size + (number < longer)]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let layers that draw from torch's global state, such as dropout, draw from a seed; that state is put back after."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@dataclass(frozen=True)
class DeepCluster:
    """A network learns to predict the clusters of its own features, which are clustered anew before each epoch.

    Before an epoch the features of all images are computed in evaluation mode, PCA-whitened, divided by their length and
    clustered by k-means. A fresh linear head is then trained with the network for one epoch to predict the clusters, on
    images drawn evenly from them, cropped and mirrored at random. No label is read. Vectors are the features as they are:
    whiten them before they are clustered again (`pca-whiten` with `unit_length`); the partitioner `own` gives the
    clusters of the chosen epoch as they were.

    The feature is what enters the network's last ReLU, as in the authors' code, where the network ends in one (`alexnet`,
    VGG); `relu: true` takes what leaves it. Of other networks it is their feature as it is.

    `choose` says which epoch's network and clusters are kept: `last`; `nmi`, the first at which the normalised mutual
    information of an epoch's clusters with those before no longer grows, or the last; `silhouette`, that of the largest mean
    silhouette of the clustered points, among trained epochs whose n_clusters clusters all have `min_size` images and the
    share `min_share`, since the silhouette is largest where one outlier stands against the rest.

    Source: M. Caron, P. Bojanowski, A. Joulin, M. Douze: Deep Clustering for Unsupervised Learning of Visual Features,
    ECCV 2018, arXiv:1807.05520, with the values of the authors' code. K. Hsu, S. Levine, C. Finn: Unsupervised Learning
    via Meta-Learning, ICLR 2019, arXiv:1810.02334 (`nmi`). P. Rousseeuw: Silhouettes, 1987,
    doi:10.1016/0377-0427(87)90125-7. G. Maicas, C. Nguyen, F. Motlagh, J. Nascimento, G. Carneiro: Unsupervised Task
    Design to Meta-Train Medical Image Classifiers, ISBI 2020, arXiv:1907.07816 (`silhouette`).

    Differs from the paper: channels are standardised by the training images, which the paper does with ImageNet's own
    figures; crops are cut at the image's border where the paper draws anew, and have the images' size; batches of an
    epoch differ by one image at most; principal directions are at most as many as the features span. After the last
    epoch there is one more clustering, so that network and clusters belong together. The silhouette is taken of at most
    5,000 images, drawn once.

    Raises:
        DataError: fewer images than clusters, or than clusters of `min_size` need; NaN or infinity; all images in one
            cluster; no epoch with clusters large enough for `silhouette`; volumes with `sobel`.
        NumericalError: the loss or the features are no longer finite.

    """

    n_clusters: int = option(500, "clusters of each epoch (k)", paper="10,000 on ImageNet; 3 to 5 for volumes", low=2)
    epochs: int = option(200, "passes over the images", paper="200", low=1)
    choose: Literal["last", "nmi", "silhouette"] = option("last", "which epoch is kept", paper="last; nmi; silhouette")
    sobel: bool = option(False, "put Sobel's two edge maps before the network, for 2-D images", paper="true")
    relu: bool = option(False, "take the feature after the network's last ReLU, not before it", paper="false")
    pca_dim: int | None = option(256, "whitened principal directions that are clustered; null clusters all", low=1)
    kmeans_iterations: int = option(20, "iterations of k-means", paper="20", low=1)
    n_init: int = option(1, "clusterings of an epoch of which the tightest is taken", paper="1", low=1)
    batch_size: int = option(256, "images of a step", unit="images", paper="256", low=SMALLEST_BATCH)
    learning_rate: float = option(0.05, "of the network", paper="0.05", low=0)
    head_learning_rate: float = option(0.05, "of the head, which has no momentum", paper="0.05", low=0)
    momentum: float = option(0.9, "of the network's gradient", paper="0.9", low=0, high=1)
    weight_decay: float = option(1e-5, "pull of all weights towards zero", paper="1e-5", low=0)
    crop_scale: tuple[float, float] = option((0.08, 1.0), "share of the image that a random crop has", paper="0.08, 1")
    crop_ratio: float = option(4 / 3, "largest ratio of a crop's width and height", paper="4/3", low=1)
    flip: bool = option(True, "turn half of the images over from left to right", paper="true")
    patience: int = option(5, "epochs without growth after which nmi stops", paper="not told", low=1)
    tolerance: float = option(0.005, "growth of the information that counts, for nmi", paper="not told", low=0)
    min_size: int = option(
        1, "fewest images of a cluster, for silhouette", unit="images", paper="support + query", low=1
    )
    min_share: float = option(0.05, "smallest share of a cluster, for silhouette", low=0, high=0.5)

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale: found {low:g} to {high:g}; expected 0 < lowest <= highest <= 1")
        if self.choose == "silhouette" and self.min_share * self.n_clusters > 1:
            raise ValueError(
                f"min_share: found {self.min_share:g} for {self.n_clusters} clusters; expected at most "
                f"{1 / self.n_clusters:.3g}, since all of them must have it"
            )

    def fit(self, images: ImageSet, backbone: Backbone, run: Run) -> DeepClusterEncoder:
        """Train the backbone's network on the images and return the encoder.

        First weights, heads and crops are drawn from `run.generator`, clusterings and the order of images from `run.rng`.
        """
        if len(images) < max(self.n_clusters, SMALLEST_BATCH):
            raise DataError(
                f"deepcluster: found {len(images)} images for {self.n_clusters} clusters; expected at least as many "
                f"images as clusters, and {SMALLEST_BATCH} (lower n_clusters)"
            )
        if self.choose == "silhouette" and self.min_size * self.n_clusters > len(images):
            raise DataError(
                f"deepcluster: found {len(images)} images for {self.n_clusters} clusters of at least {self.min_size}; expected "
                f"{self.min_size * self.n_clusters} at least (lower min_size or n_clusters)"
            )
        training = _Training(self, images, backbone, run)
        training.train()
        return training.encoder()


class _Training:
    """One training: its network, head and optimiser, and in `progress` what an epoch hands to the next."""

    def __init__(self, options: DeepCluster, images: ImageSet, backbone: Backbone, run: Run) -> None:
        self.options, self.images, self.run, self.n = options, images, run, len(images)
        self.gather = Gather(images, run.device)
        network = build_network(images.shape, backbone, run.generator, sobel=options.sobel).to(run.device)
        standardise(network.front, self.gather, self.n, options.batch_size)
        self.network: DeepClusterNetwork = network
        with torch.no_grad():
            few = network.front(self.gather(np.arange(2)))
            relu = last_relu(network.body, few)
            self.dim = int(network.eval()(self.gather(np.arange(2))).shape[1])
        self.left_out = f"body.{relu}" if relu and not options.relu else ""
        self.head = Dense(self.dim, options.n_clusters).to(run.device)
        groups: list[dict[str, Any]] = [
            {"params": list(network.parameters())},
            {"params": list(self.head.parameters()), "lr": options.head_learning_rate, "momentum": 0},
        ]
        self.optimiser = torch.optim.SGD(
            groups, options.learning_rate, options.momentum, weight_decay=options.weight_decay
        )
        self.seed = int(run.rng.integers(2**62))
        self.rows = np.sort(run.rng.permutation(self.n)[:SILHOUETTE_ROWS])
        self.progress: dict[str, Any] = {"clusters": {}, "nmi": [], "best": None, "stopped": False}
        self.progress |= {"silhouette": [], "smallest": []}

    def train(self) -> None:
        """Run all epochs, each begun by a clustering, and a last clustering; after a stop steps do nothing."""
        per_epoch = math.ceil(self.n / self.options.batch_size)
        state: dict[str, Any] = {"network": self.network, "head": self.head, "optimiser": self.optimiser}
        epochs = self.options.epochs
        for step in self.run.loop(epochs * per_epoch + 1, **state, progress=self.progress):
            if self.progress["stopped"]:
                continue
            epoch, batch = divmod(step, per_epoch)
            if batch == 0:
                self._cluster(epoch)
                if self.progress["stopped"] or epoch == epochs:
                    continue
                self._begin(epoch)
            order, last = self.progress["order"], batch + 1 == per_epoch
            self._step(piece(order, per_epoch, batch), None if last else piece(order, per_epoch, batch + 1))

    def _cluster(self, epoch: int) -> None:
        """Cluster the features of all images, and see whether this is the epoch to keep or the one to stop at."""
        from sklearn.metrics import normalized_mutual_info_score

        options, progress = self.options, self.progress
        batches = batches_of(self.n, options.batch_size)
        features = features_of(self.network, self.left_out, self.gather, self.dim, batches)
        rng = numpy_generator(child_seed(self.seed, "clusters", epoch))
        settings = (options.n_clusters, options.pca_dim, options.kmeans_iterations, options.n_init)
        clusters, points = cluster_features(features, *settings, rng, self.run.device)
        smallest = int(np.bincount(clusters.labels, minlength=options.n_clusters).min())
        self.run.log(smallest_cluster=smallest)
        if epoch:
            nmi = float(normalized_mutual_info_score(progress["clusters"]["labels"], clusters.labels))
            self.run.log(nmi=nmi)
            progress["nmi"].append(nmi)
        if options.choose == "silhouette" and epoch:
            self._compare(silhouette(points, clusters.labels, self.rows), smallest, clusters)
        progress["clusters"] = clusters.to_arrays()
        progress["stopped"] = options.choose == "nmi" and levels_off(
            progress["nmi"], options.patience, options.tolerance
        )

    def _compare(self, value: float, smallest: int, clusters: Clusters) -> None:
        """Keep this epoch where its clusters are large enough and its silhouette is the largest so far."""
        best = self.progress["best"]
        self.run.log(silhouette=value)
        self.progress["silhouette"].append(value)
        self.progress["smallest"].append(smallest)
        if smallest >= self._least() and (best is None or value > best["silhouette"]):
            arrays = {"network": module_arrays(self.network), "clusters": clusters.to_arrays()}
            self.progress["best"] = {"silhouette": value, "epoch": len(self.progress["smallest"]), **arrays}

    def _least(self) -> int:
        return max(self.options.min_size, math.ceil(self.options.min_share * self.n - 1e-9))

    def _begin(self, epoch: int) -> None:
        """Draw a fresh head, and the order of the epoch's images."""
        counted, self.progress["n_labels"] = without_gaps(self.progress["clusters"]["labels"])
        rng = numpy_generator(child_seed(self.seed, "order", epoch))
        self.progress["order"] = even_draws(counted, rng)
        self.progress["counted"] = counted
        fresh = HEAD_SPREAD * torch.randn(self.head.weight.shape, generator=self.run.generator)
        with torch.no_grad():
            self.head.weight.copy_(fresh)
            self.head.bias.zero_()
        self.network.train()

    def _step(self, rows: Array, then: Array | None) -> None:
        """Take one step of stochastic gradient descent on the cross-entropy of some images' pseudo-labels.

        `then` are the images of the next step, which may be read meanwhile.
        """
        options, run = self.options, self.run
        self.network.train()
        x = random_crops(self.gather(rows, then), options.crop_scale, options.crop_ratio, options.flip, run.generator)
        wanted = torch.from_numpy(self.progress["counted"][rows]).to(run.device)
        with seeded(int(torch.randint(2**62, (1,), generator=run.generator)), run.device):
            logits = self.head(self.network(x))[:, : self.progress["n_labels"]]
        loss = F.cross_entropy(logits, wanted)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        run.log(loss=loss, accuracy=(logits.argmax(1) == wanted).float().mean())

    def encoder(self) -> DeepClusterEncoder:
        """Return the encoder of the chosen epoch."""
        options, kept = self.options, self.progress["clusters"]
        if options.choose == "silhouette":
            best = self.progress["best"]
            if best is None:
                raise DataError(
                    f"deepcluster: found no epoch in which all {options.n_clusters} clusters have {self._least()} of "
                    f"{self.n} images (the smallest had {max(self.progress['smallest'])} at most); expected one to choose by "
                    "silhouette (lower n_clusters, min_share or min_size, raise n_init, or set choose: last)"
                )
            load_module(self.network, best["network"])
            kept = best["clusters"]
        clusters = Clusters.from_arrays(kept)
        self.network.eval()
        return DeepClusterEncoder(
            self.network, clusters, self.images.shape, self.dim, self.left_out, options.batch_size, self._course()
        )

    def _course(self) -> Course:
        """Return what was measured epoch by epoch."""
        progress = self.progress
        chosen = len(progress["nmi"]) if progress["best"] is None else progress["best"]["epoch"]
        eligible = np.array(progress["smallest"]) >= self._least()
        return Course(np.array(progress["nmi"]), np.array(progress["silhouette"]), eligible, chosen)
