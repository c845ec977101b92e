"""What can be read off a Vision Transformer's weights and attention: arrays in, arrays out.

The pictures are those of the ViT paper (arXiv:2010.11929, section 4.5, figures 6 and 7, section D.7) and attention
rollout ("Quantifying attention flow in Transformers", arXiv:2005.00928). Where the arrays come from a loaded model is
`extract`; how they are drawn is `figures`.

Attention weights are [L, B, H, T, T]: layers, images, heads, queries, keys. Tokens are the prefix (class token,
distillation token, registers; see `num_prefix_tokens`), then the patches row by row.
"""

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError


def filter_components(
    kernel: Float[np.ndarray, "ph pw channels width"], count: int = 28
) -> Float[np.ndarray, "n ph pw channels"]:
    """First principal components of the patch-embedding filters (ViT, figure 7, left).

    The filters are centred; components have length 1, descending variance, and the sign that makes the entry of the
    largest magnitude positive.

    Args:
        kernel: of a patch embedding.
        count: components wanted; there are fewer when the patch or the width is smaller.
    """
    height, width, channels, filters = kernel.shape
    columns = np.asarray(kernel, np.float64).reshape(-1, filters)
    columns -= columns.mean(axis=1, keepdims=True)
    # Eigenvectors of the covariance, ascending: several times faster than the singular vectors of the filters.
    components = np.linalg.eigh(columns @ columns.T)[1].T[::-1][: min(count, filters)]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return (components * np.where(largest < 0, -1, 1)).reshape(-1, height, width, channels).astype(np.float32)


def position_similarity(table: Float[np.ndarray, "gh gw width"]) -> Float[np.ndarray, "gh gw gh gw"]:
    """Cosine similarity of each position's embedding (first two axes) to all others (ViT, figure 7, centre)."""
    unit = table / np.maximum(np.linalg.norm(table, axis=-1, keepdims=True), 1e-12)
    return np.einsum("abd,ijd->abij", unit, unit)


def num_prefix_tokens(tokens: int, grid: tuple[int, int]) -> int:
    """How many of the tokens come before the patches.

    Raises:
        UserError: when there are fewer tokens than patches.
    """
    prefix = tokens - grid[0] * grid[1]
    if prefix < 0:
        raise UserError(f"{tokens} tokens are too few for {grid[0]}x{grid[1]} patches", "Give the grid of this model")
    return prefix


def mean_attention_distance(
    weights: Float[np.ndarray, "L B H T T"], grid: tuple[int, int], patch_size: tuple[float, float]
) -> Float[np.ndarray, "L H"]:
    """How far the heads look, in pixels (ViT, figure 7, right, and section D.7).

    The mean over images and over patches as queries of sum_k a_qk |p_q - p_k|, with p the centres of the patches. The
    prefix tokens have no place: they are left out, and the weights on the patches are made to sum to one again.

    Args:
        weights: attention weights.
        grid: rows and columns of patches.
        patch_size: height and width of a patch in pixels of the image that the model was given.
    """
    prefix = num_prefix_tokens(weights.shape[-1], grid)
    centres = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2) * np.array(patch_size)
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1).astype(np.float32)
    result = []
    for layer in weights:  # one at a time: all layers of a large model are gigabytes
        among_patches = layer[..., prefix:, prefix:]
        total = among_patches.sum(axis=-1)
        weighted = np.einsum("bhqk,qk->bhq", among_patches, distances)
        # A query that looks at the prefix alone looks at no distance.
        result.append((weighted / np.maximum(total, np.finfo(np.float32).tiny)).mean(axis=(0, 2)))
    return np.stack(result)


def patch_maps(weights: Float[np.ndarray, "... T"], grid: tuple[int, int]) -> Float[np.ndarray, "... gh gw"]:
    """Weights on tokens as maps over the patches, which come last."""
    rows = weights[..., num_prefix_tokens(weights.shape[-1], grid) :]
    return rows.reshape(*rows.shape[:-1], *grid)


def query_maps(
    weights: Float[np.ndarray, "... T T"], grid: tuple[int, int], class_token: bool = True
) -> Float[np.ndarray, "... gh gw"]:
    """What the class token attends to, as maps over the patches; the mean over all patches in a model without one.

    A map sums to 1 less what went to the prefix tokens.

    Args:
        weights: attention weights or a rollout.
        grid: rows and columns of patches.
        class_token: whether the first prefix token, if there is any, is the class token: registers may come alone.
    """
    prefix = num_prefix_tokens(weights.shape[-1], grid)
    by_class = prefix > 0 and class_token
    return patch_maps(weights[..., 0, :] if by_class else weights[..., prefix:, :].mean(axis=-2), grid)


def attention_rollout(weights: Float[np.ndarray, "L B H T T"]) -> Float[np.ndarray, "B T T"]:
    """How much of each input token (columns) reaches each token of the last layer (rows) (arXiv:2005.00928, section 3).

    Heads are averaged; the residual connection counts as the identity, with the same weight as the attention; the
    layers' matrices, whose rows sum to one, are multiplied from the first to the last.
    """
    identity = np.eye(weights.shape[-1], dtype=np.float32)
    rollout = np.broadcast_to(identity, (weights.shape[1], *identity.shape))
    for layer in weights:
        mixing = layer.mean(axis=1) + identity
        rollout = (mixing / mixing.sum(axis=-1, keepdims=True)) @ rollout
    return rollout
