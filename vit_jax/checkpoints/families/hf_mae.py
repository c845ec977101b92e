"""MAE with its decoder as transformers names it (ViTMAEForPreTraining).

What the decoder predicts is in the config, as `norm_pix_loss`, and false in those of facebook/vit-mae-*. That is right:
they were converted from the authors' checkpoints for pictures ("visualize"), which learned plain pixels, not from those
of the paper's results, which learned normalised ones.

The tensors of positions are fixed tables. The encoder's becomes a parameter where it holds anything else; our decoder
has no such parameter. At other resolutions our tables are those of the larger grid, where transformers interpolates.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.checkpoints.families import hf_vit
from vit_jax.checkpoints.name_map import NameMap, NDArray, Shapes
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import hf_processor
from vit_jax.checkpoints.parts import mae as mae_parts
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models import mae

LIBRARY = "transformers"
MODELS = "MAE with its decoder"
WRITES = ("mae",)
COMPARED = "encoder, predictions and loss of transformers' own models; files of ours read by transformers"

_PREFIX = "decoder."
# As in the published files, and as transformers 5 saves it, where a rule for the encoder's names hits the decoder's.
_LAYERS = ("decoder.decoder_layers.{}.", "decoder.decoder_encoder.layer.{}.")


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family` and `mae_parts.around`."""
    if hf_parts.MAE_DECODER not in tensors:
        return None
    rest = {name: shape for name, shape in tensors.items() if not name.startswith(_PREFIX)}
    vit = hf_vit.describe(rest, sidecar, assumed="vit_mae")
    if vit is None:
        return None
    layer = _LAYERS[any(name.startswith(_LAYERS[1].partition("{")[0]) for name in tensors)]
    vit = dataclasses.replace(vit, layout={**vit.layout, "layer": layer})
    return mae_parts.around(vit, tensors, _PREFIX, hf_parts.block_names(layer), sidecar.config)


def settle(published: Published, tensor: Callable[[str], NDArray]) -> Published:
    """See `Family`."""
    return mae_parts.settled(published, f"{published.layout['prefix']}embeddings.position_embeddings", tensor)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; the layout holds `prefix`, `grid` (rows and columns of positions) and `layer` of the decoder."""
    kwargs = complete(mae.build, kwargs)
    trunk = {**kwargs["trunk"], "num_classes": 0}
    grid = layout.get("grid") or [side // parts.size_of(trunk)[1] for side in layout["image_size"]]
    encoder = hf_vit.name_map(trunk, {"prefix": layout.get("prefix", "vit."), "grid": grid})
    names = hf_parts.block_names(layout.get("layer", _LAYERS[0]))
    return NameMap([*encoder.entries, *mae_parts.decoder_entries(kwargs, _PREFIX, names, grid)])


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
        and posemb in ("learn", mae_parts.DIALECT)
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
    return {"config.json": config, "preprocessor_config.json": hf_processor.processor(metadata["preprocess"])}
