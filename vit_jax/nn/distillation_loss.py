"""What a student is told by its teacher's answers: the loss of each example."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Form = Literal["soft", "hard"]


def distillation_losses(
    student: Float[Array, "B K"], teacher: Float[Array, "B K"], form: Form = "soft", temperature: float = 1.0
) -> Float[Array, " B"]:
    """How far a student's answers are from its teacher's, in nats; logits in, no gradient into the teacher's.

    Args:
        form: "soft" is the Kullback-Leibler divergence from the teacher's probabilities, both at the temperature, times
            its square, so that gradients are as large at any temperature (Hinton et al., arXiv:1503.02531, section 2).
            "hard" is the cross-entropy against the teacher's most likely class (DeiT, arXiv:2012.12877, section 4).
        temperature: what logits are divided by; "hard" has none.
    """
    student, teacher = student.astype(jnp.float32), jax.lax.stop_gradient(teacher.astype(jnp.float32))
    if form == "hard":
        return -jnp.take_along_axis(jax.nn.log_softmax(student), teacher.argmax(-1)[:, None], axis=-1)[:, 0]
    told, said = (jax.nn.log_softmax(logits / temperature) for logits in (teacher, student))
    return temperature**2 * (jnp.exp(told) * (told - said)).sum(axis=-1)
