"""What the instructions of a compiled program read, write and compute, counted from XLA's text form.

XLA's own "bytes accessed" counts an operand as often as an instruction uses it, and each slice of a prefetch as the
whole array. Here each instruction that runs reads each operand once, only the part that it uses where it slices, and
writes its result once, in tiles as they lie in memory. What moves between main and on-chip memory is apart: it is the
same data.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vit_jax.planning.calls import library_flops, library_kind, results_of
from vit_jax.planning.collectives import collective_kind
from vit_jax.planning.hlo import Instruction, Module, Shape, parse

KINDS = ("product", "attention", "elementwise", "copy", "collective", "other", "prefetch")

# What moves nothing: names for what is there, and waiting.
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "while", "call",
     "conditional", "partition-id", "replica-id", "add-dependency", "domain", "async-start", "async-update", "iota")
)  # fmt: skip
_FREE_CALLS = ("ConcatBitcast", "AllocateBuffer", "GatherScatterIndicesBitpacked")
# What a fusion may hold and still only move data.
_MOVES = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy", "transpose", "reshape", "slice", "pad",
     "concatenate", "broadcast", "dynamic-slice", "dynamic-update-slice", "reverse")
)  # fmt: skip
# Each element of the result needs the same element of each operand alone.
_ARITHMETIC = frozenset(
    ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "exponential", "log", "tanh", "logistic",
     "rsqrt", "sqrt", "negate", "abs", "sign", "convert", "select", "compare", "and", "or", "not", "clamp")
)  # fmt: skip
_SLICES = ("slice", "dynamic-slice", "gather")
_SAME_DATA = ("bitcast", "reshape", "get-tuple-element")
_ON_CHIP = 1


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One instruction that moves data.

    Args:
        kind: one of `KINDS`.
        times: how often it runs.
        bytes: read and written, each time; of a prefetch what is moved.
        on_chip: of these, in on-chip memory.
        flops: of products, each time.
    """

    name: str
    kind: str
    times: int
    bytes: int
    on_chip: int
    flops: int


def kernels(text: str) -> list[Kernel]:
    """All that moves data in `compiled.as_text()`, in no particular order."""
    module = parse(text)
    inside_fusions = {name for each in _all(module) if each.operation == "fusion" for name in each.called()}
    found = []
    for each, computation, times in module.executed():
        if computation in inside_fusions or each.operation.endswith("-done") or _free(each):
            continue
        kernel = _kernel(each, computation, times, module)
        if kernel.bytes:
            found.append(kernel)
    return found


def by_kind(found: Iterable[Kernel], bandwidth: float = math.inf, flops: float = math.inf) -> list[dict[str, Any]]:
    """The sums of a whole step for each of `KINDS` that there is.

    Args:
        bandwidth: of main memory, bytes/s.
        flops: peak FLOP/s.

    Returns:
        `kind`, `count`, `bytes`, `on_chip_bytes` and `flops`; `seconds` that they take one after the other, each as
        long as the busier of memory and compute, and `compute_seconds`, of those for which compute is the busier.
    """
    names = ("count", "bytes", "on_chip_bytes", "flops", "seconds", "compute_seconds")
    sums = {kind: {"kind": kind, **dict.fromkeys(names[:4], 0), **dict.fromkeys(names[4:], 0.0)} for kind in KINDS}
    for each in found:
        moving, computing = (each.bytes - each.on_chip) / bandwidth, each.flops / flops
        busy = computing if computing > moving else 0.0
        numbers = (1, each.bytes, each.on_chip, each.flops, max(moving, computing), busy)
        for name, number in zip(names, numbers, strict=True):
            sums[each.kind][name] += each.times * number
    return [entry for entry in sums.values() if entry["count"]]


def counted_bytes(kinds: Sequence[dict[str, Any]]) -> int:
    """What a step reads and writes, prefetches apart."""
    return sum(entry["bytes"] for entry in kinds if entry["kind"] != "prefetch")


def _free(each: Instruction) -> bool:
    target = each.attribute("custom_call_target").strip('"')
    return each.operation in _FREE or (each.operation == "custom-call" and target in _FREE_CALLS)


def _all(module: Module) -> Iterable[Instruction]:
    return (each for computation in module.computations.values() for each in computation.values())


