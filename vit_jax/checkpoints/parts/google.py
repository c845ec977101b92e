"""What all npz files of Google's code have in common: where the parameters lie, how norms are kept, and the config.json
that we write beside them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, NDArray, Shapes, same
from vit_jax.checkpoints.parts.sidecars import INCEPTION, label_names
from vit_jax.checkpoints.published import Published, Sidecar

# Where parameters begin, and what may lie beside them in a file that holds a whole training state.
_BESIDE = {
    "": (),
    "params/": ("opt/*", "chrono/*", "extra/*"),
    "opt/target/": ("opt/state/*", "chrono/*", "extra/*"),
    "params/img/": ("opt/*", "chrono/*", "extra/*", "params/txt/*", "params/t", "params/b"),
}


def prefix_of(tensors: Iterable[str], landmark: str) -> str | None:
    """What stands before the name `landmark`, '', 'params/', 'opt/target/' or 'params/img/'; None if it is missing."""
    names = set(tensors)
    return next((prefix for prefix in _BESIDE if prefix + landmark in names), None)


def ignored(prefix: str) -> tuple[str, ...]:
    """Patterns of what is not a parameter of the image model in a file with this prefix."""
    return _BESIDE[prefix]


def two_towers_in(tensors: Iterable[str]) -> str | None:
    """What stands before `img/` and `txt/` in a file of both towers, its texts read by big_vision's own Transformer or
    by flaxformer's BERT; else None."""
    names = set(tensors)
    texts = ("txt/Embed_0/embedding", "txt/BertEncoder_0/embedder/embedders_token_ids/embedding")
    there = (p for p in ("params/", "") if f"{p}img/embedding/kernel" in names)
    return next((p for p in there if any(p + name in names for name in texts)), None)


# Of a block: norm, attention, norm and MLP, in both generations.
LAYERS = {
    "pre_linen": ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
    "linen": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
}


def block_entries(ours: str, theirs: str, depth: int, names: str, scanned: bool) -> list[Entry]:
    """All blocks of a Transformer.

    Args:
        ours: the subtree that has them.
        theirs: what stands before their names.
        names: of `LAYERS`.
        scanned: whether the layers of all blocks are in one array.
    """
    norm1, heads, norm2, hidden = LAYERS[names]
    blocks = []
    for i in range(depth):
        inner, block = f"{ours}/block_{i:02d}", theirs + ("encoderblock/" if scanned else f"encoderblock_{i}/")
        blocks.append(
            norm(f"{inner}/norm1", block + norm1)
            + attention(f"{inner}/attention", block + heads)
            + norm(f"{inner}/norm2", block + norm2)
            + mlp(f"{inner}/mlp", block + hidden)
        )
    if scanned:
        return [stacked([e.ours[0] for e in layers], layers[0].theirs[0]) for layers in zip(*blocks, strict=True)]
    return [entry for block in blocks for entry in block]


def attention(ours: str, theirs: str) -> list[Entry]:
    """The projections of an attention."""
    return [e for part in ("query", "key", "value", "out") for e in dense(f"{ours}/{part}", f"{theirs}/{part}")]


def mlp(ours: str, theirs: str) -> list[Entry]:
    """Both layers of an MLP."""
    return dense(f"{ours}/fc1", f"{theirs}/Dense_0") + dense(f"{ours}/fc2", f"{theirs}/Dense_1")


def stacked(ours: list[str], theirs: str) -> Entry:
    """One array with the layers of all blocks in front."""

    def read(stack: NDArray) -> list[NDArray]:
        if stack.shape[0] != len(ours):
            raise ValueError
        return list(stack)

    return Entry(tuple(ours), (theirs,), read, lambda *layers: [np.stack(layers)])


def kernel(ours: str, theirs: str) -> Entry:
    """A kernel, which their code and ours keep alike."""
    return same(f"{ours}/kernel", f"{theirs}/kernel")


def dense(ours: str, theirs: str) -> list[Entry]:
    """A kernel and a bias."""
    return [kernel(ours, theirs), same(f"{ours}/bias", f"{theirs}/bias")]


def norm(ours: str, theirs: str, axes: int = 1, scale: str = "scale", bias: str = "bias") -> list[Entry]:
    """A norm's scale and bias; old group norms keep them with `axes` 4, as [1, 1, 1, C]."""
    shape, stored = (None, None) if axes == 1 else ((-1,), (*[1] * (axes - 1), -1))
    return [
        same(f"{ours}/{name}", f"{theirs}/{their_name}", shape, stored)
        for name, their_name in (("scale", scale), ("bias", bias))
    ]


def axes_of(tensors: Shapes, name: str) -> int:
    """The number of axes of a tensor, 1 when it is not there."""
    return len(tensors.get(name, (0,)))


def own_config(sidecar: Sidecar) -> JsonObject:
    """The config.json where it is one of ours: Google's code writes none."""
    return sidecar.config if sidecar.config.get("library_name") == "vit_jax" else JsonObject()


def own_image_size(sidecar: Sidecar) -> list[int] | None:
    """[h, w] in our own config.json."""
    return own_config(sidecar).object("preprocess").sides("image_size")


def published(
    model: str, kwargs: Mapping[str, Any], image_size: Sequence[int], layout: Mapping[str, Any], sidecar: Sidecar
) -> Published:
    """A model from an npz file, with what our config.json says about it where there is one.

    Without, the images are treated as the papers' code does: stretched to the size, pixels mapped to -1..1.

    Args:
        kwargs: what the tensors say, and for the rest how that code computes.
        image_size: [h, w] that the tensors say, or a default.
    """
    own = own_config(sidecar)
    kwargs = {**kwargs, **own.object("kwargs")}
    preprocess = {"image_size": list(image_size), "resize": "squash", "interpolation": "bilinear", **INCEPTION}
    labels = label_names(own.texts("labels"), kwargs["num_classes"])
    return Published(model, kwargs, {**preprocess, **own.object("preprocess")}, layout, labels)


def config(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A config.json of ours, with what a reader of the tensors alone could not know."""
    return {
        "config.json": {
            "library_name": "vit_jax",
            "kwargs": dict(metadata["model"]["kwargs"]),
            "preprocess": dict(metadata["preprocess"]),
            "labels": list(metadata.get("labels") or ()),
        }
    }
