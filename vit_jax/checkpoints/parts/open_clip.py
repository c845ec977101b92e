"""CLIP as OpenAI's code and open_clip name it: what the ViTs and the ResNets have in common."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import OPEN_CLIP, OPEN_CLIP_TEXT, OPEN_CLIP_VISION
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, Shapes, norm, same, shape_of
from vit_jax.checkpoints.parts import towers
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import in_pixels, in_unit
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError
from vit_jax.nn.two_towers import TwoTowers

LANDMARKS = ("logit_scale", "positional_embedding", "ln_final.weight", "text_projection", "token_embedding.weight")
IGNORED = ("attn_mask", "input_resolution", "context_length", "vocab_size", "*.num_batches_tracked")
ASSUMED = "no open_clip_config.json: QuickGELU, as OpenAI's models have it, and heads of 64 are assumed"

_BLOCK = "resblocks.{}."
EPSILON = 1e-5
_RESIZES = {"shortest": "short_side", "squash": "squash"}


def is_whole(tensors: Shapes, landmark: str) -> bool:
    """Whether the tensors are both towers, of which the image's has a tensor `landmark`."""
    return landmark in tensors and all(name in tensors for name in LANDMARKS)


def configs(sidecar: Sidecar) -> tuple[JsonObject, JsonObject, JsonObject]:
    """Of open_clip_config.json the whole model, the image tower and the text tower; empty where there is none.

    Raises:
        UserError: a key that is neither read nor known to be harmless.
    """
    said = sidecar.open_clip
    config = said.object("model_cfg") if "model_cfg" in said else said
    towers_said = config.object("vision_cfg"), config.object("text_cfg")
    for keys, values in zip((OPEN_CLIP, OPEN_CLIP_VISION, OPEN_CLIP_TEXT), (config, *towers_said), strict=True):
        keys.check(values)
    return config, *towers_said


def style(config: JsonObject) -> dict[str, Any]:
    """What both towers compute with."""
    quick = config.boolean("quick_gelu", not config)
    return {"activation": "quick_gelu" if quick else "gelu_exact", "norm_epsilon": EPSILON}


def text(tensors: Shapes, config: JsonObject) -> tuple[dict[str, Any], int]:
    """Of the text tower its size, and how many tokens it knows."""
    vocab_size, width = shape_of(tensors, "token_embedding.weight", 2)
    length = shape_of(tensors, "positional_embedding", 2)[0]
    depth = parts.depth_of(tensors, f"transformer.{_BLOCK}")
    mlp_dim = shape_of(tensors, f"transformer.{_BLOCK.format(0)}mlp.c_fc.weight", 2)[0]
    found = {"context_length": length, "vocab_size": vocab_size, "width": width, "layers": depth}
    for key, value in found.items():
        config.must_agree(key, value)
    heads = config.integer("heads", 8 if config else max(width // 64, 1), at_least=1, at_most=width)
    size = {"width": width, "depth": depth, "num_heads": heads, "mlp_dim": mlp_dim, "max_length": length}
    return size, vocab_size


def entries(model: TwoTowers) -> list[Entry]:
    """All but the image tower; projections are products from the right, as ours are."""
    text = model.text
    found = [
        same("text/embedding", "token_embedding.weight"),
        same("text/pos_embedding", "positional_embedding"),
        *block_entries(towers.text_arguments(text), "transformer.", "text"),
        *norm("text/norm", "ln_final"),
        same("text_projection/kernel", "text_projection"),
        towers.scalar("logit_scale", "logit_scale", ()),
    ]
    return found


def block_entries(arguments: Mapping[str, Any], prefix: str, subtree: str) -> list[Entry]:
    """The blocks of either tower; queries, keys and values are one parameter of PyTorch's attention."""
    layer = prefix + _BLOCK
    names = parts.BlockNames(
        norm1=f"{layer}ln_1", qkv=(f"{layer}attn.in_proj",), out=f"{layer}attn.out_proj", norm2=f"{layer}ln_2",
        fc1=f"{layer}mlp.c_fc", fc2=f"{layer}mlp.c_proj",
    )  # fmt: skip
    found = parts.block_entries(arguments, names, subtree)
    return [dataclasses.replace(e, theirs=tuple(n.replace("in_proj.", "in_proj_") for n in e.theirs)) for e in found]


def pixels(sidecar: Sidecar, image_size: Sequence[int]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How images are prepared, by OpenAI's statistics where nothing says otherwise, and what has to be said about it.

    Raises:
        UserError: images are placed in another way than by their shorter side or stretched.
    """
    said = sidecar.open_clip.object("preprocess_cfg")
    mode = said.text("resize_mode", "shortest")
    if mode not in _RESIZES:
        raise said.error(
            "resize_mode", f"is {mode!r}, in which images are not placed here", f"Known: {', '.join(_RESIZES)}"
        )
    default = {name: in_unit(towers.CLIP_PIXELS, name) for name in ("mean", "std")}
    values = {
        "image_size": list(image_size),
        "resize": _RESIZES[mode],
        "interpolation": said.text("interpolation", "bicubic"),
        **{name: in_pixels(said.numbers(name, 3) or default[name]) for name in ("mean", "std")},
    }
    if mode == "shortest":
        values["resize_to"] = max(image_size)
    said_size = said.sides("size")
    if said_size and list(said_size) != list(image_size):
        raise UserError(
            f"open_clip_config.json prepares images of {said_size[0]}x{said_size[1]} pixels for a model of "
            f"{image_size[0]}x{image_size[1]}",
            "Check that the file and its config belong together",
        )
    return values, (() if said else ("pixels are prepared as OpenAI's CLIP does it",))


def config_files(
    model: TwoTowers, vision: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, dict[str, Any]] | None:
    """open_clip_config.json; None where it cannot say what the model is.

    Args:
        vision: its section for the image tower, but for the image size.
    """
    text, preprocess = model.text, metadata["preprocess"]
    modes = {ours: theirs for theirs, ours in _RESIZES.items()}
    resize, size = preprocess.get("resize", "squash"), preprocess["image_size"]
    short = preprocess.get("resize_to") or max(size)
    activation = text.style.activation
    if activation not in ("quick_gelu", "gelu_exact") or resize not in modes or size[0] != size[1] or short != size[0]:
        return None
    model_cfg = {
        "embed_dim": model.embed_dim,
        "vision_cfg": {"image_size": size[0], **vision},
        "text_cfg": {
            "context_length": text.max_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.style.num_heads,
            "layers": text.depth,
            **ratio(text.width, text.style.mlp_dim),
        },
    }
    preprocess_cfg = {
        "size": size[0],
        "mode": "RGB",
        "mean": in_unit(preprocess, "mean"),
        "std": in_unit(preprocess, "std"),
        "interpolation": preprocess.get("interpolation", "bicubic"),
        "resize_mode": modes[resize],
    }
    model_cfg |= {"quick_gelu": True} if activation == "quick_gelu" else {}
    return {"open_clip_config.json": {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}}


def ratio(width: int, mlp_dim: int) -> dict[str, float]:
    """The hidden width of an MLP as open_clip's configs have it, where it is not four times the width."""
    return {} if mlp_dim == 4 * width else {"mlp_ratio": mlp_dim / width}
