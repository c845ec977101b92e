"""The first kernel of a model, for images of another number of channels than it was trained on."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from vit_jax.errors import UserError

# Where an image trunk first sees pixels, the stem of a hybrid before its embedding.
_FIRST = tuple(
    f"encoder/{name}/kernel" for name in ("stem/root_conv", "root_conv", "conv1", "stage_0/stem/conv", "embedding")
)


def channels_of(params: dict[str, Any]) -> int | None:
    """The channels of the images that these parameters take, None where the first kernel is none that we know."""
    found = _first(params)
    return None if found is None else _get(params, found).shape[2]


def fit_channels(params: dict[str, Any], channels: int) -> dict[str, Any]:
    """The parameters with a first kernel [h, w, channels, D].

    As timm does: for one channel the kernel is summed, as if the image were grey in all of its channels; for more it is
    repeated, and scaled so that an image whose channels are equal gives the same numbers where channels are a multiple.

    Raises:
        UserError: there is no such kernel, or fewer than one channel; what was trained on another number than three
            cannot be fitted to more than one.
    """
    name = _first(params)
    if name is None or "decoder" in params:
        raise UserError("This model is not an image trunk whose channels can be changed", "Leave in_channels out")
    if channels < 1:
        raise UserError(f"in_channels={channels} is not a number of channels", "Give 1 or more")
    kernel = _get(params, name)
    old = kernel.shape[2]
    if channels == old:
        return params
    fitted = _fitted(kernel, channels)
    if fitted is None:
        raise UserError(f"The model was trained on {old} channels, not on three", "Leave in_channels out")
    return _replace(params, name.split("/"), fitted)


def fitted_kernel(
    name: str, kernel: Float32[np.ndarray, "h w c D"], shape: tuple[int, ...]
) -> Float32[np.ndarray, "h w k D"] | None:
    """The first kernel of an image trunk in another shape, of which only the channels differ, as `fit_channels` does.

    Args:
        name: of the parameter, with its collection: 'params/encoder/embedding/kernel'.

    Returns:
        None for another parameter, and for shapes that differ in more.
    """
    if name.removeprefix("params/") not in _FIRST or kernel.ndim != 4 or len(shape) != 4:
        return None
    if (*kernel.shape[:2], kernel.shape[3]) != (*shape[:2], shape[3]):
        return None
    fitted = _fitted(kernel, shape[2])
    return None if fitted is None else np.asarray(fitted)


def _fitted(kernel: Any, channels: int) -> Any:
    """None where nobody says what to do: from another number than three to several."""
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    if kernel.shape[2] != 3:
        return None
    return jnp.tile(kernel, (1, 1, -(-channels // 3), 1))[:, :, :channels] * (3 / channels)


def _first(params: dict[str, Any]) -> str | None:
    return next((name for name in _FIRST if _get(params, name) is not None), None)


def _get(params: Any, name: str) -> Any:
    return functools.reduce(
        lambda node, key: node.get(key) if isinstance(node, dict) else None, name.split("/"), params
    )


def _replace(tree: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    key, *rest = path
    return {**tree, key: _replace(tree[key], rest, value) if rest else value}
