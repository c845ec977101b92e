"""What the Vision Transformer's families have in common: sizes, blocks and positions."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax.checkpoints.json_file import shown
from vit_jax.checkpoints.name_map import Entry, NDArray, dense, fused, linear, norm, same
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import VARIANTS, Variant, parse_variant
from vit_jax.nn.posemb import SINCOS2D, sincos2d

_GELUS = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


def gelu_of(activation: str) -> str:
    """The `gelu` that another library's name of an activation stands for.

    Raises:
        UserError: the activation is neither of them.
    """
    if activation not in _GELUS:
        raise UserError(f"The model's activation is {shown(activation)}", f"Known: {', '.join(_GELUS)}")
    return _GELUS[activation]


def depth_of(names: Iterable[str], block: str) -> int:
    """How many blocks there are: one more than the largest number in place of `{}`.

    A number larger than the count of tensors belongs to no model: its tensor is left for `NameMap.check` to refuse.
    """
    names = list(names)
    pattern = re.compile(re.escape(block).replace(re.escape("{}"), r"([0-9]{1,6})(?![0-9])"))
    numbers = (int(m[1]) for m in map(pattern.match, names) if m)
    return 1 + max((number for number in numbers if number < len(names)), default=-1)


def heads_of(width: int) -> int:
    """Heads of a model without a config: each 64 wide, except in the published sizes that have 16 in any width."""
    return 16 if width in {1152, 1280, 1408, 1536, 1664} else max(width // 64, 1)


def size_kwargs(size: Variant, patch_size: Sequence[int], variants: Mapping[str, Variant] = VARIANTS) -> dict[str, Any]:
    """Arguments of `vit_jax.models.vit.build` for a size, by its name where it has one.

    Args:
        variants: the sizes with names, "B" among them; by default those of ViT.

    Raises:
        UserError: patches that are not square.
    """
    if patch_size[0] != patch_size[1]:
        raise UserError(f"The model has patches of {patch_size[0]}x{patch_size[1]}", "Only square patches can be read")
    names = [name for name, known in variants.items() if known == size]
    if names:
        return {"variant": f"{names[0]}/{patch_size[0]}"}
    return {"variant": f"B/{patch_size[0]}", **dataclasses.asdict(size)}


def size_of(kwargs: Mapping[str, Any]) -> tuple[Variant, int]:
    """The inverse of `size_kwargs`: size and patch size."""
    size, patch = parse_variant(kwargs["variant"])
    own = {f.name: kwargs[f.name] for f in dataclasses.fields(Variant) if kwargs.get(f.name) is not None}
    return dataclasses.replace(size, **own), patch


def tokens_of(kwargs: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether there is a class token, and whether it has a position: the defaults of `build` written out."""
    class_token, posemb = kwargs.get("class_token"), kwargs.get("class_token_posemb")
    if class_token is None:
        class_token = kwargs.get("pooling", "token") in ("token", "token_mean", "distilled")
    if posemb is None:
        posemb = class_token and kwargs.get("posemb", "learn") == "learn"
    return class_token, posemb


