"""Floating point operations of a ViT, counted on paper: compilers count a scanned block once and fusions twice."""

# Dense bfloat16 peak of one chip, in FLOP/s, by the start of jax's device_kind (vendors' data sheets).
_PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def encoder_flops(*, patches: int, tokens: int, patch_pixels: int, width: int, depth: int, mlp_dim: int) -> float:
    """One image forward through a ViT encoder: its matrix products, a multiplication and an addition counting two.

    Args:
        patches: in an image.
        tokens: patches and class token.
        patch_pixels: pixels of a patch, of three channels each.
    """
    projections = 8 * tokens * width**2
    attention = 4 * tokens**2 * width
    mlp = 4 * tokens * width * mlp_dim
    return 2.0 * patches * patch_pixels * 3 * width + depth * (projections + attention + mlp)


def peak_flops(device_kind: str) -> float | None:
    """The bfloat16 peak of one device in FLOP/s, None for one that is not in the table."""
    fitting = [name for name in _PEAKS if device_kind.startswith(name)]
    return _PEAKS[max(fitting, key=len)] if fitting else None
