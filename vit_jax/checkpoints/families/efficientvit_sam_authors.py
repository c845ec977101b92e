"""EfficientViT-SAM as its authors name it (github.com/mit-han-lab/efficientvit).

They distribute pickles; this reads what `safetensors.torch.save_file` makes of them. Prompts and decoder have the names
of SAM's own authors.
"""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, conv, norm, same, shape_of
from vit_jax.checkpoints.parts import efficientvit as parts
from vit_jax.checkpoints.parts import sam as sam_parts
from vit_jax.checkpoints.parts.resnet import stage_sizes
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.models.efficientvit_sam import VARIANTS, build, downstream
from vit_jax.nn.stack import block_name

LIBRARY = "efficientvit"
MODELS = "EfficientViT-SAM, in its authors' names"
WRITES = ("efficientvit_sam",)
COMPARED = "the authors' own L0, from pixels and prompts to masks, and the necks of L0 to XL1"

_TRUNK, _NECK = "image_encoder.backbone.", "image_encoder.neck."
_MIDDLE = _NECK + "middle.op_list."


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`."""
    stem = f"{_TRUNK}stages.0.op_list.0.conv.weight"
    if stem not in tensors or "mask_decoder.iou_token.weight" not in tensors:
        return None
    first, *others = stage_sizes(tensors, re.escape(_TRUNK) + r"stages\.(\d+)\.op_list\.(\d+)\..+")
    kwargs = parts.sizes(
        tensors, stem, (first - 1, *others), lambda i, j: f"{_TRUNK}stages.{i}.op_list.{j}", ("", ""), VARIANTS
    )
    kwargs.pop("head_widths", None)
    size = VARIANTS[kwargs["variant"]]
    found = {
        "neck_width": shape_of(tensors, f"{_NECK}input_ops.0.op_list.0.conv.weight", 4)[0],
        "neck_depth": parts.numbered(tensors, re.escape(_MIDDLE) + r"(\d+)\."),
        "neck_expand_ratio": size.expand_ratio,
    }
    if found["neck_depth"]:
        wide, narrow = shape_of(tensors, f"{_MIDDLE}0.main.spatial_conv.conv.weight", 4)[:2]
        found["neck_expand_ratio"] = wide / narrow
    published = {"neck_width": 256, "neck_depth": size.depth, "neck_expand_ratio": size.expand_ratio}
    kwargs |= {name: value for name, value in found.items() if value != published[name]}
    kwargs |= sam_parts.decoder_kwargs(tensors, sam_parts.AUTHORS_PROMPTS, sam_parts.AUTHORS_DECODER)
    pixels = {"image_size": [size.image_size] * 2, **sam_parts.PREPROCESS}
    return Published("efficientvit_sam", kwargs, pixels, task=sam_parts.TASK)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    model = build(**complete(build, kwargs))
    trunk = {name: value for name, value in downstream(kwargs).items() if name != "name"}

    def block(i: int, j: int) -> str:
        return f"{_TRUNK}stages.{i}.op_list.{j + 1}"

    entries = parts.trunk({**trunk, "num_classes": 0}, lambda i: block(i, -1), block)
    for i, stride in enumerate(model.neck.strides):
        entries += parts.conv_norm(f"neck/fusion/input_{stride}", f"{_NECK}input_ops.{i}.op_list.0")
    for i in range(model.neck.depth):
        entries += parts.convolutions(f"neck/fusion/{block_name(i)}", f"{_MIDDLE}{i}.main", "fmb", False)
    last = f"{_NECK}output_ops.0.op_list.0.conv"
    entries += [conv("neck/project/kernel", f"{last}.weight"), same("neck/project/bias", f"{last}.bias")]
    entries += norm("neck/norm", "image_encoder.norm")
    entries += sam_parts.prompt_entries(sam_parts.AUTHORS_PROMPTS)
    entries += sam_parts.decoder_entries(model, sam_parts.AUTHORS_DECODER)
    return NameMap(entries, ignored=("*.num_batches_tracked",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. The authors have no such file, nor a text as a prompt, and their map
    has 64x64 places."""
    if not is_of(metadata, "efficientvit_sam"):
        return None
    kwargs = complete(build, metadata["model"]["kwargs"])
    return None if kwargs["text_width"] or kwargs["embedding_size"] != 64 or kwargs["stride"] != 16 else {}
