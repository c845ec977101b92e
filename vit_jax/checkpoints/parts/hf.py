"""What the families of transformers have in common: names, and config.json."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.checkpoints.config_keys import Keys, model_type
from vit_jax.checkpoints.json_file import JsonObject
from vit_jax.checkpoints.name_map import Entry, Shapes, conv, norm, same
from vit_jax.checkpoints.parts import vit as parts
from vit_jax.checkpoints.parts.sidecars import label_names, names_by_id
from vit_jax.checkpoints.published import Sidecar
from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant

VIT_LAYER = "encoder.layer.{}."
VIT_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
# What transformers 5 calls modules of a ViT and of a Swin in memory; its files keep the names that they had before.
_RENAMED = {
    r"attention\.o_proj\.": "attention.output.dense.",
    r"mlp\.fc1\.": "intermediate.dense.",
    r"mlp\.fc2\.": "output.dense.",
}
_RENAMED_OF_VIT = {
    r"(^|\.)layers\.": r"\1encoder.layer.",
    r"attention\.q_proj\.": "attention.attention.query.",
    r"attention\.k_proj\.": "attention.attention.key.",
    r"attention\.v_proj\.": "attention.attention.value.",
}
_RENAMED_OF_SWIN = {
    r"attention\.q_proj\.": "attention.self.query.",
    r"attention\.k_proj\.": "attention.self.key.",
    r"attention\.v_proj\.": "attention.self.value.",
}
MAE_DECODER = "decoder.decoder_embed.weight"  # only a ViTMAEForPreTraining has it


def encoder_kwargs(
    config: JsonObject, patch: Sequence[int], width: int, depth: int, mlp_dim: int, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Size, GELU and epsilon: sizes from shapes, the rest from the config, else from the family's `defaults`.

    Args:
        defaults: 'hidden_act', 'layer_norm_eps' and, if it is not `vit_parts.heads_of`, 'num_attention_heads'.

    Raises:
        UserError: the config contradicts the shapes.
    """
    for key, found in {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": mlp_dim}.items():
        config.must_agree(key, found)
    if patch[0] == patch[1]:
        config.must_agree("patch_size", patch[0])
    # A config.json leaves out what is the default of its class: 12 heads, whatever the width.
    heads = 12 if config else defaults.get("num_attention_heads") or parts.heads_of(width)
    size = Variant(width, depth, mlp_dim, config.integer("num_attention_heads", heads, at_least=1, at_most=width))
    return parts.size_kwargs(size, patch) | {
        "gelu": parts.gelu_of(config.text("hidden_act", defaults["hidden_act"])),
        "layer_norm_epsilon": config.number("layer_norm_eps", defaults["layer_norm_eps"], at_least=0),
    }


def check(config: JsonObject, keys: Keys, *model_types: str) -> tuple[str, ...]:
    """Refuses a config.json of another model, or with a key that vit_jax neither reads nor knows to be harmless.

    Returns:
        For a file without a config.json the sentence that says so.
    """
    if not config:
        return ("no config.json: activation, epsilon and heads of 64 are assumed, as the family's models have them",)
    model_type(config, *model_types)
    keys.check(config)
    return ()


def agrees(config: JsonObject, key: str, found: bool) -> None:
    """Refuses a yes or no that contradicts what the tensors say."""
    said = config.boolean(key, found)
    if said != found:
        raise config.error(key, f"is {str(said).lower()}, but the tensors say {str(found).lower()}")


def grid(config: JsonObject, positions: int, patch: int, name: str) -> list[int]:
    """Rows and columns of the positions.

    Raises:
        UserError: they are not a grid, or another one than that of the image size in config.json; it names the tensor.
    """
    image_hw = config.sides("image_size")
    found = parts.grid_of(positions, image_hw, patch)
    if found is None or (image_hw and found != [side // patch for side in image_hw]):
        raise UserError(
            f"The tensor {name!r} has {positions} positions of patches, which are not a square or not the grid of the "
            "image size in config.json",
            "Check that the file and its config belong together",
        )
    return found


def labels(sidecar: Sidecar, num_classes: int) -> tuple[str, ...]:
    """Names in id2label, whose keys are numbers as strings."""
    return label_names(names_by_id(sidecar.config.names("id2label")), num_classes)


def size_config(kwargs: Mapping[str, Any], image_size: Sequence[int]) -> dict[str, Any]:
    """The config.json entries that all of these families share."""
    size, patch = parts.size_of(kwargs)
    square = image_size[0] == image_size[1]
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "hidden_act": {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[kwargs.get("gelu", "tanh")],
        "layer_norm_eps": kwargs.get("layer_norm_epsilon", 1e-6),
        "image_size": image_size[0] if square else list(image_size),
        "patch_size": patch,
        "num_channels": 3,
        "dtype": "float32",
    }


def label_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """id2label and label2id: our labels, or what transformers calls unknown ones."""
    count = metadata["model"]["kwargs"]["num_classes"]
    names = list(metadata.get("labels") or ()) or [f"LABEL_{i}" for i in range(count)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def vit_entries(
    kwargs: Mapping[str, Any], prefix: str, grid: Sequence[int] | None, names: Mapping[str, str] = VIT_NAMES
) -> list[Entry]:
    """The trunk as transformers' ViT names it, from which its DeiT, MAE and DINOv2 are copied.

    Args:
        prefix: what stands before all names.
        grid: rows and columns of the positions, see `vit_parts.position_entry`.
        names: see `block_names`.
    """
    embeddings = f"{prefix}embeddings."
    return [
        conv("encoder/embedding/kernel", f"{embeddings}patch_embeddings.projection.weight"),
        same("encoder/embedding/bias", f"{embeddings}patch_embeddings.projection.bias"),
        same("encoder/cls", f"{embeddings}cls_token"),
        parts.position_entry(kwargs, f"{embeddings}position_embeddings", grid),
        *parts.block_entries(kwargs, block_names(prefix + VIT_LAYER, names)),
        *norm("encoder/norm", f"{prefix}layernorm"),
    ]


def block_names(layer: str, names: Mapping[str, str] = VIT_NAMES) -> parts.BlockNames:
    """The names in a layer.

    Args:
        layer: what stands before them, with `{}` for the number.
        names: of what is not the attention, see `vit_parts.BlockNames`.
    """
    return parts.BlockNames(
        qkv=tuple(layer + f"attention.attention.{part}" for part in ("query", "key", "value")),
        out=layer + "attention.output.dense",
        **{field: layer + name for field, name in names.items()},
    )


def former_names(name: str) -> str:
    """The name in files of a parameter of a ViT or of a Swin that is called so in memory."""
    own = _RENAMED_OF_SWIN if ".blocks." in name else _RENAMED_OF_VIT
    for later, former in (_RENAMED | own).items():
        name = re.sub(later, former, name)
    return name


def prefix_of(tensors: Shapes, known: Sequence[str], name: str) -> str | None:
    """The one of the `known` prefixes with which a tensor `name` is there."""
    return next((prefix for prefix in known if prefix + name in tensors), None)
