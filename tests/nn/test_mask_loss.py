"""Losses of masks against NumPy in float64."""

import jax.numpy as jnp
import numpy as np

from vit_jax.nn.mask_loss import binary_cross_entropy, dice_loss, focal_loss, iou, overlap

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 3, (2, 3, 5, 7)).astype(np.float32)
WANTED = rng.random((2, 3, 5, 7)) < 0.3


def by_hand(logits, wanted):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropy = -np.where(wanted, np.log(p), np.log1p(-p))
    focal = np.where(wanted, 0.25 * (1 - p) ** 2, 0.75 * p**2) * entropy
    dice = 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
    return entropy.mean(), focal.mean(), dice


def test_losses_by_hand():
    found = [loss(jnp.asarray(LOGITS), jnp.asarray(WANTED)) for loss in (binary_cross_entropy, focal_loss, dice_loss)]
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose([x[place] for x in found], by_hand(LOGITS[place], WANTED[place]), rtol=1e-5)


def test_losses_of_very_sure_predictions_are_finite():
    sure = jnp.float32([[200.0, -200.0]])
    for wanted in ([[True, False]], [[False, True]]):
        losses = [float(f(sure, jnp.asarray(wanted))) for f in (binary_cross_entropy, focal_loss, dice_loss)]
        assert np.isfinite(losses).all()
        assert losses[0] == (0 if wanted[0][0] else 200)


def test_overlaps_are_counted():
    found, wanted = LOGITS > 0, WANTED
    both, either = overlap(jnp.asarray(found), jnp.asarray(wanted))
    np.testing.assert_array_equal(both, (found & wanted).sum((-2, -1)))
    np.testing.assert_array_equal(either, (found | wanted).sum((-2, -1)))
    np.testing.assert_allclose(iou(jnp.asarray(found), jnp.asarray(wanted)), np.asarray(both) / np.asarray(either))
    assert float(iou(jnp.zeros((3, 3), bool), jnp.zeros((3, 3), bool))) == 0
