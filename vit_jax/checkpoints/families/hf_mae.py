"""MAE with its decoder as transformers names it (ViTMAEForPreTraining).

What the decoder predicts is in the config, as `norm_pix_loss`, and false in those of facebook/vit-mae-*. That is right:
they were converted from the authors' checkpoints for pictures ("visualize"), which learned plain pixels, not from those
of the paper's results, which learned normalised ones.

The tensors of positions are fixed tables. The encoder's becomes a parameter where it holds anything else; our decoder
has no such parameter. At other resolutions our tables are those of the larger grid, where transformers interpolates.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.families import hf_parts, hf_vit
from vit_jax.checkpoints.families import vit_parts as parts
from vit_jax.checkpoints.name_map import Entry, NameMap, NDArray, Shapes, dense, norm, same
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.checkpoints.sidecars import complete, is_of
from vit_jax.errors import UserError
from vit_jax.models import mae
from vit_jax.models.vit_variants import Variant

LIBRARY = "transformers"
MODELS = "MAE with its decoder"
WRITES = ("mae",)
COMPARED = "encoder, predictions and loss of transformers' own models; files of ours read by transformers"

_DIALECT = "sincos2d_mae"
# As in the published files, and as transformers 5 saves it, where a rule for the encoder's names hits the decoder's.
_LAYERS = ("decoder.decoder_layers.{}.", "decoder.decoder_encoder.layer.{}.")
_TABLE = "decoder.decoder_pos_embed"
_ENCODER_ALONE = "Take its encoder alone: what transformers' ViTMAEModel saves is read as a vit"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`; with positions as the published files have them, which `settle` looks at.

    A `mask_ratio` that leaves nothing to predict, as people set it to get features of whole images, says nothing of the
    training: it is read as the paper's.

    Raises:
        UserError: for a decoder that ours cannot be.
    """
    if hf_parts.MAE_DECODER not in tensors:
        return None
    config = {"model_type": "vit_mae", **sidecar.config}
    rest = {name: shape for name, shape in tensors.items() if not name.startswith("decoder.")}
    vit = hf_vit.describe(rest, Sidecar(config, sidecar.preprocessor))
    if vit is None:
        return None
    trunk = {key: value for key, value in vit.kwargs.items() if key not in ("num_classes", "posemb_resize")}
    width = tensors[hf_parts.MAE_DECODER][0]
    fc1 = "intermediate.dense.weight"
    layer = next((layer for layer in _LAYERS if layer.format(0) + fc1 in tensors), _LAYERS[0])
    hidden = tensors.get(layer.format(0) + fc1, (4 * width,))[0]
    if hidden != 4 * width:
        raise UserError(
            f"The decoder has a width of {width} and {hidden} hidden units, not four times as many", _ENCODER_ALONE
        )
    if trunk.get("qkv_bias") is False:
        raise UserError("The decoder's attention has no biases for query, key and value", _ENCODER_ALONE)
    ratio = config.get("mask_ratio")
    kwargs = {
        "trunk": {"name": "vit", **trunk, "posemb": _DIALECT},
        "num_classes": 0,
        "mask_ratio": ratio if ratio and 0 < ratio < 1 else 0.75,
        "normalize_pixels": bool(config.get("norm_pix_loss")),
        "decoder_width": width,
        "decoder_depth": config.get("decoder_num_hidden_layers") or parts.depth_of(tensors, layer),
        "decoder_heads": config.get("decoder_num_attention_heads") or 16,
    }
    return Published("mae", kwargs, vit.preprocess, {**vit.layout, "layer": layer})


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`: positions of the encoder that are not the fixed ones are learned."""
    trunk, layout = published.kwargs["trunk"], published.layout
    table = f"{layout['prefix']}embeddings.position_embeddings"
    [wanted] = parts.position_entry(trunk, table, layout["grid"]).write()
    if parts.is_same_table(tensor(table), wanted):
        return published
    trunk = {**trunk, "posemb": "learn", "posemb_resize": "bicubic"}
    return dataclasses.replace(published, kwargs={**published.kwargs, "trunk": trunk})


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix`, `grid` (rows and columns of positions) and `layer` of the decoder."""
    kwargs = complete(mae.build, kwargs)
    trunk = {**kwargs["trunk"], "num_classes": 0}
    patch = parts.size_of(trunk)[1]
    grid = layout.get("grid") or [side // patch for side in layout["image_size"]]
    encoder = hf_vit.name_map(trunk, {"prefix": layout.get("prefix", "vit."), "grid": grid})
    return NameMap([*encoder.entries, *_decoder(kwargs, patch, grid, layout.get("layer", _LAYERS[0]))])


def _decoder(kwargs: Mapping[str, Any], patch: int, grid: Sequence[int], layer: str) -> list[Entry]:
    width = kwargs["decoder_width"]
    size = Variant(width, kwargs["decoder_depth"], 4 * width, kwargs["decoder_heads"])
    blocks = parts.block_entries(parts.size_kwargs(size, (patch, patch)), hf_parts.block_names(layer), "decoder")
    return [
        *dense("decoder/embedding", "decoder.decoder_embed"),
        same("decoder/mask_token", "decoder.mask_token"),
        parts.fixed_table(_TABLE, _DIALECT, grid, width, otherwise=_ENCODER_ALONE),
        *blocks,
        *norm("decoder/norm", "decoder.decoder_norm"),
        *dense("decoder/prediction", "decoder.decoder_pred"),
    ]


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. It has squares of pixels only, and a class token, which is its feature."""
    if not is_of(metadata, "mae"):
        return None
    kwargs = complete(mae.build, metadata["model"]["kwargs"])
    trunk, (height, width) = kwargs["trunk"], metadata["preprocess"]["image_size"]
    posemb = trunk.get("posemb", "learn")
    fits = (
        trunk["name"] == "vit"
        and height == width
        and posemb in ("learn", _DIALECT)
        and parts.is_plain(trunk, posemb=...)
        and parts.tokens_of(trunk) == (True, posemb == "learn")
        and trunk.get("pooling", "token") == "token"
    )
    if not fits:
        return None
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **hf_parts.size_config(trunk, (height, width)),
        "intermediate_size": parts.size_of(trunk)[0].mlp_dim,
        "qkv_bias": True,
        "decoder_hidden_size": kwargs["decoder_width"],
        "decoder_num_hidden_layers": kwargs["decoder_depth"],
        "decoder_num_attention_heads": kwargs["decoder_heads"],
        "decoder_intermediate_size": 4 * kwargs["decoder_width"],
        "mask_ratio": kwargs["mask_ratio"],
        "norm_pix_loss": kwargs["normalize_pixels"],
    }
    return {"config.json": config, "preprocessor_config.json": hf_parts.processor(metadata["preprocess"])}
