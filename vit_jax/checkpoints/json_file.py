"""JSON files of strangers: bounded, and every value checked for its type where it is used."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError

_LIMIT = 1 << 24  # bytes; a config.json with the names of 21,843 classes has 2 MB
_MOST = 2**31 - 1  # of a whole number without a bound of its own
_SHOWN = 60  # characters of a wrong value in a sentence


class JsonObject(Mapping[str, Any]):
    """An object of a JSON file; the methods give the value of a key in the type that is asked for.

    A key that is missing and one that is null are the same: they give the default. As a mapping it has the plain
    values, for looking at which keys there are.

    Args:
        values: the plain object.
        where: the file, for sentences.
        inside: what stands before the keys of an object in an object, 'vision_config.'.

    Raises:
        UserError: every method, for a value of another type or out of bounds; it names the file and the key.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, where: str = "config.json", inside: str = ""):
        self._values, self.where, self._inside = dict(values or {}), where, inside

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"JsonObject({self._values!r}, {self.where!r})"

    def __or__(self, values: Mapping[str, Any]) -> "JsonObject":
        return JsonObject({**self._values, **values}, self.where, self._inside)

    def __ror__(self, values: Mapping[str, Any]) -> "JsonObject":
        return JsonObject({**values, **self._values}, self.where, self._inside)

    def integer(self, key: str, default: int | None = None, *, at_least: int = 0, at_most: int = _MOST) -> int | None:
        """A whole number within bounds."""
        wanted = f"a whole number from {at_least} to {at_most}"
        return self._checked(key, default, wanted, lambda x: _is_integer(x) and at_least <= x <= at_most)

    def number(
        self, key: str, default: float | None = None, *, at_least: float = -math.inf, above: float = -math.inf
    ) -> float | None:
        """A finite number within bounds, as a float."""
        bound = (
            f" above {above:g}" if above > -math.inf else f" of at least {at_least:g}" if at_least > -math.inf else ""
        )
        value = self._checked(
            key, default, f"a finite number{bound}", lambda x: _is_number(x) and x >= at_least and x > above
        )
        return None if value is None else float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool | None:
        """true or false."""
        return self._checked(key, default, "true or false", lambda x: isinstance(x, bool))

    def text(self, key: str, default: str | None = None) -> str | None:
        """A string."""
        return self._checked(key, default, "a text", lambda x: isinstance(x, str))

    def numbers(self, key: str, count: int | None = None) -> list[float] | None:
        """A list of finite numbers, `count` of them."""
        wanted = f"a list of {'' if count is None else f'{count} '}finite numbers"
        return self._checked(key, None, wanted, lambda x: _is_list(x, _is_number, count))

    def integers(
        self, key: str, count: int | None = None, *, at_least: int = 0, at_most: int = _MOST
    ) -> list[int] | None:
        """A list of whole numbers within bounds, `count` of them."""
        wanted = f"a list of {'' if count is None else f'{count} '}whole numbers from {at_least} to {at_most}"
        return self._checked(
            key, None, wanted, lambda x: _is_list(x, lambda n: _is_integer(n) and at_least <= n <= at_most, count)
        )

    def texts(self, key: str) -> list[str] | None:
        """A list of strings."""
        return self._checked(key, None, "a list of texts", lambda x: _is_list(x, lambda t: isinstance(t, str)))

    def sides(self, key: str, *, at_least: int = 1, at_most: int = 2**15 - 1) -> list[int] | None:
        """[height, width] in pixels, from one whole number or a list of two."""
        wanted = f"a whole number from {at_least} to {at_most} or a list of two"

        def fits(value: Any) -> bool:
            return all(_is_integer(n) and at_least <= n <= at_most for n in value)

        value = self._checked(key, None, wanted, lambda x: fits(x if _is_list(x, lambda n: True, 2) else [x]))
        return None if value is None else [value, value] if isinstance(value, int) else list(value)

    def object(self, key: str) -> "JsonObject":
        """An object; an empty one where the key is missing."""
        values = self._checked(key, {}, "an object", lambda x: isinstance(x, Mapping))
        return JsonObject(values, self.where, f"{self._inside}{key}.")

    def names(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        wanted = "an object of texts"
        return self._checked(
            key, {}, wanted, lambda x: isinstance(x, Mapping) and all(isinstance(t, str) for t in x.values())
        )

    def must_agree(self, key: str, found: int) -> None:
        """Refuses a whole number that contradicts what the tensors say."""
        said = self.integer(key)
        if said not in (None, found):
            raise self.error(key, f"is {said}, but the tensors say {found}")

    def error(self, key: str, problem: str, what_to_do: str = "") -> UserError:
        """What is wrong with the value of a key, as 'is 7, not a text'."""
        return UserError(f"{self.where}: {self._inside + key!r} {problem}", what_to_do or _WHAT_TO_DO)

    def _checked(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        value = self._values.get(key)
        if value is None:
            return default
        if not fits(value):
            raise self.error(key, f"is {shown(value)}, not {wanted}")
        return value


def read_json(path: Path) -> JsonObject:
    """The object that a JSON file holds.

    Raises:
        UserError: the file is too long, is not UTF-8 or not JSON, nests too deeply, has the same key twice in an
            object, or holds something else than an object.
    """
    try:
        size = path.stat().st_size
        if size > _LIMIT:
            raise UserError(f"{path} has {size} bytes, more than the {_LIMIT} that such a file may have", _WHAT_TO_DO)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}", "Check your permission") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, where: str) -> JsonObject:
    """The object in `data`; see `read_json`.

    Args:
        where: the file, for sentences.
    """
    try:  # UTF-8 with or without its mark; Python itself limits the depth, and the digits of whole numbers
        values = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}", "Fetch it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{where} is not a JSON object", "Fetch it again")
    return JsonObject(values, where)


def shown(value: Any) -> str:
    """A value as a sentence can show it, however long or deep it is."""
    if isinstance(value, Mapping):
        return "an object"
    if _is_list(value, lambda x: True):
        few = len(value) <= 4 and all(_is_number(x) or isinstance(x, str | bool | None) for x in value)
        return _cut("[" + ", ".join(map(shown, value)) + "]") if few else f"a list of {len(value)}"
    if _is_integer(value) and abs(value) > 10**_SHOWN:
        return "a number of many digits"
    return _cut(repr(value[: 2 * _SHOWN] if isinstance(value, str) else value))


_WHAT_TO_DO = "Check that the file belongs to these weights, or mend it"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Finite also as a float, which a long whole number is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


_LARGEST = float.fromhex("0x1.fffffffffffffp+1023")


def _is_list(value: Any, fits: Callable[[Any], bool], count: int | None = None) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and count in (None, len(value))
        and all(map(fits, value))
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {shown(twice)} twice in one object")
    return values
