"""Time a step of S4MTL beside the bare passes of its networks: `python tests/benchmarks/s4mtl.py --threads 1`, as JSON.

A step draws 16 labelled and 16 unlabelled images of 128 x 128, turns the latter, and makes both updates. `passes_ms` is the sum of
the same passes through the same networks and nothing else: the generator forward and backward on 32 images; the discriminator
forward and backward on 48 pairs; forward, and backward to its input, on 32. All take turns within one run; medians, on a CPU of the processor's seconds. Then whole
trainings, validation included, of each learner on a CPU: `networks` is the share of their seconds that is spent in the networks'
forward and backward passes, by the clock around them (the backward pass of the losses is in it; it is small).
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time

import numpy as np
import torch

from fewcore import ImageSet, ImageSpec, Run, Target
from fewcore.memory import keep_freed_memory
from fewcore_s4mtl.adversarial import Batches, Settings, Updates
from fewcore_s4mtl.conv_net import ConvNet
from fewcore_s4mtl.labelled import labelled
from fewcore_s4mtl.models import Architecture, Shape, drawn
from fewcore_s4mtl.networks import Discriminator, Generator
from fewcore_s4mtl.s2mtl import S2mtl
from fewcore_s4mtl.s4mtl import S4mtl
from fewcore_s4mtl.terms import Objective
from fewcore_s4mtl.training import Rate, mixed_precision, own_randomness
from fewcore_s4mtl.transformations import ALL
from fewcore_s4mtl.u_mtl import UMtl
from fewcore_s4mtl.u_net import UNet

BATCH = 16


def images(n, size, share):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(n, 1, size, size), dtype=np.uint8)
    masks = np.zeros((n, 1, size, size), np.float32)
    masks[:, :, size // 4 : size // 2, size // 4 : size // 2] = 1
    classes = np.arange(n) % 3
    unknown = np.arange(n) >= share * n
    masks[unknown], classes[unknown] = np.nan, -1
    targets = {"class": Target("class", classes, ("a", "b", "c")), "mask": Target("masks", masks, ("square",))}
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec((size, size), 1, (0, 255)), targets, {}, "class")


def settings(shape, precision):
    rate = Rate(1e-4, 0.9, 1.0, 2)
    return Settings("mask", shape, "rest", rate, rate, BATCH, 1, 1, precision)


def seconds_now(device):
    """Return the processor's seconds of this process on a CPU, where others may be busy beside it, else those of the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def measured(action, device):
    began = seconds_now(device)
    action()
    return 1000 * (seconds_now(device) - began)


class Passes:
    """The passes of one step through the networks, each by itself."""

    def __init__(self, model, channels, size, device, precision):
        self.model, self.device, self.precision = model, device, precision
        make = torch.Generator().manual_seed(0)
        self.x = torch.randn(2 * BATCH, channels, size, size, generator=make).to(device)
        self.pairs = torch.randn(3 * BATCH, channels + 1, size, size, generator=make).to(device)

    def generator(self):
        with mixed_precision(self.precision, self.device):
            made = self.model.generator(self.x)
        made.mean().backward()

    def discriminator(self):
        with mixed_precision(self.precision, self.device):
            made = self.model.discriminator(self.pairs)
        made.mean().backward()

    def through(self):
        self.model.discriminator.requires_grad_(False)
        pairs = self.pairs[: 2 * BATCH].clone().requires_grad_()
        with mixed_precision(self.precision, self.device):
            made = self.model.discriminator(pairs)
        made.mean().backward()
        self.model.discriminator.requires_grad_(True)


def one_step(options, device):
    shape = Shape(options.width, 4, 0.4)
    run = Run(0, device)
    objective = Objective(1.0, 0.01, 0.1, kinds=ALL)
    data = images(64, options.size, 0.5)
    known = labelled(data, "mask", ("class", "mask"), "s4mtl")
    architecture = Architecture("adversarial", 1, 1, 3, shape, len(ALL))
    model, bare = (drawn(architecture, run).to(device).train() for _ in range(2))
    updates = Updates(objective, model, settings(shape, options.precision), device)
    batches = Batches(objective, data, known, known.rest, BATCH, run)
    passes = Passes(bare, 1, options.size, device, options.precision)
    steps, parts = [], {"generator": [], "discriminator": [], "through": []}

    def step(number):
        with own_randomness(run):
            said = updates.step(batches.draw(number), 0.9)
        run.log(**said)

    for number in range(options.repeats + 2):
        took = measured(lambda number=number: step(number), device)
        found = {name: measured(getattr(passes, name), device) for name in parts}
        if number >= 2:
            steps.append(took)
            for name, value in found.items():
                parts[name].append(value)
    middle = {name: round(statistics.median(values), 1) for name, values in parts.items()}
    whole = statistics.median(sum(values) for values in zip(*parts.values(), strict=True))
    step_ms = statistics.median(steps)
    return {"step_ms": round(step_ms, 1), "passes_ms": round(whole, 1), "ratio": round(step_ms / whole, 3)} | middle


class Clock:
    """Adds up the seconds that are spent in the networks' forward and backward passes."""

    def __init__(self):
        self.seconds = 0.0

    def timed(self, function):
        def wrapped(*args, **kwargs):
            began = time.process_time()
            made = function(*args, **kwargs)
            self.seconds += time.process_time() - began
            return made

        return wrapped


@contextlib.contextmanager
def clocked():
    """Let the passes through generator and discriminator run under a clock, for a while."""
    clock = Clock()
    places = [(Generator, "encoded"), (Generator, "decoded"), (Discriminator, "forward"), (torch.autograd, "backward")]
    before = [getattr(owner, name) for owner, name in places]
    for (owner, name), function in zip(places, before, strict=True):
        setattr(owner, name, clock.timed(function))
    try:
        yield clock
    finally:
        for (owner, name), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def whole_training(options, device):
    """Return the share of each learner's seconds in its networks, over a short training with validation."""
    found = {}
    data, validation = images(64, options.size, 0.5), images(24, options.size, 1.0)
    common = {"width": options.width, "precision": options.precision}
    learners = {"s4mtl": S4mtl, "s2mtl": S2mtl, "u-mtl": UMtl, "u-net": UNet, "conv-net": ConvNet}
    for name, learner in learners.items():
        learner(**common, epochs=1).learn(data, validation, Run(0, device))
        began = time.process_time()
        with clocked() as clock:
            learner(**common, epochs=3).learn(data, validation, Run(0, device))
        seconds = time.process_time() - began
        found[name] = {"seconds": round(seconds, 2), "networks": round(clock.seconds / seconds, 3)}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    found = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "width": options.width,
        "size": options.size,
        "step": one_step(options, device),
    }
    if device.type == "cpu":
        found["training"] = whole_training(options, device)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
