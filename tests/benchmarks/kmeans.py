"""fewcore's k-means beside scikit-learn's: seconds, CPU seconds and inertia, as JSON.

`python tests/benchmarks/kmeans.py --partitions 3`, on as many threads as OMP_NUM_THREADS says. The vectors are a mixture
of Gaussians (1,100 components of 20 vectors on average) and, where FEWCORE_DATA is set, 22,000 Omniglot drawings
projected at random to 256 dimensions. Each partition is scaled at random, as in CACTUs, the first is not.

`python tests/benchmarks/kmeans.py --alone --partitions 100` times the component `kmeans` without a peer: partitions side
by side.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.cluster import KMeans as Peer
from threadpoolctl import threadpool_info

from fewcore import Embeddings, Run, numpy_generator
from fewcore_cluster.kmeans import KMeans
from fewcore_cluster.lloyd import cluster

SIDE = 28


def mixture(n: int, d: int) -> np.ndarray:
    rng = numpy_generator(0)
    centres = rng.normal(size=(n // 20, d))
    return (centres[rng.integers(len(centres), size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def omniglot(n: int, d: int) -> np.ndarray:
    drawings: list[np.ndarray] = []
    for name in ("images_background.zip", "images_evaluation.zip"):
        with zipfile.ZipFile(Path(os.environ["FEWCORE_DATA"]) / "omniglot" / name) as archive:
            for entry in sorted(e for e in archive.namelist() if e.endswith(".png")):
                if len(drawings) < n:
                    image = Image.open(io.BytesIO(archive.read(entry))).convert("L").resize((SIDE, SIDE), Image.BOX)
                    drawings.append(1 - np.asarray(image, np.float32).ravel() / 255)
    projection = numpy_generator(0).normal(size=(SIDE * SIDE, d)) / np.sqrt(d)
    return (np.stack(drawings) @ projection).astype(np.float32)


def compare(vectors: np.ndarray, k: int, partitions: int, device: str) -> dict[str, object]:
    seconds: list[np.ndarray] = []
    inertia: dict[str, list[float]] = {"ours": [], "sklearn": []}
    cluster(torch.from_numpy(vectors[: 20 * k]).to(device), k, numpy_generator(0), 5)
    for p in range(partitions):
        rng = numpy_generator(p)
        scaled = vectors * rng.random(vectors.shape[1]).astype(np.float32) if p else vectors
        clocks = [(time.perf_counter(), time.process_time())]
        inertia["ours"].append(cluster(torch.tensor(scaled, device=device), k, rng, 3000).inertia)
        clocks.append((time.perf_counter(), time.process_time()))
        inertia["sklearn"].append(float(Peer(k, n_init=1, max_iter=3000, random_state=p).fit(scaled).inertia_))
        clocks.append((time.perf_counter(), time.process_time()))
        seconds.append(np.diff(clocks, axis=0))
    (ours_s, ours_cpu), (sklearn_s, sklearn_cpu) = np.sum(seconds, axis=0)
    relative = np.divide(inertia["ours"], inertia["sklearn"])
    return {
        "ours_s": round(ours_s, 2),
        "sklearn_s": round(sklearn_s, 2),
        "ratio": round(sklearn_s / ours_s, 2),
        "ours_cpu_s": round(ours_cpu, 2),
        "sklearn_cpu_s": round(sklearn_cpu, 2),
        "ratio_cpu": round(sklearn_cpu / ours_cpu, 2),
        "ours_inertia": [round(i, 1) for i in inertia["ours"]],
        "sklearn_inertia": [round(i, 1) for i in inertia["sklearn"]],
        "inertia_ours_over_sklearn": round(float(relative.mean()), 5),
    }


def alone(vectors: np.ndarray, k: int, partitions: int, device: str) -> dict[str, object]:
    embeddings = Embeddings(vectors, np.arange(len(vectors)), encoder=None)
    began = time.perf_counter(), time.process_time()
    found = KMeans(n_clusters=k, n_partitions=partitions, min_size=1, share=0.5).partition(
        embeddings, Run(device=torch.device(device))
    )
    seconds, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    return {"partitions": len(found), "ours_s": round(seconds, 1), "ours_cpu_s": round(processor, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--n", type=int, default=22_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="time the component on all partitions, without a peer")
    options = parser.parse_args()
    threads = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    found: dict[str, object] = {"machine": platform.processor() or platform.machine(), "threads": threads}
    measure = alone if options.alone else compare
    found["mixture"] = measure(mixture(options.n, options.dim), options.clusters, options.partitions, options.device)
    if os.environ.get("FEWCORE_DATA"):
        vectors = omniglot(options.n, options.dim)
        found["omniglot"] = measure(vectors, options.clusters, options.partitions, options.device)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
