"""Classes in words: what each of them is called, the prompts that are made of it, and subclasses that stand for it.

For zero-shot classification, where a class is what texts say of it. Subclasses are those of CHiLS (Novack et al.,
"CHiLS: Zero-shot image classification with hierarchical label sets", arXiv:2302.02551).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from vit_jax.data.classes import class_positions
from vit_jax.data.label_names import label_names
from vit_jax.data.prompts import SLOT, has_classes, prompt_sets, set_classes, templates_of
from vit_jax.errors import UserError
from vit_jax.naming import nearest

PLAIN, PHOTO = "plain", "photo"

_LIMIT = 1 << 24  # bytes of a file of names
_IMAGENET = "imagenet"


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Classes and what stands for them.

    Args:
        labels: what they are answered by, all different.
        names: what each is called in prompts; one name or several, which count alike.
        templates: each with {} for the name.
    """

    labels: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]

    @property
    def prompts(self) -> tuple[tuple[str, int], ...]:
        """Every name of every class in every template, with the number of the class, class by class."""
        return tuple(
            (template.replace(SLOT, name), i)
            for i, names in enumerate(self.names)
            for name in names
            for template in self.templates
        )


@dataclasses.dataclass(frozen=True)
class Subclasses:
    """Classes of which each belongs to one of a coarser set.

    Args:
        finer: the subclasses.
        parents: of each, its place among the coarser classes.
    """

    finer: LabelSet
    parents: tuple[int, ...]


def label_set(asked: str | Sequence[str] | Mapping[str, Any], templates: str | Sequence[str] | None = None) -> LabelSet:
    """The classes that somebody asks for.

    Args:
        asked: the labels; or a mapping of each label to its name in prompts, or to several ({"crane": "construction
            crane"}); or, as a text, the labels with commas between, the name of a packaged data set such as
            "cifar10", or the path of a .json file of either or of a .txt file with a label a line.
        templates: see `vit_jax.data.prompts.templates_of`; None for those of the packaged set, and for the labels by
            themselves otherwise.

    Raises:
        UserError: for an empty label, a label given twice, or fewer than two.
    """
    packaged = isinstance(asked, str) and has_classes(asked)
    chosen = templates_of((asked if packaged else PLAIN) if templates is None else templates)
    if packaged:
        names = set_classes(asked)
        labels = label_names("imagenet1k") if asked == _IMAGENET else tuple(several[0] for several in names)
        return LabelSet(tuple(labels), names, chosen)
    value = _values(asked) if isinstance(asked, str) else asked
    if isinstance(value, Mapping):
        labels, names = tuple(value), tuple(_several(label, name) for label, name in value.items())
    else:
        labels = _texts(value, "The labels")
        names = tuple((label,) for label in labels)
    _check_labels(labels)
    return LabelSet(labels, names, chosen)


def labels_for(
    known: Sequence[str], names: str | Sequence[str] | Mapping[str, Any] | None, templates: str | Sequence[str] | None
) -> LabelSet:
    """Prompts for classes that data already has.

    Args:
        known: the labels of the data, in their order.
        names: what they are called: None for their own names (with blanks for underscores); a packaged set's name or
            a mapping, of the labels, or a .json file with one, whose other labels keep their names; or a list in the
            order of the labels.
        templates: as `label_set` takes them, except that the default is "photo".

    Raises:
        UserError: for data without names, a list of another length, and names of classes that the data does not have.
    """
    if not known:
        raise UserError("The data does not say what its classes are", "Use a source that gives their names")
    packaged = isinstance(names, str) and has_classes(names)
    chosen = templates_of((names if packaged else PHOTO) if templates is None else templates)
    if packaged:
        return LabelSet(tuple(known), _placed(known, names), chosen)
    if isinstance(names, str):
        names = _values(names)
    own = tuple((label.replace("_", " "),) for label in known)
    if isinstance(names, Mapping):
        for label in names:
            if label not in known:
                raise UserError(f"The data has no class {label!r} to be called otherwise", nearest(label, known))
        own = tuple(
            _several(label, names[label]) if label in names else one for label, one in zip(known, own, strict=True)
        )
    elif names is not None:
        given = _texts(names, "The names")
        if len(given) != len(known):
            raise UserError(f"There are {len(known)} classes and names for {len(given)}", "Give a name for each class")
        own = tuple((name,) for name in given)
    _check_labels([name for several in own for name in several])
    return LabelSet(tuple(known), own, chosen)


