"""What the families of MAE with its decoder have in common: each is one around that of the trunk, a ViT."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, NDArray, Shapes, dense, norm, same, shape_of
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.published import Published
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant

DIALECT = "sincos2d_mae"
_ENCODER_ALONE = "Take its encoder alone: a file without the tensors of the decoder is read as a vit"


def around(vit: Published, tensors: Shapes, prefix: str, names: parts.BlockNames, config: JsonObject) -> Published:
    """The autoencoder around a trunk, with positions as the published files have them, which `settled` looks at.

    A `mask_ratio` that leaves nothing to predict, as people set it to get features of whole images, says nothing of the
    training: it is read as the paper's.

    Args:
        vit: the trunk, as its family describes it.
        tensors: of the whole file.
        prefix: what stands before the decoder's names.
        names: of the decoder's blocks.
        config: config.json of transformers, or nothing.

    Raises:
        UserError: for a decoder that ours cannot be.
    """
    trunk = {key: value for key, value in vit.kwargs.items() if key != "num_classes"}
    width = shape_of(tensors, f"{prefix}decoder_embed.weight", 2)[0]
    hidden = shape_of(tensors, f"{names.fc1.format(0)}.weight", 2, (4 * width, width))[0]
    if hidden != 4 * width:
        raise UserError(
            f"The decoder has a width of {width} and {hidden} hidden units, not four times as many", _ENCODER_ALONE
        )
    if trunk.get("qkv_bias") is False:
        raise UserError("The attention has no biases for query, key and value, in the decoder too", _ENCODER_ALONE)
    ratio, depth = config.number("mask_ratio"), parts.depth_of(tensors, names.norm1)
    config.must_agree("decoder_num_hidden_layers", depth)
    config.must_agree("decoder_hidden_size", width)
    config.must_agree("decoder_intermediate_size", hidden)
    kwargs = {
        "trunk": {"name": "vit", **trunk, "posemb": DIALECT, "class_token_posemb": False},
        "num_classes": 0,
        "mask_ratio": ratio if ratio and 0 < ratio < 1 else 0.75,
        "normalize_pixels": config.boolean("norm_pix_loss", False),
        "decoder_width": width,
        "decoder_depth": depth,
        "decoder_heads": config.integer("decoder_num_attention_heads", 16, at_least=1, at_most=width),
    }
    return dataclasses.replace(vit, model="mae", kwargs=kwargs)


def settled(published: Published, table: str, tensor: Callable[[str], NDArray]) -> Published:
    """The same, where the encoder's positions, the tensor `table`, are not the fixed ones with learned positions."""
    trunk = published.kwargs["trunk"]
    [wanted] = parts.position_entry(trunk, table, published.layout["grid"]).write()
    if parts.is_same_table(tensor(table), wanted):
        return published
    trunk = {**trunk, "posemb": "learn", "class_token_posemb": True}
    return dataclasses.replace(published, kwargs={**published.kwargs, "trunk": trunk})


def decoder_entries(
    kwargs: Mapping[str, Any], prefix: str, names: parts.BlockNames, grid: Sequence[int]
) -> list[Entry]:
    """The decoder's names; see `around` for the arguments."""
    width = kwargs["decoder_width"]
    size = Variant(width, kwargs["decoder_depth"], 4 * width, kwargs["decoder_heads"])
    return [
        *dense("decoder/embedding", f"{prefix}decoder_embed"),
        same("decoder/mask_token", f"{prefix}mask_token"),
        parts.fixed_table(f"{prefix}decoder_pos_embed", DIALECT, grid, width, otherwise=_ENCODER_ALONE),
        *parts.block_entries(parts.size_kwargs(size, (1, 1)), names, "decoder"),
        *norm("decoder/norm", f"{prefix}decoder_norm"),
        *dense("decoder/prediction", f"{prefix}decoder_pred"),
    ]
