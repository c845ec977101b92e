"""What a CPU is told: options that XLA takes, and memory of a step that stays with the process."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from vit_jax.training import cpu


@pytest.mark.parametrize(("flags", "told"), [("fpu avx2 fma", True), ("fpu avx2 avx512f", False), ("fpu sse2", False)])
def test_products_go_to_eigen_where_vectors_have_256_bits(monkeypatch, tmp_path, flags, told):
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    cpu._CPUINFO.write_text(f"processor : 0\nflags : {flags}\n")
    assert bool(cpu.step_options.__wrapped__()) == told


def test_xla_knows_the_options():
    options = cpu.INITIALISATION | cpu._PRODUCTS_BY_EIGEN
    multiply = jax.jit(lambda x: x @ x, compiler_options=options)
    text = multiply.lower(jnp.ones((64, 64))).compile().as_text()
    assert " dot(" in text.split("ENTRY")[1]  # by itself, not inside of one of YNNPACK's fusions


@pytest.mark.long
def test_freed_memory_is_kept():
    """What is taken, written and given back a second time costs no page of the system."""
    program = """
import ctypes, resource
from vit_jax.training.cpu import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = [pages(), pages()]
print(keep_freed_memory(), *before, pages(), pages())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, *faults = run.stdout.split()
    if kept == "False":
        pytest.skip("without glibc malloc keeps nothing")
    assert int(faults[1]) > 1000 > 100 > int(faults[3])
