"""A grid of runs: values for some keys of a config, and of each combination its config and a name."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import UserError
from vit_jax.training.config import flatten, override

SEED = "seed"
_LONGEST = 200  # characters of a name, which becomes a folder's


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a grid.

    Args:
        name: its values, as 'learning_rate=0.001,seed=0'.
        values: from the short name of each key to its value, as JSON knows it.
        texts: from each dotted key to its value as it was given.
        config: as plain values.
    """

    name: str
    values: Mapping[str, Any]
    texts: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def group(self) -> str:
        """The name without the seed: what runs have in common that differ in nothing else."""
        return name_of({key: value for key, value in self.values.items() if key != SEED})


def axes_of(arguments: Sequence[str]) -> dict[str, list[str]]:
    """From dotted keys to their values, of arguments such as 'optim.learning_rate=1e-3,3e-4'.

    Commas within brackets, parentheses, braces and quotes belong to a value: 'data.image_size=[32,32],[48,48]'.

    Raises:
        UserError: an argument without a key or a value, or a key twice.
    """
    axes: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.removeprefix("--").removeprefix("config.")
        values = [value.strip() for value in _split(text)]
        if not key or not equals or not all(values):
            raise UserError(f"--grid has {argument!r}", "Write KEY=VALUE,VALUE,... such as seed=0,1,2")
        if key in axes:
            raise UserError(f"--grid has {key!r} twice", "Give all of its values at once")
        axes[key] = values
    return axes


def points_of(base: Mapping[str, Any], axes: Mapping[str, Sequence[str]]) -> list[Point]:
    """The runs of a grid over a plain config, the last key changing fastest.

    Raises:
        UserError: a value that its key cannot have, or one that is there twice.
    """
    short = _short_names(axes)
    points: dict[str, Point] = {}
    for combination in itertools.product(*axes.values()):
        texts = dict(zip(axes, combination, strict=True))
        config = override(dict(base), texts)
        flat = flatten(config)
        values = {short[key]: flat.get(key, text) for key, text in texts.items()}
        name = name_of(values)
        if name in points:
            raise UserError(f"--grid has the run {name} twice", "Give each value once")
        if len(name) > _LONGEST:
            raise UserError(
                f"The name of the run {name[:40]}... is too long for a folder", "Put fewer keys into --grid"
            )
        points[name] = Point(name, values, texts, config)
    return list(points.values())


def name_of(values: Mapping[str, Any]) -> str:
    """Values as the name of a folder; 'all' for none."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return ",".join(f"{key}={re.sub(r'[^A-Za-z0-9_.+-]+', '-', text)}" for key, text in texts.items()) or "all"


def _short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """The shortest ends of dotted keys that are different."""
    parts = {key: key.split(".") for key in keys}
    short = {}
    for key, own in parts.items():
        others = [other for name, other in parts.items() if name != key]
        lengths = (n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        short[key] = ".".join(own[-next(lengths, len(own)) :])
    return short


def _split(text: str) -> list[str]:
    """At the commas that are in nothing."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
