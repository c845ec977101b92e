"""RandAugment against timm's own operations at fixed magnitudes, and against its draws."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image as Pillow

from vit_jax.data.timm_randaugment import OPERATIONS, TimmRandAugment

timm_augment = pytest.importorskip("timm.data.auto_augment", reason="compares with timm")

pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(0)
IMAGES = {
    "noise": RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8),
    "soft": (np.add.outer(np.arange(64), np.arange(48))[..., None] * [1.0, 1.7, 0.4] + [30, 20, 100]).astype(np.uint8),
    "flat": np.full((20, 30, 3), 77, np.uint8),
}
FILL = (124, 116, 104)
# timm's operations in the order of ours.
THEIRS = timm_augment.rand_augment_transform(
    "rand-m9-mstd0.5-inc1", {"img_mean": FILL, "interpolation": Pillow.Resampling.BICUBIC, "translate_const": 100}
).ops  # fmt: skip


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize(("ours", "theirs"), list(zip(OPERATIONS, THEIRS, strict=True)), ids=OPERATIONS)
def test_operations(ours, theirs, image, monkeypatch):
    for magnitude in (0.0, 2.5, 7.3, 9.0, 10.0):
        for sign in (1, -1):
            # Above one half they negate.
            monkeypatch.setattr(random, "random", lambda sign=sign: 0.4 if sign == 1 else 0.6)
            arguments = theirs.level_fn(magnitude, theirs.hparams) if theirs.level_fn else ()
            if ours == "posterize" and magnitude == 10:
                # Black: no bit is kept, which Pillow did until it began to refuse it.
                assert arguments == (0,) and not TimmRandAugment().apply(ours, image, magnitude, sign).any()
                continue
            expected = np.asarray(theirs.aug_fn(Pillow.fromarray(image), *arguments, **theirs.kwargs))
            made = TimmRandAugment(fill=FILL).apply(ours, image, magnitude, sign)
            difference = np.abs(made.astype(int) - expected)
            geometric = ours in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
            # A level of rounding in float32; where the edge of the image passes within a pixel's last bit, the fill.
            assert (difference > 1).mean() < (0.002 if geometric else 1e-9), (magnitude, sign, difference.max())
            assert (difference > 0).mean() < (0.06 if geometric else 0.02), (magnitude, sign)
            assert made.dtype == np.uint8 and made.shape == image.shape


def test_draws_have_timms_distribution(monkeypatch):
    """Which operation, with what magnitude and sign, and how many: 4,000 images each."""
    ours, theirs = [], []
    monkeypatch.setattr(
        TimmRandAugment, "apply", lambda self, name, image, m, sign=1: ours.append((name, m, sign)) or image
    )
    rng = np.random.default_rng(0)
    for _ in range(4000):
        TimmRandAugment()(IMAGES["flat"], rng)

    names = dict(zip((op.name for op in THEIRS), OPERATIONS, strict=True))
    for op in THEIRS:

        def level(m, hparams, op=op):
            theirs.append((names[op.name], m))
            return ()

        monkeypatch.setattr(op, "level_fn", level)
        monkeypatch.setattr(op, "aug_fn", lambda image, **_: image)
    policy = timm_augment.RandAugment(THEIRS, 2)
    random.seed(0)
    np.random.seed(0)
    for _ in range(4000):
        policy(IMAGES["flat"])
    assert abs(len(ours) - 4000) < 180 and abs(len(theirs) - 4000) < 180
    for counts in (Counter(name for name, *_ in ours), Counter(name for name, *_ in theirs)):
        assert set(counts) == set(OPERATIONS) and all(200 < n < 335 for n in counts.values())
    drawn = [np.sort([m for _, m, *_ in side]) for side in (ours, theirs)]
    quantiles = [np.quantile(m, np.linspace(0.02, 0.98, 25)) for m in drawn]
    assert np.abs(quantiles[0] - quantiles[1]).max() < 0.08 and all(m.max() == 10 for m in drawn)
    assert 0.45 < np.mean([sign == 1 for *_, sign in ours]) < 0.55
