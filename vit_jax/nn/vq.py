"""Vector quantisation: the nearest code of each latent, and how codebooks learn."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vit_jax.errors import UserError
from vit_jax.nn.code_usage import code_counts
from vit_jax.nn.norm import unit

COLLECTION = "codebooks"  # of a model's state: codes that moving averages learn

_PRECISE = jax.lax.Precision.HIGHEST
_DEEPEST = 8  # codes of one latent


@struct.dataclass
class Quantized:
    """What a quantiser makes of latents.

    Args:
        latents: float32 [..., D]. In training their gradient goes to what was quantised as if it were the same.
        indices: int32 [...], of a residual quantiser [..., depth].
        loss: what a training loss adds for the codebook and the encoder, a scalar, float32.
    """

    latents: Float[Array, "*places d"]
    indices: Int[Array, "*any"]
    loss: Float[Array, ""]


def squared_distances(x: Float[Array, "*places d"], codes: Float[Array, "k d"]) -> Float[Array, "*places k"]:
    """Of each latent from each code, float32, as |x|^2 - 2 x c + |c|^2: one product of matrices."""
    x, codes = x.astype(jnp.float32), codes.astype(jnp.float32)
    products = jnp.einsum("...d,kd->...k", x, codes, precision=_PRECISE)
    return jnp.square(x).sum(-1, keepdims=True) - 2 * products + jnp.square(codes).sum(-1)


def nearest(x: Float[Array, "*places d"], codes: Float[Array, "k d"], cosine: bool = False) -> Int[Array, "*places"]:
    """The index of the code next to each latent, of several the first.

    Args:
        cosine: next by the angle, and not by the Euclidean distance.
    """
    x, codes = jax.lax.stop_gradient((x.astype(jnp.float32), codes.astype(jnp.float32)))
    if cosine:
        return jnp.einsum("...d,kd->...k", unit(x), unit(codes), precision=_PRECISE).argmax(-1).astype(jnp.int32)
    # |x|^2 is the same for all codes, and would only round what tells them apart.
    products = jnp.einsum("...d,kd->...k", x, codes, precision=_PRECISE)
    return (jnp.square(codes).sum(-1) - 2 * products).argmin(-1).astype(jnp.int32)


def straight_through(x: Float[Array, "*s"], quantized: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The values of `quantized`, to the bit, with the gradient of `x` (VQ-VAE, arXiv:1711.00937, section 3.2)."""
    x = x.astype(quantized.dtype)
    return jax.lax.stop_gradient(quantized) + (x - jax.lax.stop_gradient(x))


def codebook_loss(
    x: Float[Array, "*s"], quantized: Float[Array, "*s"], beta: float = 0.25, legacy: bool = False
) -> Float[Array, ""]:
    """Mean squares that draw codes to latents and, the commitment, latents to codes (VQ-VAE, equation 3).

    Args:
        quantized: codes, with their own gradient.
        beta: weight of the commitment.
        legacy: `beta` weighs what draws codes instead, and the commitment has 1, as VQGAN's published models were
            trained (taming-transformers calls it so).
    """
    codes = jnp.square(quantized - jax.lax.stop_gradient(x)).mean()
    commitment = jnp.square(jax.lax.stop_gradient(quantized) - x).mean()
    return beta * codes + commitment if legacy else codes + beta * commitment


def entropy_loss(affinity: Float[Array, "*places k"], temperature: float = 0.01) -> Float[Array, ""]:
    """Small where each latent is sure of its code and all codes are used (MaskGIT's tokenizer, arXiv:2202.04200).

    The entropy of a latent's codes, in the mean, less the entropy of the mean over all latents; in nats.

    Args:
        affinity: the negative squared distances from the codes.
        temperature: that divides them before the softmax.
    """
    logits = affinity.astype(jnp.float32).reshape(-1, affinity.shape[-1]) / temperature
    shares = jax.nn.softmax(logits)
    each = -(shares * jax.nn.log_softmax(logits)).sum(-1).mean()
    mean = shares.mean(0)
    return each + (mean * jnp.log(mean + 1e-5)).sum()


