"""How much memory a device has to give."""

from pathlib import Path

import jax

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_SHARE = 0.8  # of what is free; the rest is for whoever else is there


def free_bytes(device: jax.Device | None = None) -> int | None:
    """What a program may take on a device without driving out others: of a CPU's memory four fifths of what is free.

    Args:
        device: jax's first one by default.

    Returns:
        Bytes; None where nobody says.
    """
    device = jax.local_devices()[0] if device is None else device
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    known = [found for found in (_of_machine(), _of_container()) if found is not None]
    return int(_SHARE * min(known)) if device.platform == "cpu" and known else None


def needed_bytes(compiled: jax.stages.Compiled) -> int:
    """What a compiled program holds at once: arguments, results and temporaries, as its compiler placed them."""
    memory = compiled.memory_analysis()
    together = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return together + memory.temp_size_in_bytes


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """The most that a compiled program holds at one time, as its compiler says, where it says it with temporaries: what
    the compiler for CPUs calls the peak has none. There it is `needed_bytes`."""
    memory = compiled.memory_analysis()
    said = getattr(memory, "peak_memory_in_bytes", 0)
    return said if said > memory.temp_size_in_bytes else needed_bytes(compiled)


def _of_machine() -> int | None:
    """What Linux would give without swapping."""
    if not _MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
    return 1024 * int(lines["MemAvailable"].split()[0]) if "MemAvailable" in lines else None


def _of_container() -> int | None:
    """What its limit leaves, where there is one."""
    limit, current = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if not (limit.exists() and current.exists()) or not limit.read_text().strip().isdigit():
        return None
    return max(int(limit.read_text()) - int(current.read_text()), 0)
