"""The kinds of fields that an example has: one module each, with `build(*, data, **kwargs) -> Field`."""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vit_jax.data.field import Context, Field, Spec
from vit_jax.data.fields import classes, image
from vit_jax.data.order import Mixture, check_numbering
from vit_jax.data.placement import Move, Placement, moved
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.naming import build_named

# What the pipeline adds to batches, or takes out of examples: a field of one of these names would be overwritten.
RESERVED = frozenset({"valid", "index", "corrupt"})
_INTERNAL = frozenset({"path", "shared_draws"})


@dataclass(frozen=True)
class Fields(Mapping[str, Field]):
    """The fields of an example.

    Args:
        kinds: by name.
        explicit: whether the config names them: then the source's others are left out, and each must be there in
            training. Otherwise an image is, and what else a source gives passes through as it is.
    """

    kinds: Mapping[str, Field]
    explicit: bool = True

    def __getitem__(self, name: str) -> Field:
        return self.kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)

    def __hash__(self) -> int:
        return hash((tuple(self.kinds), self.explicit))

    def read(
        self,
        example: Mapping[str, Any],
        where: str,
        training: bool,
        takes_parts: bool = False,
        rng: np.random.Generator | None = None,
    ) -> dict[str, Any]:
        """The fields of a source's example.

        Args:
            where: names the example in errors.
            training: whether each field has to be there. An evaluation source may have some of them.
            takes_parts: whether the transform does, see `vit_jax.data.field.Field.open`.
            rng: of a training example, for fields that choose.

        Raises:
            UserError: for a field that is missing or that its kind cannot read.
        """
        if not RESERVED.isdisjoint(example):
            raise UserError(
                f"The source gives a field named {min(RESERVED & set(example))!r}, which the pipeline itself puts into"
                " batches",
                "Give it another name",
            )
        self._check_there(example, training)
        found = dict(example) if not self.explicit else {}
        plane = None
        for name, kind in self._in_order:
            if name not in example:
                continue
            # The image's errors name its file, those of others the field too.
            place = where if name in ("image", "label") else f"{where}, field {name!r},"
            raw = kind.choose(example[name], place, rng) if name in self.choosing else example[name]
            found[name] = (kind.open if takes_parts else kind.read)(raw, place, plane)
            if name == "image":
                plane = found[name].shape[:2]
        return found

    def _check_there(self, example: Mapping[str, Any], training: bool) -> None:
        if not self.explicit and "image" in example:
            return
        there = ", ".join(sorted(set(example) - _INTERNAL)) or "nothing"
        if not self.explicit:
            raise UserError(
                f"The source gives no image but {there}", "Say in config.data.fields what kind each field is"
            )
        asked = [name for name, kind in self.kinds.items() if not (kind.made or kind.typed)]
        missing = [name for name in asked if name not in example]
        if (training and missing) or len(missing) == len(asked):
            raise UserError(
                f"The source gives no field {missing[0]!r} but {there}",
                f"Remove config.data.fields.{missing[0]}, or have the source read it",
            )

    # These are asked for every example.
    @cached_property
    def _in_order(self) -> list[tuple[str, Field]]:
        """Those that a source gives, the image first, on which others lie."""
        given = [(name, kind) for name, kind in self.kinds.items() if not kind.made]
        return sorted(given, key=lambda item: item[0] != "image")

    @cached_property
    def _sized(self) -> frozenset[str]:
        """Fields that are not in a batch what they are in an example."""
        return frozenset(name for name, kind in self.kinds.items() if type(kind).batched is not Field.batched)

    @cached_property
    def choosing(self) -> frozenset[str]:
        """Fields that choose one of several values, in training at random."""
        return frozenset(name for name, kind in self.kinds.items() if type(kind).choose is not Field.choose)

    @cached_property
    def lie_on_image(self) -> tuple[str, ...]:
        """Names of the fields that lie in the plane of "image"."""
        return tuple(name for name, kind in self.kinds.items() if kind.in_plane and name != "image")

    @property
    def moves(self) -> dict[str, Move]:
        """How each field moves that lies in the image's plane."""
        return {name: kind.move for name, kind in self.kinds.items() if kind.in_plane}

    def tokens(self, batch: Mapping[str, Any]) -> int:
        """How many tokens of text an example has, padding included.

        Args:
            batch: its arrays, or their shapes [B, ...].
        """
        texts = (name for name, kind in self.kinds.items() if kind.is_text and name in batch)
        return sum(math.prod(batch[name].shape[1:]) for name in texts)

    def arranged(self, source: Source) -> Source:
        """A source as the fields read it, see `vit_jax.data.field.Field.arranged`; of a mixture each part.

        Raises:
            UserError: where two fields want an arrangement of their own, or one does that the source does not give.
        """
        names = [name for name, kind in self.kinds.items() if type(kind).arranged is not Field.arranged]
        if not names:
            return source
        if len(names) > 1:
            raise UserError(
                f"The fields {names[0]!r} and {names[1]!r} both arrange what the source gives", "Remove one of them"
            )
        if isinstance(source, Mixture):
            return Mixture([self.arranged(part) for part in source.sources], source.weights)
        return self.kinds[names[0]].arranged(names[0], source)

    def check_parts(self, source: Source) -> None:
        """Refuses a mixture whose parts do not give the same of what is read of them: the fields of the config, or
        without these all that there is. Nor may parts number the classes of objects and of pixels differently.

        Raises:
            UserError: names the parts and the field, or the class.
        """
        if not isinstance(source, Mixture):
            return
        for part in source.sources:
            self.check_parts(part)
        given = {k: getattr(part, "field_names", None) for k, part in enumerate(source.sources)}
        read = {k: self._read_of(names) for k, names in given.items() if names is not None}
        first = min(read, default=0)
        for k, names in read.items():
            if names != read[first]:
                odd = min(names ^ read[first])
                gives, lacks = (first, k) if odd in read[first] else (k, first)
                raise UserError(
                    f"Source {gives} of the mixture gives {odd!r}, which source {lacks} does not",
                    "Examples of one batch have the same fields: name in config.data.fields those that all give",
                )

        for name in (name for name, kind in self.kinds.items() if kind.numbers_classes):
            check_numbering(source, name)

    def _read_of(self, names: frozenset[str]) -> frozenset[str]:
        return frozenset(names & self.kinds.keys()) if self.explicit else names

    def check_read(self, read: Set[str]) -> None:
        """Refuses a field of the config that nobody reads: it would be decoded and sent for nothing.

        Args:
            read: names of the arrays of a batch that a task and evaluators read.
        """
        for name, kind in self.kinds.items() if self.explicit else ():
            if kind.typed:
                continue
            if read.isdisjoint(kind.spec(name)) and not (name == "image" and self.lie_on_image):
                raise UserError(
                    f"Neither the task nor an evaluator reads the field {name!r}", f"Remove config.data.fields.{name}"
                )

    def check_placed(self, transform: Any, where: str) -> None:
        """Refuses a transform that moves the image alone where other fields lie in its plane, and one that does not
        make (its `makes`) the fields that are made."""
        lacking = [n for n, kind in self.kinds.items() if kind.made and n not in getattr(transform, "makes", ())]
        if lacking:
            raise UserError(
                f"The transform of {where} does not make the field {lacking[0]!r}",
                f"Use one that does, or remove config.data.fields.{lacking[0]}",
            )
        if "image" in self.kinds and not self.kinds["image"].is_rgb and getattr(transform, "needs_rgb", True):
            raise UserError(
                f"The transform of {where} changes the colours of RGB bytes, and the image is of the kind 'bands'",
                "Use 'supervised' without randaugment, or 'view' with jitter, gray, blur and solarize 0",
            )
        if self.lie_on_image and not getattr(transform, "places", False):
            raise UserError(
                f"The transform of {where} does not move {self.lie_on_image[0]!r} with the image: the two would"
                " no longer fit",
                "Use 'supervised' without randaugment or 'view', or leave the field out",
            )

    def evaluated(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """An example as evaluation sees it: images preprocessed, and what lies in their plane moved alike."""
        if "image" not in self.kinds or "image" not in example:
            return dict(example)
        moves = {name: kind.evaluated for name, kind in self.kinds.items() if kind.in_plane}
        return moved(example, self.placement(example), moves)

    def placement(self, example: Mapping[str, Any]) -> Placement:
        """Where evaluation's preprocessing puts the image of an example, uint8 [H, W, 3], and what lies on it."""
        return self.kinds["image"].preprocess.placement(example["image"].shape[:2])

    def batched(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """An example as it goes into a batch: everything of a fixed size."""
        if not self._sized:
            return dict(example)
        found: dict[str, Any] = {}
        for name, value in example.items():
            found |= self.kinds[name].batched(name, value) if name in self._sized else {name: value}
        return found

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch from the host as a task takes it: images normalised; traceable."""
        return {
            name: self.kinds[name].on_device(value) if name in self.kinds else value for name, value in batch.items()
        }

    @property
    def specs(self) -> dict[str, Spec]:
        """What a batch holds of them."""
        return {key: spec for name, kind in self.kinds.items() for key, spec in kind.spec(name).items()}

    def to_json(self) -> dict[str, Any] | None:
        """The section `config.data.fields`, None where it is left out."""
        return {name: kind.to_json() for name, kind in self.kinds.items()} if self.explicit else None


def build_fields(section: Mapping[str, Any] | None, data: Context, where: str = "config.data.fields") -> Fields:
    """The fields of a config; left out, those of image classification: "image" and "label".

    Raises:
        UserError: for a name that is taken, an unknown kind or key, and fields in the plane of an image that is not
            there.
    """
    if section is None:
        return Fields({"image": image.Image(data.preprocess), "label": classes.build(data=data)}, False)
    if not isinstance(section, Mapping) or not section:
        raise UserError(f"{where} is {section!r}", "Give a section for each field, with the name of its kind")
    kinds = {}
    for name, values in section.items():
        if name in RESERVED | _INTERNAL:
            raise UserError(f"The name {name!r} of a field is the pipeline's own", f"Rename {where}.{name}")
        if not isinstance(values, Mapping):
            raise UserError(f"{where}.{name} is {values!r}", "Make it a section with the name of a kind")
        kinds[name] = build_named("field", values, f"{where}.{name}", data=data)
    _check_together(kinds, where)
    return Fields(kinds)


def _check_together(kinds: Mapping[str, Field], where: str) -> None:
    given: dict[str, str] = {}
    for name, kind in kinds.items():
        for key in kind.spec(name):
            if key in given or key in RESERVED:
                raise UserError(f"{where}.{name} and {where}.{given.get(key, key)} both give {key!r}", "Rename one")
            given[key] = name
    flat = [name for name, kind in kinds.items() if kind.in_plane and name != "image"]
    if flat and not hasattr(kinds.get("image"), "preprocess"):
        raise UserError(
            f"{where}.{flat[0]} lies on an image, and there is none", f"Add {where}.image with the name 'image'"
        )
