"""Every test runs on eight fake CPU devices; a test that wants one takes `jax.devices()[:1]`."""

import gc
import os
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The workers, started from here, share the cores, and NumPy's threads would spin against each other: the eigenvectors
# of a patch embedding took seventeen times as long on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest
from threadpoolctl import threadpool_limits

from tests.costs import Costs
from tests.initializers import draw_cheaply, remember_shapes

# Bytecode is kept even where the environment says not to, as in many containers: compiling every module anew took each
# worker ten seconds, and each command that a test starts some.
sys.dont_write_bytecode = False
threadpool_limits(1, "blas")  # what is loaded already, by plugins of pytest
remember_shapes()
jax.config.update("jax_num_cpu_devices", 8)
# Queued computations with collectives on fake devices share the two cores' threads and can starve each other.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# Compiling is most of the time that tests take: do it with less optimisation, and only once for equal programs. The
# workers, started from here, share what they compile. It is kept for the next run, but in CI, which starts cold and
# names a folder that its tiers share.
jax.config.update("jax_disable_most_optimizations", True)
# Kernels from the older emitter, all in one module: a step compiles in a fifth of the time. Only where XLA is known to
# have these flags, since it ends a process that names one which it does not have.
if jax.__version_info__ < (0, 11) and "xla_cpu" not in os.environ.get("XLA_FLAGS", ""):
    _flags = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
    os.environ["XLA_FLAGS"] = " ".join([*_flags, *os.environ.get("XLA_FLAGS", "").split()])
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    if os.environ.get("CI"):
        _cache = tempfile.TemporaryDirectory(prefix="vit_jax-tests-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path.home() / ".cache/vit_jax/tests" / jax.__version__)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_addoption(parser):
    parser.addoption("--costs", type=Path, help="append what each test cost to this file, a line of JSON a test")
    parser.addoption("--update-goldens", action="store_true", help="write tests/golden anew instead of comparing")


def pytest_configure(config):
    path = config.getoption("--costs")
    config.pluginmanager.register(Costs(path and path.absolute()), "costs")


# Folders of one tier each, marked in their own conftest.py, and what that tier is called.
_TIERS = {"parity": "oracle", "real": "real"}


def pytest_ignore_collect(collection_path, config):
    """Where a tier is left out, its files are not imported for nothing: torch and its friends take ten seconds."""
    tier = collection_path.parent == Path(__file__).parent and _TIERS.get(collection_path.name)
    return True if tier and f"not {tier}" in config.option.markexpr else None


# Files of few and long tests. Two workers take file after file: begun last, one of these would be left to one of them.
_FIRST = ("test_systems.py", "test_main.py", "test_finetune.py", "test_restart.py", "test_mixture.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _FIRST)


def pytest_collection_finish():
    """Tracing makes millions of objects, and looking for garbage among all that was imported took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _draw_cheaply():
    with draw_cheaply():
        yield


@pytest.fixture(scope="module")
def as_elsewhere():
    """For modules that compare runs of this process with those of others: all have the same first state."""
    with draw_cheaply(False):
        yield
