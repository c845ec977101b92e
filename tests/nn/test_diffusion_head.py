"""The head against what the code of MAR and of HART computed, with every parameter random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.shared_golden import Golden, assert_close
from vit_jax.checkpoints.name_map import NameMap
from vit_jax.checkpoints.parts import diffusion_head as parts
from vit_jax.checkpoints.source import nested
from vit_jax.nn.diffusion_head import DiffusionHead, HeadSteps
from vit_jax.nn.init_shapes import init_shapes

# File, place of the head's parameters in it, and the head.
HEADS = {
    "mar": ("mar/diffloss.net.", DiffusionHead(16, 24, 2)),
    "hart": ("head/net.", DiffusionHead(8, 24, 2, scale=0.6, clip=True)),
}


@functools.cache
def golden(name):
    return Golden(name)


@functools.cache
def read(name):
    """The head, and its parameters from the authors' names."""
    place, head = HEADS[name]
    folder, theirs = place.split("/")
    tensors = {k: x for k, x in golden(name).under(folder).items() if k.startswith(theirs)}
    names = NameMap(parts.entries("", theirs, parts.arguments_of({k: x.shape for k, x in tensors.items()}, theirs)))
    names.check(tensors, name)
    z = jnp.zeros((1, tensors[f"{theirs}cond_embed.weight"].shape[1]))
    shapes = init_shapes(head.init, jax.random.key(0), jnp.zeros((1, head.channels)), jnp.zeros(1, int), z)["params"]
    flat = {"/".join(k.key for k in path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(shapes)}
    ours = dict(names.read(tensors.__getitem__, flat, name))
    for key, tensor in names.write(ours).items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)
    return jitted(head, {"params": nested(ours)})


def jitted(head, variables):
    """The head's methods as compiled functions: one program each instead of one an operation."""
    return lambda method, *args, **kwargs: jax.jit(lambda v, *a: head.apply(v, *a, method=method, **kwargs))(
        variables, *args
    )


def test_head_is_mars():
    head, stored = read("mar"), golden("mar")
    z = stored["decoder_out"].reshape(-1, 32)
    assert_close(head("__call__", stored["head/x_t"], stored["head/t"], z), stored["head/out"])
    tokens, noise = stored["tokens"].reshape(-1, 16), stored["head/noise"]
    losses = head("losses_of", z, tokens, stored["head/t"], noise)
    assert_close(losses.simple, stored["head/mse"])
    assert_close(losses.bound, stored["head/vb"])
    weights = stored["mask"].reshape(-1)
    assert_close(((losses.simple + losses.bound) * weights).sum() / weights.sum(), stored["head/masked_mean_loss"])
    first = head("losses_of", z, tokens, np.zeros(32, int), noise)
    # Far from the mean a share of the first step's likelihood is a few roundings of float32, in their code as in ours.
    assert_close(first.simple + first.bound, stored["head/t0_loss"], 3e-4)


def test_head_is_harts():
    head, stored = read("hart"), golden("hart")
    z, x = stored["head_in/z"], stored["head_in/x_t"]
    output = head("__call__", x, stored["head_in/t"], z)
    assert_close(output, stored["head_out/out"])
    losses = head("losses_of", z, *(stored[f"head_in/{name}"] for name in ("target", "t", "noise")))
    for found, name in zip(losses, ("mse", "vb"), strict=True):
        assert_close(found, stored[f"head_out/{name}"])
    # HART's own form of guidance: (1 + s) c - s u, on the first half of the values.
    half, said = np.tile(x[:12], (2, 1)), stored["head_out/guided_out_cfg_1.7"]
    both = np.asarray(head("__call__", half, stored["head_in/t"], z))
    assert_close(2.7 * both[:12, :8] - 1.7 * both[12:, :8], said[:12, :8])


def test_all_steps_are_mars():
    head, stored = read("mar"), golden("mar")
    z = jnp.asarray(stored["decoder_out"].reshape(-1, 32))
    noise = jnp.asarray(stored["sample_head/noise"])
    draw = functools.partial(head, "sample")
    assert_close(draw(z, noise[0], noise=lambda i: noise[1 + i], how=HeadSteps(10)), stored["sample_head/out"])
    noise, few = jnp.asarray(stored["sample_head_900/noise"]), stored["table/sampler_timestep_map"]
    found = draw(z, noise[0], noise=lambda i: noise[1 + i], how=HeadSteps(10), timesteps=few)
    assert_close(found, stored["sample_head_900/out"])

    first, noise = stored["sample_head_guided/first_noise"], jnp.asarray(stored["sample_head_guided/step_noise"])
    how = HeadSteps(10, guidance=2.5, temperature=0.9)
    found = draw(z[:16], first, noise=lambda i: noise[i, :16], how=how, unconditional=z[16:], timesteps=few)
    assert_close(found, stored["sample_head_guided/out"][:16])


def test_all_steps_are_harts():
    head, stored = read("hart"), golden("hart")
    z, noise = jnp.asarray(stored["head_in/z"]), jnp.asarray(stored["sample_head/noise"])
    draw = functools.partial(head, "sample")
    assert_close(draw(z, noise[0], noise=lambda i: noise[1 + i], how=HeadSteps(8)), stored["sample_head/out"])
    first, noise = stored["sample_head_guided/first_noise"], jnp.asarray(stored["sample_head_guided/step_noise"])
    how = HeadSteps(8, guidance=1 + 1.7, temperature=0.9)
    found = draw(z[:12], first, noise=lambda i: noise[i, :12], how=how, unconditional=z[12:])
    assert_close(found, stored["sample_head_guided/out"][:12])


@pytest.mark.parametrize("channels, width, depth, z, count", [
    (32, 1024, 6, 1536, 36_585_536),  # HART's "37M"
    (16, 1024, 6, 768, 35_749_920),  # MAR-B
    (16, 1280, 8, 1024, 72_230_432),
    (16, 1536, 12, 1280, 151_206_944),
])  # fmt: skip
def test_sizes_are_the_papers(channels, width, depth, z, count):
    head = DiffusionHead(channels, width, depth)
    tokens = jnp.zeros((1, channels)), jnp.zeros(1, int), jnp.zeros((1, z))
    shapes = init_shapes(head.init, jax.random.key(0), *tokens)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_losses_are_means_over_draws():
    head = DiffusionHead(3, 8, 1)
    rng = np.random.default_rng(0)
    z, tokens = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    variables = jax.jit(head.init)(jax.random.key(0), tokens, np.zeros(5, int), z)
    losses = jitted(head, variables)("losses", z, tokens, jax.random.key(1), repeats=300)
    assert losses.simple.shape == losses.bound.shape == (5,)
    # An untrained head predicts zeros, and the mean square of noise is 1.
    np.testing.assert_allclose(losses.simple, 1, atol=0.15)
