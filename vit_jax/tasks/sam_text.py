"""SAM that is asked in words: Kirillov et al., "Segment anything" (arXiv:2304.02643), section 7.5.

No text is needed in training. The first prompt for a mask is what CLIP's image tower makes of the mask's crop, through
one linear layer of the model (`PromptEncoder.text`); clicks follow as in `vit_jax.tasks.sam`. CLIP puts texts where the
images are that they describe, so that afterwards the embedding of a text is a prompt as well.

A crop, as the paper's appendix ("Zero-shot text-to-mask") has it, which is told here from memory: the box around the
mask, enlarged by a factor from 1 to 2, made square, resized to what CLIP sees, in one of two crops with all blanked out
that is not the mask; the embedding has length 1.

Where this differs:
- attention: the authors let the output token of CLIP's last layer see the places of the mask alone; here it sees all.
- blank: they zero pixels; here the colour is a choice, by default the mean that CLIP takes off.
- data: they leave out masks below 100 x 100 pixels; here the field's `min_area` decides.
- token: with a text and no box the model is also told that there is no box, as it is with points.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vit_jax.data.preprocess import Preprocess
from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.clicks import box_around
from vit_jax.nn.crops import square_around, square_crop
from vit_jax.nn.prompts import NOT_A_POINT, PADDING
from vit_jax.nn.two_towers import TwoTowers
from vit_jax.ranges import Range, Share
from vit_jax.tasks import Batch, DataInfo, Variables, chosen, sam
from vit_jax.tasks._image_text import towers_of
from vit_jax.tasks._teacher import TEACHER, apart, with_teacher
from vit_jax.tasks.sam import First, SegmentAnything

_FACTORS = (1.0, 2.0)  # of a box's side, from memory
_DRAWS = 3  # whether an embedding comes first, how much of what is around it, and whether that is blanked out
_OWN = ("text_embedding", "crop_embedding")


@dataclasses.dataclass(frozen=True)
class Crops:
    """How a mask's crop is made and shown to CLIP.

    Args:
        seen: what CLIP's images are prepared as; of it counts size, mean and standard deviation.
        given: the same of the images that come with a batch.
        blanked: how often what is not the mask is blanked out.
        blank: colour of that, and of what lies beyond the image, RGB in 0..255.
    """

    seen: Preprocess
    given: Preprocess
    blanked: float
    blank: tuple[float, float, float]

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        masks: Bool[Array, "B Q s s"],
        factor: Float[Array, "B Q"],
        blanked: Bool[Array, "B Q"],
    ) -> Float[Array, "B Q size size 3"]:
        """Each mask's crop, normalised as CLIP wants it.

        Args:
            images: normalised as those of the batch.
            factor: see `vit_jax.nn.crops.square_around`.
            blanked: whether all else is blanked out.
        """
        std, blank = jnp.float32(self.seen.std), jnp.float32(self.blank)
        # Relative to the blank colour, which is what is left where there is nothing.
        pixels = (images.astype(jnp.float32) * jnp.float32(self.given.std) + jnp.float32(self.given.mean) - blank) / std

        def one(image: Array, mask: Array, factor: Array, blanked: Array) -> Array:
            size, (height, width) = self.seen.image_size[0], mask.shape
            per_pixel = jnp.float32([image.shape[1] / width, image.shape[0] / height] * 2)
            square = square_around(box_around(mask) * per_pixel, factor)
            shown = square_crop(image, square, size)
            kept = jnp.clip(square_crop(mask[..., None].astype(jnp.float32), square / per_pixel, size), 0, 1)
            return jnp.where(blanked, shown * kept, shown)

        of_image = jax.vmap(one, in_axes=(None, 0, 0, 0))
        return jax.vmap(of_image)(pixels, masks, factor, blanked) + (blank - jnp.float32(self.seen.mean)) / std


@dataclasses.dataclass(frozen=True)
class SegmentByText(SegmentAnything):
    """`SegmentAnything`, and below `teacher` a CLIP that a config freezes and loads as `vit_jax.tasks._teacher` says.

    Args:
        teacher: images and texts in one space.
        crops: how it sees a mask.
        texts: how often the first prompt is an embedding; otherwise it is drawn as in `SegmentAnything`.
    """

    teacher: TwoTowers = dataclasses.field(kw_only=True)
    crops: Crops = dataclasses.field(kw_only=True)
    texts: float = dataclasses.field(kw_only=True)
    takes_beside: ClassVar[tuple[str, ...]] = ("image",)
    locked_when_loaded: ClassVar[tuple[str, ...]] = (TEACHER,)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        size = self.crops.seen.image_size
        variables = dict(self.teacher.init({"params": rng}, jnp.zeros((1, *size, 3)), jnp.zeros((1, 2), jnp.int32)))
        return with_teacher(super().init(rng, batch), variables)

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """See `SegmentAnything`; and `text_embedding [N, E]` of a batch's "text", int32 [N, L], and
        `crop_embedding [B, M, E]` of its "image" and "masks": of crops half as large again as the box around a mask,
        with all else blanked out."""
        own, teacher = apart(variables)

        def of_texts() -> Float[Array, "N E"]:
            options = {"token_mask": batch["text_mask"]} if "text_mask" in batch else {}
            return self.teacher.apply(teacher, ids=batch["text"], **options)["text_embedding"]

        def of_crops() -> Float[Array, "B M E"]:
            masks = batch["masks"] > 0
            factor, blanked = (jnp.full(masks.shape[:2], value) for value in (sum(_FACTORS) / 2, True))
            return self._embedded(teacher, batch["image"], masks, factor, blanked)

        found = chosen(names & set(_OWN), {"text_embedding": of_texts, "crop_embedding": of_crops})
        rest = names - found.keys()
        return found | (super().outputs(own, batch, rest, rng) if rest else {})

    def flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """Those of an image's training, and of the teacher's look at each target."""
        own, teacher = super().flops(batch), self.teacher.flops(self.crops.seen.image_size)
        return None if own is None or teacher is None else own + self.targets * teacher

    @property
    def _draws(self) -> int:
        return self.drawn.draws + _DRAWS

    def _first(
        self,
        variables: Mapping[str, Any],
        batch: Batch,
        masks: Bool[Array, "B Q s s"],
        chance: Float[Array, "B Q draws"],
        size: tuple[int, int],
    ) -> First:
        of_kind, of_factor, of_blank = jnp.moveaxis(chance[..., -_DRAWS:], -1, 0)
        points, labels, _ = super()._first(variables, batch, masks, chance[..., :-_DRAWS], size)
        least, most = _FACTORS
        teacher = {kind: tree[TEACHER] for kind, tree in variables.items() if TEACHER in tree}
        factor, blanked = least + (most - least) * of_factor, of_blank < self.crops.blanked
        found = jax.lax.stop_gradient(self._embedded(teacher, batch["image"], masks, factor, blanked))
        by_text = of_kind < self.texts
        alone = jnp.where(jnp.arange(labels.shape[-1]) == 1, NOT_A_POINT, PADDING)
        labels = jnp.where(by_text[..., None], alone, labels)
        return First(points, labels, {"text": found, "has_text": by_text})

    def _embedded(
        self,
        teacher: Mapping[str, Any],
        images: Float[Array, "B H W 3"],
        masks: Bool[Array, "B Q s s"],
        factor: Float[Array, "B Q"],
        blanked: Bool[Array, "B Q"],
    ) -> Float[Array, "B Q E"]:
        """What CLIP makes of the crops of masks, of length 1."""
        crops = self.crops(images, masks, factor, blanked)
        found = self.teacher.apply(teacher, crops.reshape(-1, *crops.shape[2:]))["image_embedding"]
        return found.reshape(*masks.shape[:2], -1)


def build(
    *,
    model: Mapping[str, Any],
    data: DataInfo,
    teacher: Mapping[str, Any],
    crop: Mapping[str, Any],
    texts: Share = 1.0,
    blanked: Share = 0.5,
    blank: Sequence[Annotated[float, Range(0, 255)]] | None = None,
    **of_sam: Any,
) -> SegmentByText:
    """The task.

    Args:
        model: the section of a model of prompts whose `text_width` is the width of CLIP's space.
        teacher: CLIP's section. How texts are read says the field "text", of the kind "prompt".
        crop: how CLIP's images are prepared, see `vit_jax.data.preprocess.Preprocess`: `image_size`, `mean`, `std`.
        texts: see `SegmentByText`; the paper's is 1.
        blanked: see `Crops`, like `blank`; None for CLIP's mean.
        of_sam: see `vit_jax.tasks.sam.build`.

    Raises:
        UserError: for a CLIP that is none or of another width, images that are not square, or data without the field.
    """
    siblings = ("teacher", "crop", "texts", "blanked", "blank")
    plain = construct(sam.build, of_sam, "config.task", siblings, model=model, data=data)
    if not getattr(data.fields.get("text"), "typed", False):
        raise UserError(
            "The texts of this task are typed by people, and the data does not say how they are read",
            "Set config.data.fields.text with the name 'prompt'",
        )
    towers, _ = towers_of(teacher, data, "clip")
    width = getattr(getattr(plain.model, "prompts", None), "text_width", 0)
    if width != towers.embed_dim:
        raise UserError(
            f"The teacher's embeddings are {towers.embed_dim} wide, and the model takes {width or 'none'}",
            f"Set config.model.text_width={towers.embed_dim}",
        )
    seen = Preprocess.from_json(crop)
    if seen.image_size[0] != seen.image_size[1]:
        raise UserError("The teacher's images are not square, and crops are", "Use another teacher")
    given = data.fields["image"].preprocess
    crops = Crops(seen, given, blanked, tuple(seen.mean if blank is None else map(float, blank)))
    own = {each.name: getattr(plain, each.name) for each in dataclasses.fields(plain)}
    return SegmentByText(**own, teacher=towers, crops=crops, texts=texts)
