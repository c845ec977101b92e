"""A small diffusion model of each token's values, given what a Transformer says of the token.

"Autoregressive image generation without vector quantization" (arXiv:2406.11838, MAR), section 3.2 and appendix A: an
MLP with adaptive norms stands where a softmax over a codebook would. HART (arXiv:2410.10812) has the same for what is
left of a token that was quantised.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from vit_jax.nn.diffusion import (
    DiffusionLosses,
    Noising,
    Steps,
    add_noise,
    betas,
    denoise,
    guided,
    losses,
    respaced,
)
from vit_jax.nn.flops import product_flops
from vit_jax.nn.modulation import Modulation
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.stack import block_name
from vit_jax.nn.time_embedding import TimeEmbedding

TIMESTEPS = 1000

_XAVIER = nn.initializers.xavier_uniform()
_ZEROS = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class HeadSteps:
    """How a head draws tokens.

    Args:
        steps: of the 1,000 that it learned, at equal distances.
        guidance: u + guidance (c - u) of the noise, 1 for none.
        temperature: of the noise of a step.
    """

    steps: int = 100
    guidance: float | Float[Array, ""] = 1.0
    temperature: float = 1.0


class ModulatedBlock(nn.Module):
    """x + gate * mlp(norm(x) (1 + scale) + shift), with shift, scale and gate of a condition.

    Parameters, float32: `norm`; `fc1` and `fc2`, with kernels [W, W]; `modulation` with kernel [W, 3, W] (shift, scale,
    gate), zero at first; and biases.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n w"], condition: Float[Array, "n w"]) -> Float[Array, "n w"]:
        width = x.shape[-1]
        made = Modulation(3, width, self.dtype, name="modulation")(condition)
        shift, scale, gate = (made[..., i, :] for i in range(3))
        y = LayerNorm(1e-6, self.dtype, name="norm")(x) * (1 + scale) + shift
        y = nn.Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="fc1")(y)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="fc2")(nn.silu(y))
        return x + gate * y


