"""What a program needs at once."""

import jax
import jax.numpy as jnp

from vit_jax.planning.memory import needed_bytes, peak_bytes


def test_the_peak_of_a_program_has_its_temporaries():
    program = jax.jit(lambda x: jnp.tanh(x[:, None] * x[None]) @ jnp.ones((1024, 4)))
    compiled = program.lower(jnp.ones(1024)).compile()
    assert 4 * 1024**2 <= peak_bytes(compiled) <= needed_bytes(compiled)
