"""Templates and class names that CLIP's zero-shot figures were made with, found by the name of the data set.

Those of ImageNet are the 80 templates and the curated names of CLIP's notebook "Prompt engineering for ImageNet", the
seven of "imagenet_simple" are the subset that it chose in the end, and those of the other 26 sets are CLIP's
data/prompts.md. "photo" is 'a photo of a {}.', and "plain" the name by itself. See NOTICE for where they are from.
"""

import functools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from vit_jax.errors import UserError
from vit_jax.naming import nearest

SLOT = "{}"  # where a template takes the name of a class


@functools.cache
def prompt_sets() -> tuple[str, ...]:
    """Names of all sets, in alphabetical order."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def templates_of(asked: str | Sequence[str]) -> tuple[str, ...]:
    """Templates with one or more {} for the name of a class.

    Args:
        asked: the name of a set, a single template, the path of a text file with one a line, or the templates.

    Raises:
        UserError: for an unknown set, a file that is not there, and a template without {}.
    """
    found = _named_templates(asked) if isinstance(asked, str) else tuple(asked)
    if not found:
        raise UserError("There are no templates", "Give one or more, such as 'a photo of a {}.'")
    for template in found:
        if not isinstance(template, str) or SLOT not in template:
            raise UserError(f"The template {template!r} has no place for a class", "Write {} where its name goes")
    return found


def set_classes(name: str) -> tuple[tuple[str, ...], ...]:
    """What each class of a set is called, by one name or several, in the order of the data set's labels.

    Raises:
        UserError: for an unknown set, or one of templates alone.
    """
    classes = _read(name).get("classes")
    if classes is None:
        raise UserError(f"The set {name!r} has templates and no classes", "Name the classes yourself")
    return tuple((one,) if isinstance(one, str) else tuple(one) for one in classes)


def has_classes(name: str) -> bool:
    """Whether a set of this name has classes."""
    return name in prompt_sets() and "classes" in _read(name)


def _named_templates(asked: str) -> tuple[str, ...]:
    if asked in prompt_sets():
        return tuple(_read(asked)["templates"])
    if SLOT in asked:
        return (asked,)
    path = Path(asked)
    if path.suffix == ".txt":
        if not path.is_file():
            raise UserError(f"There is no file {asked}", "Check the path of the templates")
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    raise UserError(
        f"There are no templates {asked!r}", f"{nearest(asked, prompt_sets())}; or write one with {{}}, or a .txt file"
    )


@functools.cache
def _read(name: str) -> dict[str, list]:
    if name not in prompt_sets():
        raise UserError(f"There is no set of prompts named {name!r}", nearest(name, prompt_sets()))
    return json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
