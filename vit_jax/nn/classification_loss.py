"""Losses of classification: softmax and sigmoid cross-entropy, weighted by class and focal: one number an example."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.naming import nearest

OBJECTIVES = ("softmax", "sigmoid")
_TINY = 1e-7  # below float32's resolution at 1: a power under one has no finite slope at zero


def classification_losses(
    logits: Float[Array, "B K"],
    targets: Float[Array, "B K"],
    objective: str = "softmax",
    class_weights: Float[Array, " K"] | None = None,
    focal_gamma: float = 0.0,
    focal_alpha: float | None = None,
) -> Float[Array, " B"]:
    """Cross-entropy in nats between each row's targets and its logits.

    Args:
        targets: shares that sum to 1 for 'softmax'; each class by itself, 0 to 1, for 'sigmoid'.
        objective: 'softmax', or 'sigmoid', which sums over the classes.
        class_weights: what the term of each class is multiplied by. The sum is not divided by the weights, so that an
            example's loss depends on nothing else of its batch, and can be accumulated. torch's
            `CrossEntropyLoss(weight=...)` divides; over a whole set this is the same for 'balanced' weights (see
            `class_weights`), whose mean there is 1.
        focal_gamma: each term is multiplied by (1 - p) ** gamma, with p the probability that the model gives to what
            the term says (Lin et al., "Focal Loss", arXiv:1708.02002, equation 4); 0 is plain cross-entropy.
        focal_alpha: for 'sigmoid', what says yes is multiplied by it and what says no by 1 - alpha (their equation 5,
            where 0.25 goes with a gamma of 2); None for neither. Of 'softmax' the alpha of a class is its weight.
    """
    logits = logits.astype(jnp.float32)
    if objective == "softmax":
        log_p = jax.nn.log_softmax(logits)
        terms = targets * _focal(log_p, focal_gamma)
    else:
        yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        a, b = (1.0, 1.0) if focal_alpha is None else (focal_alpha, 1 - focal_alpha)
        terms = a * targets * _focal(yes, focal_gamma) + b * (1 - targets) * _focal(no, focal_gamma)
    if class_weights is not None:
        terms = terms * class_weights
    return terms.sum(axis=-1)


def probabilities(logits: Float[Array, "B K"], objective: str) -> Float[Array, "B K"]:
    """What a model trained with `objective` says: classes that sum to 1, or each by itself."""
    return jax.nn.softmax(logits) if objective == "softmax" else jax.nn.sigmoid(logits)


def class_weights(
    given: Mapping[str, float] | Sequence[float] | str | None,
    names: Sequence[str],
    counts: Callable[[], Sequence[int]] | None = None,
) -> tuple[float, ...] | None:
    """One weight a class, in the order of `names`, as a task's `class_weights` gives them: by name, 1 for those left
    out; one for each; or 'balanced' for n / (k * count), as scikit-learn has it (King and Zeng, "Logistic Regression in
    Rare Events Data", 2001), of n labels of k classes that have some. A class without examples has the weight 1.

    Args:
        counts: says how many training examples each class has; None where a task is rebuilt that trained before.

    Returns:
        None for none, and for 'balanced' where nothing is counted.

    Raises:
        UserError: for a name that is not a class, or another number of weights.
    """
    if given == "balanced":
        return counts and balanced_weights(counts())
    if not given:
        return None
    if not isinstance(given, Mapping):
        if len(given) != len(names):
            raise UserError(
                f"config.task.class_weights has {len(given)} weights for {len(names)} classes", "Give one for each"
            )
        return tuple(given)
    for name in given:
        if name not in names:
            raise UserError(f"config.task.class_weights names {name!r}, which is not a class", nearest(name, names))
    return tuple(given.get(name, 1.0) for name in names)


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """n / (k * count) for each class, see `class_weights`."""
    total, present = sum(counts), sum(count > 0 for count in counts)
    return tuple(total / (present * count) if count else 1.0 for count in counts)


def _focal(log_p: Float[Array, "B K"], gamma: float) -> Float[Array, "B K"]:
    """-(1 - p) ** gamma log p."""
    return -log_p if not gamma else -log_p * jnp.maximum(-jnp.expm1(log_p), _TINY) ** gamma
