"""Tokens of the VQ-VAE, with one code a place or several, and of the VQ-VAE-2: there and back, sizes, bad values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.models import vqvae, vqvae2
from vit_jax.nn.init_shapes import init_shapes

SMALL = {"width": 6, "hidden": 4, "depth": 1, "factor": 2, "vocab_size": 16}
MODELS = {
    "vqvae": vqvae.build(**SMALL, latent_width=3),
    "residual": vqvae.build(**SMALL, latent_width=3, codes_per_place=3),
    "own codebooks": vqvae.build(**SMALL, latent_width=3, codes_per_place=3, shared_codebook=False, decay=0.9),
    "vqvae2": vqvae2.build(**SMALL, code_width=3),
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)


@functools.cache
def variables(name):
    """All random, codes spread as latents are."""
    found = jax.jit(MODELS[name].init)(jax.random.key(0), IMAGES)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), found)


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_tokens_there_and_back(name):
    model, known = MODELS[name], variables(name)

    @jax.jit
    def run(images):
        apply = functools.partial(model.apply, known)
        tokens = apply(images, method="tokenize")
        grids = model.grids(images.shape[1:3])
        embedded = apply(tokens, grids, method="embed")
        latents = apply(images, method="encode")
        return apply(images), tokens, embedded, apply(embedded, method="decode"), latents

    found, tokens, embedded, decoded, latents = run(IMAGES)
    grids = model.grids((8, 12))
    assert tokens.shape == (2, sum(h * w for h, w in grids)) and 1 < len(np.unique(tokens)) <= tokens.max() + 1 <= 16
    np.testing.assert_array_equal(found["indices"], tokens)
    np.testing.assert_allclose(decoded, found["reconstruction"], atol=1e-5)
    np.testing.assert_allclose(latents, found["latents"], atol=1e-5)
    assert embedded.shape == latents.shape == (2, *grids[-1], model.latent_width)
    assert model.flops((8, 12)) > 0


def test_maps_of_tokens():
    assert MODELS["vqvae"].grids((8, 12)) == ((4, 6),)
    assert MODELS["residual"].grids((8, 12)) == ((4, 6),) * 3 and MODELS["residual"].one_codebook
    assert MODELS["vqvae2"].grids((8, 12)) == ((2, 3), (4, 6))
    assert not MODELS["own codebooks"].one_codebook and not MODELS["vqvae2"].one_codebook


@pytest.mark.long
def test_maps_of_several_codes_add_up():
    model, known = MODELS["own codebooks"], variables("own codebooks")
    tables = [known["codebooks"]["quantizer"][f"codebooks_{i}"]["codes"] for i in range(3)]
    tokens = np.random.default_rng(2).integers(0, 16, (2, 72))
    for depth in (1, 2, 3):
        found = model.apply(known, tokens[:, : 24 * depth], ((4, 6),) * depth, method="embed")
        wanted = sum(tables[i][tokens[:, 24 * i : 24 * i + 24]] for i in range(depth))
        np.testing.assert_allclose(found.reshape(2, 24, 3), wanted, atol=1e-6)


@pytest.mark.long
def test_the_coarse_codes_reach_the_fine_ones():
    """A place of the fine map depends on the coarse code above it, which sees more of the image."""
    model, known = MODELS["vqvae2"], variables("vqvae2")
    other = jax.tree.map(jnp.copy, known)
    other["params"]["coarse_decoder"]["first"]["kernel"] *= -1
    tokenize = jax.jit(functools.partial(model.apply, method="tokenize"))
    first, second = tokenize(known, IMAGES), tokenize(other, IMAGES)
    np.testing.assert_array_equal(first[:, :6], second[:, :6])
    assert np.any(first[:, 6:] != second[:, 6:])


def test_the_papers_sizes():
    """128x128 pixels to 32x32 codes of 512, 64 wide; 256x256 to 32x32 and 64x64."""
    model, larger = vqvae.build(), vqvae2.build()
    assert model.grids((128, 128)) == ((32, 32),) and (model.latent_width, model.vocab_size) == (64, 512)
    assert larger.grids((256, 256)) == ((32, 32), (64, 64))
    shapes = init_shapes(model.init, jax.random.key(0), jnp.zeros((1, 128, 128, 3)))["params"]
    assert shapes["quantizer"]["codebook"]["codes"].shape == (512, 64)
    inside = 2 * (10 * 256**2 + 2 * 256)
    encoder = 48 * 128 + 128 + 16 * 128 * 256 + 256 + inside + 256 * 64 + 64
    decoder = 9 * 64 * 256 + 256 + inside + 16 * 256 * 128 + 128 + 48 * 128 + 3
    assert sum(x.size for x in jax.tree.leaves(shapes)) == encoder + decoder + 512 * 64


def test_bad_sizes():
    with pytest.raises(UserError, match="3x3 pixels"):
        vqvae.build(factor=3)
    with pytest.raises(UserError, match="do not divide into places of 4x4"):
        MODELS["vqvae2"].grids((8, 10))
    with pytest.raises(UserError, match="do not divide"):
        MODELS["vqvae"].init(jax.random.key(0), np.zeros((1, 7, 8, 3), np.float32))
