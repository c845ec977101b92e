"""SAM as transformers names it (`SamModel`).

Its decoder computes with an epsilon of 1e-6 in the norms of its blocks, where the authors trained with 1e-5: a file is
read as transformers computes it. Files of before version 5.24 hold the Fourier matrix twice.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SAM, HF_SAM_DECODER, HF_SAM_PROMPTS, HF_SAM_VISION
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import sam as parts
from vit_jax.checkpoints.parts.sidecars import complete, in_pixels, in_unit, is_of
from vit_jax.checkpoints.parts.vit import gelu_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.sam import Sam, build

LIBRARY = "transformers"
MODELS = "SAM"
WRITES = ("sam",)
COMPARED = "embeddings, prompts and masks of transformers' own models; files of ours read by transformers"

_NAMES = parts.TrunkNames(
    positions="vision_encoder.pos_embed",
    patch="vision_encoder.patch_embed.projection",
    block="vision_encoder.layers.{}.",
    norm1="layer_norm1",
    norm2="layer_norm2",
)
_NECK = "vision_encoder.neck."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    config = sidecar.config
    parts.refuse_newer(tensors, config.text("model_type"))
    if f"{_NECK}conv1.weight" not in tensors or f"{parts.HF_DECODER.prefix}iou_token.weight" not in tensors:
        return None
    remarks = hf_parts.check(config, HF_SAM, "sam")
    vision, prompts, decoder = (
        config.object(f"{name}_config") for name in ("vision", "prompt_encoder", "mask_decoder")
    )
    for values, keys in ((vision, HF_SAM_VISION), (prompts, HF_SAM_PROMPTS), (decoder, HF_SAM_DECODER)):
        keys.check(values)
    grid = shape_of(tensors, _NAMES.positions, 4)[1:3]
    hf_parts.agrees(vision, "use_rel_pos", _NAMES.tables[0].format(0) in tensors)
    # A config.json leaves out what is the default of its class.
    said = (14, [2, 5, 8, 11]) if config else (None, None)
    trunk = parts.trunk_kwargs(
        tensors, _NAMES, grid,
        vision.integer("num_attention_heads", 12 if config else None, at_least=1),
        vision.integer("window_size", said[0], at_least=1),
        vision.integers("global_attn_indexes") or said[1],
    )  # fmt: skip
    patch = shape_of(tensors, f"{_NAMES.patch}.weight", 4)[2]
    vision.must_agree("patch_size", patch)
    if gelu_of(vision.text("hidden_act", "gelu")) != "exact":
        trunk["activation"] = "gelu_tanh"
    if (epsilon := vision.number("layer_norm_eps", 1e-6, at_least=0)) != 1e-6:
        trunk["norm_epsilon"] = epsilon
    kwargs = {"trunk": {"name": "vitdet", **trunk}}
    kwargs |= parts.decoder_kwargs(tensors, parts.HF_PROMPTS, parts.HF_DECODER)
    if (heads := decoder.integer("num_attention_heads", 8, at_least=1)) != 8:
        kwargs["decoder_heads"] = heads
    kwargs["decoder_norm_epsilon"] = decoder.number("layer_norm_eps", 1e-6, at_least=0)
    size = [side * patch for side in grid]
    fourier = [name for name in parts.FOURIER_NAMES if name in tensors]
    return Published(
        "sam", kwargs, {"image_size": size, **_pixels(sidecar.preprocessor, size)}, {"fourier": fourier}, (), remarks,
        task=parts.TASK,
    )  # fmt: skip


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds the names of the Fourier matrix, `fourier`."""
    model = build(**complete(build, kwargs))
    prompts = dataclasses.replace(parts.HF_PROMPTS, fourier=tuple(layout.get("fourier") or parts.FOURIER_NAMES))
    return NameMap([
        *parts.trunk_entries(model.encoder, _NAMES, parts.fused_attention),
        *parts.neck_entries((f"{_NECK}conv1", f"{_NECK}conv2"), (f"{_NECK}layer_norm1", f"{_NECK}layer_norm2")),
        *parts.prompt_entries(prompts),
        *parts.decoder_entries(model, parts.HF_DECODER),
    ])  # fmt: skip


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. It has squares of pixels only."""
    if not is_of(metadata, "sam"):
        return None
    kwargs, (height, width) = metadata["model"]["kwargs"], metadata["preprocess"]["image_size"]
    model = build(**complete(build, kwargs))
    if height != width or not parts.is_plain(model):
        return None
    config = {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": "float32",
        "vision_config": _vision_config(model, height),
        "prompt_encoder_config": {
            "hidden_size": model.prompts.width,
            "image_size": height,
            "patch_size": model.encoder.patch_size,
            "mask_input_channels": model.prompts.mask_channels,
        },
        "mask_decoder_config": {
            "hidden_size": model.prompts.width,
            "mlp_dim": model.decoder.style.mlp_dim,
            "num_attention_heads": model.decoder.style.num_heads,
            "num_hidden_layers": model.decoder.depth,
            "iou_head_hidden_dim": model.decoder.iou_hidden,
            "layer_norm_eps": model.decoder.style.norm_epsilon,
        },
    }
    return {"config.json": config, "preprocessor_config.json": _processor(metadata["preprocess"], height)}


def _vision_config(model: Sam, side: int) -> dict[str, Any]:
    encoder, style = model.encoder, model.encoder.styles[0]
    windows = parts.windows_of(encoder)
    return {
        "image_size": side,
        "patch_size": encoder.patch_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": style.num_heads,
        "mlp_dim": style.mlp_dim,
        "hidden_act": parts.ACTIVATIONS[style.activation],
        "layer_norm_eps": style.norm_epsilon,
        "window_size": max(window or 0 for window in windows) or 14,
        "global_attn_indexes": [i for i, window in enumerate(windows) if window is None],
        "output_channels": model.prompts.width,
        "num_pos_feats": model.prompts.width // 2,
        "use_abs_pos": True,
        "use_rel_pos": style.relative_positions,
    }


def _pixels(processor: JsonObject, size: Sequence[int]) -> dict[str, Any]:
    """Values for `Preprocess` from a SamImageProcessor, whose defaults are what SAM was trained with.

    Raises:
        UserError: for one that does something else.
    """
    kind = processor.text("image_processor_type", "SamImageProcessor")
    if kind not in ("SamImageProcessor", "SamImageProcessorFast"):
        raise processor.error("image_processor_type", f"is {kind!r}", "Only a SamImageProcessor can be read")
    for key, side, names in (("size", max(size), ("longest_edge",)), ("pad_size", size[0], ("height", "width"))):
        said = processor.object(key)
        if any(said.integer(name, side) != side for name in names):
            raise processor.error(key, f"is {dict(said)}", f"The model sees squares of {side} pixels")
    for key in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        if not processor.boolean(key, True):
            raise processor.error(key, "is false", "Only processors that pad, resize and normalise can be read")
    if processor.integer("resample", 2) != 2:
        raise processor.error("resample", f"is {processor['resample']}", "Only 2, bilinear, can be read")
    scale = 1 / processor.number("rescale_factor", 1 / 255, above=0)
    found = dict(parts.PREPROCESS)
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if (values := processor.numbers(theirs, 3)) is not None:
            found[ours] = in_pixels(values, scale)
    return found


def _processor(preprocess: Mapping[str, Any], side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "SamImageProcessor",
        "do_resize": True,
        "size": {"longest_edge": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": in_unit(preprocess, "mean"),
        "image_std": in_unit(preprocess, "std"),
        "do_pad": True,
        "pad_size": {"height": side, "width": side},
        "do_convert_rgb": True,
    }