def gumbel_softmax(
    key: PRNGKeyArray, logits: Float[Array, "*places k"], tau: float | Float[Array, ""], hard: bool = False
) -> Float[Array, "*places k"]:
    """A draw from the classes of `logits` that has a gradient (arXiv:1611.01144, arXiv:1611.00712), float32.

    Args:
        tau: temperature: near 0 it is one of the classes, large it is all of them.
        hard: the largest one alone, with the gradient of the others too (straight through).
    """
    logits = logits.astype(jnp.float32)
    soft = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau)
    if not hard:
        return soft
    return straight_through(soft, jax.nn.one_hot(soft.argmax(-1), logits.shape[-1]))


def divergence_from_uniform(logits: Float[Array, "*places k"]) -> Float[Array, "*places"]:
    """The Kullback-Leibler divergence of the classes of `logits` from equal ones, in nats, float32."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return (jnp.exp(logs) * logs).sum(-1) + math.log(logits.shape[-1])


def uniform_codes(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any = jnp.float32) -> Float[Array, "k d"]:
    """Codes as VQGAN starts them: uniform between -1/K and 1/K."""
    return jax.random.uniform(key, shape, dtype, -1 / shape[0], 1 / shape[0])


class Codebook(nn.Module):
    """Codes, and how they learn: by a gradient, or as moving averages of the latents that they stand for.

    Parameter, float32: `codes` [K, D]. With `decay` they are a state instead, in the collection "codebooks", with
    `counts` [K] and `sums` [K, D], which only training needs: averages of how many latents a batch has of each code,
    and of the sum of them (VQ-VAE, appendix A.1, with Laplace smoothing as in sonnet). They are over the global batch.

    Attributes:
        size: number of codes, K.
        width: of a code, D.
        decay: share of the old average in each update, .99 in the paper; None for a gradient.
        restart_below: a code whose average count is below this becomes a latent of the batch, drawn without putting it
            back (as Jukebox restarts codes, arXiv:2005.00341, section 3.1); 0 never. Needs `decay`.
        cosine: latents and codes have length 1, as in ViT-VQGAN (arXiv:2110.04627).
        epsilon: of the Laplace smoothing.
        codes_init: of the codes.

    Raises:
        UserError: for no codes, or `restart_below` without `decay`.
    """

    size: int
    width: int
    decay: float | None = None
    restart_below: float = 0.0
    cosine: bool = False
    epsilon: float = 1e-5
    codes_init: nn.initializers.Initializer = uniform_codes

    def setup(self) -> None:
        if self.size < 1 or self.width < 1:
            raise UserError(f"A codebook cannot have {self.size} codes of width {self.width}", "Give it one or more")
        if self.restart_below and self.decay is None:
            raise UserError(
                "Codes that learn by a gradient cannot start anew in the middle of it", "Set decay, such as 0.99"
            )
        shape = (self.size, self.width)
        if self.decay is None:
            self.learned = self.param("codes", self.codes_init, shape)
            return

        def made() -> Array:
            codes = self.codes_init(self.make_rng("params"), shape)
            return unit(codes) if self.cosine else codes

        self.averaged = self.variable(COLLECTION, "codes", made)
        self.counts = self.variable(COLLECTION, "counts", jnp.ones, self.size)
        self.sums = self.variable(COLLECTION, "sums", lambda: self.averaged.value)

    def table(self) -> Float[Array, "k d"]:
        """The codes as they are looked up, with their gradient where they have one."""
        if self.decay is not None:
            return jax.lax.stop_gradient(self.averaged.value)
        return unit(self.learned) if self.cosine else self.learned

    def seen(self, x: Float[Array, "*places d"]) -> Float[Array, "*places d"]:
        """Latents as they are compared with the codes, float32.

        Raises:
            UserError: for a width that is not that of the codes.
        """
        if x.shape[-1] != self.width:
            raise UserError(f"Latents of width {x.shape[-1]} have no codes of width {self.width}", "Make them equal")
        return unit(x) if self.cosine else x.astype(jnp.float32)

    def nearest(self, x: Float[Array, "*places d"]) -> Int[Array, "*places"]:
        """The index of each latent's code, the first of several that are as near."""
        return nearest(self.seen(x), self.table())

    def embed(self, indices: Int[Array, "*places"]) -> Float[Array, "*places d"]:
        """The codes of indices."""
        return jnp.asarray(self.table())[indices]

    def loss(
        self, x: Float[Array, "*places d"], codes: Float[Array, "*places d"], beta: float, legacy: bool
    ) -> Float[Array, ""]:
        """`codebook_loss` of latents and their codes; of codes that moving averages learn the commitment alone."""
        if self.decay is None:
            return codebook_loss(x, codes, beta, legacy)
        return beta * jnp.square(codes - x).mean()

    def learn(self, x: Float[Array, "*places d"], indices: Int[Array, "*places"]) -> None:
        """Moves the averages by the latents of a batch; a codebook that learns by a gradient does so elsewhere.

        Draws of a restart come from the stream "dropout", which training has.

        Args:
            x: as `seen` gives them.
            indices: their codes.
        """
        if self.decay is None or self.is_initializing():
            return
        x, indices = jax.lax.stop_gradient(x).reshape(-1, self.width), indices.reshape(-1)
        chosen = jax.nn.one_hot(indices, self.size)
        new = code_counts(indices, self.size), jnp.einsum("nk,nd->kd", chosen, x, precision=_PRECISE)
        counts = self.decay * self.counts.value + (1 - self.decay) * new[0]
        sums = self.decay * self.sums.value + (1 - self.decay) * new[1]
        total = counts.sum()
        smoothed = (counts + self.epsilon) / (total + self.size * self.epsilon) * total
        codes = sums / smoothed[:, None]
        codes = unit(codes) if self.cosine else codes
        if self.restart_below:
            dead = counts < self.restart_below
            rank = jnp.cumsum(dead) - 1  # more dead codes than latents: the last ones wait
            dead &= rank < len(x)
            drawn = x[jax.random.permutation(self.make_rng("dropout"), len(x))[rank % len(x)]]
            codes = jnp.where(dead[:, None], drawn, codes)
            counts = jnp.where(dead, self.restart_below, counts)
            sums = jnp.where(dead[:, None], drawn * self.restart_below, sums)
        self.averaged.value, self.counts.value, self.sums.value = codes, counts, sums