def _kernel(each: Instruction, computation: str, times: int, module: Module) -> Kernel:
    operands = [module.computations[computation][name] for name in dict.fromkeys(each.operands)]
    if each.operation in ("copy-start", "slice-start"):
        return _moved(each, operands, times)
    if each.operation == "fusion":
        inner = module.computations[each.called()[0]]
        read = [(_touched(inner, i, module), x) for i, x in enumerate(operands_in_order(each, computation, module))]
        seen: dict[str, tuple[int, Instruction]] = {}
        for size, operand in read:
            if operand.name not in seen or size > seen[operand.name][0]:
                seen[operand.name] = (size, operand)
        reads = list(seen.values())
        writes = list(zip(_written(inner, module), each.shapes, strict=False))
        products = list(_products(inner, module))
        kind = "product" if products else "copy" if _only_moves(inner, module) else "elementwise"
        flops = sum(products)
    else:
        reads, writes = [(x.bytes, x) for x in operands], [(shape.bytes, shape) for shape in results_of(each)]
        kind, flops = _plain_kind(each), 0
        if each.operation in _SLICES:
            reads = [(each.bytes, operands[0]), *reads[1:]]
        elif each.operation == "dynamic-update-slice":
            update = operands[1]
            reads, writes = [(update.bytes, update)], [(update.bytes, each.shapes[0])]
        elif library_kind(each):
            flops = library_flops(each, operands_in_order(each, computation, module))
        elif kind == "product":
            flops = _flops(each, module.computations[computation])
        if kind == "collective" and each.operation.endswith("-start") and each.operation != "all-reduce-start":
            writes = writes[len(writes) // 2 :]  # operands, then results
    moved = [(size, all(s.space == _ON_CHIP for s in x.shapes)) for size, x in reads if x.shapes]
    moved += [(size, shape.space == _ON_CHIP) for size, shape in writes]
    return Kernel(
        each.name, kind, times, sum(size for size, _ in moved), sum(size for size, chip in moved if chip), flops
    )


def operands_in_order(each: Instruction, computation: str, module: Module) -> list[Instruction]:
    """The operands as the parameters of a fusion receive them, one that is given twice twice."""
    return [module.computations[computation][name] for name in each.operands]


def _moved(each: Instruction, operands: Sequence[Instruction], times: int) -> Kernel:
    """An asynchronous copy: a prefetch where it goes to or from on-chip memory."""
    source, destination = operands[0].shapes[0], _destination(each)
    if _ON_CHIP in (source.space, destination.space):
        return Kernel(each.name, "prefetch", times, destination.bytes, 0, 0)
    return Kernel(each.name, "copy", times, 2 * destination.bytes, 0, 0)


def _destination(each: Instruction) -> Shape:
    """copy-start has it first or second, slice-start second; it is what differs from the source, or the same."""
    first, second = each.shapes[0], each.shapes[1]
    return first if first.space == _ON_CHIP and second.space != _ON_CHIP and each.operation == "copy-start" else second


def _plain_kind(each: Instruction) -> str:
    if collective_kind(each.operation):
        return "collective"
    if library := library_kind(each):
        return library
    if each.operation in ("dot", "convolution"):
        return "product"
    if each.operation in _MOVES:
        return "copy"
    return (
        "other" if each.operation in ("custom-call", "sort", "scatter", "rng", "rng-bit-generator") else "elementwise"
    )


def _parameter(inner: dict[str, Instruction], index: int) -> Instruction:
    return next(x for x in inner.values() if x.operation == "parameter" and x.rest.startswith(f"{index})"))


def _touched(inner: dict[str, Instruction], index: int, module: Module) -> int:
    """Bytes of its index-th operand that a fused computation reads."""
    parameter, known = _parameter(inner, index), {}
    # Users first, which stand after what they use: chains of thousands of operations are deeper than Python's stack.
    reached = [parameter.name]
    seen = set(reached)
    for each in inner.values():
        if not seen.isdisjoint(each.operands):
            reached.append(each.name)
            seen.add(each.name)
    for name in reversed(reached):
        _used(name, inner, module, known)
    return min(known[parameter.name], parameter.bytes)


def _used(name: str, inner: dict[str, Instruction], module: Module, known: dict[str, int]) -> int:
    """Bytes of a value that a fused computation needs: what is cut out of it, there or after arithmetic."""
    if name in known:
        return known[name]
    whole, cut, computed = inner[name].bytes, 0, 0
    for user in inner.values():
        if name not in user.operands:
            continue
        if user.operation in _SLICES and user.operands[0] == name:
            cut += user.bytes
        elif user.operation in _SAME_DATA:
            cut += _used(user.name, inner, module, known) if not user.root else whole
        elif user.operation == "dynamic-update-slice" and user.operands[0] == name and name not in user.operands[1:]:
            continue  # what is written into; the rest of it stays where it is
        elif user.operation == "fusion":
            deeper = module.computations[user.called()[0]]
            places = [i for i, operand in enumerate(user.operands) if operand == name]
            cut += max(_touched(deeper, i, module) for i in places)
        elif user.operation in _ARITHMETIC and not user.root:
            # Several of these need the same part: that which is cut out in the end.
            share = _used(user.name, inner, module, known) / max(user.bytes, 1)
            computed = max(computed, math.ceil(share * whole))
        else:
            cut = whole
    known[name] = min(cut + computed, whole)
    return known[name]


def _written(inner: dict[str, Instruction], module: Module) -> list[int]:
    """Bytes that a fused computation writes, for each array of its result."""
    root = next(x for x in inner.values() if x.root)
    parts = [inner[name] for name in root.operands] if root.operation == "tuple" else [root]
    sizes = []
    for part in parts:
        if part.operation == "fusion" and len(part.shapes) > 1:
            sizes += _written(module.computations[part.called()[0]], module)
            continue
        while part.operation in ("bitcast", "reshape") and part.operands:
            part = inner[part.operands[0]]
        in_place = part.operation == "dynamic-update-slice"
        sizes.append(inner[part.operands[1]].bytes if in_place else part.bytes)
    return sizes


def _products(inner: dict[str, Instruction], module: Module) -> Iterable[int]:
    """FLOPs of each product in a fused computation."""
    for each in inner.values():
        if each.operation in ("dot", "convolution"):
            yield _flops(each, inner)
        elif each.operation == "fusion":
            yield from _products(module.computations[each.called()[0]], module)


def _only_moves(inner: dict[str, Instruction], module: Module) -> bool:
    return all(
        x.operation in _MOVES or (x.operation == "fusion" and _only_moves(module.computations[x.called()[0]], module))
        for x in inner.values()
    )


def _flops(each: Instruction, inner: dict[str, Instruction]) -> int:
    """Multiplications and additions of a dot or a convolution, without those with padding."""
    left, right = (inner[name].shapes[0] for name in each.operands[:2])
    result = each.shapes[0]
    if each.operation == "dot":
        contracted = [int(i) for i in each.attribute("lhs_contracting_dims").split(",") if i]
        return 2 * result.size * math.prod(left.dims[i] for i in contracted)
    inputs, kernel, outputs = re.match(r"(\w+)_(\w+)->(\w+)", each.attribute("dim_labels")).groups()
    window = _window(each, sum(c.isdigit() for c in kernel))
    places = 1
    for axis, (stride, low, dilation, spread) in enumerate(window):
        side, size = left.dims[inputs.index(str(axis))], right.dims[kernel.index(str(axis))]
        positions = result.dims[outputs.index(str(axis))]
        last = (side - 1) * spread
        places *= sum(
            1
            for out in range(positions)
            for k in range(size)
            if 0 <= (at := out * stride + k * dilation - low) <= last and at % spread == 0
        )
    channels = right.dims[kernel.index("i")] * result.dims[outputs.index("f")]
    batch = result.dims[outputs.index("b")]
    return 2 * places * channels * batch


def _window(each: Instruction, axes: int) -> list[tuple[int, int, int, int]]:
    """(stride, padding before, dilation of the kernel, dilation of the input) along each axis."""
    text = each.attribute("window")

    def values(name: str, default: str) -> list[str]:
        found = re.search(rf"\b{name}=([\w\-]+)", text)
        return re.split("x", found[1]) if found else [default] * axes

    pads = [int(p.split("_")[0]) for p in values("pad", "0_0")]
    stride, dilation, spread = ([int(n) for n in values(n, "1")] for n in ("stride", "rhs_dilate", "lhs_dilate"))
    return list(zip(stride, pads, dilation, spread, strict=True))
