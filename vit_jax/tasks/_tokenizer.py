"""What tasks have in common whose model is a tokenizer of images."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from vit_jax.data.fields import Fields
from vit_jax.errors import UserError
from vit_jax.naming import build_model
from vit_jax.nn.code_usage import usage
from vit_jax.nn.image_tokenizer import ImageTokenizer
from vit_jax.tasks import Batch, Metrics, Task, Variables, chosen, model_outputs
from vit_jax.tasks._image_tokens import unit_range


@dataclasses.dataclass(frozen=True)
class TokenizerTask(Task):
    """Images `batch["image"]` float [B, H, W, 3] in -1..1, their tokens, and what becomes of them.

    Args:
        model: see `vit_jax.nn.image_tokenizer`.
        model_spec: what rebuilds it from a checkpoint.
    """

    model: ImageTokenizer
    model_spec: Mapping[str, Any] = dataclasses.field(hash=False)
    answered_by: ClassVar[tuple[str, ...]] = ("reconstruction",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        variables = dict(self.model.init({"params": rng}, batch["image"], train=False))
        return {"params": variables.pop("params"), "model_state": variables}

    def outputs(self, variables: Variables, batch: Batch, names: frozenset[str], rng: PRNGKeyArray) -> dict[str, Array]:
        """Those of the model; "reconstruction" and "original" [B, H, W, 3] in values from 0 to 1; "features" [B, D],
        the mean of the latents."""
        del rng
        found = {**model_outputs(self.model, variables, batch["image"], names)}
        # Of the codes alone too, where there is more than codes.
        for name in ("reconstruction", "discrete_reconstruction"):
            if name in found:
                found[name] = unit_range(found[name])
        given = {**found, "original": lambda: unit_range(batch["image"])}
        if "latents" in found:
            given["features"] = lambda: found["latents"].mean((1, 2))
        return chosen(names, given)

    def answers(self, outputs: Mapping[str, Array], fields: Fields) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Pictures of the reconstructions."""
        del fields
        return list(np.round(255 * np.asarray(outputs["reconstruction"])).astype(np.uint8))

    def _usage(self, indices: Int[Array, "b t"], image_size: tuple[int, int]) -> Metrics:
        """Of each map of tokens where there are several."""
        parts, start = [], 0
        for rows, columns in self.model.grids(tuple(image_size)):
            parts.append(indices[:, start : start + rows * columns])
            start += rows * columns
        return usage(parts, self.model.vocab_size, self.model.one_codebook)


def tokenizer_model(section: Mapping[str, Any] | None) -> tuple[ImageTokenizer, dict[str, Any]]:
    """The tokenizer of a config's model section, and what rebuilds it.

    Raises:
        UserError: for a model that is none.
    """
    model, spec = build_model(section)
    if not isinstance(model, ImageTokenizer):
        raise UserError(f"The model {spec['name']!r} makes no tokens of images", "Name a tokenizer, such as vqgan")
    return model, spec
