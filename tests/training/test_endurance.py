"""What a run holds does not grow with its length."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_run
from vit_jax.training.metrics import Writer

STEPS, EVERY = 80_000, 1_000


@pytest.mark.slow  # some minutes
def test_eighty_thousand_steps_are_flat_in_descriptors_threads_and_memory(tmp_path, monkeypatch):
    """With a line of the log and a save every thousand steps."""
    held, write = [], Writer.write

    def counted(self, step, scalars):
        write(self, step, scalars)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held.append((len(os.listdir("/proc/self/fd")), threading.active_count(), pages * os.sysconf("SC_PAGESIZE")))

    monkeypatch.setattr(Writer, "write", counted)
    tiny_run(tmp_path, steps=STEPS, log_every=EVERY, checkpoint__every=EVERY, batch_size=1)
    half = len(held) // 2
    assert len(held) >= STEPS // EVERY
    (files, threads, memory), (files_then, threads_then, memory_then) = (
        np.median(part, axis=0) for part in (held[half // 2 : half], held[half:])
    )
    print(
        f"descriptors {files} and {files_then}, threads {threads} and {threads_then}, MB {memory / 1e6:.0f} and {memory_then / 1e6:.0f}"
    )
    assert abs(files_then - files) <= 3 and abs(threads_then - threads) <= 2, held
    # A byte a step would be 80 kB; what the allocator keeps is a few MB.
    assert memory_then - memory < 20e6, held
