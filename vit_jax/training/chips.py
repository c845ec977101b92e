"""What accelerators can do at best: peak rates, memory and links, and which topologies there are.

Sources: TPUs, the pages v4, v5e, v5p and v6e of docs.cloud.google.com/tpu (per chip; "bidirectional ICI bandwidth" is
both directions together); NVIDIA, the data sheets of A100 SXM 80 GB, H100 SXM, H200 SXM and HGX B200 (dense bfloat16,
HBM, NVLink), and of DGX A100, H100, H200 and B200 (eight GPUs, each with a network card of its own: 200 Gb/s for A100,
400 Gb/s for the others; the B200's memory is DGX B200's 1,440 GB over eight, of 192 GB that the chip has).
"""

import dataclasses
import math

from vit_jax.errors import UserError
from vit_jax.naming import nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip.

    Args:
        name: as in a topology's name for TPUs.
        kinds: what jax's `device_kind` of it starts with.
        flops: dense bfloat16 FLOP/s.
        hbm_bytes: memory that a program can use. Of a TPU's 16, 32 or 96 GiB its runtime keeps some.
        hbm_bandwidth: bytes/s.
        link_bandwidth: bytes/s between chips, both directions and all links together.
        network_bandwidth: bytes/s of a chip's own network card, both directions together, by which it talks to chips
            of other hosts; 0 where the links above reach them all.
        dimensions: of the torus that its links make; 0 where they are switched.
        largest: chips along each dimension of the largest slice.
        chip_config: what libtpu calls the mode in which the two cores of a chip are one device.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = 0
    dimensions: int = 0
    largest: tuple[int, ...] = ()
    chip_config: str = "default"


CHIPS = (
    Chip(
        "v4", ("TPU v4",), 275e12, 31 * GIB, 1228e9, 300e9, dimensions=3, largest=(12, 16, 16), chip_config="megacore"
    ),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, int(15.75 * GIB), 819e9, 400e9, dimensions=2, largest=(16, 16)),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2765e9, 1200e9, dimensions=3, largest=(16, 16, 24)),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, int(31.25 * GIB), 1638e9, 800e9, dimensions=2, largest=(16, 16)),
    Chip("A100", ("NVIDIA A100",), 312e12, 80 * 10**9, 2039e9, 600e9, 50e9),
    Chip("H100", ("NVIDIA H100",), 989e12, 80 * 10**9, 3350e9, 900e9, 100e9),
    Chip("H200", ("NVIDIA H200",), 989e12, 141 * 10**9, 4800e9, 900e9, 100e9),
    Chip("B200", ("NVIDIA B200",), 2250e12, 180 * 10**9, 8000e9, 1800e9, 100e9),
)
TPUS = {chip.name: chip for chip in CHIPS if chip.dimensions}
GPUS = {chip.name.lower(): chip for chip in CHIPS if not chip.dimensions}
GPUS_A_HOST, MOST_GPUS = 8, 1024


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so, None for one that is not in the table."""
    fitting = [(len(kind), chip) for chip in CHIPS for kind in chip.kinds if device_kind.startswith(kind)]
    return max(fitting, key=lambda found: found[0])[1] if fitting else None


def peak_flops(device_kind: str) -> float | None:
    """The dense bfloat16 peak of one device in FLOP/s, None for one that is not in the table."""
    chip = chip_of(device_kind)
    return chip.flops if chip else None


def parse_topology(topology: str) -> tuple[str, tuple[int, ...]]:
    """('v5e', (16, 16)) for 'v5e:16x16', ('h100', (16,)) for 'h100:16', ('cpu', (8,)) for 'cpu:8'.

    Raises:
        UserError: for a name or a shape that there is not.
    """
    name, _, shape = topology.lower().partition(":")
    if name != "cpu" and name not in TPUS and name not in GPUS:
        raise UserError(f"There is no topology '{topology}'", nearest(name, [*TPUS, *GPUS, "cpu"]))
    sides = shape.split("x")
    wanted = TPUS[name].dimensions if name in TPUS else 1
    if not all(s.isascii() and s.isdigit() and int(s) > 0 for s in sides):
        example = f"{name}:{'x'.join(['4'] * wanted) if name in TPUS else 8}"
        raise UserError(f"The topology '{topology}' has no shape", f"Write it as in '{example}'")
    sizes = tuple(map(int, sides))
    if len(sizes) != wanted:
        made = f"{wanted} dimensions" if name in TPUS else f"a number of devices ('{name}:{math.prod(sizes)}')"
        raise UserError(f"The topology '{topology}' has {len(sizes)} dimensions", f"{name} has {made}")
    if name in TPUS and any(s > most for s, most in zip(sorted(sizes), TPUS[name].largest, strict=True)):
        most = "x".join(map(str, TPUS[name].largest))
        raise UserError(f"There is no {name} of {shape} chips", f"The largest is {name}:{most}")
    if name in GPUS:
        _check_hosts(sizes[0])
    return name, sizes


def _check_hosts(gpus: int) -> None:
    """Refuses a number of GPUs that is neither a part of one host nor whole hosts."""
    if gpus > MOST_GPUS or (gpus % GPUS_A_HOST and gpus not in (1, 2, 4)):
        raise UserError(
            f"{gpus} GPUs make no hosts of {GPUS_A_HOST}",
            f"Ask for 1, 2, 4 or a multiple of {GPUS_A_HOST} up to {MOST_GPUS}",
        )
