"""Floating point operations of a ViT, counted on paper: compilers count a scanned block once and fusions twice."""


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
