"""What the families of SAM and of ViTDet have in common: sizes from shapes, and entries for each part of a model."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.checkpoints.name_map import (
    Entry,
    NDArray,
    Shapes,
    conv,
    convolution,
    dense,
    linear,
    norm,
    same,
    shape_of,
    tied,
)
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.errors import UserError
from vit_jax.models.sam import NUM_MASKS, Neck, Sam
from vit_jax.models.vit_variants import Variant
from vit_jax.models.vitdet import ViTDetEncoder, default_global_blocks
from vit_jax.nn.grid_block import GridStyle

# How SAM's own `ResizeLongestSide`, and transformers' processor, make a square of a photo.
PREPROCESS = {"resize": "pad", "anchor": "corner", "interpolation": "bilinear", **IMAGENET}

# What it was trained for, which answers prompts: its defaults are the paper's.
TASK = {"name": "sam", "kwargs": {}, "given": ["num_classes"]}
# Of ours what transformers calls them.
ACTIVATIONS = {"gelu_exact": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}

_FOURIER = "constants/prompts/fourier"
_TOGETHER = "Check that the file and its config belong together"


@dataclasses.dataclass(frozen=True)
class TrunkNames:
    """Names of the trunk's tensors, with `{}` for the number of a block.

    Args:
        positions: those of the patches.
        patch: the embedding of the patches.
        block: what stands before the names of a block.
        norm1: a block's first norm, like `norm2`, `attention`, `fc1` and `fc2` without what stands before.
    """

    positions: str
    patch: str
    block: str
    norm1: str
    norm2: str
    attention: str = "attn"
    fc1: str = "mlp.lin1"
    fc2: str = "mlp.lin2"

    @property
    def tables(self) -> tuple[str, str]:
        """Of relative positions of rows and of columns, with `{}` for the number of the block."""
        return tuple(f"{self.block}{self.attention}.rel_pos_{axis}" for axis in "hw")


@dataclasses.dataclass(frozen=True)
class PromptNames:
    """Names of the prompt encoder's tensors.

    Args:
        fourier: one name or several of the same numbers.
        kinds: with `{}` for the kind of a point.
        mask: convolution, norm, convolution, norm, convolution.
    """

    fourier: tuple[str, ...]
    kinds: str
    not_a_point: str
    no_mask: str
    mask: tuple[str, str, str, str, str]


@dataclasses.dataclass(frozen=True)
class DecoderNames:
    """Names of the mask decoder's tensors, with what stands before them left out.

    Args:
        prefix: what stands before them.
        norm: the norms of a block, with `{}` for their number.
        final_norm: the last norm of the Transformer.
        upscale: transposed convolution, norm, transposed convolution.
        perceptron: the three layers of a head.
    """

    prefix: str
    norm: str
    final_norm: str
    upscale: tuple[str, str, str]
    perceptron: tuple[str, str, str]


# segment_anything's; EfficientViT-SAM's authors took them over.
AUTHORS_PROMPTS = PromptNames(
    fourier=("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",),
    kinds="prompt_encoder.point_embeddings.{}.weight",
    not_a_point="prompt_encoder.not_a_point_embed.weight",
    no_mask="prompt_encoder.no_mask_embed.weight",
    mask=tuple(f"prompt_encoder.mask_downscaling.{i}" for i in (0, 1, 3, 4, 6)),
)
AUTHORS_DECODER = DecoderNames(
    prefix="mask_decoder.",
    norm="norm{}",
    final_norm="norm_final_attn",
    upscale=("output_upscaling.0", "output_upscaling.1", "output_upscaling.3"),
    perceptron=("layers.0", "layers.1", "layers.2"),
)
# transformers'. Files of before version 5.24 hold the Fourier matrix under both names.
FOURIER_NAMES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
HF_PROMPTS = PromptNames(
    fourier=FOURIER_NAMES,
    kinds="prompt_encoder.point_embed.{}.weight",
    not_a_point="prompt_encoder.not_a_point_embed.weight",
    no_mask="prompt_encoder.no_mask_embed.weight",
    mask=tuple(f"prompt_encoder.mask_embed.{n}" for n in ("conv1", "layer_norm1", "conv2", "layer_norm2", "conv3")),
)
HF_DECODER = DecoderNames(
    prefix="mask_decoder.",
    norm="layer_norm{}",
    final_norm="layer_norm_final_attn",
    upscale=("upscale_conv1", "upscale_layer_norm", "upscale_conv2"),
    perceptron=("proj_in", "layers.0", "proj_out"),
)


def refuse_newer(tensors: Shapes, model_type: str | None) -> None:
    """Refuses SAM 2 and 3, whose files look like those of no other model that can be read.

    Raises:
        UserError: for one of them.
    """
    said = model_type is not None and model_type.startswith(("sam2", "sam3", "edgetam"))
    marks = ("image_encoder.trunk.", "sam_mask_decoder.", "memory_attention.", "mask_decoder.pred_obj_score_head",
             "geometry_encoder.", "detector_model.")  # fmt: skip
    if said or any(name.startswith(marks) for name in tensors):
        raise UserError(
            "The file is of SAM 2 or 3, which vit_jax does not read",
            "Take the first SAM, such as facebook/sam-vit-base",
        )


def trunk_kwargs(
    tensors: Shapes,
    names: TrunkNames,
    grid: Sequence[int],
    num_heads: int | None = None,
    window_size: int | None = None,
    global_blocks: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Arguments of `vit_jax.models.vitdet.build` for the sizes that the shapes say.

    Args:
        grid: rows and columns of the map, for which the tables of global blocks are made.
        num_heads: what a config says; None: what the tables say.
        window_size: the same of windows.
        global_blocks: the same of the blocks without windows.

    Raises:
        UserError: tables that fit neither the grid nor one window, or not what the config says.
    """
    width, _, *patch = shape_of(tensors, f"{names.patch}.weight", 4)
    depth = depth_of(tensors, names.block)
    mlp = shape_of(tensors, f"{names.block.format(0)}{names.fc1}.weight", 2)[0]
    has_tables = names.tables[0].format(0) in tensors
    if has_tables:
        head_dim = shape_of(tensors, names.tables[0].format(0), 2)[1]
        if num_heads not in (None, width // head_dim):
            raise UserError(
                f"config.json says {num_heads} heads, the tables of relative positions are for {width // head_dim}",
                _TOGETHER,
            )
        window_size, global_blocks = _windows(tensors, names, grid, depth, window_size, global_blocks)
        num_heads = width // head_dim
    kwargs = parts.size_kwargs(Variant(width, depth, mlp, num_heads or parts.heads_of(width)), patch)
    if window_size not in (None, 14):
        kwargs["window_size"] = window_size
    if global_blocks is not None and tuple(global_blocks) != default_global_blocks(depth):
        kwargs["global_blocks"] = list(global_blocks)
    return kwargs | ({} if has_tables else {"relative_positions": False})


def _windows(
    tensors: Shapes, names: TrunkNames, grid: Sequence[int], depth: int, said: int | None, said_global: Any
) -> tuple[int | None, list[int]]:
    """Side of the windows, None where no block has any, and the blocks without."""
    sides = [
        tuple((shape_of(tensors, name.format(i), 2)[0] + 1) // 2 for name in names.tables) for i in range(depth)
    ]  # fmt: skip
    in_all = [i for i in range(depth) if sides[i] == tuple(grid)]
    if said_global is not None and len(set(grid)) == 1 and said == grid[0]:
        in_all = [i for i in in_all if i in said_global]  # windows as large as the map
    windows = {side for i, side in enumerate(sides) if i not in in_all}
    if len(windows) > 1 or any(len(set(side)) > 1 for side in windows):
        some = " and ".join(f"{rows}x{columns}" for rows, columns in sorted(windows)[:3])
        raise UserError(
            f"The relative positions are for maps of {some} places, the image's map has {grid[0]}x{grid[1]}",
            "Give the image size that it was made for, in config.json",
        )
    window = windows.pop()[0] if windows else said
    if said is not None and window != said:
        raise UserError(
            f"config.json says windows of {said} places, the tables of relative positions say {window}", _TOGETHER
        )
    if said_global is not None and in_all != sorted(said_global):
        raise UserError(
            f"config.json says {sorted(said_global)} as global blocks, the tables of relative positions {in_all}",
            _TOGETHER,
        )
    return window, in_all


def trunk_entries(
    encoder: ViTDetEncoder, names: TrunkNames, block: Callable[..., list[Entry]], positions: Entry | None = None
) -> list[Entry]:
    """Entries for a trunk; those of its queries, keys and values as `block(ours, theirs, width, heads)` makes them.

    Args:
        positions: entry of the absolute positions; by default as SAM's authors have them, [1, gh, gw, D].
    """
    found = [
        conv("encoder/embedding/kernel", f"{names.patch}.weight"),
        same("encoder/embedding/bias", f"{names.patch}.bias"),
        positions or leading("encoder/pos_embedding", names.positions),
    ]
    style, width = encoder.styles[0], encoder.width
    for i in range(encoder.depth):
        ours, theirs = f"encoder/block_{i:02d}", names.block.format(i)
        found += norm(f"{ours}/norm1", theirs + names.norm1) + norm(f"{ours}/norm2", theirs + names.norm2)
        found += block(f"{ours}/attention", theirs + names.attention, width, style.num_heads)
        found += dense(f"{ours}/mlp/fc1", theirs + names.fc1) + dense(f"{ours}/mlp/fc2", theirs + names.fc2)
        if style.relative_positions:
            for axis, table in zip(("rows", "columns"), names.tables, strict=True):
                found.append(same(f"{ours}/attention/rel_pos_{axis}", table.format(i)))
    return found


def fused_attention(ours: str, theirs: str, width: int, heads: int) -> list[Entry]:
    """A self-attention whose queries, keys and values are one tensor, `qkv`, and whose output is `proj`."""
    order = ("query", "key", "value")
    fused = parts.fused_projections(ours, order, f"{theirs}.qkv.weight", f"{theirs}.qkv.bias", width, heads)
    return [*fused, *parts.attention_out(f"{ours}/out", f"{theirs}.proj", width, heads)]


def neck_entries(convolutions: tuple[str, str], norms: tuple[str, str]) -> list[Entry]:
    """Entries for the neck."""
    found = [conv(f"neck/conv{i + 1}/kernel", f"{name}.weight") for i, name in enumerate(convolutions)]
    return found + [entry for i, name in enumerate(norms) for entry in norm(f"neck/norm{i + 1}", name)]


def prompt_entries(names: PromptNames) -> list[Entry]:
    """Entries for the prompt encoder, its constant included."""
    kinds = [names.kinds.format(i) for i in range(4)]
    found = [
        tied(_FOURIER, names.fourier),
        Entry(
            ("prompts/kinds",), tuple(kinds),
            lambda *rows: [np.concatenate(rows)],
            lambda table: [np.ascontiguousarray(table[i : i + 1]) for i in range(4)],
        ),
        leading("prompts/not_a_point", names.not_a_point),
        leading("prompts/no_mask", names.no_mask),
    ]  # fmt: skip
    for i, name in zip(("conv1", "norm1", "conv2", "norm2", "conv3"), names.mask, strict=True):
        found += norm(f"prompts/mask_{i}", name) if i[0] == "n" else convolution(f"prompts/mask_{i}", name)
    return found


def decoder_entries(model: Sam, names: DecoderNames) -> list[Entry]:
    """Entries for the mask decoder."""
    decoder, width, prefix = model.decoder, model.prompts.width, names.prefix
    heads, inner = decoder.style.num_heads, decoder.style.num_heads * decoder.style.cross_head_dim
    transformer = f"{prefix}transformer."
    found = [same(f"decoder/{name}", f"{prefix}{name}.weight") for name in ("iou_token", "mask_tokens")]
    for i in range(decoder.depth):
        ours, theirs = f"decoder/transformer/block_{i}", f"{transformer}layers.{i}."
        found += _attention(f"{ours}/attention", f"{theirs}self_attn", width, heads, width)
        found += _attention(f"{ours}/to_places", f"{theirs}cross_attn_token_to_image", width, heads, inner)
        found += _attention(f"{ours}/to_tokens", f"{theirs}cross_attn_image_to_token", width, heads, inner)
        found += dense(f"{ours}/mlp/fc1", f"{theirs}mlp.lin1") + dense(f"{ours}/mlp/fc2", f"{theirs}mlp.lin2")
        for j in range(1, 5):
            found += norm(f"{ours}/norm{j}", theirs + names.norm.format(j))
    last = f"{transformer}final_attn_token_to_image"
    found += _attention("decoder/transformer/to_places", last, width, heads, inner)
    found += norm("decoder/transformer/norm", transformer + names.final_norm)
    for ours, theirs in zip(("upscale1", "norm", "upscale2"), names.upscale, strict=True):
        found += (norm if ours == "norm" else convolution)(f"decoder/{ours}", prefix + theirs)
    heads_of_tokens = {f"hypernetwork_{i}": f"output_hypernetworks_mlps.{i}" for i in range(NUM_MASKS)}
    for ours, theirs in {**heads_of_tokens, "iou": "iou_prediction_head"}.items():
        for j, layer in enumerate(names.perceptron):
            found += dense(f"decoder/{ours}/fc{j + 1}", f"{prefix}{theirs}.{layer}")
    return found


def decoder_kwargs(tensors: Shapes, prompts: PromptNames, decoder: DecoderNames) -> dict[str, Any]:
    """Arguments of `vit_jax.models.sam.build` beside the trunk and the number of heads, where they are not the
    published ones."""
    prefix = decoder.prefix
    found = {
        "width": shape_of(tensors, f"{prefix}iou_token.weight", 2)[1],
        "decoder_depth": depth_of(tensors, f"{prefix}transformer.layers.{{}}."),
        "decoder_mlp_dim": shape_of(tensors, f"{prefix}transformer.layers.0.mlp.lin1.weight", 2)[0],
        "mask_channels": shape_of(tensors, f"{prompts.mask[4]}.weight", 4)[1],
        "iou_hidden": shape_of(tensors, f"{prefix}iou_prediction_head.{decoder.perceptron[0]}.weight", 2)[0],
    }
    published = {"width": 256, "decoder_depth": 2, "decoder_mlp_dim": 2048, "mask_channels": 16, "iou_hidden": 256}
    return {name: value for name, value in found.items() if value != published[name]}


def is_plain(model: Sam) -> bool:
    """Whether other libraries have a place for all of a model."""
    trunk = isinstance(model.encoder, ViTDetEncoder) and is_plain_trunk(model.encoder)
    return trunk and isinstance(model.neck, Neck) and not model.prompts.text_width


def is_plain_trunk(encoder: ViTDetEncoder) -> bool:
    """Whether other libraries have a place for all of a trunk."""
    style = encoder.styles[0]
    plain = GridStyle(
        style.num_heads, style.mlp_dim, norm_epsilon=style.norm_epsilon, activation=style.activation,
        window_size=style.window_size, relative_positions=style.relative_positions,
    )  # fmt: skip
    return style == plain and style.activation in ACTIVATIONS


def windows_of(encoder: ViTDetEncoder) -> list[int | None]:
    """The side of each block's windows, None for a global block."""
    return [encoder.styles[i % len(encoder.styles)].window_size for i in range(encoder.depth)]


def leading(ours: str, theirs: str) -> Entry:
    """A parameter before whose axes the file has one more, of size 1."""

    def read(x: NDArray) -> list[NDArray]:
        if x.shape[:1] != (1,):
            raise ValueError("no axis of size 1")
        return [x[0]]

    return Entry((ours,), (theirs,), read, lambda x: [x[None]])


def _attention(ours: str, theirs: str, width: int, heads: int, inner: int) -> list[Entry]:
    """An attention whose heads may be narrower than its width over them."""
    shape, found = (heads, inner // heads), []
    for part, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        found.append(linear(f"{ours}/{part}/kernel", f"{theirs}.{name}.weight", (width, *shape), out_axes=2))
        found.append(same(f"{ours}/{part}/bias", f"{theirs}.{name}.bias", shape, (inner,)))
    found.append(linear(f"{ours}/out/kernel", f"{theirs}.out_proj.weight", (*shape, width)))
    return [*found, same(f"{ours}/out/bias", f"{theirs}.out_proj.bias")]
