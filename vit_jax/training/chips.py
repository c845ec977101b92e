"""What accelerators can do at best: peak rates, memory and links, and which TPU topologies there are.

Sources: TPUs, the pages v4, v5e, v5p and v6e of docs.cloud.google.com/tpu (per chip; "bidirectional ICI bandwidth" is
both directions together); NVIDIA, the data sheets of A100 SXM 80 GB, H100 SXM and H200 SXM (dense bfloat16, HBM,
NVLink).
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
    dimensions: int = 0
    largest: tuple[int, ...] = ()
    chip_config: str = "default"


CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 31 * GIB, 1228e9, 300e9, 3, (12, 16, 16), "megacore"),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, int(15.75 * GIB), 819e9, 400e9, 2, (16, 16)),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2765e9, 1200e9, 3, (16, 16, 24)),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, int(31.25 * GIB), 1638e9, 800e9, 2, (16, 16)),
    Chip("A100", ("NVIDIA A100",), 312e12, 80 * 10**9, 2039e9, 600e9),
    Chip("H100", ("NVIDIA H100",), 989e12, 80 * 10**9, 3350e9, 900e9),
    Chip("H200", ("NVIDIA H200",), 989e12, 141 * 10**9, 4800e9, 900e9),
)
TPUS = {chip.name: chip for chip in CHIPS if chip.dimensions}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so, None for one that is not in the table."""
    fitting = [(len(kind), chip) for chip in CHIPS for kind in chip.kinds if device_kind.startswith(kind)]
    return max(fitting, key=lambda found: found[0])[1] if fitting else None


def peak_flops(device_kind: str) -> float | None:
    """The dense bfloat16 peak of one device in FLOP/s, None for one that is not in the table."""
    chip = chip_of(device_kind)
    return chip.flops if chip else None


def parse_topology(topology: str) -> tuple[str, tuple[int, ...]]:
    """('v5e', (16, 16)) for 'v5e:16x16', ('cpu', (8,)) for 'cpu:8'.

    Raises:
        UserError: for a name or a shape that there is not.
    """
    name, _, shape = topology.lower().partition(":")
    if name != "cpu" and name not in TPUS:
        raise UserError(f"There is no topology '{topology}'", nearest(name, [*TPUS, "cpu"]))
    sides = shape.split("x")
    if not all(s.isascii() and s.isdigit() and int(s) > 0 for s in sides):
        example = "cpu:8" if name == "cpu" else f"{name}:{'x'.join(['4'] * TPUS[name].dimensions)}"
        raise UserError(f"The topology '{topology}' has no shape", f"Write it as in '{example}'")
    sizes = tuple(map(int, sides))
    wanted = 1 if name == "cpu" else TPUS[name].dimensions
    if len(sizes) != wanted:
        made = f"a number of devices ('cpu:{math.prod(sizes)}')" if name == "cpu" else f"{wanted} dimensions"
        raise UserError(f"The topology '{topology}' has {len(sizes)} dimensions", f"{name} has {made}")
    if name != "cpu" and any(s > most for s, most in zip(sorted(sizes), TPUS[name].largest, strict=True)):
        most = "x".join(map(str, TPUS[name].largest))
        raise UserError(f"There is no {name} of {shape} chips", f"The largest is {name}:{most}")
    return name, sizes
