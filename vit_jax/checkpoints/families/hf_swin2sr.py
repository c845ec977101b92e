"""Swin2SR as transformers names it (`Swin2SRForImageSuperResolution`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import HF_SWIN2SR
from vit_jax.checkpoints.name_map import Entry, NameMap, Shapes, convolution, norm, shape_of
from vit_jax.checkpoints.parts import hf as hf_parts
from vit_jax.checkpoints.parts import vit as vit_parts
from vit_jax.checkpoints.parts.sidecars import in_unit, is_of
from vit_jax.checkpoints.parts.swin_v2 import SwinV2Names, block_entries
from vit_jax.checkpoints.parts.vit import gelu_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.swin import stage_name
from vit_jax.models.swin2sr import VARIANTS, Size, Swin2SR, build
from vit_jax.nn.stack import block_name
from vit_jax.nn.style import EXECUTION_KEYS

LIBRARY = "transformers"
MODELS = "Swin2SR, classical and lightweight"
WRITES = ("swin2sr",)
COMPARED = "images of transformers' own models at three sizes, enlarged by 2, 3 and 4; our files read by it"

_MEAN = [0.4488, 0.4371, 0.4040]  # of DIV2K, a constant of the code
_TRUNK, _BLOCK = "swin2sr.", "swin2sr.encoder.stages.{}.layers.{}."
_SCALE = "attention.self.logit_scale"
_UP = {"pixelshuffle": "upsample.conv_before_upsample", "pixelshuffledirect": "upsample.conv"}
# Arguments that the library has a place for, or that change nothing in evaluation.
_FREE = (
    "variant", "scale", "width", "depths", "num_heads", "mlp_ratio", "upsampler", "window_size", "norm_epsilon",
    "activation", "dtype", "drop_path_rate", "dropout_rate", "attention_dropout_rate", *EXECUTION_KEYS,
)  # fmt: skip
_ACTIVATIONS = {"gelu_exact": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if f"{_TRUNK}first_convolution.weight" not in tensors or _BLOCK.format(0, 0) + _SCALE not in tensors:
        return None
    config = sidecar.config
    remarks = hf_parts.check(config, HF_SWIN2SR, "swin2sr")
    upsampler = next((name for name, tensor in _UP.items() if f"{tensor}.weight" in tensors), None)
    said = config.text("upsampler", upsampler)
    if upsampler is None or said != upsampler:
        raise config.error(
            "upsampler", f"is {said}, which vit_jax does not have", f"Only {' and '.join(_UP)} can be read"
        )
    width = shape_of(tensors, f"{_TRUNK}first_convolution.weight", 4)[0]
    depths, num_heads = [], []
    while depth := vit_parts.depth_of(tensors, _BLOCK.replace("{}", str(len(depths)), 1)):
        num_heads.append(shape_of(tensors, _BLOCK.format(len(depths), 0) + _SCALE, 3)[0])
        depths.append(depth)
    config.must_agree("embed_dim", width)
    size = Size(width, tuple(depths), tuple(num_heads), upsampler)
    known = next((name for name, variant in VARIANTS.items() if variant == size), None)
    own = {"width": width, "depths": depths, "num_heads": num_heads, "upsampler": upsampler}
    kwargs: dict[str, Any] = {"variant": known} if known else own
    kwargs["scale"] = _scale(tensors, upsampler)
    config.must_agree("upscale", kwargs["scale"])
    hidden = shape_of(tensors, _BLOCK.format(0, 0) + "intermediate.dense.weight", 2)[0]
    if hidden != 2 * width:
        kwargs["mlp_ratio"] = hidden / width
    if (window := config.integer("window_size", 8, at_least=1)) != 8:
        kwargs["window_size"] = window
    if gelu_of(config.text("hidden_act", "gelu")) != "exact":
        kwargs["activation"] = "gelu_tanh"
    if (epsilon := config.number("layer_norm_eps", 1e-5, at_least=0)) != 1e-5:
        kwargs["norm_epsilon"] = epsilon
    spread = 255.0 / config.number("img_range", 1.0, above=0)
    preprocess = {
        "image_size": config.sides("image_size") or [64, 64],
        "interpolation": "bicubic",
        "mean": [round(255 * value, 6) for value in _MEAN],
        "std": [spread] * 3,
    }
    fields = {"image": {"name": "image"}, "high": {"name": "high_resolution", "scale": kwargs["scale"]}}
    task = {"name": "super_resolution", "kwargs": {}, "given": []}
    return Published("swin2sr", kwargs, preprocess, {}, (), remarks, fields, task)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**kwargs)
    encoder = model.encoder
    found = [
        *convolution("encoder/stem", f"{_TRUNK}first_convolution"),
        *convolution("encoder/embedding", f"{_TRUNK}embeddings.patch_embeddings.projection"),
        *norm("encoder/norm_embedding", f"{_TRUNK}embeddings.patch_embeddings.layernorm"),
        *norm("encoder/norm", f"{_TRUNK}layernorm"),
        *convolution("encoder/conv", f"{_TRUNK}conv_after_body"),
    ]
    for i, (depth, style) in enumerate(zip(encoder.depths, encoder.styles, strict=True)):
        stage, theirs = f"encoder/{stage_name(i)}", f"{_TRUNK}encoder.stages.{i}."
        for j in range(depth):
            block = f"{stage}/{block_name(j)}"
            found += block_entries(block, _BLOCK.format(i, j), _NAMES, encoder.width, style.num_heads)
        found += convolution(f"{stage}/conv", f"{theirs}conv") + convolution(
            f"{stage}/embedding", f"{theirs}patch_embed.projection"
        )
    return NameMap(found + _upsampler(model), ("*.relative_position_index", "*.relative_coords_table"))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`; to transformers the mean of pixels is a constant."""
    if not is_of(metadata, "swin2sr"):
        return None
    kwargs, pixels = metadata["model"]["kwargs"], metadata["preprocess"]
    model, deviations = build(**kwargs), {round(value, 3) for value in pixels.get("std", (127.5,))}
    encoder, style = model.encoder, model.encoder.styles[0]
    alike = encoder == build(**{key: value for key, value in kwargs.items() if key in _FREE}).encoder
    means = [round(value, 4) for value in in_unit(pixels, "mean")]
    if not alike or means != _MEAN or len(deviations) > 1 or style.activation not in _ACTIVATIONS:
        return None
    side = [int(pixels) for pixels in pixels["image_size"]]
    config = {
        "architectures": ["Swin2SRForImageSuperResolution"],
        "model_type": "swin2sr",
        "image_size": side[0] if side[0] == side[1] else side,
        "patch_size": 1,
        "num_channels": 3,
        "num_channels_out": 3,
        "embed_dim": encoder.width,
        "depths": list(encoder.depths),
        "num_heads": [of.num_heads for of in encoder.styles],
        "window_size": style.window_size,
        "mlp_ratio": style.mlp_dim / encoder.width,
        "hidden_act": _ACTIVATIONS[style.activation],
        "layer_norm_eps": style.norm_epsilon,
        "upscale": model.scale,
        "img_range": round(255 / pixels["std"][0], 9),
        "resi_connection": "1conv",
        "upsampler": model.upsampler,
        "dtype": "float32",
    }
    processor = {"image_processor_type": "Swin2SRImageProcessor", "do_rescale": True, "rescale_factor": 1 / 255,
                 "do_pad": True, "size_divisor": style.window_size}  # fmt: skip
    return {"config.json": config, "preprocessor_config.json": processor}