class VectorQuantizer(nn.Module):
    """Each latent as one code of a codebook (VQ-VAE, arXiv:1711.00937).

    Attributes:
        codebook: the codes.
        beta: weight of the commitment, see `codebook_loss`, like `legacy`.
    """

    codebook: Codebook
    beta: float = 0.25
    legacy: bool = False

    def __call__(self, x: Float[Array, "*places d"], train: bool = False) -> Quantized:
        """Quantises; in training the averages of the codebook move, see `Codebook.learn`."""
        x = self.codebook.seen(x)
        indices = self.codebook.nearest(x)
        codes = self.codebook.embed(indices)
        if train:
            self.codebook.learn(x, indices)
        loss = self.codebook.loss(x, codes, self.beta, self.legacy)
        return Quantized(straight_through(x, codes), indices, loss)

    def embed(self, indices: Int[Array, "*places"]) -> Float[Array, "*places d"]:
        """The codes of indices."""
        return self.codebook.embed(indices)


class ResidualQuantizer(nn.Module):
    """Several codes a latent, each for what those before it left (RQ-VAE, arXiv:2203.01941, section 3.1).

    The loss is the sum over depths. The gradient goes straight through the sum of the codes.

    Attributes:
        codebooks: one that all depths share, or one for each.
        depth: codes of a latent, 1 to 8.
        beta: see `codebook_loss`, like `legacy`.

    Raises:
        UserError: for another depth, another number of codebooks, or codebooks for the cosine, which leaves no rest.
    """

    codebooks: tuple[Codebook, ...]
    depth: int
    beta: float = 0.25
    legacy: bool = False

    def setup(self) -> None:
        if not 1 <= self.depth <= _DEEPEST:
            raise UserError(f"A latent cannot have {self.depth} codes", f"Set a depth from 1 to {_DEEPEST}")
        if len(self.codebooks) not in (1, self.depth):
            raise UserError(
                f"{len(self.codebooks)} codebooks do not go round for a depth of {self.depth}",
                "Give one, or one for each",
            )
        if any(book.cosine for book in self.codebooks):
            raise UserError("What a code of length 1 leaves has no length of 1", "Leave cosine out")

    def __call__(self, x: Float[Array, "*places d"], train: bool = False) -> Quantized:
        """Quantises; `indices` are [..., depth]."""
        left = x.astype(jnp.float32)
        loss, seen, indices = jnp.float32(0), [], []
        for depth in range(self.depth):
            book = self._book(depth)
            seen.append(book.seen(left))
            indices.append(book.nearest(left))
            codes = book.embed(indices[-1])
            loss += book.loss(left, codes, self.beta, self.legacy)
            left = left - jax.lax.stop_gradient(codes)
        found = jnp.stack(indices, -1)
        quantized = self.embed(found)
        if train and len(self.codebooks) == 1:  # one update by all that the codes stand for
            self.codebooks[0].learn(jnp.stack(seen), jnp.stack(indices))
        elif train:
            for book, latents, each in zip(self.codebooks, seen, indices, strict=True):
                book.learn(latents, each)
        return Quantized(straight_through(x, quantized), found, loss)

    def embed(self, indices: Int[Array, "*places depth"]) -> Float[Array, "*places d"]:
        """The sums of the codes of indices; of fewer than all depths the coarse part of it."""
        return sum(self._book(depth).embed(indices[..., depth]) for depth in range(indices.shape[-1]))

    def _book(self, depth: int) -> Codebook:
        return self.codebooks[0 if len(self.codebooks) == 1 else depth]


