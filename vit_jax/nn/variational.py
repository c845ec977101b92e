"""What variational autoencoders compute with: Gaussians of latents, likelihoods of images, and bounds.

"Auto-encoding variational Bayes" (Kingma and Welling, arXiv:1312.6114). All in float32 and nats, and sums over all axes
but the first, of an example.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# Of a logarithm of a variance: as the KL autoencoders of latent diffusion clip it.
LOWEST, HIGHEST = -30.0, 20.0


def split_moments(
    moments: Float[Array, "*places twice"],
) -> tuple[Float[Array, "*places d"], Float[Array, "*places d"]]:
    """Means, and logarithms of variances within -30..20, float32."""
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, LOWEST, HIGHEST)


def drawn(keys: PRNGKeyArray, moments: Float[Array, "b *places twice"]) -> Float[Array, "b *places d"]:
    """Latents of the Gaussians, with a gradient.

    Args:
        keys: one an example [B].
    """
    mean, log_variance = split_moments(moments)
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    return mean + jnp.exp(0.5 * log_variance) * noise


def divergence(moments: Float[Array, "b *places twice"]) -> Float[Array, " b"]:
    """The Kullback-Leibler divergence of the Gaussians from the standard one, in closed form (appendix B)."""
    mean, log_variance = split_moments(moments)
    return _summed(0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance))


def gaussian(
    x: Float[Array, "b *rest"], mean: Float[Array, "b *rest"], log_variance: Float[Array, "*any"] | float
) -> Float[Array, " b"]:
    """The logarithm of a Gaussian density."""
    log_variance = jnp.asarray(log_variance, jnp.float32)
    each = jnp.square(x - mean) * jnp.exp(-log_variance) + log_variance + math.log(2 * math.pi)
    return _summed(-0.5 * each)


def bernoulli(x: Float[Array, "b *rest"], logits: Float[Array, "b *rest"]) -> Float[Array, " b"]:
    """The logarithm of probabilities of values in 0..1; between 0 and 1 it is the usual cross-entropy, of no
    distribution."""
    return _summed(x * logits - jax.nn.softplus(logits))


def importance_bound(log_weights: Float[Array, "draws b"]) -> Float[Array, " b"]:
    """The bound of Burda et al. (arXiv:1509.00519, equation 8) from several draws of latents: with one it is the
    ELBO, and it is never below the mean of those.

    Args:
        log_weights: log p(x | z) + log p(z) - log q(z | x).
    """
    return jax.scipy.special.logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def _summed(x: Float[Array, "b *rest"]) -> Float[Array, " b"]:
    return x.reshape(len(x), -1).sum(1)
