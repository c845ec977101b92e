"""VAR's tokenizer: its published size, images of several sizes, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import drawn
from vit_jax.errors import UserError
from vit_jax.models.var_tokenizer import SCALES, build
from vit_jax.nn.parameter_count import parameter_count

TINY = {
    "vocab_size": 16,
    "latent_width": 4,
    "channels": 8,
    "groups": 4,
    "multipliers": (1, 2),
    "num_blocks": 1,
    "phis": 2,
}


def test_the_published_size():
    assert parameter_count(build(), (256, 256)) == 108_948_355


def test_scales_are_those_of_the_images_size():
    model = build()
    for side, scales in SCALES.items():
        grids = model.grids((16 * side, 16 * side))
        assert grids == tuple((s, s) for s in scales)
    assert sum(h * w for h, w in model.grids((256, 256))) == 680


@pytest.mark.long
def test_images_to_tokens_and_back():
    model = build(**TINY, scales=(1, 2, 4))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    variables = drawn(model.init, jax.random.key(0), images)
    grids = model.grids((8, 8))

    @jax.jit
    def run(variables, images):
        out = model.apply(variables, images)
        summed, seen = jnp.zeros((2, 4, 4, 4)), []
        for k, (indices, grid) in enumerate(zip(jnp.split(out["indices"], (1, 5), 1), grids, strict=True)):
            maps = indices.reshape(2, *grid)
            summed, following = model.apply(variables, summed, maps, k, grids, method="added")
            seen += [] if following is None else [following]
        inputs = model.apply(variables, out["indices"], grids, method="inputs")
        again = model.apply(variables, out["indices"], grids, method="detokenize")
        embedded = model.apply(variables, out["indices"], grids, method="embed")
        return out, summed, embedded, jnp.concatenate(seen, 1), inputs, again

    out, summed, embedded, seen, inputs, again = run(variables, images)
    assert (
        out["reconstruction"].shape == images.shape
        and out["indices"].shape == (2, 21)
        and out["quantizer_loss"].shape == ()
    )
    # Scale after scale, as generating goes, is what all at once is.
    np.testing.assert_allclose(summed, embedded, atol=1e-6)
    np.testing.assert_allclose(seen, inputs, atol=1e-6)
    np.testing.assert_allclose(again, out["reconstruction"], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "size", "what"),
    [
        ({"scales": (1, 2, 3)}, (8, 8), "end at 3x3, and the latents of the image have 4x4"),
        ({"scales": (1, 2, 4)}, (8, 6), "have 4x3 places"),
        ({"scales": (1, 2, 4)}, (8, 7), "Images of 7x8 pixels do not divide into places of 2x2"),
        ({}, (8, 8), "No scales are known for latents of 4x4"),
        ({"scales": (1, 4), "phis": 4}, (8, 8), "Not all of 4 convolutions have one of 2 scales"),
    ],
)
def test_what_does_not_fit_is_one_sentence(values, size, what):
    with pytest.raises(UserError, match=what):
        build(**TINY | values).grids(size)
