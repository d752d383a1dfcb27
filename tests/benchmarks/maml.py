"""Time one second-order meta-iteration of MAML beside its peers: `python tests/benchmarks/maml.py --way 20 --json`.

28 x 28 images, four 32-filter convolutions of stride 2 with batch norm (offset only, not adapted), 1 shot, 5 queries, 8
tasks, 5 inner steps, Adam outside. `loop` is torch.func.functional_call and autograd.grad, task by task; `higher` is that
package (`pip install higher`), left out with a note where it is missing. All take turns within one run, start from the same
weights and see the same tasks, and their outer gradients must agree to 1e-8 in float64, on two tasks, before anything is timed. `floor_ms` is the time that
the multiplications alone would take at the speed of a large matrix product on the same threads. On a busy machine two threads wait
for each other; then compare `processor_ms` with `--threads 1`.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from fewcore import Gather, ImageSet, ImageSpec, Ranks, TaskBatch
from fewcore.memory import keep_freed_memory
from fewcore_meta.adaptation import TaskNetwork
from fewcore_meta.conv4 import Conv4
from fewcore_meta.maml import Maml

TASKS, STEPS, SHOT, QUERIES, FILTERS, INNER_LR, SIDE = 8, 5, 1, 5, 32, 0.05, 28
CONVOLUTIONS_A_STEP = 9  # forward 1, backward 2, and twice that again for the derivative of the gradient
functional = nn.functional


class Offset(nn.Module):
    """Batch norm with batch statistics and an offset, as a user of the peers would write it."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(FILTERS))
        self.register_buffer("weight", torch.ones(FILTERS))

    def forward(self, x):
        return functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.1, 1e-3)


def plain_network(way):
    layers, channels = [], 1
    for _ in range(4):
        layers += [nn.Conv2d(channels, FILTERS, 3, 2, 1, bias=False), Offset(), nn.ReLU()]
        channels = FILTERS
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(FILTERS, way))


def make_tasks(way):
    n = TASKS * way * (SHOT + QUERIES)
    pixels = np.random.default_rng(0).integers(256, size=(n, 1, SIDE, SIDE), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec((SIDE, SIDE), 1, (0, 255)))
    rows = np.arange(n).reshape(TASKS, -1)
    s_labels = np.tile(np.repeat(np.arange(way), SHOT), (TASKS, 1))
    q_labels = np.tile(np.repeat(np.arange(way), QUERIES), (TASKS, 1))
    cut = way * SHOT
    return images, TaskBatch(rows[:, :cut], s_labels, rows[:, cut:], q_labels, np.arange(TASKS), way, SHOT)


class Pixels:
    """Images on the device, gathered by row, in the precision that is asked for."""

    def __init__(self, images, device, dtype):
        self.gather, self.device, self.dtype, self.shape = Gather(images, device), device, dtype, images.shape

    def __call__(self, rows):
        return self.gather(rows).to(self.dtype)


def ours(way, pixels, batch):
    network = Conv4(filters=FILTERS).build((1, SIDE, SIDE), way, torch.Generator().manual_seed(0))
    network.to(pixels.device, pixels.dtype)
    tasked, maml = TaskNetwork(network), Maml(inner_lr=INNER_LR, inner_steps=STEPS, tasks_per_step=TASKS)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)

    def iterate(step=True):
        maml._outer_gradient(tasked, pixels, batch, Ranks())
        if step:
            optimiser.step()

    return network, iterate


def peer_tensors(pixels, batch):
    labels = [torch.as_tensor(v, device=pixels.device) for v in (batch.support_labels, batch.query_labels)]
    return zip(pixels(batch.support), labels[0], pixels(batch.query), labels[1], strict=True)


