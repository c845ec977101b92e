"""Training objectives, one file each, and the contract through which the loop sees them."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.data.fields import Fields
from vit_jax.nn.flops import forward_flops

Batch = Mapping[str, Array]
Variables = dict[str, Any]  # {"params": tree, "model_state": tree} and, where the config asks for one, "ema"
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, weight), both float32 scalars


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a task may know about its data when it is built.

    Args:
        image_size: height and width in pixels; None for data without images.
        label_names: class names in the order of the labels; empty for data without labels.
        fields: what an example has, by name, see `vit_jax.data.fields`.
    """

    image_size: tuple[int, int] | None
    label_names: tuple[str, ...]
    fields: Fields = dataclasses.field(default_factory=lambda: Fields({}))


class Task(Protocol):
    """What a training objective gives to the loop: a frozen dataclass that holds its modules, with pure functions.

    Its module has `build(*, model, data, **kwargs) -> Task`: `model` is the config's section or None, `data` a
    `DataInfo`, and the other arguments are the keys of the config's `task` section.

    A task may define further attributes; the loop asks for them with these defaults:

    - `static(step) -> Hashable`: a static argument of the jitted step, passed to `loss` as `static=` (one
      compilation per value).
    - `whole_batch: str = ""`: why the loss cannot be accumulated over microbatches (a loss over the whole batch, or
      a mean whose denominator varies between microbatches); empty when it can.
    - `mixed_labels: bool = False`: whether `loss` takes `label` as shares [B, K], as mixup and cutmix make them.
    - `product: str`: the tree that evaluation and `vit_jax.load` use, 'params' or 'ema'; by default the EMA where
      there is one.
    - `flops(image_size) -> float | None`: floating point operations of one example in the train step, counted on paper,
      for the utilisation that logs and `plan` show; by default three times the forward pass of `model`.
    - `model_spec: dict`: `{"name": ..., "kwargs": ...}`, what `vit_jax.load` needs to rebuild the model.
    """

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh `{"params", "model_state"}`; `batch` holds arrays as `loss` gets them (shapes matter, values not)."""
        ...

    def loss(
        self, variables: Variables, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Any]]:
        """The scalar to minimise, metrics as (sum, weight) pairs, and the new `model_state`."""
        ...

    def outputs(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """What evaluators may ask for by name: `features [B, D]`, `logits [B, K]`, ..., one row per example."""
        ...


def static_argument(task: Task, step: int) -> Hashable:
    """The task's static argument for `step`, None for a task without one."""
    return task.static(step) if hasattr(task, "static") else None


def training_flops(task: Task, image_size: tuple[int, int] | None) -> float | None:
    """Floating point operations of one example in the train step; None where nobody counts them."""
    if image_size is None:
        return None
    if hasattr(task, "flops"):
        return task.flops(image_size)
    forward = forward_flops(getattr(task, "model", None), image_size)
    return forward and 3 * forward
