"""Weighted and focal losses of classification beside torch's and torchvision's, in their float64."""

import jax.numpy as jnp
import numpy as np
import torch

import tests.torchvision_ops  # noqa: F401  torchvision needs it
from vit_jax.nn.classification_loss import balanced_weights, classification_losses

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 3, (64, 5)).astype(np.float32)
LABELS = rng.choice(5, 64, p=(0.5, 0.2, 0.15, 0.1, 0.05))
SEVERAL = (rng.random((64, 5)) < 0.3).astype(np.float32)
WEIGHTS = (1.0, 0.25, 3.0, 2.0, 7.0)


def test_weights_of_softmax_and_of_sigmoid():
    logits, weight = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(WEIGHTS, dtype=torch.float64)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), weight, reduction="none")
    ours = classification_losses(LOGITS, np.eye(5)[LABELS], "softmax", jnp.array(WEIGHTS))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    several = torch.tensor(SEVERAL, dtype=torch.float64)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, several, weight, reduction="none").sum(1)
    ours = classification_losses(LOGITS, SEVERAL, "sigmoid", jnp.array(WEIGHTS))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def test_with_balanced_weights_the_mean_over_a_set_is_torchs_weighted_mean():
    weights = balanced_weights(np.bincount(LABELS, minlength=5))
    logits, weight = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), weight)
    ours = classification_losses(LOGITS, np.eye(5)[LABELS], "softmax", jnp.array(weights)).mean()
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)


def test_focal_loss_of_torchvision():
    from torchvision.ops import sigmoid_focal_loss

    logits, several = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(SEVERAL, dtype=torch.float64)
    for gamma, alpha in ((2.0, 0.25), (0.5, 0.9), (2.0, None)):
        wanted = sigmoid_focal_loss(logits, several, -1 if alpha is None else alpha, gamma).sum(1)
        ours = classification_losses(LOGITS, SEVERAL, "sigmoid", None, gamma, alpha)
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
