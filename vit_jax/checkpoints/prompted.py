"""One photo that a model of prompts has looked at: it answers each prompt without looking again."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Shaped, UInt8

from vit_jax.data.placement import Placement
from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.nn.prompts import BOTTOM_RIGHT, NOT_A_POINT, OFF, ON, PADDING, TOP_LEFT
from vit_jax.nn.resize import linear_weights
from vit_jax.tasks import Task, Variables, example_keys

_SURE = 10.0  # the logit of a pixel of a mask that a person gives
_NAMES = frozenset({"mask_logits", "iou", "picked"})


@dataclasses.dataclass(frozen=True)
class Masks:
    """What a model answers to one prompt, what it thinks best first.

    Args:
        masks: of the photo's size; three for a single point or box, of which each may be meant, else one.
        iou: how much of it the model thinks that each has right.
        stability: how much of a mask is left when its threshold goes from -1 to 1, see `stability`.
        logits: as the model gives them, [K, 4h, 4w]; one of them may be the next prompt's `mask`.
    """

    masks: Bool[np.ndarray, "K H W"]
    iou: Float32[np.ndarray, " K"]
    stability: Float32[np.ndarray, " K"]
    logits: Float32[np.ndarray, "K a b"]


class Prompted:
    """A photo, embedded once.

    Args:
        task: one that gives "embedding", and "mask_logits" for prompts.
        variables: its parameters and state.
        preprocess: how it sees photos.
        photo: uint8 [H, W, 3].
        embed_text: makes [E] of a text; None for a model that takes none.
    """

    def __init__(
        self,
        task: Task,
        variables: Variables,
        preprocess: Preprocess,
        photo: UInt8[np.ndarray, "H W 3"],
        embed_text: Callable[[str], Float32[np.ndarray, " E"]] | None = None,
    ):
        self.photo, self._embed_text = photo, embed_text
        self._variables, self._placement = variables, preprocess.placement(photo.shape[:2])
        embed, self._predict = _compiled(task)
        self._embedding = embed(variables, jnp.asarray(preprocess(photo))[None])
        self._frame = [task.model.stride * side for side in self._embedding.shape[1:3]]
        grid = tuple(4 * side for side in self._embedding.shape[1:3])
        self._rows, self._columns = to_photo(self._placement, photo.shape[:2], grid)

    def __call__(
        self,
        *,
        points: Sequence[tuple[float, float]] = (),
        labels: Sequence[int | bool] | None = None,
        box: tuple[float, float, float, float] | None = None,
        mask: Shaped[np.ndarray, "h w"] | None = None,
        text: str | None = None,
    ) -> Masks:
        """Masks of what the prompts mean together.

        Args:
            points: (x, y) in pixels of the photo.
            labels: 1 for a point on what is meant, 0 for one that is not; by default all are.
            box: left, top, right and bottom around it, in pixels of the photo.
            mask: what is already known of it: of the photo's size and of 0 and others, or logits of an earlier answer.
            text: what it is called, for a model that was trained to take texts.

        Raises:
            UserError: no prompt, a point outside of the photo, a label that is neither, a box without area or turned
                round, a mask of another shape, an empty text, or one for a model that takes none.
        """
        labels = [1] * len(points) if labels is None else list(labels)
        self._check(points, labels, box, mask, text)
        given = [(x, y) for x, y in points] + ([box[:2], box[2:]] if box is not None else [])
        kinds = [ON if label else OFF for label in labels]
        # Beside a text, too, the model is told that there is no box.
        no_box = [NOT_A_POINT] if kinds or text is not None else []
        kinds += [TOP_LEFT, BOTTOM_RIGHT] if box is not None else no_box
        # A power of two of slots, so that few programs are compiled.
        slots = max(2, 1 << (len(kinds) - 1).bit_length())
        placed = np.zeros((1, slots, 2), np.float32)
        placed[0, : len(given)] = self.in_frame(np.float64(given).reshape(-1, 2))
        filled = np.full((1, slots), PADDING, np.int32)
        filled[0, : len(kinds)] = kinds
        prior = None if mask is None else self._prior(mask)[None]
        meant = None if text is None else self._embed_text(text)[None]
        logits, iou, picked = self.predict(placed, filled, prior, meant)
        # The one that counts, and where there are several the others.
        order = [0] if picked[0] == 0 else (1 + np.argsort(-iou[0, 1:], kind="stable")).tolist()
        full = self.at_photo(logits[0, order])
        return Masks(full > 0, iou[0, order], stability(full), logits[0, order])

    def predict(
        self,
        points: Float32[np.ndarray, "Q n 2"],
        labels: Int32[np.ndarray, "Q n"],
        prior: Float32[np.ndarray, "Q a b"] | None = None,
        meant: Float32[np.ndarray, "Q E"] | None = None,
    ) -> tuple[Float32[np.ndarray, "Q 4 a b"], Float32[np.ndarray, "Q 4"], Int32[np.ndarray, " Q"]]:
        """All four answers to each of Q prompts as the model gives them, and which one counts.

        Args:
            points: in the model's pixels, see `in_frame`.
            labels: of `vit_jax.nn.prompts`, with `NOT_A_POINT` where there is no box.
            prior: logits of an answer to go on from.
            meant: embeddings of texts.
        """
        prompts = {"points": points, "point_labels": labels}
        if prior is not None:
            prompts |= {"prior": prior, "has_prior": np.ones(len(points), bool)}
        if meant is not None:
            prompts |= {"meant": meant, "has_meant": np.ones(len(points), bool)}
        prompts = {name: jnp.asarray(values)[None] for name, values in prompts.items()}
        found = jax.device_get(self._predict(self._variables, {**prompts, "embedding": self._embedding}))
        return found["mask_logits"][0].astype(np.float32), found["iou"][0].astype(np.float32), found["picked"][0]

    @property
    def embedding(self) -> Float[Array, "h w C"]:
        """What the model has seen of the photo."""
        return self._embedding[0]

    def in_frame(self, xy: Float[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Points of the photo in pixels of the model's prompts."""
        scale = np.float64(self._frame[::-1]) / np.float64(self._placement.size[::-1])
        return np.float32(self._placement.points(xy)[0] * scale)

    def at_photo(self, logits: Float32[np.ndarray, "K a b"]) -> Float32[np.ndarray, "K H W"]:
        """Logits at the photo's size, see `to_photo`."""
        return self._rows @ logits @ self._columns.T

    def _prior(self, mask: Shaped[np.ndarray, "h w"]) -> Float32[np.ndarray, "a b"]:
        grid = (self._rows.shape[1], self._columns.shape[1])
        if np.issubdtype(mask.dtype, np.floating) and mask.shape == grid:
            return mask.astype(np.float32)
        seen = dataclasses.replace(self._placement, size=grid).dense(np.asarray(mask) != 0, False)
        return np.where(seen, _SURE, -_SURE).astype(np.float32)

    def _check(
        self,
        points: Sequence[tuple[float, float]],
        labels: Sequence[int | bool],
        box: tuple[float, float, float, float] | None,
        mask: Shaped[np.ndarray, "h w"] | None,
        text: str | None,
    ) -> None:
        height, width = self.photo.shape[:2]
        if not len(points) and box is None and mask is None and text is None:
            raise UserError("There is no prompt", "Give points, a box, a mask or a text")
        if text is not None and self._embed_text is None:
            raise UserError("This model takes no text as a prompt", "Use a checkpoint of the task 'sam_text'")
        if text is not None and not text.strip():
            raise UserError("The text is empty", "Say what is meant, such as 'a wheel'")
        for x, y in points:
            if not (0 <= x < width and 0 <= y < height):
                raise UserError(
                    f"The point {x:g},{y:g} lies outside of the photo, which is {width}x{height}",
                    f"Give x below {width} and y below {height}",
                )
        if len(labels) != len(points) or not set(labels) <= {0, 1}:
            raise UserError(
                f"There are {len(points)} points with the labels {list(labels)}", "Give a 1 or a 0 for each point"
            )
        if box is not None:
            left, top, right, bottom = box
            said = f"The box {left:g},{top:g},{right:g},{bottom:g}"
            if right <= left or bottom <= top:
                raise UserError(f"{said} has no area, or is turned round", "Give left, top, right and bottom")
            if left < 0 or top < 0 or right > width or bottom > height:
                raise UserError(f"{said} lies outside of the photo, which is {width}x{height}", "Give a box within it")
        grid = (self._rows.shape[1], self._columns.shape[1])
        if mask is not None and mask.shape not in ((height, width), grid):
            size = "x".join(map(str, mask.shape[::-1]))
            raise UserError(f"The mask is {size}, and the photo {width}x{height}", "Give a mask of the photo's size")


