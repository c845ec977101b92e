"""How programs run on CPUs: what XLA's compiler is told there, and what becomes of the memory of a step."""

import ctypes
import functools
import platform
from pathlib import Path
from typing import Any

import jax

# It runs once, and the compiler takes four times as long to optimise it as it takes to run.
INITIALISATION: dict[str, Any] = {"xla_backend_optimization_level": 0}

# YNNPACK for sums and maxima alone. XLA gives it products of matrices too, which Eigen computes faster.
_PRODUCTS_BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

_CPUINFO = Path("/proc/cpuinfo")

# Names of <malloc.h>: memory that is freed is kept, no block has a mapping of its own, and all threads share one heap.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@functools.cache
def step_options() -> dict[str, Any]:
    """Compiler options for the train step on this machine's CPU.

    Measured where vectors have 256 bits; for 512, YNNPACK has kernels that Eigen, built for older CPUs, has not.
    """
    known = _CPUINFO.read_text().split() if platform.machine() == "x86_64" and _CPUINFO.exists() else []
    return _PRODUCTS_BY_EIGEN if "avx2" in known and "avx512f" not in known else {}


def keep_freed_memory() -> bool:
    """Where JAX computes on a CPU, makes malloc keep what is freed for the next step, and says whether it does.

    XLA takes a step's scratch memory, a gigabyte for S/16, from malloc and gives it back when the step ends. By default
    it then goes back to the system, which hands it out again zeroed, page by page: a tenth of the step's time. The
    price is that the process never shrinks. For a process of ours, before it computes; nothing happens without glibc.
    """
    if jax.default_backend() != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_TRIM_THRESHOLD, 2**31 - 1), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
