"""From names and plain values in a config to modules and calls, with the nearest right name in every error."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vit_jax.errors import UserError
from vit_jax.ranges import check_arguments
from vit_jax.spelling import nearest, unknown_key

# Only these packages are importable by name: a config or a checkpoint is data and must not name arbitrary code.
_ROOMS = {
    "model": "vit_jax.models",
    "task": "vit_jax.tasks",
    "source": "vit_jax.data.sources",
    "transform": "vit_jax.data.transforms",
    "field": "vit_jax.data.fields",
    "tokenizer": "vit_jax.data.tokenizers",
    "evaluator": "vit_jax.evaluators",
    "tracker": "vit_jax.training.trackers",
}


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def named_module(kind: str, name: Any) -> ModuleType:
    """Imports the module that a config names, e.g. `named_module('model', 'vit')` is `vit_jax.models.vit`.

    Raises:
        UserError: when the name is not `[a-z0-9_]+` or no such module exists.
    """
    package = importlib.import_module(_ROOMS[kind])
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name) or name not in _modules(package):
        raise UserError(f"There is no {kind} named {name!r}", nearest(name, buildable(package)))
    module = importlib.import_module(f"{_ROOMS[kind]}.{name}")
    if not hasattr(module, "build"):
        raise UserError(f"{name!r} is not a {kind}: it has no build function", nearest(name, buildable(package)))
    return module


def _modules(package: ModuleType) -> list[str]:
    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


def buildable(package: ModuleType) -> list[str]:
    """The modules of a package that define `build`: read, not imported, since an error should not import them all."""

    def defines_build(name: str) -> bool:
        spec = importlib.util.find_spec(f"{package.__name__}.{name}")
        statements = ast.parse(importlib.util.decode_source(Path(spec.origin).read_bytes())).body
        functions = {s.name for s in statements if isinstance(s, ast.FunctionDef)}
        assigned = {t.id for s in statements if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)}
        return "build" in functions | assigned  # `def build(...)` or `build = ViT.from_variant`

    return [name for name in _modules(package) if defines_build(name)]


def construct(
    function: Callable,
    values: Mapping[str, Any],
    where: str,
    siblings: Iterable[str] = (),
    keywords: Iterable[str] | None = None,
    **given: Any,
) -> Any:
    """Calls `function(**given, **values)`, refusing keys that it does not take, keys that it misses, and values that
    its annotations do not allow (see `vit_jax.ranges`).

    Args:
        function: a class or function whose signature says which keys exist.
        values: the keys of one config section.
        where: the section's name, for the error ('config.optim').
        siblings: keys of the section that the caller has read itself; an error may name them too.
        keywords: what a function takes by its `**keywords`; None: anything, it checks itself.
        given: arguments that the code supplies and a config must not.

    Raises:
        UserError: names the unknown key and the nearest right one, the key that is missing, or a value out of range.
    """
    parameters = inspect.signature(function).parameters
    known = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - set(given)
    if keywords is not None or not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_keys(values, (known | set(keywords or ())) - set(given), where, siblings)
    for key in known - set(values):
        if parameters[key].default is inspect.Parameter.empty:
            raise UserError(
                f"The key '{where}.{key}' is missing", f"Set it in the config or with --{where}.{key}=VALUE"
            )
    check_arguments(function, values, where)
    return function(**given, **values)


def check_keys(keys: Iterable[str], known: Iterable[str], where: str, siblings: Iterable[str] = ()) -> None:
    """Refuses a key that is not known, naming the nearest of those that are, or of their `siblings`.

    Raises:
        UserError: names the section `where`, the key and what was meant.
    """
    known = set(known)
    for key in keys:
        if key not in known:
            raise unknown_key(where, key, known | set(siblings))


def build_named(kind: str, section: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Calls `build` of the module that `section["name"]` names with the section's other keys.

    Args:
        kind: 'model', 'task', 'source', 'transform' or 'evaluator'.
        section: a config section with a `name`.
        where: the section's name, for errors.
        given: arguments that the code supplies; a config must not.
    """
    values = dict(section)
    if "name" not in values:
        raise UserError(f"The key '{where}.name' is missing", f"Name the {kind} that it should build")
    module = named_module(kind, values.pop("name"))
    return construct(module.build, values, where, keywords=getattr(module, "KEYS", None), **given)


def build_model(section: Mapping[str, Any] | None, **given: Any) -> tuple[Any, dict[str, Any]]:
    """A model from its config section, and the plain description that rebuilds it from a checkpoint."""
    section = section or {}
    kwargs = {k: v for k, v in section.items() if k != "name"}
    return build_named("model", section, "config.model", **given), {"name": section["name"], "kwargs": kwargs | given}
