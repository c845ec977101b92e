"""What the families of Swin have in common: sizes and windows from shapes, entries, what other libraries can hold."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, conv, dense, linear, norm, same, shape_of
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.errors import UserError
from vit_jax.models.swin import VARIANTS, SwinEncoder, Variant, build, stage_name, swin_size
from vit_jax.nn.stack import block_name
from vit_jax.nn.style import EXECUTION_KEYS
from vit_jax.nn.trunk import Classifier
from vit_jax.nn.window import Clamp, PadOrder, table_rows, windows_on

# Arguments of `build` that change nothing in evaluation, or that every family has a place for.
_SIZES = ("variant", "width", "depths", "num_heads", "patch_size", "mlp_ratio", "window_size", "num_classes")
_FREE = (*_SIZES, *EXECUTION_KEYS, "dtype", "drop_path_rate", "head_bias_init", "shrink_window", "pad_order", "clamp",
         "dropout_rate", "attention_dropout_rate")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SwinNames:
    """Names of a Swin's tensors in a PyTorch file, with `{}` for the number of a stage, then of a block.

    Args:
        patch: embedding of the patches, and its norm.
        merging: what stands before those of the merging that comes in front of a stage, by the number of that stage.
        block: what stands before the names that follow.
        qkv: one name for the fused projection, or three.
    """

    patch: str
    patch_norm: str
    merging: Callable[[int], str]
    block: str
    norm1: str
    qkv: tuple[str, ...]
    table: str
    out: str
    norm2: str
    fc1: str
    fc2: str
    norm: str
    head: str


def size_kwargs(tensors: Shapes, names: SwinNames, heads: Callable[[str], int]) -> dict[str, Any]:
    """Arguments of `build` for the sizes that the shapes say.

    Args:
        heads: of a block, by what stands before the names of its tensors.

    Raises:
        UserError: patches that are not square.
    """
    width, _, *patch = shape_of(tensors, f"{names.patch}.weight", 4)
    if patch[0] != patch[1]:
        raise UserError(f"The model has patches of {patch[0]}x{patch[1]}", "Only square patches can be read")
    depths, num_heads = [], []
    while depth := parts.depth_of(tensors, names.block.replace("{}", str(len(depths)), 1)):
        num_heads.append(heads(names.block.format(len(depths), 0)))
        depths.append(depth)
    size = Variant(width, tuple(depths), tuple(num_heads))
    known = next((name for name, variant in VARIANTS.items() if variant == size), None)
    own = {} if known else {"width": width, "depths": depths, "num_heads": num_heads}
    kwargs = {"variant": known or "T", **own}
    mlp = shape_of(tensors, f"{names.block.format(0, 0)}{names.fc1}.weight", 2)[0]
    if mlp != 4 * width:
        kwargs["mlp_ratio"] = mlp / width
    if patch[0] != 4:
        kwargs["patch_size"] = patch[0]
    return kwargs


def window_kwargs(
    tensors: Shapes, names: SwinNames, kwargs: Mapping[str, Any], said: int | Sequence[int] | None,
    image_size: Sequence[int] | None, clamp: Clamp,
) -> tuple[dict[str, Any], list[int]]:  # fmt: skip
    """Arguments of `build` for the windows that the tables of relative positions are of, and the image size [h, w].

    Args:
        said: what the config says that windows are, of all stages or of each.
        image_size: of the config; None: 32 windows' sides, which is 224 for windows of 7 and 384 for those of 12.
        clamp: see `windows_on`.

    Raises:
        UserError: a table fits no window, or not the one that the config and the image size say; it names the one that
            fits.
    """
    stages = len(swin_size_of(kwargs).depths)
    tables = [f"{names.block.format(i, 0)}{names.table}" for i in range(stages)]
    rows = [shape_of(tensors, name, 2)[0] for name in tables]
    sides = [window_of(count) for count in rows]
    found = [side for side in sides if side]
    image_size = list(image_size or [32 * (found[0] if found else 7)] * 2)
    grids = build(num_classes=0, **kwargs).encoder.grids(image_size)

    def needed(windows: Sequence[int]) -> list[tuple[int, int]]:
        return [windows_on(grid, window, clamp=clamp).size for grid, window in zip(grids, windows, strict=True)]

    def fit(windows: Sequence[int]) -> bool:
        return [table_rows(size) for size in needed(windows)] == rows

    wanted = list(said) if isinstance(said, list | tuple) else [said or found[0] if found else said or 7] * stages
    if len(wanted) != stages:
        raise UserError(f"config.json says {len(wanted)} windows for {stages} stages", "It may be of another model")
    if said is None and not fit(wanted) and all(sides):
        wanted = sides
    for name, count, side, size, grid in zip(tables, rows, sides, needed(wanted), grids, strict=True):
        if table_rows(size) == count:
            continue
        held = f"those of windows of {side}x{side}" if side else "which are those of no window"
        fits = f"windows of {size[0]}x{size[1]} with {table_rows(size)}"
        raise UserError(
            f"The tensor {name!r} has {count} relative positions, {held}; images of {image_size[0]}x{image_size[1]} "
            f"pixels have a map of {grid[0]}x{grid[1]} there, in {fits}",
            f"Give the window_size {side}, or the image size that it was made for, in config.json"
            if side
            else f"A window of {size[0]}x{size[1]} would fit; the file may be damaged",
        )
    window = {"window_size": wanted[0] if len(set(wanted)) == 1 else wanted}
    window = {} if window["window_size"] == 7 else window
    return window | ({"shrink_window": True} if wanted[0] > min(grids[0]) else {}), image_size


def window_of(rows: int) -> int | None:
    """The side of the square window with so many relative positions, (2M - 1)^2; None where there is none."""
    root = math.isqrt(rows)
    return (root + 1) // 2 if root**2 == rows and root % 2 else None


def swin_size_of(kwargs: Mapping[str, Any]) -> Variant:
    """The size that arguments of `build` mean."""
    return swin_size(kwargs.get("variant", "T"), *(kwargs.get(name) for name in ("width", "depths", "num_heads")))


def entries(kwargs: Mapping[str, Any], names: SwinNames, block: Callable[..., list[Entry]]) -> list[Entry]:
    """Entries for a whole model, those of its blocks as `block` makes them, see `block_entries`."""
    size = swin_size_of(kwargs)
    found = [
        conv("encoder/embedding/kernel", f"{names.patch}.weight"),
        same("encoder/embedding/bias", f"{names.patch}.bias"),
        *norm("encoder/norm_embedding", names.patch_norm),
    ]
    for i, (depth, heads) in enumerate(zip(size.depths, size.num_heads, strict=True)):
        width, stage = size.width * 2**i, f"encoder/{stage_name(i)}"
        if i:
            found += norm(f"{stage}/downsample/norm", f"{names.merging(i)}norm")
            found.append(linear(f"{stage}/downsample/reduction/kernel", f"{names.merging(i)}reduction.weight"))
        for j in range(depth):
            found += block(f"{stage}/{block_name(j)}", names.block.format(i, j), names, width, heads)
    found += norm("encoder/norm", names.norm)
    return found + (dense("head", names.head) if kwargs["num_classes"] else [])


def block_entries(ours: str, theirs: str, names: SwinNames, width: int, heads: int) -> list[Entry]:
    """Entries for a block, by what stands before the names of its tensors."""
    attention, order = f"{ours}/attention", ("query", "key", "value")
    found = around_attention(ours, theirs, names, width, heads)
    if len(names.qkv) == 1:
        fused = (f"{theirs}{names.qkv[0]}.{part}" for part in ("weight", "bias"))
        found += parts.fused_projections(attention, order, *fused, width, heads)
    else:
        for part, name in zip(order, names.qkv, strict=True):
            tensors = (f"{theirs}{name}.{kind}" for kind in ("weight", "bias"))
            found += parts.projection(f"{attention}/{part}", *tensors, width, heads)
    return [*found, same(f"{ours}/relative_position_bias_table", theirs + names.table)]


def around_attention(ours: str, theirs: str, names: SwinNames, width: int, heads: int) -> list[Entry]:
    """Entries for all of a block but queries, keys, values and positions."""
    return [
        *norm(f"{ours}/norm1", theirs + names.norm1),
        *norm(f"{ours}/norm2", theirs + names.norm2),
        *parts.attention_out(f"{ours}/attention/out", theirs + names.out, width, heads),
        *dense(f"{ours}/mlp/fc1", theirs + names.fc1),
        *dense(f"{ours}/mlp/fc2", theirs + names.fc2),
    ]


def model_of(kwargs: Mapping[str, Any], *free: str, build: Callable[..., Classifier] = build) -> Classifier | None:
    """The model, where its blocks are those of every published Swin; None for another.

    Args:
        free: further arguments that another library may hold.
        build: what makes it.
    """
    model = build(**{"num_classes": 0, **kwargs})
    plain = build(**{"num_classes": 0} | {k: v for k, v in kwargs.items() if k in _FREE or k in free})
    return model if model.encoder == plain.encoder else None


def computes_alike(model: Classifier, image_size: Sequence[int], pad_order: PadOrder, clamp: Clamp) -> bool:
    """Whether a model divides the maps of images of this size as it would by other conventions."""
    for grid, style in zip(model.encoder.grids(image_size), model.encoder.styles, strict=True):
        for shifted in (False, True):
            own = dataclasses.replace(style, shifted=shifted)
            pair = [kind.windows(grid) for kind in (own, dataclasses.replace(own, pad_order=pad_order, clamp=clamp))]
            padded = any(side % size for side, size in zip(grid, pair[0].size, strict=True))
            if (pair[0].size, pair[0].shift) != (pair[1].size, pair[1].shift):
                return False
            if padded and any(pair[0].shift) and pair[0].pad_order != pair[1].pad_order:
                return False
    return True


def hf_config(encoder: SwinEncoder, size: Variant, image_size: Sequence[int]) -> dict[str, Any]:
    """The config.json entries that both of transformers' families share."""
    style, square = encoder.styles[0], image_size[0] == image_size[1]
    return {
        "image_size": image_size[0] if square else list(image_size),
        "patch_size": encoder.patch_size,
        "num_channels": 3,
        "embed_dim": size.width,
        "depths": list(size.depths),
        "num_heads": list(size.num_heads),
        "window_size": style.window_size,
        "mlp_ratio": style.mlp_dim / size.width,
        "layer_norm_eps": style.norm_epsilon,
        "hidden_size": size.width * 2 ** (len(size.depths) - 1),
        "dtype": "float32",
    }