def stability(
    logits: Float32[np.ndarray, "K H W"], offset: float = 1.0, threshold: float = 0.0
) -> Float32[np.ndarray, " K"]:
    """Of masks of a lower threshold the share of those of a higher one: how little the threshold matters; 0 of nothing.

    Kirillov et al. (arXiv:2304.02643), appendix B.
    """
    high = (logits > threshold + offset).sum((1, 2))
    low = (logits > threshold - offset).sum((1, 2))
    return (high / np.maximum(low, 1)).astype(np.float32)


def to_photo(
    placement: Placement, shape: tuple[int, int], grid: tuple[int, int]
) -> tuple[Float32[np.ndarray, "H a"], Float32[np.ndarray, "W b"]]:
    """The matrices that bring a grid over the model's view back to a photo of (height, width): rows, and columns.

    As the authors do it, bilinearly to the view's pixels, of which those that show the photo are resized to the photo's
    size. Of what the view does not show nothing is known, and all weights are 0.
    """
    matrices = []
    for axis in (0, 1):
        start, extent, size = placement.box[axis], placement.box[2 + axis], placement.size[axis]
        pixels = size / extent  # of the view for one of the photo
        first, last = max(0, round(-start * pixels)), min(size, round((shape[axis] - start) * pixels))
        place = np.arange(shape[axis]) + 0.5
        at = np.clip((place - start) * pixels - 0.5, first, last - 1)
        weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(size)))
        weights[(place < start) | (place > start + extent)] = 0
        matrices.append(np.float32(weights @ linear_weights(grid[axis], size, align_corners=False)))
    return matrices[0], matrices[1]


@functools.lru_cache(maxsize=4)
def _compiled(task: Task) -> tuple[Callable[..., Array], Callable[..., dict[str, Array]]]:
    """What embeds an image and what answers prompts, compiled once for each number of them."""

    def embed(variables: Variables, image: Array) -> Array:
        batch = {"image": image}
        return task.outputs(variables, batch, frozenset({"embedding"}), example_keys(0, batch))["embedding"]

    def predict(variables: Variables, batch: Mapping[str, Any]) -> dict[str, Array]:
        return task.outputs(variables, batch, _NAMES, example_keys(0, batch))

    return jax.jit(embed), jax.jit(predict)
