"""What the cache is for: GPT-2 small goes on faster than by running the whole text for every token."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.tokenizers.bytes import Bytes
from vit_jax.models.gpt import build
from vit_jax.tasks.language_model import LanguageModel, TextSampling

PROMPT, TOKENS = 16, 240  # 256 together


def seconds(function, *arguments):
    """Of one run, without compiling."""
    compiled = function.lower(*arguments).compile()
    began = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - began


@pytest.mark.slow
def test_gpt2_small_with_a_cache_is_five_times_as_fast_at_256_tokens():
    model = build(variant="gpt2-small", vocab_size=50257)
    task, rng = LanguageModel(model, {}, Bytes()), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 8), np.int32)))["params"]
    draw = functools.partial(jnp.multiply, 0.02)
    variables = {"params": jax.tree.map(lambda s: draw(rng.standard_normal(s.shape, np.float32)), shapes)}

    conditions = {"ids": jnp.full((1, PROMPT), 5), "length": jnp.full((1,), PROMPT)}
    sample = jax.jit(functools.partial(task.sample, settings=TextSampling(tokens=TOKENS, temperature=0.0)))
    cached = seconds(sample, variables, conditions, jax.random.split(jax.random.key(0), 1)) / TOKENS

    @jax.jit
    def last_logits(variables, ids):
        tokens = model.apply(variables, ids, method=lambda gpt, ids: gpt.text(ids)[0])
        return model.apply(variables, tokens[:, -1], method="logits")

    # Without a cache one compiled program runs the window of 256 for every token. A program for every length would take
    # the mean over lengths, between which time is about linear; it is printed, not asked for.
    lengths = (16, 96, 176, 256)
    whole = {n: seconds(last_logits, variables, jnp.ones((1, n), jnp.int32)) for n in lengths}
    mean = np.trapezoid([whole[n] for n in lengths], lengths) / (lengths[-1] - lengths[0])
    print(f"{1e3 * cached:.0f} ms a token, {1e3 * whole[256]:.0f} ms without a cache, {1e3 * mean:.0f} ms growing")
    assert whole[256] > 5 * cached
