"""How people ask for images of classes, and how samples are shown to them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from vit_jax.data.pixels import as_bytes
from vit_jax.errors import UserError
from vit_jax.spelling import nearest
from vit_jax.tasks import Batch


def as_pictures(samples: Float[np.ndarray, "B H W 3"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Samples in 0..1 as people see them."""
    return list(as_bytes(samples))


class ClassConditions:
    """Part of a task that generates images, of classes where it knows some. Class number K, the null class, stands for
    no condition.

    Attributes:
        classes: their names; () for a generator that knows none.
        label_drop: share of training examples that are shown as the null class.
    """

    classes: ClassVar[tuple[str, ...]] = ()
    label_drop: ClassVar[float] = 0.0

    def conditions(self, prompts: Sequence[str], settings: Any) -> dict[str, Int[np.ndarray, " N"]]:
        """`label` int32 [N] of classes by their names or numbers; "" is no condition."""
        del settings
        return {"label": np.array([self._class(prompt) for prompt in prompts], np.int32)}

    def unprompted(self, indices: Int[np.ndarray, " N"]) -> dict[str, Int[np.ndarray, " N"]]:
        """All classes in turn."""
        return {"label": (indices % max(len(self.classes), 1)).astype(np.int32)}

    def shown(
        self, samples: Float[np.ndarray, "B H W 3"], conditions: Mapping[str, np.ndarray]
    ) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Pictures."""
        del conditions
        return as_pictures(samples)

    def _labels(self, batch: Batch) -> Int[Array, " B"]:
        """Classes; the null class where there are none."""
        return batch["label"] if self.classes else jnp.zeros(jax.tree.leaves(dict(batch))[0].shape[0], jnp.int32)

    def _asked_labels(self, batch: Batch, count: int) -> Int[Array, " B"]:
        """Classes for so many samples: those of a batch, or all in turn where it says none."""
        return self._labels(batch) if "label" in batch else jnp.arange(count) % max(len(self.classes), 1)

    def _shown_labels(self, batch: Batch, rng: PRNGKeyArray) -> Int[Array, " B"]:
        """Classes as training shows them, some as the null class."""
        labels = self._labels(batch)
        dropped = jax.random.bernoulli(rng, self.label_drop, labels.shape)
        return jnp.where(dropped, len(self.classes), labels)

    @property
    def _has_null(self) -> bool:
        """Whether the null class was learned."""
        return bool(self.classes and self.label_drop)

    def _check_guidance(self, guided: bool) -> None:
        """Raises a UserError where samples would be guided away from what the model has not learned."""
        if guided and not self._has_null:
            raise UserError(
                "This generator was trained without a null class, away from which guidance would lead",
                "Sample without guidance, or train with classes and label_drop above 0",
            )

    def _class(self, prompt: str) -> int:
        if prompt == "" and self.classes and not self.label_drop:
            raise UserError("This generator was always told a class", "Ask for one, or train with label_drop above 0")
        if prompt == "":
            return len(self.classes)
        if not self.classes:
            raise UserError(f"This generator knows no classes, and so not {prompt!r}", "Ask for no class")
        if prompt in self.classes:
            return self.classes.index(prompt)
        if prompt.isdecimal() and int(prompt) < len(self.classes):
            return int(prompt)
        if prompt.isdecimal():
            raise UserError(f"There is no class {prompt}", f"Name one from 0 to {len(self.classes) - 1}")
        raise UserError(f"There is no class named {prompt!r}", nearest(prompt, self.classes))