def loop(way, pixels, batch):
    network = plain_network(way).to(pixels.device, pixels.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    adapted = [n for n, _ in network.named_parameters() if n.split(".")[0] not in {"1", "4", "7", "10"}]

    def iterate(step=True):
        optimiser.zero_grad()
        for x, y, qx, qy in peer_tensors(pixels, batch):
            parameters = dict(network.named_parameters())
            for _ in range(STEPS):
                loss = way * functional.cross_entropy(functional_call(network, parameters, (x,)), y)
                made = torch.autograd.grad(loss, [parameters[n] for n in adapted], create_graph=True)
                parameters |= {n: parameters[n] - INNER_LR * g for n, g in zip(adapted, made, strict=True)}
            (way * functional.cross_entropy(functional_call(network, parameters, (qx,)), qy) / len(batch)).backward()
        if step:
            optimiser.step()

    return network, iterate


def higher_peer(way, pixels, batch):
    import higher

    network = plain_network(way).to(pixels.device, pixels.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    offsets = {id(layer.bias) for layer in network if isinstance(layer, Offset)}
    inner = torch.optim.SGD([p for p in network.parameters() if id(p) not in offsets], lr=INNER_LR)

    def iterate(step=True):
        optimiser.zero_grad()
        for x, y, qx, qy in peer_tensors(pixels, batch):
            with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (fast, differentiable):
                for _ in range(STEPS):
                    differentiable.step(way * functional.cross_entropy(fast(x), y))
                (way * functional.cross_entropy(fast(qx), qy) / len(batch)).backward()
        if step:
            optimiser.step()

    return network, iterate


def check_equal(contenders):
    """Give all the same weights and compare their outer gradients, in order of the layers."""
    reference, iterate = contenders["ours"]
    iterate(step=False)
    wanted = [p.grad.clone() for p in reference.parameters()]
    for name, (network, step) in contenders.items():
        with torch.no_grad():
            for p, own in zip(network.parameters(), reference.parameters(), strict=True):
                p.copy_(own)
        step(step=False)
        for p, w in zip(network.parameters(), wanted, strict=True):
            gap = float((p.grad - w).abs().max() / w.abs().max())
            if gap > 1e-8:
                raise SystemExit(f"{name}: the outer gradient differs by {gap:.1e} of its largest element")


def gflop(way):
    maps = [(1, 14), (FILTERS, 7), (FILTERS, 4), (FILTERS, 2)]
    image = sum(2 * 9 * channels * FILTERS * side**2 for channels, side in maps)
    return TASKS * way * image * (SHOT * STEPS * CONVOLUTIONS_A_STEP + 3 * QUERIES) / 1e9


def product_gflops(device):
    a = torch.randn(2048, 2048, device=device)

    def multiply():
        begin = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return 2 * 2048**3 / min(multiply() for _ in range(8)) / 1e9


def measure(contenders, device, repeats):
    """Return by name the milliseconds of each repeat: by the clock, and of the process's own time."""
    times = {name: [] for name in contenders}
    for round_ in range(repeats + 2):
        for name, (_, iterate) in contenders.items():
            core, clock = time.process_time(), time.perf_counter()
            iterate()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= 2:
                times[name].append((1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - core)))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", type=int, default=20)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    device = torch.device(chosen.device)
    images, batch = make_tasks(chosen.way)
    builders, notes = {"ours": ours, "loop": loop, "higher": higher_peer}, []
    if importlib.util.find_spec("higher") is None:
        del builders["higher"]
        notes.append("higher is not installed: left out (pip install higher)")

    def contenders(dtype, tasks):
        pixels = Pixels(images, device, dtype)
        return {name: builder(chosen.way, pixels, tasks) for name, builder in builders.items()}

    check_equal(contenders(torch.float64, batch.part(0, 2)))
    keep_freed_memory()  # as `fewcore run` does; it serves the peers too
    times = measure(contenders(torch.float32, batch), device, chosen.repeats)
    medians = {name: round(statistics.median(clock for clock, _ in each), 2) for name, each in times.items()}
    cores = {name: round(statistics.median(core for _, core in each), 2) for name, each in times.items()}
    peers = {name: value for name, value in medians.items() if name != "ours"}
    speed = product_gflops(device)
    result = {
        "ours_ms": medians["ours"],
        "peers_ms": peers,
        "way": chosen.way,
        "device": torch.cuda.get_device_name() if chosen.device == "cuda" else "cpu",
        "ratio": {name: round(value / medians["ours"], 2) for name, value in peers.items()},
        "best_ms": {name: round(min(clock for clock, _ in each), 2) for name, each in times.items()},
        "processor_ms": cores,
        "floor_ms": round(1e3 * gflop(chosen.way) / speed, 1),
        "gflop": round(gflop(chosen.way), 2),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "notes": notes,
    }
    if chosen.json:
        print(json.dumps(result, indent=2))
    else:
        sys.stdout.write("\n".join(f"{name}: {value}" for name, value in result.items()) + "\n")


if __name__ == "__main__":
    main()
