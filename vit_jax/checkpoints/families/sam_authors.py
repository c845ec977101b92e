"""SAM as its authors name it (github.com/facebookresearch/segment-anything).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of them. There is no config beside them:
all that shapes do not say is as in the published sizes.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, shape_of
from vit_jax.checkpoints.parts import sam as parts
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.sam import build

LIBRARY = "segment_anything"
MODELS = "SAM, in its authors' names"
WRITES = ("sam",)
COMPARED = "encoder, prompt encoder and decoder of the authors' own models, one after the other, and masks"

_NAMES = parts.TrunkNames(
    positions="image_encoder.pos_embed",
    patch="image_encoder.patch_embed.proj",
    block="image_encoder.blocks.{}.",
    norm1="norm1",
    norm2="norm2",
)
_NECK = "image_encoder.neck."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    if f"{_NECK}0.weight" not in tensors or "mask_decoder.iou_token.weight" not in tensors:
        return None
    grid = shape_of(tensors, _NAMES.positions, 4)[1:3]
    patch = shape_of(tensors, f"{_NAMES.patch}.weight", 4)[2]
    kwargs = {"trunk": {"name": "vitdet", **parts.trunk_kwargs(tensors, _NAMES, grid)}}
    kwargs |= parts.decoder_kwargs(tensors, parts.AUTHORS_PROMPTS, parts.AUTHORS_DECODER)
    pixels = {"image_size": [side * patch for side in grid], **parts.PREPROCESS}
    return Published("sam", kwargs, pixels, task=parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    return NameMap([
        *parts.trunk_entries(model.encoder, _NAMES, parts.fused_attention),
        *parts.neck_entries((f"{_NECK}0", f"{_NECK}2"), (f"{_NECK}1", f"{_NECK}3")),
        *parts.prompt_entries(parts.AUTHORS_PROMPTS),
        *parts.decoder_entries(model, parts.AUTHORS_DECODER),
    ], ignored=("pixel_mean", "pixel_std"))  # fmt: skip


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file."""
    if not is_of(metadata, "sam"):
        return None
    kwargs = metadata["model"]["kwargs"]
    return {} if parts.is_plain(build(**complete(build, kwargs))) else None
