"""What each layer attends to, and where its queries and keys lie in the image: for windows, maps of several sizes, and
linear attention. Where every token attends to every other on one grid, `extract` and `arrays` do.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from vit_jax.checkpoints.load import Loaded
from vit_jax.inspection.extract import sown
from vit_jax.models.swin import stage_name
from vit_jax.nn.stack import block_name
from vit_jax.nn.style import Execution
from vit_jax.nn.window import Windows


@dataclasses.dataclass(frozen=True)
class Layer:
    """The attention of one layer.

    Args:
        name: of the block.
        weights: of each image, group of tokens that see each other (a window), head, query and key; each row sums up
            to 1.
        queries: their centres in pixels, rows first; NaN for a token without a place, which was filled up. One row for
            all images, or one for each where they have other groups.
        keys: the same.
        grid: rows and columns of the layer's map.
        pixels: between two of its places.
        groups: the window of each place; parts of one window that do not see each other have numbers of their own.
        kept: the places that are computed at all, where some are left out.
    """

    name: str
    weights: Float[np.ndarray, "b n heads q k"]
    queries: Float[np.ndarray, "#b n q 2"]
    keys: Float[np.ndarray, "#b n k 2"]
    grid: tuple[int, int]
    pixels: float
    groups: Int[np.ndarray, "gh gw"] | None = None
    kept: Bool[np.ndarray, "b gh gw"] | None = None


def has_windows(loaded: Loaded) -> bool:
    """Whether `window_layers` can be had."""
    encoder = getattr(loaded.model, "encoder", None)
    if loaded.preprocess is None or not all(hasattr(encoder, name) for name in ("styles", "grids", "depths")):
        return False
    images = jnp.zeros((1, *loaded.preprocess.image_size, 3))
    tree = jax.eval_shape(lambda: _sown(loaded, images))
    return "attention_weights" in tree[stage_name(0)][block_name(0)]["attention"]


def window_layers(loaded: Loaded, images: Float[Array, "B H W 3"]) -> list[Layer]:
    """The layers of a Swin, a Swin v2 or a SparseViT: exactly the weights of the forward pass.

    Args:
        images: preprocessed.
    """
    encoder, tree, found = loaded.model.encoder, _sown(loaded, jnp.asarray(images)), []
    grids = encoder.grids(images.shape[1:3])
    for i, (style, grid, depth) in enumerate(zip(encoder.styles, grids, encoder.depths, strict=True)):
        stage = tree[stage_name(i)]
        # Plain and shifted in turn, or all alike: the stage says.
        styles = encoder.stage(style, depth, (0.0,) * depth, i > 0, parent=None).styles
        orders = stage["orders"][0] if "orders" in stage else None
        for j in range(depth):
            own = styles[j % len(styles)]
            weights = np.asarray(stage[block_name(j)]["attention"]["attention_weights"][0])
            weights = weights.reshape(len(images), -1, *weights.shape[1:])
            order = None if orders is None else np.asarray(orders[own.shifted])
            name = f"{stage_name(i)}/{block_name(j)}"
            found.append(_of_windows(name, weights, own.windows(grid), order, encoder.patch_size * 2**i))
    return found


def _sown(loaded: Loaded, images: Float[Array, "B H W 3"]) -> PyTree:
    """What the trunk sows where it is run so that it has weights to give."""
    model, encoder = loaded.model, loaded.model.encoder
    execution = Execution(dtype=encoder.execution.dtype, sow_attention=True)
    model = model.clone(encoder=encoder.clone(execution=execution))
    return sown(model, loaded.params, loaded.model_state, images)["encoder"]


def attention_distance(layer: Layer) -> Float[np.ndarray, " heads"]:
    """How far each head looks, in pixels: the mean over images and queries of sum_k a_qk |p_q - p_k|, see
    `vit_jax.inspection.arrays.mean_attention_distance`. What has no place is left out."""
    apart = np.linalg.norm(layer.queries[..., :, None, :] - layer.keys[..., None, :, :], axis=-1)
    known = np.isfinite(apart)
    weights = layer.weights * known[:, :, None]
    total = np.maximum(weights.sum(axis=-1), np.finfo(np.float32).tiny)
    distance = (weights * np.where(known, apart, 0.0)[:, :, None]).sum(axis=-1) / total
    of_queries = np.broadcast_to(known.any(axis=-1)[:, :, None], distance.shape)
    return (distance * of_queries).sum(axis=(0, 1, 3)) / of_queries.sum(axis=(0, 1, 3))


def attended(layer: Layer, at: tuple[float, float]) -> Float[np.ndarray, "b heads gh gw"]:
    """What the query nearest to a pixel attends to, on the layer's map; 0 where it sees nothing.

    Args:
        at: row and column of the pixel.
    """
    batch, _, heads = layer.weights.shape[:3]
    maps = np.zeros((batch, heads, *layer.grid), np.float32)
    for image in range(batch):
        queries, keys = (side[min(image, len(side) - 1)] for side in (layer.queries, layer.keys))
        group, query = divmod(nearest(queries.reshape(-1, 2), at), queries.shape[1])
        known = np.isfinite(keys[group, :, 0])
        rows, columns = (keys[group, known] // layer.pixels).astype(int).T
        maps[image, :, rows, columns] = layer.weights[image, group, :, query, known]
    return maps


def _of_windows(
    name: str,
    weights: Float[np.ndarray, "b n h m m"],
    windows: Windows,
    order: Int[np.ndarray, "b n"] | None,
    pixels: int,
) -> Layer:
    places, regions = windows.places(), windows.regions()
    parts = np.arange(windows.count)[:, None] * 9 + (0 if regions is None else regions)
    groups = np.zeros(windows.grid, int)
    groups.reshape(-1)[places[places >= 0]] = np.broadcast_to(parts, places.shape)[places >= 0]
    kept, chosen = None, places[None]
    if order is not None and weights.shape[1] < windows.count:
        chosen = places[order[:, : weights.shape[1]]]
        kept = np.zeros((len(weights), *windows.grid), bool)
        for image, own in zip(kept, chosen, strict=True):
            image.reshape(-1)[own[own >= 0]] = True
    pixel = np.append(centres(windows.grid, pixels), [[np.nan, np.nan]], axis=0)  # -1 is the last
    return Layer(name, weights, pixel[chosen], pixel[chosen], windows.grid, pixels, groups, kept)


def centres(grid: tuple[int, int], pixels: float) -> Float[np.ndarray, "t 2"]:
    """Of the places of a map, row by row, in pixels."""
    return (np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2) + 0.5) * pixels


def nearest(places: Float[np.ndarray, "t 2"], at: tuple[float, float]) -> int:
    """The number of the place nearest to a pixel; NaN is nowhere."""
    apart = np.linalg.norm(places - np.array(at), axis=-1)
    return int(np.argmin(np.where(np.isfinite(apart), apart, np.inf)))
