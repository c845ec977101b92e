"""Class names of the label spaces that published checkpoints answer in."""

import functools
from importlib import resources

from vit_jax.errors import UserError
from vit_jax.naming import nearest

# Name of the label space, which is that of its file here, and its number of classes.
LABEL_SPACES = {"imagenet1k": 1000, "imagenet21k": 21843}


def label_names(name: str) -> tuple[str, ...]:
    """Readable names of the classes in the order of the logits, all different.

    Args:
        name: "imagenet1k", or "imagenet21k" for the 21,843 classes of the original ViT, BiT and Mixer checkpoints.

    Raises:
        UserError: for another name.
    """
    return tuple(words for _, words in _classes(name))


def synsets(name: str) -> tuple[str, ...]:
    """WordNet 3.0 identifiers of the same classes, such as "n01440764".

    Raises:
        UserError: as `label_names`.
    """
    return tuple(synset for synset, _ in _classes(name))


def label_names_for(num_classes: int) -> tuple[str, ...]:
    """The names of the label space that has so many classes; none where there is no such space."""
    return next((label_names(name) for name, count in LABEL_SPACES.items() if count == num_classes), ())


@functools.cache
def _classes(name: str) -> tuple[tuple[str, str], ...]:
    if name not in LABEL_SPACES:
        raise UserError(f"Unknown label names '{name}'", nearest(name, LABEL_SPACES))
    text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple((synset, words) for synset, _, words in (line.partition(" ") for line in lines))
