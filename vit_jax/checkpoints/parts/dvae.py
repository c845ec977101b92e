"""What the families of DALL-E's discrete VAE have in common."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import Entry, Shapes, conv, same, shape_of
from vit_jax.models.dvae import DVAE

_GROUPS = 4


def dvae_kwargs(tensors: Shapes, prefix: str, block: str, weight: str) -> dict[str, Any] | None:
    """Arguments of the model whose encoder these tensors have; None for others.

    Args:
        prefix: before the encoder's names, "encoder.blocks.".
        block: of block j of group i.
        weight: what weights are called, "w" or "weight".
    """
    stem, output = f"{prefix}input.{weight}", f"{prefix}output.conv.{weight}"
    if stem not in tensors or output not in tensors or f"{prefix}{block.format(1, 1)}res_path" not in _paths(tensors):
        return None
    kwargs: dict[str, Any] = {
        "hidden": shape_of(tensors, stem, 4)[0], "num_codes": shape_of(tensors, output, 4)[0], "num_blocks": 0,
    }  # fmt: skip
    paths = _paths(tensors)
    while f"{prefix}{block.format(1, kwargs['num_blocks'] + 1)}res_path" in paths:
        kwargs["num_blocks"] += 1
    return kwargs


def _paths(tensors: Shapes) -> set[str]:
    """Names up to the residual path of a block."""
    return {name[: name.index("res_path") + len("res_path")] for name in tensors if "res_path" in name}


def encoder_entries(model: DVAE, prefix: str, block: str, convolution: str, names: Mapping[str, str]) -> list[Entry]:
    """Those of the encoder.

    Args:
        convolution: of convolution k, within a block.
        names: what a kernel and a bias are called.
    """
    found = conv_entries("encoder/input", f"{prefix}input", names) + conv_entries(
        "encoder/output", f"{prefix}output.conv", names
    )
    for i in range(_GROUPS):
        for j in range(model.num_blocks):
            theirs = prefix + block.format(i + 1, j + 1)
            shortcut = bool(i) and not j
            found += block_entries(f"encoder/group_{i}/block_{j}", theirs, convolution, shortcut, names)
    return found


def block_entries(
    ours: str, theirs: str, convolution: str, shortcut: bool, names: Mapping[str, str]
) -> list[Entry]:  # fmt: skip
    """Those of a block."""
    found = []
    for k in range(1, 5):
        found += conv_entries(f"{ours}/conv{k}", theirs + convolution.format(k), names)
    return found + (conv_entries(f"{ours}/shortcut", f"{theirs}id_path", names) if shortcut else [])


def conv_entries(ours: str, theirs: str, names: Mapping[str, str]) -> list[Entry]:
    """A convolution with a bias."""
    kernel, bias = (f"{theirs}.{names[part]}" for part in ("kernel", "bias"))
    return [conv(f"{ours}/kernel", kernel), same(f"{ours}/bias", bias)]
