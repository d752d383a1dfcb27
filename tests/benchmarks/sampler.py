"""How many tasks a second `episodes` draws on one core: `python tests/benchmarks/sampler.py` prints JSON.

5-way, 1 shot, 5 queries, from 100 partitions of 22,000 rows in 500 parts, eight tasks at a time, as a meta-learner asks.
Index tasks are row numbers; tensor tasks are float32 images, 28 x 28, gathered too. Rates are per second of the
core's own time, so that other work on the machine does not count; rates by the clock stand beside them.
"""

import json
import os
import platform
import time

import numpy as np
import torch

from fewcore import Gather, ImageSet, ImageSpec, Partitions, Run
from fewcore.builtin.episodes import Episodes

N, P, K, BATCH = 22_000, 100, 500, 8


def tasks_per_second(work, n_tasks, repeats=5):
    """Return the medians over repeats: per second of processor time, and by the clock."""
    rates = []
    for _ in range(repeats):
        core, clock = time.process_time(), time.perf_counter()
        for _ in range(n_tasks // BATCH):
            work()
        rates.append((n_tasks / (time.process_time() - core), n_tasks / (time.perf_counter() - clock)))
    return [round(rate) for rate in np.median(rates, axis=0)]


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    parts = Partitions(rng.integers(K, size=(P, N), dtype=np.int16), np.arange(N))
    pixels = rng.integers(256, size=(N, 1, 28, 28), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(N), np.arange(N), ImageSpec((28, 28), 1, (0, 255)))
    begin = time.perf_counter()
    cursor = Episodes().tasks(parts, Run()).start()
    cursor.draw(BATCH)
    start = time.perf_counter() - begin
    gather = Gather(images, torch.device("cpu"))

    def tensors():
        batch = cursor.draw(BATCH)
        return gather(batch.support), gather(batch.query)

    index_rate, index_clock = tasks_per_second(lambda: cursor.draw(BATCH), 80_000)
    tensor_rate, tensor_clock = tasks_per_second(tensors, 16_000)
    result = {
        "index_tasks_per_s": index_rate,
        "tensor_tasks_per_s": tensor_rate,
        "index_tasks_per_s_by_clock": index_clock,
        "tensor_tasks_per_s_by_clock": tensor_clock,
        "start_s": round(start, 4),
        "setting": f"5-way 1-shot 5-query, {P} partitions x {N} rows x {K} parts, {BATCH} tasks a draw, one thread",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
