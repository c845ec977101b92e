"""ViTs in the npz files of Google's repositories, in the three generations of their names.

'pre_linen' is what the published files of vision_transformer have: layers are numbered in the order of their calls.
'linen' came with Flax Linen: numbered by their kind. big_vision keeps the positions at the top, without the class
token's; it may stack the layers of all blocks in one array, and wrap everything in `params/` or `params/img/`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import google as google_parts
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant

LIBRARY = "google"
MODELS = "ViT"
WRITES = ("vit",)
COMPARED = "timm, which reads such files too; all namings with one another"

_TABLES = {
    "encoder": "Transformer/posembed_input/pos_embedding",
    "block": "Transformer/pos_embedding",
    "top": "pos_embedding",
}
_MAP = "MAPHead_0/"
_BLOCK = "Transformer/encoderblock_{}/"
_STACKED = "Transformer/encoderblock/"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. GELU, epsilon and pixels are those of Google's code, unless our own config.json says otherwise."""
    prefix = google_parts.prefix_of(tensors, "embedding/kernel")
    if prefix is None or f"{prefix}Transformer/encoder_norm/scale" not in tensors:
        return None
    if google_parts.two_towers_in(tensors) is not None:  # which are `google_two_towers`'s
        return None
    names = {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
    if "conv_root/kernel" in names or len(names["embedding/kernel"]) != 4:
        return None
    scanned = f"{_STACKED}LayerNorm_0/scale" in names
    block = _STACKED if scanned else _BLOCK.format(0)
    found = [kind for kind, layers in google_parts.LAYERS.items() if f"{block}{layers[1]}/query/kernel" in names]
    if not found or f"{block}{google_parts.LAYERS[found[0]][3]}/Dense_0/kernel" not in names:
        return None
    query = shape_of(names, f"{block}{google_parts.LAYERS[found[0]][1]}/query/kernel", 3 + scanned)[scanned:]
    mlp_dim = shape_of(names, f"{block}{google_parts.LAYERS[found[0]][3]}/Dense_0/kernel", 2 + scanned)[-1]
    depth = shape_of(names, f"{_STACKED}LayerNorm_0/scale", 2)[0] if scanned else parts.depth_of(names, _BLOCK)

    *patch, _, width = shape_of(names, "embedding/kernel", 4)
    table = next((where for where, name in _TABLES.items() if name in names), None)
    class_token = "cls" in names
    own_size = google_parts.own_image_size(sidecar)
    class_posemb, grid = False, None
    if table is not None:
        positions = shape_of(names, _TABLES[table], 3)[1]
        # The first row is the class token's in the oldest files, and in big_vision's before it took that row out.
        rows = (positions - 1,) if table == "encoder" and class_token else (positions, positions - class_token)
        grid = next((grid for count in rows if (grid := parts.grid_of(count, own_size, patch[0]))), None)
        if grid is None:
            raise UserError(
                f"The tensor {prefix + _TABLES[table]!r} has {positions} positions, which are not a square of patches",
                "Only models of square images can be read from such a file",
            )
        class_posemb = grid[0] * grid[1] < positions
    # While ViT-G was made, what is in the MAP head was at the top.
    head = next((head for head in (_MAP, "") if f"{head}probe" in names), None)
    pool = "map" if head is not None else "token" if class_token else "mean"
    kwargs = parts.size_kwargs(Variant(width, depth, mlp_dim, query[1]), patch) | {
        "num_classes": shape_of(names, "head/kernel", 2, (0, 0))[1],
        "pooling": pool,
        "class_token": class_token,
        "class_token_posemb": class_posemb,
        "gelu": "tanh",
        "layer_norm_epsilon": 1e-6,
        "posemb_resize": "align_corners",
    }
    if table is None:
        kwargs["posemb"] = "sincos2d"
    if "pre_logits/kernel" in names:
        kwargs["representation_size"] = shape_of(names, "pre_logits/kernel", 2)[1]
    image_size = [side * patch[0] for side in grid] if grid else own_size or [224, 224]
    layout = {"prefix": prefix, "names": found[0], "table": table, "scanned": scanned, "grid": grid}
    if head is not None:
        layout["head"] = head
    published = google_parts.published("vit", kwargs, image_size, layout, sidecar)
    # Positions know better than a config that does not belong to them.
    return dataclasses.replace(published, preprocess={**published.preprocess, "image_size": image_size})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`.

    Args:
        layout: `prefix`, `names` ('pre_linen' or 'linen'), `table` (where the positions are, one of `_TABLES`), `head`
            (what is before the names of a MAP head), `scanned` and `grid`. Written are the current names: linen, not
            stacked, the class token's position in the encoder's table where it has one.
    """
    size, _ = parts.size_of(kwargs)
    prefix, scanned = layout.get("prefix", ""), layout.get("scanned", False)
    class_token, class_posemb = parts.tokens_of(kwargs)

    def leaf(ours: str, theirs: str, *kinds: str) -> list[Entry]:
        return [same(f"{ours}/{kind}", f"{prefix}{theirs}/{kind}") for kind in kinds]

    entries = leaf("encoder/embedding", "embedding", "kernel", "bias")
    if class_token:
        entries.append(same("encoder/cls", f"{prefix}cls"))
    if kwargs.get("posemb", "learn") == "learn":
        table = _TABLES[layout.get("table") or ("encoder" if class_posemb else "top")]
        entries.append(parts.position_entry(kwargs, prefix + table, layout.get("grid")))
    names = layout.get("names", "linen")
    entries += google_parts.block_entries("encoder", f"{prefix}Transformer/", size.depth, names, scanned)
    entries += leaf("encoder/norm", "Transformer/encoder_norm", "scale", "bias")
    if kwargs.get("pooling") == "map":
        head = layout.get("head", _MAP)
        entries.append(same("pool/probe", f"{prefix}{head}probe"))
        entries += google_parts.attention("pool/attention", f"{prefix}{head}MultiHeadDotProductAttention_0")
        entries += leaf("pool/norm", f"{head}LayerNorm_0", "scale", "bias")
        entries += google_parts.mlp("pool/mlp", f"{prefix}{head}MlpBlock_0")
    if kwargs.get("representation_size"):
        entries += leaf("pre_logits", "pre_logits", "kernel", "bias")
    if kwargs["num_classes"]:
        entries += leaf("head", "head", "kernel", "bias")
    return NameMap(entries, google_parts.ignored(prefix))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. Google's files have no config; ours keeps what a reader of the file alone could not know."""
    if not is_of(metadata, "vit"):
        return None
    kwargs = metadata["model"]["kwargs"]
    pools = ("token", "mean", "map")
    if not parts.is_plain(kwargs, posemb=..., representation_size=...) or kwargs.get("pooling", "token") not in pools:
        return None
    return google_parts.config(metadata)
