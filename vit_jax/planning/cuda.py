"""GPUs that are not there: what XLA's CUDA compiler has to be told of a card, and what it needs on this machine.

Source of the cards: OpenXLA's target configs, `xla/backends/gpu/target_config/specs/*.txtpb` (Apache-2.0).
"""

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from vit_jax.errors import UserError
from vit_jax.training.chips import GPUS_A_HOST

EXTRA = "pip install 'vit_jax[plan-gpu]'"
# The plugins that jax knows, the newest first, and the CUDA that each compiles for.
_PLUGINS = {"xla_cuda13": (13, 0), "xla_cuda12": (12, 9)}
_CUDNN = (9, 10)
_USUAL = Path("/usr/local/cuda")


@dataclasses.dataclass(frozen=True)
class Card:
    """What the compiler's choices depend on.

    Args:
        description: what the driver calls it.
        cores: streaming multiprocessors.
        fpus: float32 units of each.
        bandwidth: of memory, bytes/s.
        l2: bytes.
        clock: GHz.
        memory: bytes.
        shared: bytes of shared memory a core, of which a block can have 1 KiB less.
        capability: compute capability, major.
    """

    description: str
    cores: int
    fpus: int
    bandwidth: int
    l2: int
    clock: float
    memory: int
    shared: int
    capability: int

    def target_config(self, cuda: tuple[int, int]) -> str:
        """The card as a `GpuTargetConfigProto` in text form, for a version of CUDA."""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
              shared_memory_per_block: 49152 shared_memory_per_core: {self.shared}
              shared_memory_per_block_optin: {self.shared - 1024}
              core_count: {self.cores} fpus_per_core: {self.fpus}
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth} l2_cache_size: {self.l2} clock_rate_ghz: {self.clock}
              device_memory_size: {self.memory} cuda_compute_capability {{ major: {self.capability} }}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}
            runtime_version {{ major: {cuda[0]} minor: {cuda[1]} patch: 0 }}
            device_description_str: "{self.description}"
        """


CARDS = {
    "a100": Card("NVIDIA A100-SXM4-80GB", 108, 64, 2039040000000, 41943040, 1.41, 85100068864, 167936, 8),
    "h100": Card("NVIDIA H100 80GB HBM3", 132, 128, 3352320000000, 52428800, 1.98, 84942979072, 233472, 9),
    "h200": Card("NVIDIA H200", 132, 128, 4800000000000, 52428800, 1.98, 151397597184, 233472, 9),
    "b200": Card("NVIDIA B200", 148, 128, 7672320000000, 132644864, 1.965, 191514411008, 233472, 10),
}


def devices(name: str, count: int) -> list[jax.Device]:
    """So many GPUs of a card in hosts of eight, to compile for.

    Raises:
        UserError: where the plugin or the assembler that it needs is missing.
    """
    plugin = _plugin()
    from jax.experimental import topologies

    local = min(count, GPUS_A_HOST)
    found = topologies.get_topology_desc(
        platform="cuda",
        target_config=CARDS[name].target_config(_PLUGINS[plugin]),
        topology=f"1x{count // local}x{local}",  # networks, hosts, GPUs a host
    )
    return list(found.devices)


def compiler() -> str:
    """Name and version of the compiler."""
    name = f"jax-{_plugin().removeprefix('xla_')}-pjrt"
    return f"{name} {version(name)}"


def compiler_options() -> dict[str, Any]:
    """What a program is compiled with, options that XLA_FLAGS names left out.

    Raises:
        UserError: where there is no assembler.
    """
    options = {
        # Nothing can be timed, and Triton's products are only ever chosen by timing them.
        "xla_gpu_autotune_level": 0,
        "xla_gpu_enable_triton_gemm": False,
        "xla_gpu_cuda_data_dir": str(toolkit()),
    }
    return {k: v for k, v in options.items() if f"--{k}=" not in os.environ.get("XLA_FLAGS", "")}


def toolkit(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of `bin/ptxas`: NVIDIA's wheels, PATH, or where CUDA_HOME, CUDA_PATH or the usual place are.

    Raises:
        UserError: where there is none.
    """
    wheels = importlib.util.find_spec("nvidia")
    folders = [
        Path(root) / part
        for root in (wheels and wheels.submodule_search_locations) or ()
        for part in ("cu13", "cuda_nvcc")
    ]
    folders += [Path(environment[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    if on_path := shutil.which("ptxas", path=environment.get("PATH", "")):
        folders.append(Path(on_path).resolve().parents[1])
    folders.append(_USUAL)
    for folder in folders:
        if (folder / "bin" / "ptxas").is_file():
            return folder
    raise UserError(
        "Compiling for a GPU needs NVIDIA's assembler ptxas, which was not found",
        f"The package nvidia-cuda-nvcc brings it: {EXTRA}; or name a CUDA toolkit in CUDA_HOME",
    )


def _plugin() -> str:
    for name in _PLUGINS:
        if importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(f"jax_plugins.{name}"):
            return name
    raise UserError("Compiling for a GPU needs jax's CUDA plugin, which is not installed", EXTRA)
