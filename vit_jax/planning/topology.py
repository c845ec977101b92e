"""Devices to compile for: those of a TPU slice or of GPUs that are not there, or those of this machine."""

import dataclasses
import importlib.util
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from vit_jax.errors import UserError
from vit_jax.planning import cuda
from vit_jax.training.chips import GPUS, TPUS, Chip, parse_topology

# libtpu looks for the metadata server of a TPU machine, for its hostnames, and for other processes with a TPU.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """What a program is compiled for.

    Args:
        name: as it was asked for, 'v5e:16x16'.
        devices: one per chip; they may exist on paper only.
        chip: peak rates of each.
        compiler: name and version of what compiles, for caches and records.
        options: of the compiler.
    """

    name: str
    devices: Sequence[jax.Device]
    chip: Chip
    compiler: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def topology(name: str) -> Topology:
    """The topology 'v5e:16x16', 'h100:16' for two hosts of GPUs, or 'cpu:8' for this machine with eight devices.

    Raises:
        UserError: for an unknown topology, a missing compiler, or more CPU devices than jax was started with.
    """
    kind, shape = parse_topology(name)
    if kind == "cpu":
        return Topology(name, _cpu_devices(shape[0]), _this_machine(shape[0]), f"jaxlib {version('jaxlib')}")
    if kind in GPUS:
        options, found = cuda.compiler_options(), cuda.devices(kind, shape[0])
        return Topology(name, found, GPUS[kind], cuda.compiler(), options)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "Compiling for a TPU needs the package libtpu, which is not installed", "pip install 'vit_jax[plan]'"
        )
    for variable, value in _WITHOUT_TPU.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options = {"chip_config_name": TPUS[kind].chip_config} if TPUS[kind].chip_config != "default" else {}
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(f"{kind}:{'x'.join(map(str, shape))}", platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"libtpu knows no topology '{name}': {str(error).splitlines()[0]}", "Sides of 1, 2 and multiples of 4 exist"
        ) from None
    return Topology(name, list(found.devices), TPUS[kind], f"libtpu {version('libtpu')}")


def _cpu_devices(count: int) -> list[jax.Device]:
    # Nothing happens where jax has made its devices before: then there may be too few.
    try:
        if jax.config.jax_num_cpu_devices < count:
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"jax was started with {len(devices)} CPU devices, not {count}", "Ask for that many at most")
    return devices[:count]


def _this_machine(devices: int) -> Chip:
    """One of so many devices that share this machine's cores and memory, its rates as measured in a moment."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    a = np.ones((1024, 1024), np.float32)
    b = np.ones(2**24, np.float32)

    def best(run: Callable[[], object]) -> float:
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    flops = 2 * 1024**3 / best(lambda: a @ a)
    bandwidth = 2 * b.nbytes / best(b.copy)
    return Chip("cpu", ("cpu",), flops / devices, memory // devices, bandwidth / devices, bandwidth / devices)