class GumbelQuantizer(nn.Module):
    """Each latent as a draw of a code that has a gradient, as taming-transformers' VQGAN of 8,192 codes.

    Parameters, float32: `logits`, a linear layer to the codes, and `codes` [K, width]. The loss is the divergence of
    the codes' probabilities from equal ones, the mean over latents.

    Attributes:
        size: number of codes, K.
        width: of a code.
        kl_weight: of the loss.
    """

    size: int
    width: int
    kl_weight: float = 5e-4

    def setup(self) -> None:
        self.logits = nn.Dense(self.size)
        self.codes = self.param("codes", nn.initializers.normal(1.0), (self.size, self.width))

    def __call__(
        self, x: Float[Array, "*places c"], tau: float | Float[Array, ""] = 1.0, train: bool = False
    ) -> Quantized:
        """Quantises; without `train` every latent becomes its most probable code, and nothing is drawn. In training it
        becomes one code too, the one that is drawn (`hard` of `gumbel_softmax`); `indices` are the most probable ones.

        Args:
            tau: temperature of the draws, which come from the stream "dropout".
        """
        logits = self.logits(x).astype(jnp.float32)
        indices = logits.argmax(-1).astype(jnp.int32)
        loss = self.kl_weight * divergence_from_uniform(logits).mean()
        if not train:
            return Quantized(self.embed(indices), indices, loss)
        shares = gumbel_softmax(self.make_rng("dropout"), logits, tau, hard=True)
        return Quantized(jnp.einsum("...k,kd->...d", shares, self.codes, precision=_PRECISE), indices, loss)

    def embed(self, indices: Int[Array, "*places"]) -> Float[Array, "*places d"]:
        """The codes of indices."""
        return jnp.asarray(self.codes)[indices]
