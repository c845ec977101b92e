"""The Inception network of FID as pytorch-fid names it (github.com/mseitzer/pytorch-fid).

It is distributed as a pickle; this reads what `safetensors.torch.save_file` makes of that. No config lies beside it.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.name_map import NameMap, Shapes, dense, shape_of
from vit_jax.checkpoints.parts.resnet import conv_norm
from vit_jax.checkpoints.parts.sidecars import complete, is_of
from vit_jax.checkpoints.published import Published, Sidecar
from vit_jax.errors import UserError
from vit_jax.models.inception_fid import BLOCKS, CLASSES, IMAGE_SIZE, STEM, Unit, build

LIBRARY = "pytorch_fid"
MODELS = "FID's Inception"
WRITES = ("inception_fid",)
COMPARED = "features and logits of pytorch-fid's own network with random statistics; files of ours read by it"


def describe(tensors: Shapes, sidecar: Sidecar) -> Published | None:
    """See `vit_jax.checkpoints.published.Family`.

    Raises:
        UserError: for another Inception v3 with these names, such as torchvision's.
    """
    del sidecar
    landmarks = ("Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.bn.running_mean", "Mixed_7c.branch_pool.conv.weight")
    if any(name not in tensors for name in landmarks):
        return None
    classes = shape_of(tensors, "fc.bias", 1, (0,))[0]
    if classes not in (0, CLASSES) or any(name.startswith("AuxLogits.") for name in tensors):
        raise UserError(
            f"This is another Inception v3 than FID's, with {classes} classes",
            "Give that of pytorch-fid, which has 1008 and no AuxLogits",
        )
    pixels = {"image_size": list(IMAGE_SIZE), "interpolation": "bilinear"}
    return Published("inception_fid", {"num_classes": classes}, pixels)


def name_map(kwargs: Mapping[str, Any], layout: Mapping[str, Any]) -> NameMap:
    """See `vit_jax.checkpoints.published.Family`."""
    del layout
    entries = []
    for unit in STEM:
        entries += _unit("", unit) if unit is not None else []
    for block, (branches, _) in BLOCKS.items():
        for step in (step for branch in branches for step in branch):
            for unit in step if isinstance(step[0], tuple) else (step,):
                entries += _unit(f"{block}/", unit)
    head = dense("head", "fc") if complete(build, kwargs)["num_classes"] else []
    return NameMap([*entries, *head], ignored=("*.num_batches_tracked",))


def sidecar(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """See `vit_jax.checkpoints.published.Family`. There is no such file."""
    return {} if is_of(metadata, "inception_fid") else None


def _unit(block: str, unit: Unit) -> list:
    ours, parts = f"encoder/{block}{unit[0]}", f"{block}{unit[0]}".split("/")
    # The names of PyTorch's modules begin with a capital, those of their branches do not.
    theirs = ".".join([parts[0].capitalize(), *parts[1:]])
    return conv_norm(f"{ours}/conv", f"{ours}/norm", f"{theirs}.conv", f"{theirs}.bn")
