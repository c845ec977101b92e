"""Several processes as one run: how they find each other, agree, and end."""

import atexit
import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.errors import REQUEUE, Preempted, ProcessLost, UserError
from vit_jax.naming import listed
from vit_jax.training.config import flatten

T = TypeVar("T")

TIMEOUT = 300.0  # seconds in which all processes of a run have to be there
SILENCE = 40.0  # seconds without a sign of life after which a process is lost to the others
_SENTENCE = 4096  # bytes that an error takes on its way to the other processes
# What jax's runtime says when an operation failed because of another process.
_PEER = re.compile(
    r"gloo|nccl|connection (reset|closed|refused)|by peer|remote process|unavailable|heartbeat|coordination|barrier",
    re.IGNORECASE,
)

_sigterm = threading.Event()


@contextlib.contextmanager
def connected(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = TIMEOUT,
    preemptible: bool = True,
) -> Iterator[None]:
    """Joins this process to the others of its run, before jax is used for anything else, and parts from them after it.

    Without arguments the cluster is asked: Cloud TPU, Slurm, Open MPI and Kubernetes, as `jax.distributed.initialize`
    knows them. Where there is none this is the only process, and has no coordinator: one that notices too late that
    it was suspended, or that the clock was set, takes its process along. SIGTERM is noted from here on, see `sigterm`.

    After an exception the process does not wait for the others when it ends: they may wait for it.

    Args:
        coordinator: HOST:PORT on which process 0 listens and where the others find it.
        num_processes: how many there are; 1 does not ask the cluster.
        process_id: which of them this is, from 0.
        timeout: seconds after which it is an error that not all have come.
        preemptible: False leaves SIGTERM alone.

    Raises:
        UserError: arguments that do not fit together, an address that process 0 cannot listen on, or no answer in
            time.
    """
    _check(coordinator, num_processes, process_id)
    if jax.distributed.is_initialized():
        yield
        return
    several = alone = False
    with contextlib.ExitStack() as held:
        try:
            if not preemptible:
                jax.config.update("jax_enable_preemption_service", False)
            if num_processes == 1:
                several = False
            elif coordinator is not None:
                if process_id == 0:
                    _check_port(coordinator)
                # The devices of this process are those that CUDA_VISIBLE_DEVICES or JAX_LOCAL_DEVICE_IDS leave to it.
                _initialize(
                    timeout, coordinator_address=coordinator, num_processes=num_processes, process_id=process_id,
                    cluster_detection_method="deactivate",
                )  # fmt: skip
                several = True
            else:
                several = _join_cluster(timeout)
            alone = not several
            if several:
                held.enter_context(_lost_peers_explained())
            elif preemptible:
                held.enter_context(_sigterm_noted())
            yield
        except Preempted:  # in all processes, after the same step
            jax.distributed.shutdown()
            raise
        except BaseException as error:
            if several and isinstance(error, (RuntimeError, ValueError)) and _PEER.search(str(error)):
                # Its end is near, see `_lost_peers_explained`; what the operation said is only its first sign.
                time.sleep(2 * SILENCE)
            if not alone:  # also where the others did not come
                # They lose their coordinator, which ends them: what failed in all of them they shall say themselves.
                atexit.register(_end_at_once, error, 2.0 if several and is_lead() else 0.0)
            raise
        jax.distributed.shutdown()


def sigterm() -> bool:
    """Whether SIGTERM has come to the only process of a run, in `connected`."""
    return _sigterm.is_set()


@contextlib.contextmanager
def _sigterm_noted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # the only one that can set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _sigterm.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _sigterm.clear()


@contextlib.contextmanager
def _lost_peers_explained() -> Iterator[None]:
    """Where jax's runtime ends this process because another one is lost, the last word is a sentence and `REQUEUE`.

    It does so by abort() from a thread of its own, which leaves Python no say: the only one that it asks is the handler
    of the signal.
    """
    sentence = (
        b"vit_jax: Another process of this run was lost, or this one was to the others; see above, and their output."
        b" The same command goes on from the last checkpoint.\n"
    )

    def end(number: int) -> None:
        os.write(2, sentence)
        os._exit(REQUEUE)

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler, library = kind(end), ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    before = library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        # After an exception the process may still wait for the others, see `_end_at_once`.
        if sys.exc_info()[0] is None:
            library.signal(signal.SIGABRT, before)
        else:
            atexit.register(lambda: handler)  # keeps it