def grid_of(positions: int, image_hw: Sequence[int] | None, patch_size: int) -> list[int] | None:
    """Rows and columns of so many patch positions: those of the image size where they fit, else a square; or None."""
    if image_hw is not None:
        grid = [side // patch_size for side in image_hw]
        if grid[0] * grid[1] == positions:
            return grid
    side = math.isqrt(max(positions, 0))
    return [side, side] if side and side * side == positions else None


def made_of(image_hw: Sequence[int] | None, image_size: Sequence[int], patch_size: int) -> list[int]:
    """The size [h, w] that a library makes for a model that sees `image_size`, all of it whole patches.

    That is the size in its config where only less than a patch is left over, which its patch embedding does not see.
    """
    fits = image_hw is not None and all(0 <= a - b < patch_size for a, b in zip(image_hw, image_size, strict=True))
    return list(image_hw if fits else image_size)


@dataclasses.dataclass(frozen=True)
class BlockNames:
    """Names of a block's tensors in a PyTorch file, with `{}` for the block's number.

    Args:
        qkv: one name for the fused projection or three.
        gate: where SwiGLU's two input projections are: a name for both in one ('w12'), gate first.
    """

    norm1: str
    qkv: tuple[str, ...]
    out: str
    norm2: str
    fc1: str
    fc2: str
    layer_scale1: str = ""
    layer_scale2: str = ""
    gate: str = ""
    gated_fc2: str = ""


def attention_out(ours: str, theirs: str, width: int, num_heads: int) -> list[Entry]:
    """The output projection of an attention."""
    shape = (num_heads, width // num_heads, width)
    return [linear(f"{ours}/kernel", f"{theirs}.weight", shape), same(f"{ours}/bias", f"{theirs}.bias")]


def projection(ours: str, weight: str, bias: str | None, width: int, num_heads: int) -> list[Entry]:
    """One of query, key and value, by the names of its weight and bias."""
    heads = (num_heads, width // num_heads)
    entries = [linear(f"{ours}/kernel", weight, (width, *heads), out_axes=2)]
    return entries + ([same(f"{ours}/bias", bias, heads, (width,))] if bias else [])


def fused_projections(
    ours: str, names: Sequence[str], weight: str, bias: str | None, width: int, num_heads: int
) -> list[Entry]:
    """Some of query, key and value that the file keeps in one tensor."""
    parts = [projection(f"{ours}/{name}", weight, bias, width, num_heads) for name in names]
    return [fused([e.ours[0] for e in group], group[0].theirs[0], group) for group in zip(*parts, strict=True)]


def block_entries(kwargs: Mapping[str, Any], names: BlockNames, subtree: str = "encoder") -> list[Entry]:
    """Entries for all blocks of a PyTorch file.

    Args:
        subtree: of our parameters, where the blocks are.

    Raises:
        UserError: the heads do not divide the width.
    """
    size, _ = size_of(kwargs)
    if size.num_heads < 1 or size.width % size.num_heads:
        raise UserError(
            f"The model has a width of {size.width} and {size.num_heads} heads, which do not divide it",
            "Check that the file and its config belong together, or give the right num_heads",
        )
    has_bias, entries = kwargs.get("qkv_bias", True), []
    for i in range(size.depth):
        ours = f"{subtree}/block_{i:02d}"
        name = {field: value.format(i) for field, value in vars(names).items() if isinstance(value, str)}
        qkv = [part.format(i) for part in names.qkv]
        entries += norm(f"{ours}/norm1", name["norm1"]) + norm(f"{ours}/norm2", name["norm2"])
        attention = f"{ours}/attention"
        if len(qkv) == 1:
            bias = f"{qkv[0]}.bias" if has_bias else None
            order = ("query", "key", "value")
            entries += fused_projections(attention, order, f"{qkv[0]}.weight", bias, size.width, size.num_heads)
        else:
            for part, theirs in zip(("query", "key", "value"), qkv, strict=True):
                bias = f"{theirs}.bias" if has_bias else None
                entries += projection(f"{attention}/{part}", f"{theirs}.weight", bias, size.width, size.num_heads)
        entries += attention_out(f"{attention}/out", name["out"], size.width, size.num_heads)
        if kwargs.get("mlp", "gelu") == "swiglu":
            pair = [dense(f"{ours}/mlp/{part}", name["gate"]) for part in ("gate", "fc1")]
            entries += [fused([e.ours[0] for e in g], g[0].theirs[0], g) for g in zip(*pair, strict=True)]
            entries += dense(f"{ours}/mlp/fc2", name["gated_fc2"])
        else:
            entries += dense(f"{ours}/mlp/fc1", name["fc1"]) + dense(f"{ours}/mlp/fc2", name["fc2"])
        if kwargs.get("layer_scale_init") is not None:
            entries += [same(f"{ours}/{scale}", name[scale]) for scale in ("layer_scale1", "layer_scale2")]
    return entries


def position_entry(kwargs: Mapping[str, Any], theirs: str, grid: Sequence[int] | None, leading: bool = True) -> Entry:
    """The table of positions, those of class and distillation token in front where they have one.

    A model with fixed positions has no parameter for them: the file's table must be the one that it computes.

    Args:
        grid: rows and columns of the patches, for reading, and for writing fixed positions.
        leading: the file's table has an axis of size 1 in front.
    """
    if kwargs.get("posemb", "learn") != "learn":
        return fixed_table(theirs, kwargs["posemb"], grid, size_of(kwargs)[0].width, int(tokens_of(kwargs)[0]), leading)
    ours = ["encoder/pos_embedding"]
    if tokens_of(kwargs)[1]:
        ours.append("encoder/cls_pos_embedding")
    if kwargs.get("distillation_token"):
        ours.append("encoder/distillation_pos_embedding")
    prefix = len(ours) - 1

    def read(table: NDArray) -> list[NDArray]:
        table = table.reshape(-1, table.shape[-1])
        rows = [table[i].reshape(1, 1, -1) for i in range(prefix)]
        return [table[prefix:].reshape(*(grid or (-1,)), table.shape[-1]), *rows]

    def write(patches: NDArray, *rows: NDArray) -> list[NDArray]:
        width = patches.shape[-1]
        table = np.concatenate([row.reshape(1, width) for row in rows] + [patches.reshape(-1, width)])
        return [table[None] if leading else table]

    return Entry(tuple(ours), (theirs,), read, write)


def fixed_table(
    theirs: str,
    dialect: str,
    grid: Sequence[int],
    width: int,
    prefix: int = 1,
    leading: bool = True,
    otherwise: str = "Only files with this table can be read",
) -> Entry:
    """A tensor that holds no parameter of ours but a table of positions that we compute.

    Args:
        dialect: see `vit_jax.nn.posemb.SINCOS2D`.
        grid: rows and columns of the patches.
        prefix: rows of zeros in front, for tokens without a position.
        leading: the file's table has an axis of size 1 in front.
        otherwise: what to do about a file with another table.
    """
    patches = sincos2d(tuple(grid), width, **SINCOS2D[dialect]).reshape(-1, width)
    wanted = np.concatenate([np.zeros((prefix, width), np.float32), patches])
    wanted = wanted[None] if leading else wanted

    def read(table: NDArray) -> list[NDArray]:
        if not is_same_table(table, wanted):
            raise UserError(
                f"The tensor {theirs!r} does not hold the positions that the model computes, a sine-cosine table of "
                f"{grid[0]}x{grid[1]} patches ({dialect})",
                otherwise,
            )
        return []

    return Entry((), (theirs,), read, lambda: [wanted])


def is_same_table(table: NDArray, wanted: NDArray) -> bool:
    """Whether a table of sines and cosines is the other one up to 1e-5, or up to what its own dtype rounds away."""
    if table.shape != wanted.shape:
        return False
    tolerance = max(1e-5, float(jnp.finfo(table.dtype).eps))
    return bool(np.abs(table.astype(np.float32) - wanted).max() <= tolerance)  # not if there is a NaN


def is_plain(kwargs: Mapping[str, Any], **expected: Any) -> bool:
    """Whether arguments that another library may not have are absent, or as `expected`."""
    defaults = {
        "posemb": "learn",
        "distillation_token": False,
        "num_registers": 0,
        "mlp": "gelu",
        "layer_scale_init": None,
        "qkv_bias": True,
        "fc_norm": False,
        "representation_size": None,
    }
    return all(kwargs.get(key, value) == value for key, value in defaults.items() if key not in expected) and all(
        kwargs.get(key, defaults.get(key)) == value for key, value in expected.items() if value is not Ellipsis
    )
