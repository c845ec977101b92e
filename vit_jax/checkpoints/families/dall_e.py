"""DALL-E's discrete VAE as its authors name it (github.com/openai/DALL-E, PyPI `dall-e`).

They distribute encoder and decoder as pickles of whole modules; this reads what `safetensors.torch.save_file` makes of
both state dicts together, with "encoder." and "decoder." before their names. An encoder alone is read too.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, same, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts import dvae
from vit_jax.checkpoints.parts.sidecars import is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.dvae import build

LIBRARY = "dall_e"
MODELS = "DALL-E's discrete VAE, in its authors' names"
WRITES = ("dvae",)
COMPARED = "logits, codes and what decodes them of the authors' own modules"

_BLOCK, _CONV, _NAMES = "group_{}.block_{}.", "res_path.conv_{}", {"kernel": "w", "bias": "b"}
_ENCODER, _DECODER = "encoder.blocks.", "decoder.blocks."
_INPUT = f"{_DECODER}input.w"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    del sidecar
    kwargs = dvae.dvae_kwargs(tensors, _ENCODER, _BLOCK, "w")
    if kwargs is None:
        return None
    if _INPUT in tensors:
        kwargs["code_width"] = shape_of(tensors, _INPUT, 4)[0]
    else:
        kwargs["decoder"] = False
    return Published("dvae", kwargs, parts.pixels(), task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**kwargs)
    entries = dvae.encoder_entries(model, _ENCODER, _BLOCK, _CONV, _NAMES)
    if not model.has_decoder:
        return NameMap(entries)
    entries += [parts.one_by_one("decoder/input/kernel", _INPUT), same("decoder/input/bias", f"{_DECODER}input.b")]
    entries += dvae.conv_entries("decoder/output", f"{_DECODER}output.conv", _NAMES)
    before, widths = model.latent_width, [2 ** (3 - i) * model.hidden for i in range(4)]
    for i, width in enumerate(widths):
        for j in range(model.num_blocks):
            theirs = _DECODER + _BLOCK.format(i + 1, j + 1)
            entries += dvae.block_entries(f"decoder/group_{i}/block_{j}", theirs, _CONV, before != width, _NAMES)
            before = width
    return NameMap(entries)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    return {} if is_of(metadata, "dvae") else None
