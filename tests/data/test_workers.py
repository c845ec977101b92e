"""Worker processes: the same batches, the same errors, and a clean end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vit_jax.data import workers
from vit_jax.data.pipeline import TrainPipeline
from vit_jax.data.sources import digits, folder
from vit_jax.data.sources.arrays import ArraySource
from vit_jax.data.transforms import supervised
from vit_jax.data.workers import BEAT, PATIENCE
from vit_jax.errors import REQUEUE, ProcessLost, UserError


@pytest.mark.long
def test_workers_give_the_same_batches_after_resuming_in_a_slice():
    train = TrainPipeline(
        digits.build("train"), supervised.build(8, rotate=20, shift=0.1), batch_size=8, seed=0, num_workers=2
    )
    with train.iterate(start_step=179, slices=2, index=1) as batches:  # the first epoch ends after 180 batches
        for step in range(179, 185):
            batch, expected = next(batches), train.batch(step, slices=2, index=1)
            assert batch.keys() == expected.keys()
            for key in batch:
                assert type(batch[key]) is np.ndarray and batch[key].dtype == expected[key].dtype
                np.testing.assert_array_equal(batch[key], expected[key])
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_reaches_the_caller(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "x.png").write_bytes(b"no image")
    source = folder.build(str(tmp_path), "train")
    train = TrainPipeline(source, supervised.build(8), batch_size=2, seed=0, num_workers=1, on_corrupt="fail")
    with train.iterate() as batches, pytest.raises(UserError) as caught:
        next(batches)
    assert "x.png is not a JPEG, PNG or WebP image" in caught.value.what
    assert caught.value.what_to_do


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=300)


# Signals to a whole process group must leave it to the main process when to stop; nothing is closed, on purpose.
FORGETFUL = """
if __name__ == "__main__":
    import multiprocessing, os, signal, sys
    import numpy as np
    from vit_jax.data.pipeline import TrainPipeline
    from vit_jax.data.sources.arrays import ArraySource
    from vit_jax.data.transforms import supervised

    source = ArraySource(np.zeros((10, 4, 4, 3), np.uint8), np.zeros(10, int), ["only"])
    batches = TrainPipeline(source, supervised.build(8), batch_size=4, seed=0, num_workers=1).iterate()
    kept = next(batches)
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    for _ in range(10):
        kept = next(batches)
    in_a_thread = TrainPipeline(source, supervised.build(8), batch_size=4, seed=0).iterate()
    next(in_a_thread)
    print("done", len(workers), "tensorflow" in sys.modules, "torch" in sys.modules)
"""


@pytest.mark.long
def test_a_forgotten_iterator_ends_quietly(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FORGETFUL)
    ran = run(script)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done 1 False False\n", "")


KILLED = """
if __name__ == "__main__":
    import multiprocessing, os, signal
    import numpy as np
    from vit_jax.data.pipeline import TrainPipeline
    from vit_jax.data.sources.arrays import ArraySource
    from vit_jax.data.transforms import supervised

    source = ArraySource(np.zeros((10, 4, 4, 3), np.uint8), np.zeros(10, int), ["only"])
    batches = TrainPipeline(source, supervised.build(8), batch_size=4, seed=0, num_workers=2).iterate()
    kept = next(batches), next(batches)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_a_killed_process_leaves_no_worker_and_no_memory_behind(tmp_path):
    """The workers ignore polite signals, so this is what keeps them from staying for ever."""
    script, segments = tmp_path / "script.py", set(os.listdir("/dev/shm"))
    script.write_text(KILLED)
    # The workers hold the same pipe, so that `run` returns when all have ended.
    ran = run("-W", "ignore", script)
    assert ran.returncode == -signal.SIGKILL and len(ran.stdout.split()) == 2, ran.stderr
    assert not {name for name in set(os.listdir("/dev/shm")) - segments if name.startswith("psm")}


def running_workers():
    """A pipeline in whose two workers batches wait, and these workers."""
    source = ArraySource(np.zeros((10, 4, 4, 3), np.uint8), np.zeros(10, int), ["only"])
    batches = TrainPipeline(source, supervised.build(8), batch_size=4, seed=0, num_workers=2).iterate()
    next(batches), next(batches)
    return batches, multiprocessing.active_children()


@pytest.mark.long
def test_a_killed_worker_is_one_sentence_and_takes_the_others_along():
    batches, processes = running_workers()
    processes[0].kill()
    with pytest.raises(ProcessLost, match=rf"\(process {processes[0].pid}\) was ended by SIGKILL.*memory") as caught:
        for _ in range(10):
            next(batches)
    assert caught.value.status == REQUEUE and not any(process.is_alive() for process in processes)


@pytest.mark.long
def test_a_stopped_worker_is_one_sentence(monkeypatch):
    assert BEAT * PATIENCE < 60
    batches, processes = running_workers()
    monkeypatch.setattr(workers, "BEAT", 0.2)
    os.kill(processes[1].pid, signal.SIGSTOP)
    monkeypatch.setattr(workers, "_GRACE", 0.2)
    with pytest.raises(ProcessLost, match=rf"\(process {processes[1].pid}\) has given no sign of life for 1.8 s"):
        for _ in range(10):
            next(batches)
    assert not any(process.is_alive() for process in processes)


@pytest.mark.long
def test_a_slow_batch_is_no_lost_worker(monkeypatch):
    """Signs of life come however long a batch takes; here it takes longer than the patience."""
    monkeypatch.setattr(workers, "BEAT", 0.5)
    monkeypatch.setattr(workers, "PATIENCE", 4)
    train = TrainPipeline(digits.build("train"), Sleeper(3.5), batch_size=1, seed=0, num_workers=1, num_threads=0)
    with train.iterate() as batches:
        assert next(batches)["image"].shape[0] == 1


class Sleeper:
    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, example, rng):
        time.sleep(self.seconds)
        return example


def test_what_workers_import_is_free_of_jax():
    modules = (
        "preprocess",
        "source",
        "sources.arrays",
        "sources.folder",
        "sources.idx",
        "sources.manifest",
        "sources.tfds",
    )
    modules += ("transforms.supervised",)
    ran = run("-c", f"import sys, {', '.join(f'vit_jax.data.{name}' for name in modules)}; print('jax' in sys.modules)")
    assert ran.stdout == "False\n", ran.stderr
