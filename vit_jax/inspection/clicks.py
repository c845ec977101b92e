"""What a model of prompts makes of a click: its answers, and where its tokens look for them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from matplotlib.figure import Figure

from vit_jax.checkpoints.load import Loaded
from vit_jax.checkpoints.prompted import Masks, Prompted
from vit_jax.data import drawing
from vit_jax.inspection.figures import enlarge, images_figure, overlay
from vit_jax.nn.prompts import NOT_A_POINT, ON
from vit_jax.nn.style import Execution


def takes_clicks(loaded: Loaded) -> bool:
    """Whether the model answers prompts."""
    return hasattr(loaded.model, "predict")


def token_attention(
    loaded: Loaded,
    embedding: Float[np.ndarray, "h w C"],
    points: Float[np.ndarray, "n 2"],
    labels: Int[np.ndarray, " n"],
) -> Float32[np.ndarray, "t h w"]:
    """What the decoder's tokens attend to in the image at its end, a mean over the heads: the token of the predicted
    IoU, those of the four masks, and those of the prompts.

    Args:
        points: in the model's pixels, see `vit_jax.checkpoints.prompted.Prompted.in_frame`.
        labels: of `vit_jax.nn.prompts`.
    """
    decoder = loaded.model.decoder
    execution = Execution(dtype=decoder.execution.dtype, sow_attention=True)
    model = loaded.model.clone(decoder=decoder.clone(execution=execution))
    predict = jax.jit(lambda *given: model.apply(*given, method="predict", mutable=["intermediates"])[1])
    asked = (jnp.asarray(x)[None] for x in (embedding, points, labels))
    state = predict({"params": loaded.params, **loaded.model_state}, *asked)
    [weights] = state["intermediates"]["decoder"]["transformer"]["to_places"]["attention_weights"]
    return np.asarray(weights[0].mean(axis=0), np.float32).reshape(-1, *embedding.shape[:2])


def click_attention(loaded: Loaded, ask: Prompted, point: tuple[float, float]) -> dict[str, Float32[np.ndarray, "h w"]]:
    """The maps of one click's tokens, by what each is for."""
    xy = np.concatenate([ask.in_frame(np.float64([point])), np.zeros((1, 2), np.float32)])
    maps = token_attention(loaded, np.asarray(ask.embedding), xy, np.int32([ON, NOT_A_POINT]))
    names = ("predicted IoU", *(f"mask {k}" for k in range(4)), "the click", "no box")
    return dict(zip(names, maps, strict=True))


def answers_figure(image: UInt8[np.ndarray, "h w 3"], found: Masks, point: tuple[float, float]) -> Figure:
    """The answers to one click laid over the image, the one first that the model thinks best."""
    tiles = {}
    for k, (mask, iou) in enumerate(zip(found.masks, found.iou, strict=True), 1):
        big = np.round(255 * enlarge(drawing.masks(image, mask[None]))).astype(np.uint8)
        drawn = drawing.points(big, np.float64([point]), big.shape[0] / image.shape[0], np.array([1]))
        tiles[f"answer {k}, predicted IoU {iou:.2f}"] = drawn.astype(np.float32) / 255
    return images_figure(tiles)


def attention_figure(image: UInt8[np.ndarray, "h w 3"], maps: Mapping[str, Float[np.ndarray, "h w"]]) -> Figure:
    """Where each token looks, laid over the image."""
    return images_figure({name: overlay(image, one) for name, one in maps.items()}, columns=4, inches=2.0)
