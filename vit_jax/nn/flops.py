"""Floating point operations counted on paper: compilers count a scanned block once and fusions twice.

Matrix products and convolutions are counted, a multiplication and an addition as two. Training takes three times as
many as one pass forward.
"""

from typing import Any


def product_flops(rows: int, inputs: int, outputs: int) -> float:
    """Of `rows` vectors times one matrix."""
    return 2.0 * rows * inputs * outputs


def block_flops(tokens: int, width: int, mlp_dim: int, mlp_matrices: int = 2) -> float:
    """Of a Transformer block with self-attention and as many matrices in its MLP; a gated one has three."""
    attention = product_flops(tokens, width, 4 * width) + 4 * tokens**2 * width
    return attention + product_flops(tokens, width, mlp_matrices * mlp_dim)


def forward_flops(model: Any, image_size: tuple[int, int]) -> float | None:
    """One image forward through a model that counts itself (`flops(image_size)`); None for another."""
    return model.flops(image_size) if hasattr(model, "flops") else None
