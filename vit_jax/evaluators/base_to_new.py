"""How far a prompt goes beyond the classes that it was learned on: Zhou et al. (arXiv:2203.05557, section 4.1)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.data.classes import base_classes
from vit_jax.data.pipeline import EvalPipeline
from vit_jax.errors import UserError
from vit_jax.evaluators import Answers, Apply, EvaluationRun, PipelineFactory


@dataclasses.dataclass(frozen=True)
class BaseToNew:
    """Accuracy on base classes among base classes (`base`), on new ones among new ones (`new`), and their harmonic mean
    (`harmonic_mean`), which is high only where both are.

    Base classes are the first half, see `vit_jax.data.classes.base_classes`: those of the task's classes="base" and of
    the source `few_shot`.

    Args:
        pipeline: examples of all classes.
    """

    pipeline: EvalPipeline = dataclasses.field(hash=False)

    def judging(self, answers: Answers) -> "BaseToNew":
        if len(answers.label_names) < 2:
            raise UserError("There is no new class beside the base classes", "Use data with two classes or more")
        return BaseToNew(self.pipeline.with_classes(answers.label_names))

    def measure(self, apply: Apply, batch: Mapping[str, Array]) -> dict[str, Array]:
        logits, label = apply(batch, ("logits",))["logits"], batch["label"]
        base = base_classes(logits.shape[1])
        answer = jnp.where(label < base, logits[:, :base].argmax(axis=1), base + logits[:, base:].argmax(axis=1))
        return {"right": answer == label, "new": label >= base, "valid": batch["valid"]}

    def metrics(self, run: EvaluationRun) -> dict[str, float]:
        parts = list(run(self.pipeline))
        right, new, valid = (np.concatenate([part[name] for part in parts]) for name in ("right", "new", "valid"))
        accuracies = []
        for which, name in ((~new, "base"), (new, "new")):
            chosen = which & (valid > 0)
            if not chosen.any():
                raise UserError(f"The evaluation data has no example of a {name} class", "Give it all classes")
            accuracies.append(float(right[chosen].mean()))
        base, novel = accuracies
        mean = 2 * base * novel / (base + novel) if base + novel else 0.0
        return {"base": base, "new": novel, "harmonic_mean": mean}


def build(pipeline: PipelineFactory, source: Mapping[str, Any] | None = None) -> BaseToNew:
    """Evaluates on `source`, or on the config's `data.eval`."""
    return BaseToNew(pipeline(source=source))
