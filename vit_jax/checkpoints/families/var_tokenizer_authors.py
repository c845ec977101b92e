"""VAR's tokenizer as its authors name it (github.com/FoundationVision/VAR, models/vqvae.py).

They distribute a pickle; this reads what `safetensors.torch.save_file` makes of it, also where `vae_local.` stands
before every name, as in the checkpoints of their training. One file serves images of 256, 512 and 1024 pixels; other
scales are in config.json, the arguments of the authors' class.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, convolution, same, shape_of
from vit_jax.checkpoints.parts import autoencoder as parts
from vit_jax.checkpoints.parts.sidecars import INCEPTION, complete, is_of
from vit_jax.checkpoints.parts.vit import depth_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.var_tokenizer import SCALES, VARTokenizer, build

LIBRARY = "var"
MODELS = "VAR's tokenizer"
WRITES = ("var_tokenizer",)
COMPARED = "what the authors' own code computed of it: indices, sums, loss, gradients and images"

_NAMES = dataclasses.replace(parts.COMPVIS, projections=("qkv", "proj_out"))  # queries, keys and values in one
PREFIX = "vae_local."  # of their training's checkpoints
_PHIS = ("quant_resi.qresi_ls.{}", "quant_resi.{}", "quant_resi.qresi")  # some shared, one each, one for all
_USAGE = "quantize.ema_vocab_hit_SV"  # how often codes were used, which only training looks at


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    for prefix in ("", PREFIX):
        quantizer = f"{prefix}quantize."
        if any(name.startswith(f"{quantizer}quant_resi.") for name in tensors) and _all_below(tensors, prefix):
            break
    else:
        return None
    codes, width = shape_of(tensors, f"{quantizer}embedding.weight", 2)
    names = [name for name in _PHIS if f"{quantizer}{name.format(0)}.weight" in tensors]
    phi = names[0] if names else _PHIS[0]
    sizes = parts.layout_kwargs({name.removeprefix(prefix): shape for name, shape in tensors.items()}, _NAMES)
    levels, attends = sizes.pop("attention_levels"), sizes.pop("middle_attention", True)
    kwargs = {
        **sizes,
        "vocab_size": codes,
        "latent_width": width,
        "phis": depth_of(tensors, f"{quantizer}{phi}.") if "{}" in phi else 1,
    }
    if levels != [len(sizes["multipliers"]) - 1]:
        kwargs["attention_levels"] = levels
    if not attends:
        kwargs["middle_attends"] = False
    side = 2 ** (len(sizes["multipliers"]) - 1) * min(SCALES)
    if (scales := sidecar.config.integers("v_patch_nums", at_least=1)) is not None:
        if tuple(scales) not in SCALES.values():
            kwargs["scales"] = scales
        side = side // min(SCALES) * scales[-1]
    if sidecar.config.boolean("using_znorm", False):
        kwargs["cosine"] = True
    layout = {"prefix": prefix, "phi": phi}
    return Published("var_tokenizer", kwargs, preprocess(side), layout, task=parts.TASK)


def preprocess(side: int) -> dict[str, Any]:
    """Values for `Preprocess` as the authors evaluate: the short side an eighth longer, and the middle of it."""
    how = {"resize": "short_side", "resize_to": round(1.125 * side), "interpolation": "lanczos", **INCEPTION}
    return {"image_size": [side, side], **how}


def _all_below(tensors: Shapes, prefix: str) -> bool:
    return all(name.startswith(prefix) for name in tensors)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`; the layout holds `prefix` and the name of a `phi`."""
    model = build(**complete(build, kwargs))
    prefix = layout.get("prefix", "")
    phi = layout.get("phi") or _usual_phi(model)
    entries = [
        *parts.encoder_entries(model.encoder, _NAMES),
        *parts.decoder_entries(model.decoder, _NAMES),
        same("quantizer/codebook/codes", "quantize.embedding.weight"),
        *parts.moment_entries(True),
    ]
    for i in range(model.quantizer.phis):
        entries += convolution(f"quantizer/phi_{i}", f"quantize.{phi.format(i)}")
    return NameMap(entries, training=(_USAGE,)).below(theirs=prefix)


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`: the arguments of the authors' class."""
    if not is_of(metadata, "var_tokenizer"):
        return None
    model = build(**complete(build, metadata["model"]["kwargs"]))
    quantizer = model.quantizer
    if not quantizer.phis or quantizer.codebook.decay is not None or model.encoder.style.groups != 32:
        return None
    scales = model.scales or SCALES[min(SCALES)]
    return {
        "config.json": {
            "vocab_size": model.vocab_size,
            "z_channels": model.latent_width,
            "ch": model.encoder.channels,
            "using_znorm": quantizer.cosine,
            "quant_resi": quantizer.share,
            "share_quant_resi": {1: 1, len(scales): 0}.get(quantizer.phis, quantizer.phis),
            "v_patch_nums": list(scales),
        }
    }


def _usual_phi(model: VARTokenizer) -> str:
    """The name that the authors' code gives to so many convolutions."""
    if model.quantizer.phis == 1:
        return _PHIS[2]
    return _PHIS[1] if model.quantizer.phis == len(model.scales or SCALES[min(SCALES)]) else _PHIS[0]
