"""The optimizers, by the names that a config gives them: optax's rules, with decay where the papers have it."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.ranges import Count, Decay, NonNegative, Positive
from vit_jax.training.parameters import by_name, decayed, kernels_only, path_name
from vit_jax.training.schedule_free import schedule_free

# What the rate is called among the numbers that come with each update.
RATE = "learning_rate"


def adamw(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    weight_decay: NonNegative | Mapping[str, Any] = 0.0,
    weight_decay_multipliers: Sequence[tuple[str, NonNegative]] = (),
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    mu_dtype: str | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with decay on kernels only.

    The decay is multiplied by the scheduled learning rate: the 'decoupled' wd of the big_vision configs, which is
    not, equals `weight_decay = wd / learning_rate` here.

    Args:
        names: of the parameters.
        weight_decay: a number, or a section: see `vit_jax.training.schedules.weight_decay`.
        weight_decay_multipliers: (pattern, factor), the first match counts; where none matches, kernels have 1 and
            everything else 0. ('head/kernel', 3.0) decays the head more, ('.*', 1.0) decays everything.
        mu_dtype: dtype in which the first moment is stored, 'bfloat16' to save memory.
    """
    factor = by_name(weight_decay_multipliers, names, "config.optim.weight_decay_multipliers", kernels_only)
    return optax.chain(
        _stored(optax.scale_by_adam(b1, b2, eps), "mu", mu_dtype, "mu_dtype"),
        decayed(weight_decay, factor),
        learning_rate,
    )


def lars(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    weight_decay: NonNegative = 0.0,
    momentum: Decay = 0.9,
    trust_coefficient: Positive = 1e-3,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """LARS (You et al., arXiv:1708.03888) as SimCLR uses it: biases, norms and tokens are neither decayed nor adapted.

    A kernel's gradient plus decay is scaled to `trust_coefficient` times the norm of the kernel, then by the learning
    rate, and then enters the momentum.
    """
    del names
    kernels = functools.partial(jax.tree.map_with_path, lambda path, _: bool(kernels_only(path_name(path))))
    return optax.chain(
        optax.add_decayed_weights(weight_decay, kernels),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), kernels),
        learning_rate,
        optax.trace(momentum, nesterov),
    )


