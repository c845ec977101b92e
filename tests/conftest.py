"""Every test runs on eight fake CPU devices; a test that wants one takes `jax.devices()[:1]`."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_num_cpu_devices", 8)
# Queued computations with collectives on fake devices share the two cores' threads and can starve each other.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# Compiling is most of the time that tests take: do it with less optimisation, and only once for equal programs.
jax.config.update("jax_disable_most_optimizations", True)
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers, started from here, share what they compile
    _cache = tempfile.TemporaryDirectory(prefix="vit_jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
