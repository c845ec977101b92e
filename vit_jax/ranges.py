"""What a value may be, said in the annotation of the argument that it goes to, and checked where a config is read.

A signature says `label_smoothing: Share = 0.0`, and `check_arguments` refuses a 2 with the key's name. Types are
checked in the same way: numbers are finite, booleans are not numbers, `Literal`s name the nearest. Annotations that a
config cannot fill (arrays, functions, modules) are passed over.
"""

import collections.abc
import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from vit_jax.errors import UserError, shortened
from vit_jax.spelling import nearest


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, for `Annotated[float, Range(0, 1)]`; both count unless they are said to be open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'above' if self.open_low else 'of at least'} {self.low:g}")
        if self.high < math.inf:
            parts.append(f"{'below' if self.open_high else 'at most'} {self.high:g}")
        return " and ".join(parts)


Count = Annotated[int, Range(1)]
"""How many there are, where none makes no sense: widths, heads, layers, batch sizes."""
Natural = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
"""A fraction or a probability."""
Decay = Annotated[float, Range(0, 1, open_high=True)]
"""What is kept of an average at each step, or dropped: 1 would be all."""

_UNKNOWN = "what it says"  # of an annotation that a config cannot fill


def check_arguments(function: Callable, values: Mapping[str, Any], where: str) -> None:
    """Refuses values that the annotations of `function`'s parameters do not allow.

    Args:
        function: a function, or a class whose fields are annotated.
        values: by the parameter's name; one that has no annotation is passed over.
        where: the section's name, for errors ('config.optim').

    Raises:
        UserError: names the key, its value and what it must be.
    """
    annotations = _annotations(function)
    for key, value in values.items():
        if key in annotations:
            check_value(value, annotations[key], f"{where}.{key}")


def check_value(value: Any, annotation: Any, key: str) -> None:
    """Refuses a value that an annotation does not allow, as `check_arguments` does."""
    if allowed(value, annotation):
        return
    options = [o for each in _members(annotation) if get_origin(each) is Literal for o in get_args(each)]
    if options and isinstance(value, str):
        raise UserError(f"{key} is {value!r}", nearest(value, options))
    raise UserError(f"{key} is {shortened(repr(value), 100)}", f"It must be {described(annotation)}")


def check_seed(seed: int, name: str = "The seed") -> None:
    """Refuses a seed that `jax.random.key` has no bits for, with a UserError that calls it by its name."""
    if not 0 <= seed < 2**32:
        raise UserError(f"{name} is {seed}", "It must be from 0 to below 2^32")


def allowed(value: Any, annotation: Any) -> bool:
    """Whether an annotation allows a value."""
    return any(_allowed(value, each) for each in _members(annotation))


def _allowed(value: Any, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [a for a in annotation.__metadata__ if isinstance(a, Range)]
        return allowed(value, annotation.__origin__) and all(value in each for each in ranges)
    if annotation is None or annotation is type(None):
        return value is None
    if origin is Literal:
        return value in arguments
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is str:
        return isinstance(value, str)
    if origin in (collections.abc.Mapping, dict) or annotation in (Mapping, dict):
        return isinstance(value, Mapping)
    if origin in (collections.abc.Sequence, list, tuple) or annotation in (collections.abc.Sequence, list, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(allowed, value, arguments))
        return not arguments or all(allowed(each, arguments[0]) for each in value)
    return True


def described(annotation: Any) -> str:
    """An annotation as people say it: 'a whole number of at least 1 or none'."""
    return " or ".join(dict.fromkeys(_described(each) for each in _members(annotation)))


def _described(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [str(a) for a in annotation.__metadata__ if isinstance(a, Range)]
        return " ".join([described(annotation.__origin__), *ranges])
    if annotation is None or annotation is type(None):
        return "none"
    if origin is Literal:
        return " or ".join(repr(each) for each in arguments)
    if origin in (collections.abc.Mapping, dict) or annotation in (Mapping, dict):
        return "a section with keys of its own"
    if annotation in (collections.abc.Sequence, list, tuple):
        return "a list"
    if origin in (collections.abc.Sequence, list, tuple):
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"({', '.join(described(each) for each in arguments)})"
        if get_origin(arguments[0]) is tuple and len(get_args(arguments[0])) == 2:
            return f"a list of pairs {described(arguments[0])}"
        return f"a list, each {described(arguments[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(annotation, _UNKNOWN)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The parts of a union, or the annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(each for part in get_args(annotation) for each in _members(part))
    return (annotation,)


@functools.lru_cache(maxsize=256)
def _annotations(function: Callable) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)
