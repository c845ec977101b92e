"""Models by name: "vit:B/16" is the variant "B/16" of `vit_jax.models.vit`.

A module says which variants of it are published, in `PUBLISHED`; there is no other list.
"""

import fnmatch
import importlib
from types import ModuleType

import vit_jax.models
from vit_jax.errors import UserError
from vit_jax.naming import buildable, named_module
from vit_jax.spelling import nearest

_DEFAULT = "vit"  # whose variants need no module in front


def list_models(pattern: str = "*") -> list[str]:
    """The names of all published image models that `vit_jax.create_model` builds.

    Args:
        pattern: of the names that are wanted, with * and ? as in a shell: "vit*", "swin:?", "*B/16". Case does not
            matter.
    """
    names = [f"{name}:{variant}" for name, module in _published().items() for variant in module.PUBLISHED]
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]


def module_and_variant(name: str) -> tuple[str, str]:
    """("vit", "B/16") for "vit:B/16", and for "B/16" too.

    Other sizes than the published ones are for the module to refuse.

    Raises:
        UserError: for a module that is not there or whose models are not made of a name alone, and for what is neither
            a name nor the size of a ViT.
    """
    module, colon, variant = str(name).partition(":")
    if not colon and "/" in module:
        return _DEFAULT, module
    try:
        found = named_module("model", module if colon else "")
    except UserError:
        raise UserError(f"There is no model named {name!r}", nearest(str(name), list_models())) from None
    if not hasattr(found, "PUBLISHED"):
        raise UserError(f"{module!r} is not made of a name alone", f"Use vit_jax.models.{module}.build, or a config")
    return module, variant


def _published() -> dict[str, ModuleType]:
    """The modules of models with published variants, by name."""
    package = vit_jax.models.__name__
    modules = {name: importlib.import_module(f"{package}.{name}") for name in buildable(vit_jax.models)}
    return {name: module for name, module in modules.items() if hasattr(module, "PUBLISHED")}
