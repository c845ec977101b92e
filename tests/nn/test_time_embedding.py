import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.nn.time_embedding import time_features

TIMES = np.array([0, 1, 17, 999])


def test_both_dialects_by_their_formulas_and_by_each_other():
    for shift in (0, 1):
        angles = TIMES[:, None] * 10000.0 ** (-np.arange(6) / (6 - shift))
        cosine = time_features(TIMES, 12, shift=shift)
        np.testing.assert_allclose(cosine, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=2e-4)
        sine = time_features(TIMES, 12, sine_first=True, shift=shift)
        np.testing.assert_array_equal(np.asarray(sine), np.roll(cosine, 6, axis=1))
    assert np.abs(time_features(TIMES, 12) - time_features(TIMES, 12, shift=1)).max() > 0.1


@pytest.mark.parametrize("width, shift", [(3, 0), (2, 1)])
def test_a_width_that_cannot_be_filled(width, shift):
    with pytest.raises(UserError, match=f"cannot fill a width of {width}"):
        time_features(TIMES, width, shift=shift)
