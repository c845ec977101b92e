"""A compiled program in XLA's text form, taken apart: computations, instructions, shapes, and how often each runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$|^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_BITS = {"pred": 8, "token": 0}
# What these call is a function of two numbers, no part of the program.
_WITH_COMBINER = ("reduce", "sort", "scatter", "map", "reduce-window", "select-and-scatter", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a program.

    Args:
        kind: element type, "bf16".
        dims: logical sizes.
        bytes: that it takes in memory, with what its tiles are padded by.
        unpadded: bytes of its elements.
        space: memory space; 0 is the device's main memory, 1 what is on the chip.
    """

    kind: str
    dims: tuple[int, ...]
    bytes: int
    unpadded: int
    space: int

    @property
    def size(self) -> int:
        return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Args:
        result: text of the result's type.
        operands: names of instructions.
        rest: of the line, from the operands on.
    """

    name: str
    result: str
    operation: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Of the result: one, or those of a tuple."""
        return shapes_of(self.result)

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        return [name for group in _CALLED.findall(self.rest) for name in re.findall(r"[\w.\-]+", group)]

    def attribute(self, name: str) -> str:
        """The value of `name=`: what braces hold, or a word; "" where it is not said."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|([^\s,]+))", self.rest)
        return (found[1] if found[1] is not None else found[2]) if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Args:
        computations: instructions by the name of the computation and their own.
        entry: name of the computation that runs.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    def executed(self) -> Iterator[tuple[Instruction, str, int]]:
        """Every instruction that runs, its computation, and how often; those inside fusions too.

        A loop's body counts as often as it runs, where the compiler knows how often.
        """
        runs = dict.fromkeys(self.computations, 0)

        def visit(name: str, times: int) -> None:
            runs[name] += times
            for each in self.computations[name].values():
                if each.operation in _WITH_COMBINER or each.operation.startswith(("all-reduce", "reduce-scatter")):
                    continue
                if each.operation.endswith(("-done", "-update")):
                    continue  # what was started was counted there
                repeated = self.trips(each) if each.operation == "while" else 1
                for inner in each.called():
                    if inner in self.computations:
                        visit(inner, times * repeated)

        visit(self.entry, 1)
        for name, instructions in self.computations.items():
            if runs[name]:
                for each in instructions.values():
                    yield each, name, runs[name]

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: as the compiler notes it, or the one whole number in its condition; else 1."""
        if known := re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.rest):
            return int(known[1])
        inside = self.computations.get(loop.attribute("condition").lstrip("%"), {}).values()
        numbers = [x.rest.split(")")[0] for x in inside if x.operation == "constant" and "32[]" in x.result]
        return int(numbers[0]) if len(numbers) == 1 and numbers[0].isdigit() else 1


def parse(text: str) -> Module:
    """The program of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and (header := _COMPUTATION.match(line)):
            name = header[1] or header[2]
            current = computations[name] = {}
            if line.startswith("ENTRY"):
                entry = name
        elif current is not None and (found := _INSTRUCTION.match(line)):
            root, name, result, operation, rest = found.groups()
            operands = () if operation in ("parameter", "constant") else _operands(rest)
            current[name] = Instruction(name, result, operation, operands, rest, bool(root))
    return Module(computations, entry)


def shapes_of(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, those of nested tuples one after the other."""
    return tuple(_shape(*found.groups()) for found in _ARRAY.finditer(text))


@functools.cache
def _shape(kind: str, dimensions: str, layout: str | None) -> Shape:
    dims = tuple(int(d) for d in dimensions.split(",") if d)
    order, _, tiles = (layout or "").partition(":")
    minor_first = [int(i) for i in order.split(",") if i] if order else list(reversed(range(len(dims))))
    # The first tile alone decides how much is padded; those after it reorder what is inside.
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    padded = list(dims)
    if tile and dims:
        for axis, side in zip(minor_first, reversed([int(n) for n in tile[1].split(",")]), strict=False):
            padded[axis] = -(-padded[axis] // side) * side
    bits = _BITS[kind] if kind in _BITS else int(found[0]) if (found := re.search(r"\d+", kind)) else 0
    space = re.search(r"S\((\d+)\)", tiles)
    return Shape(kind, dims, math.prod(padded) * bits // 8, math.prod(dims) * bits // 8, int(space[1]) if space else 0)


def _operands(rest: str) -> tuple[str, ...]:
    """The names between the parenthesis that is open and its partner; types may stand before them."""
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += (rest[end] == "(") - (rest[end] == ")")
        end += 1
    return tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
