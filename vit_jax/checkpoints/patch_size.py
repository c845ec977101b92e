"""A Vision Transformer with patches of another size than it was trained with (FlexiViT, arXiv:2212.08013)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoints.description import rebuilt
from vit_jax.checkpoints.source import StoredModel
from vit_jax.checkpoints.transfer import fit_positions, resize_method
from vit_jax.errors import UserError
from vit_jax.naming import named_module
from vit_jax.nn.patch import UNDERLYING_RESIZE, Underlying
from vit_jax.ranges import Count, check_value

_UNDERLYING = tuple(field.name for field in dataclasses.fields(Underlying))


def at_patch_size(source: StoredModel, patch_size: int) -> StoredModel:
    """What was opened as a plain ViT for images of the same size, see `described_at`."""
    metadata, method, unneeded = described_at(source.metadata, patch_size, source.path)

    def read() -> tuple[dict, dict]:
        params, state = source.read()
        params = {name: tree for name, tree in params.items() if name not in unneeded}
        model = rebuilt(metadata, source.path)[0].model
        return fit_positions(params, model, tuple(metadata["image_size"]), method)[0], state

    return dataclasses.replace(source, metadata=metadata, read=read)


def described_at(
    metadata: Mapping[str, Any], patch_size: int, path: object
) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The metadata of a ViT for images of the same size, cut into patches of `patch_size` pixels.

    The kernel of the patches is resampled by the pseudo-inverse of their resizing, and learned positions are
    interpolated; those of a FlexiViT from the sizes that it was trained with. A run of the task `flexivit` becomes one
    of the task that it makes flexible.

    Returns:
        The metadata, how `fit_positions` has to resize, and the subtrees that the model does not have any more.

    Raises:
        UserError: no patch size, not a ViT by itself, or patches that do not tile its images.
    """
    check_value(patch_size, Count, "patch_size")
    model, task, size = metadata["model"], metadata["task"], metadata["image_size"]
    if model is None or model["name"] != "vit":
        raise UserError(
            f"{path} is not a ViT by itself, whose patches can have another size",
            "Leave patch_size out, or load its part='encoder'",
        )
    if any(side % patch_size for side in size):
        raise UserError(
            f"Images of {size[0]}x{size[1]} pixels do not divide into patches of {patch_size}x{patch_size}",
            "Give another patch_size, or an image_size that it divides too",
        )
    flexible = any(model["kwargs"].get(key) for key in _UNDERLYING)
    method, unneeded = UNDERLYING_RESIZE if flexible else resize_method(model), ()
    module = named_module("task", task["name"])
    if hasattr(module, "inflexible"):
        task, unneeded = module.inflexible(task["kwargs"]), module.TRAINING_ONLY
    inner = _at(task["kwargs"]["model"], patch_size)
    changed = {
        **metadata,
        "model": {**model, "kwargs": _at(model["kwargs"], patch_size)},
        "task": {**task, "kwargs": {**task["kwargs"], "model": inner}},
    }
    if "model" in (config := metadata.get("config") or {}):
        changed["config"] = {**config, "model": inner}
    return changed, method, unneeded


def _at(section: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    """The arguments of a model with patches of this size."""
    plain = {key: value for key, value in section.items() if key not in _UNDERLYING}
    return {**plain, "variant": f"{section['variant'].partition('/')[0]}/{patch_size}"}
