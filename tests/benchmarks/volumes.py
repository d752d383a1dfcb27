"""Time a meta-iteration of MAML on volumes: `python tests/benchmarks/volumes.py --threads 2`, as JSON.

4 tasks of two classes, 4 support and 12 query volumes of 24 x 48 x 48 a class, through the default `densenet`, first order, one inner
step, Adam outside. `iteration_ms` is the median by the clock, `processor_ms` of the process's own time: on a busy machine that one says what
one core needs. `passes_ms` is what the bare passes take, forward and backward: support and queries of each task, with torch's batch norm and
nothing else. `second_ms` is the iteration in second order, `checkpointed_ms` the same with inner steps computed again; `peak_mb` is what each of the
three adds to the memory that the process holds before, at its highest. `drawing_ms` is the time to draw 4 tasks of a curriculum over 90, and
to observe them.
"""

import argparse
import json
import os
import platform
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch
from torch.nn import functional

from fewcore import Gather, ImageSet, ImageSpec, Partitions, Ranks, Run
from fewcore.memory import PeakMemory, give_back_memory, keep_freed_memory
from fewcore_medical.densenet import DenseNet
from fewcore_meta.adaptation import TaskNetwork
from fewcore_meta.cluster_subsets import ClusterSubsets
from fewcore_meta.maml import Maml

PATIENTS, TASKS, SHOT, QUERIES, CLUSTERS = 45, 4, 4, 12, 5


def images(size):
    n = 2 * PATIENTS
    pixels = np.random.default_rng(0).integers(256, size=(n, 1, *size), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n), np.arange(n) // 2, ImageSpec(size, 1, (0, 255)))


def stream(data):
    parts = np.random.default_rng(1).permutation(np.arange(len(data)) % CLUSTERS).astype(np.int8)
    sampler = ClusterSubsets(order="curriculum", n_shot=SHOT, n_query=QUERIES)
    return sampler.tasks(Partitions(parts[None], data.ids), Run(0))


def medians(action, repeats, device):
    """Return the milliseconds of an action: by the clock, and of the process's own time."""
    found = []
    for number in range(repeats + 1):
        clock, core = time.perf_counter(), time.process_time()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            found.append((1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - core)))
    return [round(statistics.median(values), 1) for values in zip(*found, strict=True)]


def measured(options, device):
    data = images(tuple(options.size))
    sampler, gather = stream(data), Gather(data, device)
    network = DenseNet().build(data.shape, 2, torch.Generator().manual_seed(0)).to(device)
    tasked, optimiser = TaskNetwork(network), torch.optim.Adam(network.parameters(), lr=1e-3)
    batch, cursor = sampler.start().draw(TASKS), sampler.start()

    def iterate(**settings):
        Maml(inner_lr=0.004, inner_steps=1, **settings)._outer_gradient(tasked, gather, batch, Ranks())
        optimiser.step()

    def passes():
        for support, query in zip(gather(batch.support), gather(batch.query), strict=True):
            for x in (support, query):
                network.train()
                functional.cross_entropy(network(x), torch.zeros(len(x), dtype=torch.long, device=device)).backward()
        network.eval()

    def draw():
        drawn = cursor.draw(TASKS)
        cursor.observe(drawn, np.full(TASKS, 0.5))

    orders = {"iteration": {}, "second": {"first_order": False}}
    orders["checkpointed"] = {"first_order": False, "checkpointing": True}
    found, peaks = {}, {}
    for name, settings in orders.items():
        give_back_memory()
        before = PeakMemory(device).megabytes()
        peak = PeakMemory(device)
        iterate(**settings)
        peaks[name] = round(peak.megabytes() - before)
    keep_freed_memory()
    for name, settings in orders.items():
        found[f"{name}_ms"], found[f"{name}_processor_ms"] = medians(
            lambda settings=settings: iterate(**settings), options.repeats, device
        )
    found["passes_ms"], found["passes_processor_ms"] = medians(passes, options.repeats, device)
    found["drawing_ms"] = medians(draw, 50, device)[0]
    return {**found, "peak_mb": peaks, "volumes": int(batch.support.size + batch.query_known.sum())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=[24, 48, 48])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": options.threads,
        "torch": torch.__version__,
        "size": options.size,
    }
    print(json.dumps({**about, **measured(options, device), "load": os.getloadavg()[0]}, indent=2))


if __name__ == "__main__":
    main()