def _scale(tensors: Shapes, upsampler: str) -> int:
    """By how much the image becomes larger, as the convolutions say."""
    if upsampler == "pixelshuffledirect":
        return round((shape_of(tensors, "upsample.conv.weight", 4)[0] / 3) ** 0.5)
    if "upsample.upsample.convolution.weight" in tensors:
        return 3
    return 2 ** sum(f"upsample.upsample.convolution_{i}.weight" in tensors for i in range(3))


def _upsampler(model: Swin2SR) -> list[Entry]:
    if model.upsampler == "pixelshuffledirect":
        return convolution("head/last", "upsample.conv")
    found = convolution("head/before", _UP["pixelshuffle"]) + convolution("head/last", "upsample.final_convolution")
    if model.scale == 3:
        return found + convolution("head/up_0", "upsample.upsample.convolution")
    for i in range(model.scale // 2):
        found += convolution(f"head/up_{i}", f"upsample.upsample.convolution_{i}")
    return found


# Only what `block_entries` asks for is there: the rest of the network is another than a classifier's.
_NAMES = SwinV2Names(
    patch="",
    patch_norm="",
    merging=str,
    block=_BLOCK,
    norm1="layernorm_before",
    qkv=tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
    table="",
    out="attention.output.dense",
    norm2="layernorm_after",
    fc1="intermediate.dense",
    fc2="output.dense",
    norm="",
    head="",
    scale=_SCALE,
    positions="attention.self.continuous_position_bias_mlp.",
    query_bias="attention.self.query.bias",
    value_bias="attention.self.value.bias",
)
