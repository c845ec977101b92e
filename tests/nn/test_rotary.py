import numpy as np
import pytest

from vit_jax.nn.rotary import rotary_angles, rotate

X = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
ANGLES = np.asarray(rotary_angles(np.array([0.5, 2.0, 3.0]), 8))


@pytest.mark.parametrize("pairing", ["halves", "pairs"])
def test_features_with_angles_of_their_own(pairing):
    """The same turn where both of a pair are equal; otherwise each feature by its own cosine and sine."""
    both = np.concatenate([ANGLES] * 2, -1) if pairing == "halves" else np.repeat(ANGLES, 2, axis=-1)
    np.testing.assert_allclose(rotate(X, both, pairing), rotate(X, ANGLES, pairing), atol=1e-6)
    own = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    first, second = (slice(4), slice(4, 8)) if pairing == "halves" else (slice(0, 8, 2), slice(1, 8, 2))
    other = np.empty_like(X)
    other[..., first], other[..., second] = -X[..., second], X[..., first]
    wanted = X * np.cos(own)[:, None] + other * np.sin(own)[:, None]
    np.testing.assert_allclose(rotate(X, own, pairing), wanted, atol=1e-6)
