"""Floating point operations of a ViT, counted on paper: compilers count a scanned block once and fusions twice."""

from typing import Any


def encoder_flops(
    *, patches: int, tokens: int, patch_pixels: int, width: int, depth: int, mlp_dim: int, mlp_matrices: int = 2
) -> float:
    """One image forward through a ViT encoder: its matrix products, a multiplication and an addition counting two.

    Args:
        patches: in an image.
        tokens: patches, class token and all others that stand before the patches.
        patch_pixels: pixels of a patch, of three channels each.
        mlp_matrices: of a block's MLP; a gated one has three.
    """
    projections = 8 * tokens * width**2
    attention = 4 * tokens**2 * width
    mlp = 2 * mlp_matrices * tokens * width * mlp_dim
    return 2.0 * patches * patch_pixels * 3 * width + depth * (projections + attention + mlp)


def forward_flops(model: Any, image_size: tuple[int, int]) -> float | None:
    """The same of a model with a ViT as its `encoder`; None for another model. Training takes three times as many."""
    encoder = getattr(model, "encoder", None)
    known = all(hasattr(encoder, name) for name in ("style", "patch_size", "tokens"))
    if not known or getattr(encoder, "stem", None) is not None:
        return None
    height, width = encoder.patch_size
    patches = (image_size[0] // height) * (image_size[1] // width)
    return encoder_flops(
        patches=patches,
        tokens=patches + encoder.tokens.count,
        patch_pixels=height * width,
        width=encoder.width,
        depth=encoder.depth,
        mlp_dim=encoder.style.mlp_dim,
        mlp_matrices=3 if encoder.style.gated else 2,
    )
