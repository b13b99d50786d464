"""The sampler behind the memory figures, on processes of known size."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.bench import memory

HOLD = "import sys, time; x = bytearray(b'x') * (64 * 2**20); print('ready', flush=True); time.sleep(60)"


def test_a_tree_of_processes_is_found_and_its_memory_summed():
    """A child that holds 64 MiB shows in the peak, and is found by a word of its command line."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, "a-word-of-this-test"], stdout=subprocess.PIPE, text=True
    )
    try:
        child.stdout.readline()
        with memory.Sampler(lambda: memory.tree_of([child.pid]), every_s=0.05) as sampler:
            time.sleep(0.3)
        by_word = memory.marked(["a-word-of-this-test"])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()

    assert sampler.peak.num_processes == 1
    assert 64 * 2**20 <= sampler.peak.pss_bytes < 160 * 2**20
    assert child.pid in by_word
    assert memory.tree_of([child.pid]) == set()
