"""What it saves to keep freed memory: `python tests/benchmarks/memory.py` prints JSON.

One training step of ACAI (28 x 28, batches of 64), ProtoNets (20-way 1-shot 15 queries, 64 filters) and MAML (20-way 1-shot 5
queries, 8 tasks, 32 filters), as the Omniglot pipelines take them, in processes of their own that take turns: with the C
library's own ways with memory, and after `keep_freed_memory`, which `fewcore run` calls.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time

STEPS, TURNS = 20, 3


def seconds_a_step(name):
    import numpy as np

    from fewcore import ImageSet, ImageSpec, Partitions, Run
    from fewcore.builtin.episodes import Episodes
    from fewcore_embed.acai import Acai
    from fewcore_meta.conv4 import Conv4
    from fewcore_meta.maml import Maml
    from fewcore_meta.protonets import ProtoNets

    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(4_000, 1, 28, 28), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(4_000), np.arange(4_000), ImageSpec((28, 28), 1, (0, 255)))
    parts = Partitions(rng.integers(100, size=(1, 4_000), dtype=np.int16), np.arange(4_000))

    def tasks(n_query):
        return Episodes(n_way=20, n_shot=1, n_query=n_query).tasks(parts, Run())

    def train(n_steps):
        if name == "acai":
            Acai(dim=256, steps=n_steps).fit(images, Run())
        elif name == "protonets":
            ProtoNets(iterations=n_steps).meta_train(
                tasks(15), images, Conv4(filters=64, downsample="pool", scale=True), Run()
            )
        else:
            Maml(iterations=n_steps).meta_train(tasks(5), images, Conv4(filters=32, downsample="stride"), Run())

    train(2)
    began = time.perf_counter()
    train(STEPS)
    return (time.perf_counter() - began) / STEPS


def main():
    if len(sys.argv) > 1:
        name, kept = sys.argv[1:]
        if kept == "kept":
            from fewcore.memory import keep_freed_memory

            keep_freed_memory()
        print(seconds_a_step(name))
        return
    result = {}
    for name in ("acai", "protonets", "maml"):
        seconds = {"given_back": [], "kept": []}
        for _ in range(TURNS):
            for kept, values in seconds.items():
                child = [sys.executable, __file__, name, kept]
                values.append(float(subprocess.run(child, check=True, capture_output=True, text=True).stdout))
        given_back, kept = (1000 * statistics.median(values) for values in seconds.values())
        result[name] = {
            "given_back_ms": round(given_back),
            "kept_ms": round(kept),
            "ratio": round(given_back / kept, 2),
        }
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.libc_ver()[0]}"
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