def is_lead() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def agreed(action: Callable[[], T]) -> T:
    """Does something in every process; a `UserError` in one of them is raised in all.

    Without it the others would wait in their next common operation for a process that has given up.
    """
    try:
        result, error = action(), None
    except UserError as raised:
        result, error = None, raised
    if jax.process_count() > 1:
        parts = [] if error is None else [error.status, error.what, error.what_to_do]
        encoded = json.dumps(parts).encode()
        if len(encoded) > _SENTENCE:
            encoded = json.dumps([error.status, str(error)[: _SENTENCE // 8], ""]).encode()
        line = np.frombuffer(encoded.ljust(_SENTENCE), np.uint8)
        for other in np.asarray(multihost_utils.process_allgather(line)):
            if found := json.loads(other.tobytes()):
                status, *sentence = found
                raise error or (UserError if status == UserError.status else ProcessLost)(*sentence)
    if error is not None:
        raise error
    return result


def check_same(values: Mapping[str, Any]) -> None:
    """Checks that all processes were given the same plain values.

    Raises:
        UserError: in all of them, with the keys whose values are not the same.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(values, sort_keys=True).encode()
    digests = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text).digest(), np.uint8))
    if len(np.unique(digests, axis=0)) == 1:
        return
    text = np.frombuffer(text.ljust(int(np.max(multihost_utils.process_allgather(np.int32(len(text)))))), np.uint8)
    given = [flatten(json.loads(other.tobytes())) for other in np.asarray(multihost_utils.process_allgather(text))]
    absent = object()
    for process, theirs in enumerate(given):
        keys = sorted(k for k in given[0].keys() | theirs.keys() if given[0].get(k, absent) != theirs.get(k, absent))
        if keys:
            raise UserError(
                f"Process {process} was started with another {listed(keys)} than process 0",
                "Start all processes of a run with the same command",
            )


def from_lead(number: int) -> int:
    """The number that process 0 has."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if jax.process_count() > 1 else number


def in_any(flag: bool) -> bool:
    """Whether it is true in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.int32(flag)))) if jax.process_count() > 1 else flag


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if num_processes is not None and num_processes < 1:
        raise UserError(f"num_processes is {num_processes}", "It must be at least 1")
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3 and num_processes != 1:
        raise UserError(f"Processes that are joined by hand need {' and '.join(missing)} too", "Give all three or none")
    if coordinator is not None and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(f"The coordinator {coordinator!r} is not HOST:PORT", "Write for example 10.0.0.2:8476")
    if not missing and not 0 <= process_id < num_processes:
        raise UserError(f"There is no process {process_id} of {num_processes}", "They are numbered from 0")


def _check_port(coordinator: str) -> None:
    # jax 0.12 ends in a segmentation fault where it cannot listen.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("::" if family == socket.AF_INET6 else "", int(coordinator.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"Process 0 cannot listen on {coordinator}: {getattr(error, 'strerror', None) or error}",
                "Choose a free port of its own host",
            ) from error


def _join_cluster(timeout: float) -> bool:
    """Joins the processes that the cluster started; False where jax knows no cluster."""
    try:
        _initialize(timeout)
    except _JaxInUseError:
        return False
    except ValueError as error:
        # That is how jax says that it has found none.
        if "coordinator_address should be defined" in str(error):
            return False
        raise UserError(
            f"The cluster does not say how its processes find each other: {error}",
            "Say it with a coordinator, the number of processes and which of them this is; 1 process asks no cluster",
        ) from error
    return True


class _JaxInUseError(UserError):
    pass


def _initialize(timeout: float, **arguments: Any) -> None:
    """`jax.distributed.initialize` with a Python error where jax would abort the process, which is at every timeout."""
    raised: list[BaseException] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                initialization_timeout=int(timeout) + 60, heartbeat_timeout_seconds=int(SILENCE), **arguments
            )
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(timeout)
    where = arguments.get("coordinator_address", "that the cluster names")
    if thread.is_alive():
        what = f"The coordinator {where} has not answered for {timeout:g} s"
        if arguments.get("process_id") == 0:
            others = arguments["num_processes"] - 1
            what = f"Not all of the {others} other processes have reported to {where} within {timeout:g} s"
        raise UserError(
            what, "Start all processes of the run, with the same address, which all of them can reach, or wait longer"
        )
    if raised and isinstance(raised[0], ValueError):
        raise raised[0]
    if raised and "must be called before" in str(raised[0]):
        raise _JaxInUseError("jax was used before the processes were joined", "Join them first") from raised[0]
    if raised:
        raise UserError(f"The processes could not be joined: {raised[0]}", "Check the cluster") from raised[0]


def _end_at_once(error: BaseException, delay: float) -> None:
    """Runs before jax's own hook at exit, which would wait for all processes and abort when they do not come."""
    status = error.status if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(delay)
    os._exit(status)
