"""What evaluators of images look at: those that a task draws, or makes of images that it is given, beside real ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from vit_jax.data.pipeline import EvalPipeline
from vit_jax.data.seeds import derived_seed
from vit_jax.data.source import Source
from vit_jax.evaluators import Apply, EvaluationRun, PipelineFactory

SAMPLES = "samples"
Made = Literal["reconstruction", "discrete_reconstruction"]
Of = Literal["samples", "reconstruction", "discrete_reconstruction"]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images that are judged.

    Args:
        made: by the task.
        original: what each was made of; None for samples.
        conditions: what each was asked to be, such as "label" [N]; of reconstructions the label of the image.
    """

    made: UInt8[np.ndarray, "N H W 3"]
    original: UInt8[np.ndarray, "N H W 3"] | None
    conditions: Mapping[str, Shaped[np.ndarray, "N ..."]]


@dataclasses.dataclass(frozen=True)
class OfPictures:
    """What such evaluators have in common.

    Args:
        real: real images; reconstructions are made of these.
        of: "samples" of a generator, or the output "reconstruction" of a tokenizer, which gives "original" too; or
            "discrete_reconstruction", of the codes alone, where there is more than codes.
        count: of the samples; reconstructions are as many as there are images.
        seed: of the samples.
        settings: of the samples, see the task's `sampling`.
    """

    real: EvalPipeline = dataclasses.field(hash=False)
    of: Of
    count: int
    seed: int
    settings: Mapping[str, Any] = dataclasses.field(hash=False)

    @property
    def sampling(self) -> Mapping[str, Any] | None:
        """See `vit_jax.evaluators.Evaluator`."""
        return self.settings if self.of == SAMPLES else None

    @property
    def number(self) -> int:
        """How many images are judged."""
        return self.count if self.of == SAMPLES else len(self.real.source)

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        if self.of == SAMPLES:
            return {"valid": batch["valid"]}
        found = apply(batch, ("original", self.of))
        kept = {name: pixels(x) for name, x in found.items()}
        label = {"label": batch["label"]} if "label" in batch else {}
        return {"valid": batch["valid"], **kept, **label}

    def pictures(self, run: EvaluationRun) -> Pictures:
        """All of them."""
        if self.of == SAMPLES:
            samples = run.samples(self.count, self.seed, **self.settings)
            return Pictures(samples.images, None, samples.conditions)
        parts = [{k: x[part["valid"] > 0] for k, x in part.items()} for part in run(self.real)]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Pictures(whole[self.of], whole["original"], {k: whole[k] for k in ("label",) if k in whole})


def pixels(images: Float[Array, "B H W 3"]) -> UInt8[Array, "B H W 3"]:
    """Images in 0..1 as bytes."""
    return jnp.round(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)


def asked(
    pipeline: PipelineFactory,
    source: Mapping[str, Any] | None,
    of: Of,
    count: int,
    seed: int,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The arguments of `OfPictures` from those of a config."""
    return {
        "real": pipeline(source=source),
        "of": of,
        "count": count,
        "seed": seed,
        "settings": dict(settings or {}),
    }


class Some:
    """So many examples of a source, drawn without putting back and kept in its order."""

    def __init__(self, source: Source, count: int, seed: int = 0):
        count = min(count, len(source))
        order = np.random.default_rng(derived_seed(seed, 0)).permutation(len(source))
        self._source, self._at = source, np.sort(order[:count])
        self.label_names = source.label_names

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[int(self._at[index])]


def some(data: EvalPipeline, count: int) -> EvalPipeline:
    """The same with fewer examples, of all where they are sorted by something."""
    if count >= len(data.source):
        return data
    description = None if data.description is None else f"{data.description} {count}"
    return data.over(Some(data.source, count), data.fields, description)
