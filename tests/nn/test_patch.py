"""The patch embedding against slicing and matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.patch import PatchEmbed, patchify, unpatchify

# This generator compiles several times faster than the default one.
KEY = jax.random.key(0, impl="rbg")


def test_patches_are_embedded_linearly_in_their_grid():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 6, 12, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(2, 4, 3, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    out = PatchEmbed(5, (2, 4)).apply({"params": {"kernel": kernel, "bias": bias}}, images)
    assert out.shape == (2, 3, 3, 5)
    for row, column in ((0, 0), (2, 1), (1, 2)):
        patch = images[:, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4].reshape(2, -1)
        np.testing.assert_allclose(out[:, row, column], patch @ kernel.reshape(-1, 5) + bias, atol=1e-5)


def test_initial_values():
    params = PatchEmbed(64, (8, 8), jnp.bfloat16).init(KEY, jnp.zeros((1, 8, 8, 3)))["params"]
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(params["kernel"].std(), 1 / np.sqrt(8 * 8 * 3), rtol=0.03)
    assert not params["bias"].any()


@pytest.mark.parametrize(("size", "hint"), [((12, 16), "16x16"), ((40, 30), "48x32|32x32"), ((4, 4), "16x16")])
def test_images_that_the_patches_do_not_tile_are_user_errors(size, hint):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} .*16x16.*({hint})"):
        PatchEmbed(8, (16, 16)).init(KEY, jnp.zeros((1, *size, 3)))


def test_pixels_of_a_patch_are_in_the_order_row_column_channel():
    images = np.random.default_rng(0).normal(size=(2, 6, 12, 3)).astype(np.float32)
    patches = patchify(jnp.asarray(images), (2, 4))
    assert patches.shape == (2, 3, 3, 24)
    np.testing.assert_array_equal(patches[1, 2, 1], images[1, 4:6, 4:8].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, (2, 4)), images)
