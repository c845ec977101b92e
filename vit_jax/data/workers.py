"""Processes that prepare batches ahead: nothing of them stays behind, and one that is killed or stopped is noticed.

Each has a pipe to the process that started it. A batch goes through it as an open file without a name, so that its
memory is given back when the last process that holds it ends, however that happens; no room in /dev/shm is needed.
"""

import contextlib
import errno
import itertools
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import cloudpickle
import grain
import numpy as np
from jaxtyping import Shaped

from vit_jax.errors import ProcessLost

Batch = dict[str, Shaped[np.ndarray, "b *rest"]]
Layout = list[tuple[str, str, tuple[int, ...]]]  # name, type and shape of each array

BEAT = 5.0  # seconds between two signs of life of a worker
PATIENCE = 9  # beats in a row without one after which it is lost
_START = 60  # the same before its first: Python and its packages may come from a slow disk
_AHEAD = 2  # batches that each of them has ready
_GRACE = 10.0  # seconds in which a worker ends that is no longer needed


def read_options(num_threads: int) -> grain.ReadOptions:
    """So many threads that prepare whole batches ahead; 0 prepares them in the caller."""
    return grain.ReadOptions(num_threads, prefetch_buffer_size=max(2, num_threads) if num_threads else 0)


def from_workers(batches: grain.MapDataset, num_threads: int, num_workers: int) -> Iterator[Batch]:
    """`batches` in order; worker w of n prepares those with the numbers w, w + n, ...

    Close it to end the processes.

    Args:
        batches: each a dict of arrays. It goes to the workers by pickling, with closures.
        num_threads: of each worker; 0 prepares batches in its main thread, one at a time.
        num_workers: 1 or more.

    Raises:
        ProcessLost: a worker was killed, or has given no sign of life for `BEAT * PATIENCE` seconds.
        Exception: whatever a worker raised.
    """
    context, workers = multiprocessing.get_context("spawn"), []
    try:
        for number in range(num_workers):
            ours, theirs = context.Pipe()
            work = cloudpickle.dumps(batches[number::num_workers])
            process = context.Process(target=_work, args=(theirs, work, num_threads, BEAT), daemon=True)
            process.start()
            theirs.close()  # with the worker's own copy gone too, reading here ends instead of waiting
            workers.append((process, ours))
        for number, (process, pipe) in enumerate(itertools.cycle(workers)):
            yield _receive(process, pipe, _START if number < num_workers else PATIENCE)
    finally:
        for _, pipe in workers:
            pipe.close()
        for process, _ in workers:
            process.join(_GRACE)
            process.kill()
            process.join()


def _receive(process: multiprocessing.Process, pipe: Connection, patience: int) -> Batch:
    # Counted in beats and not by the clock: if this process was suspended, its workers were as likely as not, too.
    silent = 0
    while silent < patience:
        if not pipe.poll(BEAT):
            silent += 1
            continue
        silent, patience = 0, PATIENCE
        try:
            said = pipe.recv()
            if isinstance(said, Exception):
                raise said
            if said is None:  # a sign of life
                continue
            with _socket(pipe) as channel:
                _, files, _, _ = socket.recv_fds(channel, 1, 1)
            pipe.send_bytes(b"taken")
        except (EOFError, ConnectionError):
            process.join(_GRACE)
            raise _lost(process, _how_it_ended(process.exitcode)) from None
        if not files:
            raise OSError(errno.EMFILE, "a batch could not be opened")
        try:
            return _read(files[0], said)
        finally:
            os.close(files[0])
    raise _lost(process, f"has given no sign of life for {BEAT * patience:g} s; it is stopped or stuck")


def _lost(process: multiprocessing.Process, what: str) -> ProcessLost:
    return ProcessLost(
        f"A data worker (process {process.pid}) {what}",
        "The same command goes on from the last checkpoint; fewer config.data.num_workers take less memory",
    )


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None:
        return "has closed its pipe"
    if exitcode >= 0:
        return f"ended with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"was ended by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


def _work(pipe: Connection, work: bytes, num_threads: int, beat: float) -> None:
    # The main process says when to stop: it may still need batches before it saves on Ctrl-C or preemption.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    room, sending = threading.Semaphore(_AHEAD), threading.Lock()
    threading.Thread(target=_listen, args=(pipe, room.release), daemon=True).start()
    threading.Thread(target=_beat, args=(pipe, sending, beat), daemon=True).start()
    try:
        # What the process that started this one made of its own objects; nothing that was read from outside.
        batches: grain.MapDataset = cloudpickle.loads(work)
        for batch in batches.to_iter_dataset(read_options(num_threads)):
            room.acquire()
            file, layout = _write(batch)
            with sending:
                pipe.send(layout)
                with _socket(pipe) as channel:
                    socket.send_fds(channel, [b"f"], [file])
            os.close(file)
    except Exception as error:  # whatever it is, it belongs to the process that wanted the batch
        with sending:
            _send_error(pipe, error)
    threading.Event().wait()  # until the main process closes the pipe


def _send_error(pipe: Connection, error: Exception) -> None:
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickled = cloudpickle.dumps(error)
        cloudpickle.loads(pickled)
    except Exception:  # an exception's class may do anything when it is copied
        pickled = cloudpickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
    pipe.send_bytes(pickled)


def _listen(pipe: Connection, release: Callable[[], None]) -> None:
    """Ends this process when the main one has closed its end or has died, in the middle of whatever it does."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv_bytes()
            release()
    os._exit(0)


def _beat(pipe: Connection, sending: threading.Lock, seconds: float) -> None:
    with contextlib.suppress(OSError):  # then `_listen` notices too
        while True:
            with sending:
                pipe.send(None)
            time.sleep(seconds)


def _socket(pipe: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(pipe.fileno()))


def _write(batch: Batch) -> tuple[int, Layout]:
    """A file with the bytes of all arrays, and names, types and shapes in its order."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("vit_jax-batch")
    else:
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    layout, at = [], 0
    for name, array in batch.items():
        array = np.ascontiguousarray(array)
        layout.append((name, array.dtype.str, array.shape))
        at = _all_of(os.pwrite, file, array, at)
    return file, layout


def _read(file: int, layout: Layout) -> Batch:
    batch, at = {}, 0
    for name, dtype, shape in layout:
        batch[name] = np.empty(shape, dtype)
        at = _all_of(lambda file, part, at: os.preadv(file, [part], at), file, batch[name], at)
    return batch


def _all_of(step: Callable[[int, memoryview, int], int], file: int, array: np.ndarray, at: int) -> int:
    """Reads or writes all bytes of an array, which a single call does for up to 2 GiB; returns where they end."""
    left = memoryview(array.reshape(-1).view(np.uint8))
    while left:
        done = step(file, left, at)
        if not done:
            raise OSError("a batch was cut off")
        left, at = left[done:], at + done
    return at
