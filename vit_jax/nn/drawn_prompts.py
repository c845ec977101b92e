"""Prompts as a person would give them for a mask: a first one, then clicks into what is still wrong.

Pure functions of one mask and of chance, as `vit_jax.nn.clicks` has it, and of SAM's convention: a point is (x, y) in
pixels of the model's frame, where (0, 0) is the centre of the first pixel, and has a label of `vit_jax.nn.prompts`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.nn.clicks import box_around, central_click, highest, loose_box, squared_depth, uniform_click
from vit_jax.nn.prompts import BOTTOM_RIGHT, NOT_A_POINT, OFF, ON, PADDING, TOP_LEFT

Size = tuple[int, int] | Float[Array, "2"]  # height and width in which prompts are given
Prompt = tuple[Float[Array, "n 2"], Int[Array, " n"]]  # points and their labels


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How a first prompt is drawn.

    Args:
        boxes: how often it is a box.
        points: otherwise it is a number of points from 1 to this.
        noise: standard deviation of a box's coordinates, as a share of its side.
        most_noise: pixels of the model's input that a coordinate is off at most.
    """

    boxes: float = 0.5
    points: int = 1
    noise: float = 0.1
    most_noise: float = 20.0

    @property
    def slots(self) -> int:
        """Of a prompt: a box has two, and points one each and one that says that there is no box."""
        return max(2, self.points + 1)

    @property
    def draws(self) -> int:
        """Numbers from [0, 1) that one takes: for its kind, a box's coordinates, how many points, and each."""
        return 6 + self.points

    def __call__(self, chance: Float[Array, " draws"], mask: Bool[Array, "h w"], size: Size) -> Prompt:
        """A first prompt for a mask of an image of (height, width)."""
        edges = jnp.tile(_pixels(mask, size), 2)
        box = loose_box(chance[1:5], edges * box_around(mask), size, self.noise, self.most_noise)
        xy = jax.vmap(lambda c: uniform_click(c, mask))(chance[6:]) * edges[:2]
        there = jnp.arange(self.points) <= jnp.floor(chance[5] * self.points)
        of_points = points_prompt(xy - 0.5, jnp.where(there, ON, PADDING), self.slots)
        as_box = chance[0] < self.boxes
        return jax.tree.map(lambda a, b: jnp.where(as_box, a, b), box_prompt(box - 0.5, self.slots), of_points)


def points_prompt(points: Float[Array, "n 2"], labels: Int[Array, " n"], slots: int) -> Prompt:
    """Points without a box, with the token that says so, in so many slots."""
    left = slots - len(points) - 1
    fill = jnp.full((left,), PADDING, jnp.int32)
    labels = jnp.concatenate([labels.astype(jnp.int32), jnp.int32([NOT_A_POINT]), fill])
    return jnp.pad(points.astype(jnp.float32), ((0, left + 1), (0, 0))), labels


def box_prompt(box: Float[Array, "4"], slots: int) -> Prompt:
    """A box (left, top, right, bottom) in so many slots."""
    labels = jnp.int32([TOP_LEFT, BOTTOM_RIGHT] + [PADDING] * (slots - 2))
    return jnp.pad(box.reshape(2, 2).astype(jnp.float32), ((0, slots - 2), (0, 0))), labels


def exact_box(mask: Bool[Array, "h w"], size: Size, slots: int = 2) -> Prompt:
    """The box around a mask of an image of (height, width)."""
    return box_prompt(box_around(mask) * jnp.tile(_pixels(mask, size), 2) - 0.5, slots)


def central_prompt(mask: Bool[Array, "h w"], size: Size, slots: int) -> Prompt:
    """A click into the middle of a mask of an image of (height, width)."""
    return points_prompt(central_click(mask)[None] * _pixels(mask, size) - 0.5, jnp.int32([ON]), slots)


def correction(
    chance: Float[Array, ""] | None, found: Bool[Array, "h w"], wanted: Bool[Array, "h w"], *, size: Size
) -> tuple[Float[Array, "2"], Int[Array, ""]]:
    """A click into what is wrong, that it belongs to the mask or that it does not; padding where nothing is wrong.

    Args:
        chance: from [0, 1), of a pixel that each is with equal odds; None for the one deepest in what is missing or too
            much.
        size: (height, width) of the image.
    """
    wrong = found != wanted
    if chance is None:
        # What is missing and what is too much end where they meet: a click shall be deep in one of the two.
        click = highest(jnp.maximum(squared_depth(wanted & ~found), squared_depth(found & ~wanted)))
    else:
        click = uniform_click(chance, wrong)
    column, row = click.astype(jnp.int32)
    label = jnp.where(wrong.any(), jnp.where(wanted[row, column], ON, OFF), PADDING)
    return click * _pixels(wanted, size) - 0.5, label.astype(jnp.int32)


def several_answers(labels: Int[Array, "*q n"], *others: Bool[Array, "*q"]) -> Bool[Array, "*q"]:
    """Whether a prompt is a single one, to which the answer is not one mask but the best of three.

    Args:
        labels: of points and of corners of boxes.
        others: where there is a prompt of another kind, such as a mask or a text.
    """
    points = ((labels == ON) | (labels == OFF)).sum(-1)
    return (points + (labels == TOP_LEFT).sum(-1) + sum(others)) <= 1


def _pixels(mask: Bool[Array, "h w"], size: Size) -> Float[Array, "2"]:
    """Width and height of a mask's pixel in pixels of the image."""
    return jnp.stack([size[1] / mask.shape[1], size[0] / mask.shape[0]]).astype(jnp.float32)
