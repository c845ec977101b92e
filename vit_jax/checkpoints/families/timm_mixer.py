"""MLP-Mixer as timm names it (`timm.models.mlp_mixer`)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.config_keys import TIMM_MIXER
from vit_jax.checkpoints.families.google_mixer import image_size, mixer_size
from vit_jax.checkpoints.name_map import NameMap, Shapes, conv, dense, norm, same, shape_of
from vit_jax.checkpoints.parts import timm as timm_parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.mixer import VARIANTS, Variant, build, parse_variant

LIBRARY = "timm"
MODELS = "MLP-Mixer"
WRITES = ("mixer",)
COMPARED = "tokens and logits of timm's own models; files of ours read by timm"

_STYLE = {"gelu": "exact", "layer_norm_epsilon": 1e-6}
_ARCHITECTURES = {(size, patch): f"mixer_{size.lower()}{patch}_224" for size in ("S", "B", "L") for patch in (16, 32)}


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    tokens, channels = (f"blocks.{{}}.mlp_{part}.fc1.weight" for part in ("tokens", "channels"))
    if "stem.proj.weight" not in tensors or tokens.format(0) not in tensors:
        return None
    tokens_mlp_dim, num_tokens = shape_of(tensors, tokens.format(0), 2)
    channels_mlp_dim, width = shape_of(tensors, channels.format(0), 2)
    # gMixer's MLPs are gated: their first layer is twice as wide as what the second takes.
    if tensors.get("blocks.0.mlp_tokens.fc2.weight") != (num_tokens, tokens_mlp_dim):
        return None
    timm_parts.architecture(sidecar, r"mixer_[a-z]+\d+_\d+")
    remarks = timm_parts.check(sidecar, TIMM_MIXER, "the exact GELU and pixels")
    depth = next(i for i in range(len(tensors) + 1) if tokens.format(i) not in tensors)
    patch = shape_of(tensors, "stem.proj.weight", 4)[2]
    size = timm_parts.image_size(sidecar) or image_size(num_tokens, patch)
    kwargs = mixer_size(Variant(width, depth, tokens_mlp_dim, channels_mlp_dim), patch) | _STYLE
    kwargs["num_classes"] = shape_of(tensors, "head.bias", 1, (0,))[0]
    return Published(
        model="mixer",
        kwargs=kwargs,
        preprocess=timm_parts.preprocess(sidecar, size, crop_pct=0.875),
        labels=timm_parts.labels(sidecar, kwargs["num_classes"]),
        remarks=remarks,
    )


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    args = complete(build, kwargs)
    entries = [conv("encoder/embedding/kernel", "stem.proj.weight"), same("encoder/embedding/bias", "stem.proj.bias")]
    for i in range(args["depth"] or parse_variant(args["variant"])[0].depth):
        ours, theirs = f"encoder/block_{i:02d}", f"blocks.{i}"
        entries += norm(f"{ours}/norm1", f"{theirs}.norm1") + norm(f"{ours}/norm2", f"{theirs}.norm2")
        for part, name in (("token_mixing", "mlp_tokens"), ("channel_mixing", "mlp_channels")):
            for fc in ("fc1", "fc2"):
                entries += dense(f"{ours}/{part}/{fc}", f"{theirs}.{name}.{fc}")
    entries += norm("encoder/norm", "norm")
    return NameMap(entries + (dense("head", "head") if args["num_classes"] else []))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`.

    timm's functions fix the sizes, and their GELU cannot be named in a config.json.
    """
    if not is_of(metadata, "mixer"):
        return None
    args = complete(build, metadata["model"]["kwargs"])
    size, patch = parse_variant(args["variant"])
    own = Variant(*(args[name] or getattr(size, name) for name in vars(size)))
    name = next((name for name, known in VARIANTS.items() if known == own), None)
    if (name, patch) not in _ARCHITECTURES or any(args[key] != value for key, value in _STYLE.items()):
        return None
    side = [int(pixels) for pixels in metadata["preprocess"]["image_size"]]
    model_args = {} if side == [224, 224] else {"img_size": side}
    further = {"first_conv": "stem.proj", "classifier": "head", "fixed_input_size": True}
    return timm_parts.config(_ARCHITECTURES[name, patch], metadata, model_args, further)