def sgd(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    momentum: Decay = 0.9,
    nesterov: bool = False,
    accumulator_dtype: str | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum and no decay, the fine-tuning rule of the ViT paper (section B.1.1).

    The original code keeps the momentum in bfloat16: `accumulator_dtype='bfloat16'`. SimCLR's probe is `nesterov`.
    """
    del names
    trace = _stored(optax.trace(momentum, nesterov), "trace", accumulator_dtype, "accumulator_dtype")
    return optax.chain(trace, learning_rate)


def adafactor(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    weight_decay: NonNegative | Mapping[str, Any] = 0.0,
    weight_decay_multipliers: Sequence[tuple[str, NonNegative]] = (),
    momentum: Decay = 0.9,
    mu_dtype: str | None = "bfloat16",
    decay_rate: Positive = 0.8,
    decay_cap: Decay = 0.999,
    min_dim_size_to_factor: Count = 32,
    eps: Positive = 1e-30,
) -> optax.GradientTransformation:
    """Adafactor as "Scaling Vision Transformers" (arXiv:2106.04560, section 3.4) changes it, for models beyond H.

    The second moment of a matrix is kept as a row and a column (Shazeer and Stern 2018), the first in bfloat16: half a
    copy of the parameters instead of Adam's two. There is no relative step size and no clipping of updates.

    Args:
        weight_decay: as in `adamw`, like `names` and `weight_decay_multipliers`.
        momentum: of the updates, an average without correction of its start.
        mu_dtype: dtype in which that average is stored.
        decay_rate: the second moment's decay in step t is 1 - t ** -decay_rate, ...
        decay_cap: ... but at most this.
        min_dim_size_to_factor: matrices with a smaller side keep their second moment whole.
        eps: added to the squared gradients.
    """
    factor = by_name(weight_decay_multipliers, names, "config.optim.weight_decay_multipliers", kernels_only)

    def decay(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(1.0 - (step.astype(jnp.float32) + 1.0) ** -exponent, decay_cap)

    return optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor, epsilon=eps, decay_rate_fn=decay
        ),
        _stored(optax.ema(momentum, debias=False), "ema", mu_dtype, "mu_dtype"),
        decayed(weight_decay, factor),
        learning_rate,
    )


def lamb(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    weight_decay: NonNegative | Mapping[str, Any] = 0.0,
    weight_decay_multipliers: Sequence[tuple[str, NonNegative]] = (),
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-6,
) -> optax.GradientTransformation:
    """LAMB (You et al., arXiv:1904.00962), which DeiT III trains with.

    AdamW's direction, decay included, is scaled to the norm of the parameter before the learning rate. What is not
    decayed is not scaled either, as in You et al.'s code, NVIDIA's and timm's; these two scale nothing where
    `weight_decay` is 0, which turns them into Adam. timm also clips the norm of all gradients together to 1: that is
    `clip_norm=1.0` here.

    Args:
        weight_decay: as in `adamw`, like `names` and `weight_decay_multipliers`.
    """
    factor = by_name(weight_decay_multipliers, names, "config.optim.weight_decay_multipliers", kernels_only)
    adapted = functools.partial(jax.tree.map_with_path, lambda path, _: bool(factor(path_name(path))))
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        decayed(weight_decay, factor),
        optax.masked(optax.scale_by_trust_ratio(), adapted),
        learning_rate,
    )


def lion(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    weight_decay: NonNegative | Mapping[str, Any] = 0.0,
    weight_decay_multipliers: Sequence[tuple[str, NonNegative]] = (),
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: str | None = None,
) -> optax.GradientTransformation:
    """Lion (Chen et al., arXiv:2302.06675): the sign of a momentum, one slot instead of Adam's two.

    Every number of a parameter moves by the learning rate, so that this is 3 to 10 times smaller than AdamW's, and the
    decay larger by as much, as its authors advise.

    Args:
        weight_decay: as in `adamw`, like `names` and `weight_decay_multipliers`.
        b1: how much of the momentum is in the direction.
        b2: decay of the momentum.
        mu_dtype: dtype in which it is stored, 'bfloat16' to save memory.
    """
    factor = by_name(weight_decay_multipliers, names, "config.optim.weight_decay_multipliers", kernels_only)
    return optax.chain(
        _stored(optax.scale_by_lion(b1, b2), "mu", mu_dtype, "mu_dtype"),
        decayed(weight_decay, factor),
        learning_rate,
    )


def schedule_free_adamw(
    *,
    learning_rate: optax.GradientTransformation,
    names: Sequence[str],
    weight_decay: NonNegative | Mapping[str, Any] = 0.0,
    weight_decay_multipliers: Sequence[tuple[str, NonNegative]] = (),
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
) -> optax.GradientTransformation:
    """Schedule-free AdamW (Defazio et al., arXiv:2405.15682): an average in place of the momentum and of the decay of
    the rate, with AdamW's memory.

    The parameters of the run are the average, so that this is what is evaluated, saved and exported, see
    `vit_jax.training.schedule_free`. The rate wants a warmup and no decay: `schedule=dict(name="constant",
    warmup_steps=...)`. Running statistics of batch normalisation are those of where the gradients are taken:
    `config.recalibrate` estimates them for the average, as the authors advise.

    Args:
        weight_decay: as in `adamw`, like `names` and `weight_decay_multipliers`; of where the gradient is taken.
        b1: how near to the average that is.
    """
    factor = by_name(weight_decay_multipliers, names, "config.optim.weight_decay_multipliers", kernels_only)
    # Adam without its first moment, which would be a slot of zeros.
    adam = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    return schedule_free(optax.chain(adam, decayed(weight_decay, factor), learning_rate), b1, RATE)


def _stored(tx: optax.GradientTransformation, field: str, dtype: str | None, key: str) -> optax.GradientTransformation:
    """`tx` with one field of its state stored in another dtype, but computed in that of the updates.

    optax has arguments for this that also compute in bfloat16, where a decay of 0.9 is 0.8984.
    """
    if dtype is None:
        return tx
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"An optimizer's {key} cannot be {dtype!r}", nearest(dtype, ("float32", "bfloat16")))

    def cast(state: Any) -> Any:
        stored = jax.tree.map(lambda x: x.astype(dtype), getattr(state, field))
        return state._replace(**{field: stored})

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        exact = jax.tree.map(lambda x, u: x.astype(u.dtype), getattr(state, field), updates)
        updates, state = tx.update(updates, state._replace(**{field: exact}), params)
        return updates, cast(state)

    return optax.GradientTransformation(lambda params: cast(tx.init(params)), update)


OPTIMIZERS = {
    "adamw": adamw,
    "sgd": sgd,
    "lars": lars,
    "adafactor": adafactor,
    "lamb": lamb,
    "lion": lion,
    "schedule_free_adamw": schedule_free_adamw,
}
# Those that make more of a step than the step itself: what scales it has to come before.
AVERAGING = ("schedule_free_adamw",)
# Those that take a weight decay with each update, as they take the learning rate.
DECAYED = ("adamw", "adafactor", "lamb", "lion", "schedule_free_adamw")