class DiffusionHead(nn.Module):
    """What a noisy token was, given its timestep and its condition: the noise in it, and how sure that is.

    Parameters, float32: `input` with kernel [C, W], `condition` [Z, W], `time` (see `TimeEmbedding`), `block_00`, ...,
    `modulation` with kernel [W, 2, W] (shift, scale) and `output` [W, 2 C], zero at first.

    Attributes:
        channels: C, values of a token.
        width: W.
        depth: number of blocks.
        scale: tokens are divided by it: .6 in HART, where they are remainders; 1 in MAR, whose latents have variance 1.
        clip: tokens as predicted, divided so, are cut to -1..1 in sampling (HART).
        dtype: of the computation.
    """

    channels: int
    width: int
    depth: int
    scale: float = 1.0
    clip: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.input = nn.Dense(self.width, dtype=self.dtype, kernel_init=_XAVIER)
        self.condition = nn.Dense(self.width, dtype=self.dtype, kernel_init=_XAVIER)
        self.time = TimeEmbedding(self.width, dtype=self.dtype)
        self.blocks = [ModulatedBlock(self.dtype, name=block_name(i)) for i in range(self.depth)]
        self.modulation = Modulation(2, self.width, self.dtype)
        self.norm = LayerNorm(1e-6, self.dtype, affine=False)
        self.output = nn.Dense(2 * self.channels, dtype=self.dtype, kernel_init=_ZEROS)

    def __call__(
        self, x: Float[Array, "n c"], timesteps: Int[Array, "*n"], z: Float[Array, "n z"]
    ) -> Float[Array, "n two_c"]:
        """The noise of each value, and its variance between the posterior's, -1, and beta, 1; float32.

        Args:
            x: noisy tokens.
            timesteps: 0..999, of each or of all.
            z: the conditions.
        """
        return self.further(x, timesteps, self.condition(z))

    def embedded(self, z: Float[Array, "n z"]) -> Float[Array, "n w"]:
        """Conditions as `further` takes them: they are the same in all steps."""
        return self.condition(z)

    def further(
        self, x: Float[Array, "n c"], timesteps: Int[Array, "*n"], condition: Float[Array, "n w"]
    ) -> Float[Array, "n two_c"]:
        """The same of a condition that is embedded."""
        condition = self.time(timesteps) + condition
        x = self.input(x)
        for block in self.blocks:
            x = block(x, condition)
        made = self.modulation(condition)
        x = self.norm(x) * (1 + made[..., 1, :]) + made[..., 0, :]
        return self.output(x).astype(jnp.float32)

    def flops(self) -> float:
        """Floating point operations for one token in one step; what is made once for all steps, the embedded condition,
        or for all tokens, the embedded timestep, is left out."""
        return product_flops(1, self.width, (5 * self.depth + 2) * self.width + 3 * self.channels)

    def losses(
        self, z: Float[Array, "n z"], tokens: Float[Array, "n c"], key: PRNGKeyArray, repeats: int = 1
    ) -> DiffusionLosses:
        """What each token costs [N], the mean of `repeats` draws of timestep and noise: the Transformer is dear and the
        head cheap (MAR, appendix A)."""
        many = repeats * tokens.shape[0]
        of_time, of_noise = jax.random.split(key)
        timesteps = jax.random.randint(of_time, (many,), 0, TIMESTEPS)
        noise = jax.random.normal(of_noise, (many, self.channels))
        drawn = self.losses_of(jnp.tile(z, (repeats, 1)), jnp.tile(tokens, (repeats, 1)), timesteps, noise)
        return DiffusionLosses(*(x.reshape(repeats, -1).mean(axis=0) for x in drawn))

    def losses_of(
        self, z: Float[Array, "n z"], tokens: Float[Array, "n c"], timesteps: Int[Array, " n"],
        noise: Float[Array, "n c"],
    ) -> DiffusionLosses:  # fmt: skip
        """The same of given draws."""
        noising = Noising.of(betas("cosine", TIMESTEPS))
        tokens = tokens.astype(jnp.float32) / self.scale
        output = self(add_noise(noising, tokens, noise, timesteps), timesteps, z)
        return losses(noising, output, tokens, noise, timesteps)

    def sample(
        self,
        z: Float[Array, "n z"],
        first: Float[Array, "n c"],
        noise: Callable[[Int[Array, ""]], Float[Array, "n c"]],
        how: HeadSteps = HeadSteps(),
        *,
        unconditional: Float[Array, "n z"] | None = None,
        timesteps: Int[Array, " s"] | None = None,
    ) -> Float[Array, "n c"]:
        """Tokens, float32.

        Args:
            z: conditions.
            first: standard normal noise.
            noise: that of the n-th step, see `vit_jax.nn.diffusion.denoise`.
            how: see `HeadSteps`.
            unconditional: conditions of the same tokens where nothing is asked for; None to draw without guidance.
            timesteps: which to go, for `how.steps` of them.
        """
        noising = Noising.of(
            betas("cosine", TIMESTEPS), respaced(how.steps, TIMESTEPS) if timesteps is None else timesteps
        )
        count = z.shape[0]
        # The head is called within a scan: as a function of its parameters.
        head, variables = self.clone(parent=None, name=None), {"params": self.variables["params"]}
        conditions = z if unconditional is None else jnp.concatenate([z, unconditional])
        conditions = self.embedded(conditions)

        def predict(x: Float[Array, "n c"], timestep: Int[Array, ""]) -> Float[Array, "n two_c"]:
            both = x if unconditional is None else jnp.concatenate([x, x])
            output = head.apply(variables, both, timestep, conditions, method="further")
            if unconditional is None:
                return output
            epsilon, share = jnp.split(output, 2, axis=-1)
            # The variance is that of the condition.
            return jnp.concatenate([guided(epsilon[:count], epsilon[count:], how.guidance), share[:count]], axis=-1)

        steps = Steps(clip=self.clip, temperature=how.temperature)
        return denoise(predict, noising, first.astype(jnp.float32), noise, steps) * self.scale