def subclasses(classes: LabelSet, asked: str | Mapping[str, Sequence[str]], joined: bool = False) -> Subclasses:
    """The subclasses of a hierarchical label set. Each class is also a subclass of itself, and one without any is by
    itself, as in the paper's code.

    Args:
        classes: the coarser set.
        asked: {class: [its subclasses]}, or a .json file with it.
        joined: whether a subclass is called "{sub} {super}", unless its name has the class's name in it already: for
            subclasses that mean little by themselves, as the paper does with those that a language model made up.

    Raises:
        UserError: for a class that is not among the coarser ones, an empty name, and a subclass with two parents.
    """
    given = _values(asked) if isinstance(asked, str) else asked
    if not isinstance(given, Mapping):
        raise UserError("The hierarchy is not one of classes", 'Write {"class": ["subclass", "subclass"]}')
    for label in given:
        if label not in classes.labels:
            raise UserError(f"The hierarchy has a class {label!r} that is not a label", nearest(label, classes.labels))
    parent_of: dict[str, int] = {}
    found, names = [], []
    for i, (label, called) in enumerate(zip(classes.labels, classes.names, strict=True)):
        subs = _texts(given.get(label, ()), f"The subclasses of {label!r}")
        itself = [] if called[0].casefold() in {sub.casefold() for sub in subs} else [called[0]]
        for sub in [*itself, *subs]:
            if not sub.strip():
                raise UserError(f"The class {label!r} has a subclass without a name", "Remove it from the hierarchy")
            before = parent_of.setdefault(sub.casefold(), i)
            if before != i:
                raise UserError(
                    f"The subclass {sub!r} has two parents, {classes.labels[before]!r} and {label!r}",
                    "Leave it to one of them",
                )
            if (sub, i) in found:
                raise UserError(f"The class {label!r} has the subclass {sub!r} twice", "Remove one")
            found.append((sub, i))
            joins = joined and called[0].casefold() not in sub.casefold()
            names.append((f"{sub} {called[0]}" if joins else sub,))
    finer = LabelSet(tuple(sub for sub, _ in found), tuple(names), classes.templates)
    return Subclasses(finer, tuple(i for _, i in found))


def ensembled(
    embeddings: Float32[np.ndarray, "P E"], classes: Int[np.ndarray, " P"], count: int
) -> Float32[np.ndarray, "K E"]:
    """The mean of each class's prompts, of length 1.

    Args:
        embeddings: of the prompts, each of length 1.
        classes: of each prompt; every class has one or more.
        count: of the classes.
    """
    sums = np.zeros((count, embeddings.shape[1]), np.float64)
    np.add.at(sums, classes, embeddings)
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)


def _placed(known: Sequence[str], name: str) -> tuple[tuple[str, ...], ...]:
    """What a packaged set calls each of the data's classes, whatever their order."""
    classes = set_classes(name)
    if name == _IMAGENET:
        return tuple(classes[i] for i in class_positions(known, label_names("imagenet1k")))
    places = {_folded(one): i for i, several in enumerate(classes) for one in several}
    for label in known:
        if _folded(label) not in places:
            raise UserError(
                f"The set {name!r} has no class {label!r}", "Give the names as a list in the order of the labels"
            )
    return tuple(classes[places[_folded(label)]] for label in known)


def _folded(label: str) -> str:
    return " ".join(label.replace("_", " ").replace("-", " ").casefold().split())


def _values(asked: str) -> Any:
    """What a text asks for: the content of a file, or labels with commas between."""
    path = Path(asked)
    if path.suffix in (".json", ".txt"):
        if not path.is_file():
            raise UserError(f"There is no file {asked}", "Check the path of the labels")
        if path.stat().st_size > _LIMIT:
            raise UserError(f"{asked} is too large for a file of names", "Give a smaller one")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return [line.strip() for line in text.splitlines() if line.strip()]
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UserError(f"{asked} is not JSON: {error}", "Write a list of labels, or an object") from None
        if not isinstance(value, (list, dict)):
            raise UserError(f"{asked} has neither a list of labels nor an object", "Write one of them")
        return value
    if "," not in asked:
        raise UserError(f"There is no label set named {asked!r}", f"{nearest(asked, prompt_sets())}; or give 'a, b'")
    return [label.strip() for label in asked.split(",")]


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{what} are not a list of texts", "Write them as a list")
    return tuple(value)


def _several(label: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else _texts(value, f"The names of {label!r}")
    if not names or not all(name.strip() for name in names):
        raise UserError(f"The class {label!r} has an empty name", "Say what it is called")
    return names


def _check_labels(labels: Sequence[str]) -> None:
    if not all(label.strip() for label in labels):
        raise UserError("There is an empty label", "Remove it, or say what the class is called")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if list(labels).count(label) > 1)
        raise UserError(f"There are two classes named {twice!r}", "Tell them apart by their names")
    if len(labels) < 2:
        raise UserError(f"There {'is one label' if labels else 'are no labels'} to choose from", "Give two or more")
