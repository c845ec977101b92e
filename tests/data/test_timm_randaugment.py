"""timm's RandAugment by hand; tests/parity has timm's own beside every operation."""

import numpy as np
import pytest

from vit_jax import UserError
from vit_jax.data.timm_randaugment import OPERATIONS, TimmRandAugment

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
FILL = (1, 2, 3)


def apply(name, magnitude, sign=1):
    return TimmRandAugment(fill=FILL).apply(name, IMAGE, magnitude, sign)


def test_operations_by_hand():
    np.testing.assert_array_equal(apply("invert", 5), 255 - IMAGE)
    np.testing.assert_array_equal(apply("posterize", 5), IMAGE & 0b11000000)  # keeps two bits
    np.testing.assert_array_equal(apply("solarize", 5), np.where(IMAGE < 128, IMAGE, 255 - IMAGE))
    np.testing.assert_array_equal(apply("solarize_add", 10), np.where(IMAGE < 128, np.minimum(IMAGE, 145) + 110, IMAGE))
    np.testing.assert_allclose(apply("brightness", 10, -1), IMAGE * 0.1, atol=1)
    moved = apply("translate_x", 10)  # by 13.5 pixels
    assert (moved[:, -13:] == FILL).all() and not (moved[:, :-14] == FILL).all()
    for name in ("color", "contrast", "brightness", "sharpness", "rotate", "shear_x", "shear_y", "translate_y"):
        assert np.abs(apply(name, 0).astype(int) - IMAGE).max() <= 1, name
        for sign in (1, -1):
            assert np.abs(apply(name, 9, sign).astype(int) - IMAGE).max() > 20, (name, sign)
    assert (apply("autocontrast", 0).min((0, 1)) == 0).all() and apply("equalize", 0).shape == IMAGE.shape


def test_draws(monkeypatch):
    """Two of the operations, each with half a chance and a magnitude of its own."""
    drawn = []
    monkeypatch.setattr(TimmRandAugment, "apply", lambda self, *given: drawn.append((given[0], *given[2:])) or given[1])
    rng = np.random.default_rng(0)
    for _ in range(500):
        TimmRandAugment()(IMAGE, rng)
    names, magnitudes, signs = zip(*drawn, strict=True)
    assert set(names) == set(OPERATIONS) and set(signs) == {1, -1} and 440 < len(drawn) < 560
    assert max(magnitudes) <= 10 and abs(np.mean(magnitudes) - 9) < 0.1 and abs(np.std(magnitudes) - 0.5) < 0.1
    drawn.clear()
    TimmRandAugment(layers=3, probability=1)(IMAGE, rng)
    assert len(drawn) == 3


def test_values_out_of_range():
    for wrong, message in (
        ({"layers": 0}, "layers=0"), ({"magnitude": 10.5}, "magnitude=10.5"), ({"probability": 2}, "probability=2"),
        ({"fill": (0, 0)}, "not a colour"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            TimmRandAugment(**wrong)
    with pytest.raises(UserError, match="no operation 'rotat'"):
        apply("rotat", 1)
