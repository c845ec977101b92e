"""A model as `vit_jax.load` would give it, without a file."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from flax import linen as nn

from vit_jax.checkpoints.load import Loaded
from vit_jax.data.fields import Context, build_fields
from vit_jax.data.preprocess import Preprocess
from vit_jax.tasks import Task
from vit_jax.tasks.classify import Classify
from vit_jax.tasks.features import Features


def loaded_model(
    model: nn.Module,
    params: Mapping[str, Any],
    labels: Sequence[str],
    preprocess: Preprocess | None,
    metadata: Mapping[str, Any] | None = None,
) -> Loaded:
    """A classifier where there are labels, else what gives features."""
    metadata = {"labels": list(labels), "model": None, **(metadata or {})}
    task: Task = Classify(model, {}, len(labels)) if labels else Features(model, {})
    fields = build_fields(None, Context(preprocess, tuple(labels)))
    return Loaded(epath.Path("x"), task, {"params": params, "model_state": {}}, fields, metadata)
