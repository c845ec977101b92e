"""Config files: Python with a function `get_config(arg)`, and the typed text that their arguments come in.

A config file is a program: running one means to trust it.
"""

import ast
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from vit_jax.errors import UserError
from vit_jax.spelling import closest, nearest


def load_config(spec: str) -> dict[str, Any]:
    """Runs `get_config` of a config file and returns plain dicts.

    Args:
        spec: a path or the name of a shipped config, with an optional argument after a colon:
            `configs/digits.py`, `digits`, `digits:smoke`, `my/config.py:variant=b/16,res=384`.

    Raises:
        UserError: for a file that is not a config, and for whatever goes wrong in it, with the file's line.
    """
    name, _, argument = spec.partition(":")
    path = config_path(name)
    module = _run(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path} has no function get_config(arg)", "Start from one of the shipped configs")
    takes_argument = bool(inspect.signature(get_config).parameters)
    if argument and not takes_argument:
        raise UserError(f"{path} takes no arguments after the colon", "Write get_config(arg) to give it some")
    config = _explained(path, lambda: get_config(argument) if takes_argument else get_config())
    config = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    if not isinstance(config, Mapping):
        raise UserError(f"get_config of {path} returns {config!r}", "Let it return the config, a dict or a ConfigDict")
    return plain(config)


def _run(path: Path) -> ModuleType:
    module_spec = importlib.util.spec_from_file_location(f"vit_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    dont_write, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        _explained(path, lambda: module_spec.loader.exec_module(module))
    finally:
        sys.dont_write_bytecode = dont_write
    return module


def _explained(path: Path, call: Callable[[], Any]) -> Any:
    """Calls what a person has written; their mistake is said with the line in their file, ours stays the cause."""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        file, line, text = path, None, ""
        if isinstance(error, SyntaxError):
            file, line, text = error.filename or path, error.lineno, error.text or ""
        else:
            theirs = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if os.path.abspath(frame.filename) == os.path.abspath(path)
            ]
            if theirs:
                line, text = theirs[-1].lineno, theirs[-1].line or ""
        where = f"{file}, line {line}" if line else str(file)
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(
            f"{where}: {type(error).__name__}: {reason}", f"It says: {text.strip()}" if text else ""
        ) from error


def shipped_configs() -> dict[str, Path]:
    """Names and files of the configs that come with the package."""
    spec = importlib.util.find_spec("vit_jax.configs")
    # Without an installation (a clone on PYTHONPATH) they lie beside the package.
    folder = Path(spec.origin).parent if spec and spec.origin else Path(__file__).parents[2] / "configs"
    return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def config_path(name: str) -> Path:
    """The file of a config by its path or, for one that comes with the package, its name.

    Raises:
        UserError: when there is none, or it is no Python file.
    """
    # Not by Path.is_file, which raises for a name of hundreds of characters.
    if os.path.isfile(name):
        if not name.endswith(".py"):
            raise UserError(f"{name} is not a config: configs are Python files", "Name a file that ends in .py")
        return Path(name)
    shipped = shipped_configs()
    stem = name.removeprefix("configs/").removesuffix(".py")
    if stem in shipped:
        return shipped[stem]
    if os.path.isdir(name):
        raise UserError(f"{name} is a directory, no config file", "Name a file in it")
    meant = closest(stem, shipped)
    raise UserError(
        f"There is no config file {name!r}, and no shipped config of that name",
        f"Did you mean '{meant}'?" if meant else "'vit_jax configs' lists those that are shipped",
    )


def read_header(path: Path) -> tuple[str, dict[str, Any]]:
    """What a config file says of itself, and the arguments that it takes with their defaults, without running it.

    The arguments are those of its call of `parse_arg`, as far as their defaults are written out.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no Python file: {error}") from None
    arguments = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "parse_arg":
            for keyword in node.keywords:
                default = keyword.value
                literal = keyword.arg and isinstance(default, (ast.Constant, ast.Tuple, ast.List, ast.UnaryOp))
                if literal:
                    arguments[keyword.arg] = ast.literal_eval(default)
    return (ast.get_docstring(tree) or "").strip(), arguments


def parse_arg(argument: str, **defaults: Any) -> ml_collections.ConfigDict:
    """The typed argument string of a config: `parse_arg("res=384,smoke", res=224, smoke=False)`.

    Args:
        argument: comma-separated `key=value`; a bare `key` means true. A value with a comma in it is put in quotes:
            `data="photos, mine",res=384`.
        defaults: every known key with its default, whose type the value must have.
    """
    values = ml_collections.ConfigDict(defaults)
    for item in filter(None, (part.strip() for part in _split(argument))):
        key, equals, text = item.partition("=")
        if key not in defaults:
            hint = "" if equals else ". Put a value with a comma in it in quotes"
            raise UserError(f"The config takes no argument {key!r}{hint}", nearest(key, defaults))
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        text = text[1:-1] if quoted else text
        values[key] = parse_value(text if equals else "true", defaults[key], f"config argument {key}")
    return values


def _split(argument: str) -> list[str]:
    """At the commas that are not in quotes; a quote counts where a value starts with it."""
    parts, part, quote = [], "", ""
    for letter in argument:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and part.endswith("="):
            quote = letter
        if letter == "," and not quote:
            parts.append(part)
            part = ""
        else:
            part += letter
    if quote:
        raise UserError(f"The config argument {part!r} has no second {quote}", "Close the quotes")
    return [*parts, part]


def parse_value(text: str, current: Any, where: str) -> Any:
    """`text` as a value of the type of `current` (any Python literal, or else a string, where that is None)."""
    if isinstance(current, str):
        return text
    lowered = {"true": True, "false": False, "none": None, "null": None}
    try:
        value = lowered[text.lower()] if text.lower() in lowered else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        # A list of texts whose quotes the shell has taken: ["encoder/.*", "head/.*"] arrives as [encoder/.*, head/.*].
        value = tuple(item.strip() for item in value[1:-1].split(",") if item.strip())
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else value
    if isinstance(current, (list, tuple)) and not isinstance(value, tuple) and value is not None:
        value = (value,)
    kind = tuple if isinstance(current, list) else type(current)
    if (current is not None and value is not None and not isinstance(value, kind)) or (
        isinstance(current, int) and isinstance(value, bool) is not isinstance(current, bool) and value is not None
    ):
        raise UserError(
            f"{where} is {text!r}", f"It must be {_KINDS.get(kind, kind.__name__)}, for example {current!r}"
        )
    return value


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a tuple", dict: "a section"}


def plain(value: Any, where: str = "config") -> Any:
    """Config values as JSON knows them: dicts, lists, numbers, strings, None.

    Args:
        where: the key that holds the value, for errors.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), where)  # a number of NumPy's
    raise UserError(f"{where} is {value!r}", "Only numbers, texts, lists and sections can be stored")
