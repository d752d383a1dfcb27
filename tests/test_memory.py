"""Memory that is kept by the C library must not count as a later stage's."""

import subprocess
import sys

import pytest
import torch

from fewcore.memory import PeakMemory

MB = 10**6


def test_the_peak_is_that_of_the_stage_alone():
    big = torch.ones(300 * MB // 4)
    del big
    before = PeakMemory(torch.device("cpu"))
    base = before.megabytes()
    held = torch.ones(200 * MB // 4)
    assert 190 < before.megabytes() - base < 300
    del held


KEPT = """
import resource, torch
from fewcore.memory import PeakMemory, keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
measure = PeakMemory(torch.device("cpu"))
before = measure.megabytes()
held = torch.ones(50_000_000)
print(measure.megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told to keep memory")
def test_freed_blocks_are_kept_and_yet_not_counted():
    faults, grown = subprocess.run(
        [sys.executable, "-c", KEPT], check=True, capture_output=True, text=True
    ).stdout.split()
    # Without it each of the ten blocks of 100 MB is mapped anew, by pages of 4 kB or, where the system grants them, 2 MB.
    assert int(faults) < 10 * 100 * MB / (2 * 2**20)
    assert float(grown) > 190
