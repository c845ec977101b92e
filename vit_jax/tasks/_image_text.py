"""What tasks have in common that compare images with texts: two towers, one batch of pairs, outputs of either side."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.two_towers import TwoTowers
from vit_jax.tasks import Batch, DataInfo, Task, Variables, chosen
from vit_jax.tasks._text import options_of, tokenizer_of


@dataclasses.dataclass(frozen=True)
class ImageText(Task):
    """Pairs of `batch["image"]` float [B, H, W, 3] and `batch["text"]` int32 [B, L].

    Args:
        model: the two towers.
        model_spec: what rebuilds them from a checkpoint.
    """

    model: TwoTowers
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    takes: ClassVar[tuple[str, ...]] = ("features", "image_embedding")
    locked_when_loaded: ClassVar[tuple[str, ...]] = ("encoder", "text")

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        drawing, redrawing = jax.random.split(rng)
        options = {**options_of(self.model, batch), **_shapes(batch)}
        variables = dict(self.model.init({"params": drawing}, batch["image"], batch["text"], **options))
        params = self.model.redrawn(variables.pop("params"), redrawing)
        return {"params": params, "model_state": variables}

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Of images `tokens [B, T, D]`, `features [B, D]`, `image_embedding [B, E]` and `maps`; of texts
        `text_tokens [B, L, D]`, `text_features [B, D]` and `text_embedding [B, E]`; of either `logit_scale [B]`, what
        cosines are multiplied by, and `logit_bias [B]`. A batch needs what is named, and no more."""
        del rng
        collections = {"params": variables["params"], **variables["model_state"]}
        given: dict[str, Any] = {}
        if "image" in batch and names & _OF_IMAGES:
            options = ({"maps": True} if "maps" in names else {}) | _shapes(batch)
            given |= self.model.apply(collections, batch["image"], **options)
        if "text" in batch and names & _OF_TEXTS:
            given |= self.model.apply(collections, ids=batch["text"], **options_of(self.model, batch))

        def everywhere(method: str) -> Array:
            # Of one array alone, so that nobody thinks that the others were read.
            return jnp.full(batch[next(iter(batch))].shape[0], self.model.apply(collections, method=method))

        given["logit_scale"] = functools.partial(everywhere, "factor")
        given["logit_bias"] = functools.partial(everywhere, "bias")
        for name in sorted(names & (_OF_IMAGES | _OF_TEXTS) - given.keys()):
            side = "images" if name in _OF_IMAGES else "texts"
            raise UserError(f"The output {name!r} is made of {side}, which this data does not have", "Name another")
        return chosen(names, given)

    def forward_flops(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> float | None:
        """See `Task`: of one image and one text, where there are both."""
        image = 0.0
        if "image_shape" in batch:
            image = self.model.image_tower.patch_flops(batch["image"].shape[-2])
        elif "image" in batch:
            image = self.model.flops(batch["image"].shape[-3:-1])
        text = self.model.text_flops(batch["text"].shape[-1]) if "text" in batch else 0.0
        return None if image is None else image + text

    def _embedded(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Float[Array, "B E"], Float[Array, "B E"], Any]:
        """Both sides in training, and the new state. A batch may hold the features or embeddings of its images in place
        of them.

        Raises:
            UserError: for a batch of one pair.
        """
        if batch["text"].shape[0] < 2:
            raise UserError("A contrastive loss over one pair has no negatives", "Set config.batch_size to 2 or more")
        state = variables["model_state"]
        collections = {"params": variables["params"], **state}
        known = {name: batch[name] for name in self.takes if name in batch}
        found, new = self.model.apply(
            collections,
            None if known else batch["image"],
            batch["text"],
            **options_of(self.model, batch),
            **({} if known else _shapes(batch)),
            train=True,
            rngs=dict(zip(("dropout", "drop_path"), jax.random.split(rng), strict=True)),
            mutable=list(state),
        )
        images = (known or found).get("image_embedding")
        if images is None:
            images = self.model.apply(collections, known["features"], method="embed_image")
        return images, found["text_embedding"], new


_OF_IMAGES = frozenset({"tokens", "features", "image_embedding", "maps"})
_OF_TEXTS = frozenset({"text_tokens", "text_features", "text_embedding"})


def _shapes(batch: Batch) -> dict[str, Array]:
    """What an image model of any aspect ratio is told beside the patches, see `vit_jax.data.fields.naflex`."""
    return {"shapes": batch["image_shape"]} if "image_shape" in batch else {}


def towers_of(model: Mapping[str, Any] | None, data: DataInfo, default: str) -> tuple[TwoTowers, dict[str, Any]]:
    """The two towers of a model section for the texts of the data, and what rebuilds them.

    Args:
        model: with a model of two towers, by default `default`.

    Raises:
        UserError: for data without texts or images, a model that is not two towers, or texts without the end token
            that they are read at.
    """
    tokenizer = tokenizer_of(data)
    if data.image_size is None:
        raise UserError(
            "This task compares images with texts, and the data has no images", "Set config.data.image_size"
        )
    section = {"name": default, **(model or {})}
    # A published model may know more tokens than its vocabulary has, in rows that no text uses.
    vocab_size = section.pop("vocab_size", tokenizer.vocab_size)
    if vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"The model knows {vocab_size} tokens, and the texts have {tokenizer.vocab_size}",
            "Leave config.model.vocab_size out, or use the vocabulary of the model",
        )
    module, spec = build_model(section, vocab_size=vocab_size, end_id=tokenizer.eos_id)
    if not isinstance(module, TwoTowers):
        raise UserError(
            f"The model {section['name']!r} is not two towers", f"Set config.model.name={default} or two_towers"
        )
    reads_end = getattr(module.text_tower, "pooling", None) == "end"
    if reads_end and (tokenizer.eos_id is None or not getattr(data.fields["text"], "eos", True)):
        raise UserError(
            "The text tower reads a text at its end token, and the texts have none",
            "Set config.data.fields.text.eos=True with a tokenizer that has one, or config.model.text.pooling='last'",
        )
    return module, spec
