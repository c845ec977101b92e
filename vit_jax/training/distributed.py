"""Several processes as one run: how they find each other, agree, and end."""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.errors import Preempted, UserError

T = TypeVar("T")

TIMEOUT = 300.0  # seconds in which all processes of a run have to be there
_SENTENCE = 4096  # bytes that an error takes on its way to the other processes


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
    knows them. Where there is none this is the only process. It still gets a coordinator, on a free port of the
    loopback device (20 ms), because that is what notices that a machine is to be preempted; if there is no port for
    it, or jax is in use already, the run goes on without one and watches for SIGTERM by itself.

    After an exception the process does not wait for the others when it ends: they may wait for it.

    Args:
        coordinator: HOST:PORT on which process 0 listens and where the others find it.
        num_processes: how many there are; 1 does not ask the cluster.
        process_id: which of them this is, from 0.
        timeout: seconds after which it is an error that not all have come.
        preemptible: False leaves SIGTERM alone, and a single process without a coordinator.

    Raises:
        UserError: arguments that do not fit together, an address that process 0 cannot listen on, or no answer in
            time.
    """
    _check(coordinator, num_processes, process_id)
    if jax.distributed.is_initialized():
        yield
        return
    several = False
    try:
        if not preemptible:
            jax.config.update("jax_enable_preemption_service", False)
        if num_processes == 1:
            alone = True
        elif coordinator is not None:
            if process_id == 0:
                _check_port(coordinator)
            # The devices of this process are those that CUDA_VISIBLE_DEVICES or JAX_LOCAL_DEVICE_IDS leave to it.
            _initialize(
                timeout, coordinator_address=coordinator, num_processes=num_processes, process_id=process_id,
                cluster_detection_method="deactivate",
            )  # fmt: skip
            alone = False
        else:
            alone = not _join_cluster(timeout)
        if alone and preemptible:
            _coordinate_alone()
        several = not alone
        yield
    except Preempted:  # in all processes, after the same step
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        # The others lose their coordinator, which aborts them: what failed in all of them they shall say themselves.
        atexit.register(_end_at_once, error, 2.0 if several and is_lead() else 0.0)
        raise
    jax.distributed.shutdown()


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
        parts = [] if error is None else [error.what, error.what_to_do]
        encoded = json.dumps(parts).encode()
        if len(encoded) > _SENTENCE:
            encoded = json.dumps([str(error)[: _SENTENCE // 8]]).encode()
        line = np.frombuffer(encoded.ljust(_SENTENCE), np.uint8)
        for other in np.asarray(multihost_utils.process_allgather(line)):
            if found := json.loads(other.tobytes()):
                raise error or UserError(*found)
    if error is not None:
        raise error
    return result


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


def _coordinate_alone() -> None:
    # Devices of one process need no gloo, which would go through the coordinator, also after its end.
    jax.config.update("jax_cpu_collectives_implementation", None)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            return _go_on_without(error)
        port = probe.getsockname()[1]
    try:
        _initialize(
            TIMEOUT, coordinator_address=f"127.0.0.1:{port}", coordinator_bind_address=f"127.0.0.1:{port}",
            num_processes=1, process_id=0, cluster_detection_method="deactivate",
        )  # fmt: skip
    except UserError as error:
        if not isinstance(error, _JaxInUseError):  # as in a notebook, where there is nothing to tell
            _go_on_without(error.__cause__ or error)


def _go_on_without(error: BaseException) -> None:
    print(f"vit_jax: this run has no coordinator ({error}); it watches for SIGTERM by itself", file=sys.stderr)


class _JaxInUseError(UserError):
    pass


def _initialize(timeout: float, **arguments: Any) -> None:
    """`jax.distributed.initialize` with a Python error where jax would abort the process, which is at every timeout."""
    raised: list[BaseException] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(initialization_timeout=int(timeout) + 60, **arguments)
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
    status = {UserError: 2, KeyboardInterrupt: 130}.get(type(error), 1)
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(delay)
    os._exit(status)
