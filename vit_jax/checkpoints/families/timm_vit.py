"""ViTs as timm names them: ViT, DeiT, DeiT III, DINOv2, SigLIP and MAE encoders, and all that share their class."""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_VIT
from vit_jax.checkpoints.json_file import JsonObject, shown
from vit_jax.checkpoints.name_map import NameMap, Shapes, conv, dense, norm, same, shape_of
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import IMAGENET, INCEPTION, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant

LIBRARY = "timm"
MODELS = "ViT, DeiT, DeiT III, DINOv2, SigLIP, MAE"
WRITES = ("vit",)
COMPARED = "tokens and logits of timm's own models at two resolutions; files of ours read by timm"

_POOLINGS = {"token": "token", "avg": "mean", "map": "map"}
# Architectures that have the tanh GELU although their names of tensors do not tell.
_TANH = re.compile(r"patch32_siglip|so400m_patch16_siglip|giantopt_.*siglip|large_patch16_siglip_(gap_)?512|_gelutanh_")
# Same names of tensors, other functions: norms after the branches, and an activation that is no GELU.
_OTHER_FUNCTION = re.compile(r"_rpn_|quickgelu")
_DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "so400m": 27, "huge": 32, "giant": 40, "giantopt": 40}
MAE_DECODER = "decoder_embed.weight"  # in the files of MAE's authors


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `Family`. config.json has 'architecture', 'model_args' and 'pretrained_cfg'; any of them may be missing."""
    needed = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.attn.qkv.weight": 2, "blocks.0.mlp.fc2.weight": 2}
    if any(name not in tensors for name in needed) or "norm_pre.weight" in tensors or MAE_DECODER in tensors:
        return None
    # With a backbone it is a hybrid.
    if any(len(tensors[name]) != rank for name, rank in needed.items()) or any(
        ".backbone." in name for name in tensors
    ):
        return None
    config = sidecar.config
    architecture = config.text("architecture", "").partition(".")[0]
    arguments = config.object("model_args")
    if architecture and not re.match(r"(vit|deit3?|flexivit)_", architecture):
        return None
    if _OTHER_FUNCTION.search(architecture):
        raise UserError(
            f"{shown(architecture)} is not the plain ViT that its tensors look like", "Load another architecture"
        )
    assumed = "norms before the branches, the exact GELU, heads of 64, pooling by the tensors' names, and pixels"
    remarks = timm_parts.check(sidecar, TIMM_VIT, assumed)
    if arguments.boolean("pool_include_prefix"):
        raise UserError(f"{shown(architecture)} pools its prefix tokens too", "Load another architecture")

    width, _, *patch = shape_of(tensors, "patch_embed.proj.weight", 4)
    mlp_dim = shape_of(tensors, "blocks.0.mlp.fc2.weight", 2)[1]
    fc1 = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2, (mlp_dim, width))[0]
    swiglu = fc1 == 2 * mlp_dim
    depth = parts.depth_of(tensors, "blocks.{}.")
    arguments.must_agree("depth", depth)
    arguments.must_agree("embed_dim", width)
    size = re.match(r"(?:vit|deit3?)_([a-z0-9]+)_(?!\d+x\d)(?:distilled_)?patch\d+_(?!\d+x\d)", architecture)
    if size and "depth" not in arguments:
        depth = _DEPTHS.get(size[1], depth)  # a file without its last block does not pass for a smaller model
    kwargs = parts.size_kwargs(
        Variant(
            width,
            depth,
            mlp_dim,
            arguments.integer("num_heads", at_least=1, at_most=width) or _heads(architecture, width, swiglu),
        ),
        patch,
    )
    registers = shape_of(tensors, "reg_token", 3, (1, 0, width))[1]
    class_token, distilled = "cls_token" in tensors, "dist_token" in tensors
    image_hw = arguments.sides("img_size") or timm_parts.image_size(sidecar)
    prefix, grid = _prefix(shape_of(tensors, "pos_embed", 3)[1], class_token, distilled, registers, image_hw, patch[0])

    num_classes = shape_of(tensors, "head.weight", 2, (0, width))[0]
    activation = arguments.text("act_layer") or ("gelu_tanh" if _TANH.search(architecture) else "gelu")
    kwargs |= {
        "num_classes": num_classes,
        "pooling": "distilled" if distilled else _pooling(tensors, config, arguments),
        "class_token": class_token,
        "class_token_posemb": class_token and prefix > 0,
        "gelu": "exact" if swiglu else parts.gelu_of(activation),
        "layer_norm_epsilon": 1e-6,
        "posemb_resize": "bicubic_antialias",
    }
    if kwargs["pooling"] == "map" and class_token:
        raise UserError("timm's attention pooling leaves the class token out, ours does not", "Load another model")
    if distilled:
        kwargs["distillation_token"] = True
    if registers:
        kwargs["num_registers"] = registers
    if swiglu:
        kwargs["mlp"] = "swiglu"
    if "blocks.0.ls1.gamma" in tensors:
        kwargs["layer_scale_init"] = arguments.number("init_values") or 1e-5
    if "blocks.0.attn.qkv.bias" not in tensors:
        kwargs["qkv_bias"] = False
    if "fc_norm.weight" in tensors:
        kwargs["fc_norm"] = True

    looks_imagenet = distilled or registers or "layer_scale_init" in kwargs
    stats, image_size = IMAGENET if looks_imagenet else INCEPTION, [side * patch[0] for side in grid]
    made = parts.made_of(image_hw, image_size, patch[0])
    preprocess = timm_parts.preprocess(sidecar, image_size, crop_pct=0.9, stats=stats, made=made)
    return Published("vit", kwargs, preprocess, {"grid": grid}, timm_parts.labels(sidecar, num_classes), remarks)


def block_names(block: str = "blocks.{}.") -> parts.BlockNames:
    """The names in a block; `block` stands before them, with `{}` for the number."""
    return parts.BlockNames(
        norm1=block + "norm1",
        qkv=(block + "attn.qkv",),
        out=block + "attn.proj",
        norm2=block + "norm2",
        fc1=block + "mlp.fc1",
        fc2=block + "mlp.fc2",
        layer_scale1=block + "ls1.gamma",
        layer_scale2=block + "ls2.gamma",
        gate=block + "mlp.fc1",
        gated_fc2=block + "mlp.fc2",
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `Family`; `grid` in the layout says how many rows and columns of positions there are."""
    size, _ = parts.size_of(kwargs)
    entries = [conv("encoder/embedding/kernel", "patch_embed.proj.weight")]
    entries.append(same("encoder/embedding/bias", "patch_embed.proj.bias"))
    entries.append(parts.position_entry(kwargs, "pos_embed", layout.get("grid")))
    if parts.tokens_of(kwargs)[0]:
        entries.append(same("encoder/cls", "cls_token"))
    if kwargs.get("distillation_token"):
        entries.append(same("encoder/distillation", "dist_token"))
    if kwargs.get("num_registers"):
        entries.append(same("encoder/registers", "reg_token"))
    entries += parts.block_entries(kwargs, block_names())
    entries += norm("fc_norm", "fc_norm") if kwargs.get("fc_norm") else norm("encoder/norm", "norm")
    if kwargs.get("pooling") == "map":
        width, heads = size.width, size.num_heads
        entries.append(same("pool/probe", "attn_pool.latent"))
        entries += parts.projection("pool/attention/query", "attn_pool.q.weight", "attn_pool.q.bias", width, heads)
        entries += parts.fused_projections(
            "pool/attention", ("key", "value"), "attn_pool.kv.weight", "attn_pool.kv.bias", width, heads
        )
        entries += parts.attention_out("pool/attention/out", "attn_pool.proj", width, heads)
        entries += norm("pool/norm", "attn_pool.norm")
        entries += dense("pool/mlp/fc1", "attn_pool.mlp.fc1") + dense("pool/mlp/fc2", "attn_pool.mlp.fc2")
    if kwargs["num_classes"]:
        entries += dense("head", "head")
        if kwargs.get("pooling") == "distilled":
            entries += dense("distillation_head", "head_dist")
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `Family`. All that an architecture fixes is written as an argument, so its name says little."""
    if not is_of(metadata, "vit"):
        return None
    kwargs = metadata["model"]["kwargs"]
    size, patch = parts.size_of(kwargs)
    class_token, class_posemb = parts.tokens_of(kwargs)
    pooling, swiglu = kwargs.get("pooling", "token"), kwargs.get("mlp") == "swiglu"
    distilled = bool(kwargs.get("distillation_token"))
    unknown = {"distillation_token": ..., "num_registers": ..., "mlp": ..., "layer_scale_init": ..., "qkv_bias": ...}
    fits = (
        parts.is_plain(kwargs, fc_norm=..., **unknown)
        and kwargs.get("layer_norm_epsilon", 1e-6) == 1e-6
        and distilled == (pooling == "distilled")
        and pooling != "token_mean"
        and not (pooling == "map" and (class_token or swiglu))
        and not (kwargs.get("num_registers") and class_posemb)
    )
    if not fits:
        return None
    hidden = 2 * size.mlp_dim if swiglu else size.mlp_dim
    ratio = hidden / size.width
    arguments = {
        "img_size": list(metadata["preprocess"]["image_size"]),
        "patch_size": patch,
        "embed_dim": size.width,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "mlp_ratio": ratio if int(size.width * ratio) == hidden else (hidden + 0.5) / size.width,
        "qkv_bias": kwargs.get("qkv_bias", True),
    }
    if kwargs.get("layer_scale_init") is not None:
        arguments["init_values"] = kwargs["layer_scale_init"]
    if not swiglu:
        arguments["act_layer"] = {"exact": "gelu", "tanh": "gelu_tanh"}[kwargs.get("gelu", "tanh")]
    pool = {ours: theirs for theirs, ours in _POOLINGS.items()}.get(pooling, "token")
    if not distilled:
        arguments |= {
            "class_token": class_token,
            "no_embed_class": not class_posemb,
            "reg_tokens": kwargs.get("num_registers", 0),
            "global_pool": pool,
            "fc_norm": kwargs.get("fc_norm", False),
        }
    base = "vit_giant_patch14_dinov2" if swiglu else "vit_base_patch16_224"
    further = {
        "custom_load": False,
        "fixed_input_size": True,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if distilled else "head",
    }
    architecture = "deit_base_distilled_patch16_224" if distilled else base
    return timm_parts.config(architecture, metadata, arguments, further, num_features=size.width, global_pool=pool)


def _heads(architecture: str, width: int, swiglu: bool) -> int:
    if "base_patch16_gap" in architecture:
        return 16
    return width // 64 if swiglu else parts.heads_of(width)


def _prefix(
    positions: int, class_token: bool, distilled: bool, registers: int, image_hw: Any, patch: int
) -> tuple[int, list[int]]:
    """How many tokens before the patches have a position, and the grid of the patches."""
    fits = {}
    for prefix in {0, int(class_token) + int(distilled), int(class_token) + int(distilled) + registers}:
        if grid := parts.grid_of(positions - prefix, image_hw, patch):
            fits[prefix] = grid
    said = [prefix for prefix, grid in fits.items() if image_hw and grid == [side // patch for side in image_hw]]
    prefix = said[0] if said else min(fits, default=None)
    if prefix is None or prefix > int(class_token) + int(distilled) or (distilled and prefix != 2):
        raise UserError(
            f"The tensor 'pos_embed' has {positions} positions, which are not a grid of patches with a class token",
            "Registers cannot have positions, and an image that is not square needs the config.json of its model",
        )
    return prefix, fits[prefix]


def _pooling(tensors: Shapes, config: JsonObject, arguments: JsonObject) -> str:
    if "attn_pool.latent" in tensors:
        return "map"
    by_names = "avg" if "fc_norm.weight" in tensors or "cls_token" not in tensors else "token"
    pool = arguments.text("global_pool") or config.text("global_pool") or by_names
    if pool not in _POOLINGS or pool == "map":
        raise UserError(f"The model pools its tokens by {shown(pool)}", f"Known: {', '.join(_POOLINGS)}")
    return _POOLINGS[pool]
