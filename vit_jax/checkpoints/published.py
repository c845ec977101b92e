"""What a weight file of another library says about its model, and how the modules in `families` answer for it."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any, Protocol

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes

SIDECARS = {
    "config": "config.json",
    "preprocessor": "preprocessor_config.json",
    "pooling": "1_Pooling/config.json",
    "sentences": "sentence_bert_config.json",
    "tokenizer": "tokenizer_config.json",
    "special_tokens": "special_tokens_map.json",
    "open_clip": "open_clip_config.json",
    "scheduler": "scheduler_config.json",
    "pipeline": "model_index.json",
}
VOCABULARIES = (
    "vocab.txt", "merges.txt", "vocab.bpe", "vocab.json", "tokenizer.json", "source.spm", "target.spm",
    "spiece.model", "sentencepiece.model", "tokenizer.model",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """The JSON files that lie beside a weight file; empty where there are none.

    Families take values out by the methods of `JsonObject`, which refuse those of a wrong type by their key.

    Args:
        config: config.json, of timm ('architecture', 'pretrained_cfg', ...) or of transformers ('model_type', ...).
        preprocessor: preprocessor_config.json of transformers.
        pooling: 1_Pooling/config.json of sentence-transformers.
        sentences: sentence_bert_config.json of the same.
        tokenizer: tokenizer_config.json of transformers.
        special_tokens: special_tokens_map.json of the same.
        open_clip: open_clip_config.json.
        scheduler: scheduler_config.json of diffusers.
        pipeline: model_index.json of the same, of a folder of several models.
        parts: of such a folder what lies beside each of its models, by the names of its subfolders.
        vocabularies: where those of `VOCABULARIES` are that lie there.
    """

    config: JsonObject = dataclasses.field(default_factory=JsonObject)
    preprocessor: JsonObject = dataclasses.field(default_factory=JsonObject)
    pooling: JsonObject = dataclasses.field(default_factory=JsonObject)
    sentences: JsonObject = dataclasses.field(default_factory=JsonObject)
    tokenizer: JsonObject = dataclasses.field(default_factory=JsonObject)
    special_tokens: JsonObject = dataclasses.field(default_factory=JsonObject)
    open_clip: JsonObject = dataclasses.field(default_factory=JsonObject)
    scheduler: JsonObject = dataclasses.field(default_factory=JsonObject)
    pipeline: JsonObject = dataclasses.field(default_factory=JsonObject)
    parts: Mapping[str, "Sidecar"] = dataclasses.field(default_factory=dict)
    vocabularies: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, read: Callable[[str], Any], vocabularies: Mapping[str, str] | None = None, parts: Collection[str] = ()
    ) -> "Sidecar":
        """From what `read` gives for the path of each file, seen from the weight file.

        Args:
            vocabularies: where those that are there lie, by their paths.
            parts: subfolders of a pipeline.
        """
        known = vocabularies or {}

        def part(folder: str) -> Sidecar:
            own = {name.removeprefix(folder): file for name, file in known.items() if name.startswith(folder)}
            return cls.of(lambda path: read(folder + path), own)

        files = {name: read(path) for name, path in SIDECARS.items()}
        beside = {name: file for name, file in known.items() if name in VOCABULARIES}
        return cls(**files, parts={name: part(f"{name}/") for name in parts}, vocabularies=beside)

    def __post_init__(self):
        for name, file in SIDECARS.items():
            if not isinstance(getattr(self, name), JsonObject):  # plain values, of a test or of what was just made
                object.__setattr__(self, name, JsonObject(getattr(self, name), file))


@dataclasses.dataclass(frozen=True)
class Published:
    """A model as a file describes it.

    Args:
        model: the module in `vit_jax.models` that builds it.
        kwargs: its arguments, plain values; `vit_jax.load` lets a caller replace some before the names are mapped.
        layout: how this file differs from others of its family (prefix, generation of names), for `name_map`. Where
            there are other models in the file, such as a generator's tokenizer, they are its `beside`: by the subtree
            of the task's parameters that is theirs `{"name": ..., "kwargs": ...}`, whose names in the map have the
            subtree in front.
        preprocess: values for `vit_jax.data.preprocess.Preprocess`, with `image_size` [h, w]; None for a model that
            takes no images.
        labels: class names in the order of the logits; empty where the file does not say: then 1000 and 21,843 classes
            are taken for those of ImageNet.
        fields: the section of `config.data.fields` that prepares its inputs; None for an image and its label.
        task: `{"name": ..., "kwargs": ..., "given": [...]}`, the one that it was trained for, and which arguments of
            the model it gives itself; None for the task of a classifier, or of a model by itself.
        remarks: sentences on what was assumed, or differs from what the library does with this file: `load` prints
            them.
    """

    model: str
    kwargs: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    fields: Mapping[str, Any] | None = None
    task: Mapping[str, Any] | None = None


class Family(Protocol):
    """A module in `vit_jax.checkpoints.families`: one architecture as one library names its tensors.

    Where shapes do not say everything a family has a function `settle(published, tensor)` too: the same description as
    the values of tensors make it, which `tensor(name)` reads. Where the JSON beside a file holds parameters, it has a
    function `filled(files, params)`: what `sidecar` gives, with these in it, by their flat names.
    """

    LIBRARY: str  # one of `vit_jax.checkpoints.formats.FORMATS`, or 'google'
    MODELS: str  # what it reads, for people: 'ViT, DeiT, DeiT III, DINOv2, SigLIP'
    WRITES: tuple[str, ...]  # modules in vit_jax.models that it can write: ('vit',)

    COMPARED: str  # with what the tests compare it, for the table in docs/weights.md

    def describe(self, tensors: Shapes, sidecar: Sidecar) -> Published | None:
        """The model that these tensors are, or None when they are not of this family.

        It looks at names first and at shapes after; what it cannot find out (activation, epsilon, number of heads) it
        takes from the sidecar, else from the family's default.
        """
        ...

    def name_map(self, kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
        """The names for a model with these arguments; a layout of `image_size` [h, w] alone, or without images an
        empty one, is the one to write, and with `beside` those models too."""
        ...

    def sidecar(self, metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
        """The JSON files to write beside the tensors: {'config.json': {...}, ...}; None when the library cannot hold
        this model.

        Args:
            metadata: what our checkpoints carry: `model` {"name", "kwargs"}, `preprocess`, `labels`, `image_size`.
        """
        ...


def described(
    family: ModuleType, tensors: Shapes, tensor: Callable[[str], NDArray], sidecar: Sidecar
) -> Published | None:
    """The model that a family finds in a file, or None; `tensor` reads one of its tensors by name."""
    published = family.describe(tensors, sidecar)
    settle = getattr(family, "settle", None)
    return published if published is None or settle is None else settle(published, tensor)
