"""Images as tokens or latents, computed once; and a run's tokenizer beside the one of its data."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.encoded_files import KINDS, MOST_INDICES, Header, Kind, has_shard, write_shard
from vit_jax.data.fields import Fields
from vit_jax.data.fields.classes import Classes
from vit_jax.data.source import Source
from vit_jax.errors import UserError
from vit_jax.evaluators import Apply
from vit_jax.evaluators.features import digest
from vit_jax.naming import nearest
from vit_jax.nn.image_tokenizer import Grid, ImageTokenizer
from vit_jax.nn.part_in import part_in
from vit_jax.tasks import Batch, Task, Variables
from vit_jax.training.config import run_config
from vit_jax.training.evaluation import Evaluation, inputs_of
from vit_jax.training.sharding import make_mesh, place, replicated

# What a tokenizer computes each kind of rows with.
_METHODS: Mapping[Kind, str] = {"indices": "tokenize", "moments": "moments", "latents": "encode"}


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some examples of a source, one after the other."""

    source: Source
    examples: range

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.source.label_names)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.source[self.examples[index]]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is kept of a batch."""

    kind: Kind
    mirrored: bool

    def measure(self, apply: Apply, batch: Batch) -> dict[str, jax.Array]:
        views = [batch["image"], *([batch["image"][:, :, ::-1]] if self.mirrored else [])]
        rows = [apply({"image": view, "index": batch["index"]}, (self.kind,))[self.kind] for view in views]
        kept = {"rows": jnp.stack(rows, 1), "valid": batch["valid"]}
        return kept | ({"labels": batch["label"]} if "label" in batch else {})


def encode(
    loaded: Loaded,
    values: Mapping[str, Any],
    directory: Path,
    *,
    kind: Kind | None = None,
    mirrored: bool = False,
    shard: int = 10_000,
    progress: Callable[[int, int], None] = lambda done, examples: None,
) -> Header:
    """Writes what a tokenizer makes of the training images of a config, each prepared as evaluation does.

    A directory that was left in the middle goes on there.

    Args:
        loaded: a checkpoint of a tokenizer.
        values: a plain config, whose `data.train` is encoded.
        directory: where it goes, see `vit_jax.data.encoded_files`.
        kind: "indices", "moments" or "latents"; None for the first of them that the tokenizer gives.
        mirrored: also what it makes of the mirror image, as a second view.
        shard: examples of a file.
        progress: called with the examples that are there and how many there will be.

    Raises:
        UserError: for a checkpoint that is no tokenizer or does not give that kind, more indices than 16 bits hold, or
            a directory that holds something else.
    """
    model = tokenizer_in(loaded)
    kind = _kind(model, kind)
    config = run_config(values)
    inputs = inputs_of(loaded, config)
    pipeline = inputs.eval_pipeline(config.batch_size, "config.data", config.data["train"])
    source, fields = pipeline.source, pipeline.fields
    kept = {name: field for name, field in fields.items() if name in ("image", "label")}
    if source.label_names and "label" not in kept:
        kept["label"] = Classes()
    size = loaded.preprocess.image_size
    collections = {"params": loaded.params, **loaded.model_state}
    used, row = used_by(model, collections, size, kind)
    header = Header(
        kind=kind, shape=row.shape[1:], views=("plain", "mirrored") if mirrored else ("plain",), examples=len(source),
        shard=shard, vocab_size=model.vocab_size if kind == "indices" else None, grids=model.grids(size),
        image_size=size, label_names=tuple(source.label_names), labels=bool(source.label_names),
        tokenizer=digest(used), model=loaded.metadata["model"], source=json.dumps(config.data["train"], default=str),
    )  # fmt: skip
    header.write(directory)
    mesh = make_mesh(config.mesh)
    everywhere = replicated(mesh)
    variables = jax.tree.map(lambda leaf: place(leaf, everywhere), loaded.variables)
    evaluation = Evaluation({"rows": _Rows(kind, mirrored)}, loaded.task.outputs, inputs.on_device_eval(), mesh)
    for number in range(header.shards):
        part = header.part(number)
        if not has_shard(directory, number):
            some = pipeline.over(_Part(source, part), Fields(kept, fields.explicit), None)
            found = list(evaluation.measured("rows", variables, some))
            valid = np.concatenate([each["valid"] for each in found]) > 0
            arrays = {name: np.concatenate([each[name] for each in found])[valid] for name in found[0]}
            del arrays["valid"]
            write_shard(directory, number, {**arrays, "rows": arrays["rows"].astype(header.dtype)})
        progress(part.stop, header.examples)
    return header


def tokenizer_in(loaded: Loaded) -> ImageTokenizer:
    """The tokenizer that a checkpoint is.

    Raises:
        UserError: for another model.
    """
    if not isinstance(loaded.model, ImageTokenizer) or loaded.preprocess is None:
        raise UserError(f"{loaded.path} makes no tokens of images", "Use a checkpoint of a tokenizer")
    return loaded.model


def _kind(model: ImageTokenizer, kind: str | None) -> Kind:
    given = [each for each in KINDS if (hasattr(model, "moments") if each == "moments" else True)]
    if model.vocab_size is None:
        given.remove("indices")
    if kind is not None and kind not in given:
        raise UserError(f"This tokenizer gives no {kind!r}", nearest(kind, given))
    kind = kind or given[0]
    if kind == "indices" and model.vocab_size > MOST_INDICES:
        raise UserError(
            f"The {model.vocab_size:,} codes of this tokenizer are more than the {MOST_INDICES:,} that indices hold",
            "Train on images, whose tokens are computed in each step",
        )
    return kind


def used_by(
    model: ImageTokenizer, collections: Mapping[str, PyTree], image_size: Grid, kind: Kind
) -> tuple[dict[str, Any], jax.ShapeDtypeStruct]:
    """The arrays that a tokenizer computes rows with, by name, and what the rows of one image are like.

    Not the decoder's: tokens stay the same where that alone is trained on. Arrays of others, such as a discriminator's,
    may be among the `collections`.
    """
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)

    def rows(collections: Mapping[str, PyTree], image: jax.Array) -> jax.Array:
        return model.apply(collections, image, method=_METHODS[kind])

    traced, row = jax.make_jaxpr(rows, return_shape=True)(collections, image)
    leaves = jax.tree_util.tree_leaves_with_path(collections)
    needed = part_in(traced.jaxpr)[: len(leaves)]
    found = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for (p, x), n in zip(leaves, needed, strict=True) if n
    }
    return found, row


def check_tokenizer(header: Header | None, task: Task, variables: Variables, mesh: Mesh) -> None:
    """Refuses a run whose tokenizer is not the one that its data was encoded with. To be called in all processes.

    Args:
        header: of the data; None for data that was not encoded.
        task: with a `tokenizer` and an `image_size`, see `vit_jax.tasks._image_tokens.TokenGenerator`.
        variables: on the mesh.

    Raises:
        UserError: with both digests, or both sizes.
    """
    model = getattr(task, "tokenizer", None)
    if header is None or not isinstance(model, ImageTokenizer):
        return
    size = tuple(task.image_size)
    if header.grids != tuple(map(tuple, model.grids(size))):
        raise UserError(
            f"The data was encoded from images of {header.image_size[0]}x{header.image_size[1]} pixels to maps of"
            f" {_sides(header.grids)}, and the tokenizer makes {_sides(model.grids(size))} of {size[0]}x{size[1]}",
            "Set config.data.image_size and the tokenizer's section to those that it was encoded with",
        )
    state = {k: tree["tokenizer"] for k, tree in variables["model_state"].items() if "tokenizer" in tree}
    used, _ = used_by(model, {"params": variables["params"]["tokenizer"], **state}, size, header.kind)
    gathered = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(used)
    if (own := digest(jax.device_get(gathered))) != header.tokenizer:
        raise UserError(
            f"The data was encoded by the tokenizer {header.tokenizer[:12]}, and this run's is {own[:12]}",
            "Set config.init_from.tokenizer to the checkpoint that encoded it, or encode the images anew",
        )


def _sides(grids: tuple[Grid, ...]) -> str:
    return ", ".join(f"{rows}x{columns}" for rows, columns in grids)
