"""A GPT over the tokens of images: Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis"
(arXiv:2012.09841), section 3.2.

GPT-2's blocks. A condition, such as a class, is the first token, and each token is predicted of those before it. The
learned position that is added to what is read is that of the token which is predicted next, so that any fixed order of
the places of an image is as good as another; where the order is another one for each image, what is read also says
where it is. Logits come from a matrix of their own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import check_keys
from vit_jax.nn.flops import product_flops
from vit_jax.nn.multi_head import Cache
from vit_jax.nn.normal_init import normal_redrawn
from vit_jax.nn.products import product
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, block_style, execution_of
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.trunk import Layers, below
from vit_jax.ranges import Count, Decay, Positive
from vit_jax.spelling import nearest


@dataclasses.dataclass(frozen=True)
class Variant:
    """A size; the hidden layer of an MLP is four times as wide as the model."""

    width: int
    depth: int
    num_heads: int


# The authors' usual size, and that of their model of classes of ImageNet.
VARIANTS = {"vqgan": Variant(1024, 24, 16), "vqgan-large": Variant(1536, 48, 24)}

_NORMAL = nn.initializers.normal(0.02)


class TokenGPT(nn.Module):
    """How likely every token is to come next, after a condition and the tokens so far.

    Parameters, float32: `transformer`, see `TextTrunk`, whose embedding [V + C, D] has the tokens first and then the
    conditions, and whose positions [T, D] are by the place of the token that comes next; `place_embedding` [T, D] with
    `own_places`; `head` with kernel [D, V].

    Attributes:
        transformer: the trunk, causal.
        vocab_size: V, the number of tokens.
        own_places: whether what is read says where it is, as it must where orders differ between images.
        scaled_residuals: whether the kernels that end a residual branch start smaller (GPT-2, section 2.3).
        init_stddev: of kernels and embeddings at first.
        probed: number of the block whose reading is the `features` of an image; None for the middle one.

    Raises:
        UserError: for a trunk that sees what it is to guess.
    """

    transformer: TextTrunk
    vocab_size: int
    own_places: bool = False
    scaled_residuals: bool = False
    init_stddev: float = 0.02
    probed: int | None = None

    def __post_init__(self):
        if self.transformer.mask != "causal":
            raise UserError("A model of the next token must not see what it guesses", "Set mask='causal'")
        super().__post_init__()

    def setup(self):
        dtype = self.transformer.execution.dtype
        self.head = nn.Dense(self.vocab_size, use_bias=False, dtype=dtype, kernel_init=_NORMAL, dot_general=product)
        if self.own_places:
            shape = (self.transformer.max_length, self.transformer.width)
            self.place_embedding = self.param("place_embedding", _NORMAL, shape)

    def __call__(
        self,
        conditions: Int[Array, " b"],
        tokens: Int[Array, "b t"],
        places: Int[Array, "#b t"] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Predicts every token from the condition and those before it.

        Args:
            conditions: from 0 to below C.
            tokens: in the order in which they come; the last one is not read.
            places: of the tokens, in the same order; None for 0, 1, 2, ...

        Returns:
            "tokens" [B, T, D] of the trunk in its dtype, "logits" [B, T, V] float32 of each token.
        """
        places = self._places(places, tokens)
        ids = jnp.concatenate([self.vocab_size + conditions[:, None], tokens[:, :-1]], axis=1)
        before = jnp.pad(places[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        found, _ = self._read(ids, before, places, train=train)
        return {"tokens": found, "logits": self.logits(found)}

    def further(
        self,
        ids: Int[Array, "b t"],
        before: Int[Array, "b t"],
        places: Int[Array, "b t"],
        cache: Cache,
        at: Int[Array, " b"] | Int[Array, ""] | int,
    ) -> tuple[Float[Array, "b t width"], Cache]:
        """What the trunk makes of tokens that go on after what a cache holds, for `logits`, and the cache with them.

        Args:
            ids: tokens; the condition c, which comes first, is V + c.
            before: where they are; -1 for the condition.
            places: where the token after each of them is.
            at: how many came before.
        """
        return self._read(ids, before, places, cache=cache, at=at)

    def logits(self, tokens: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Of the tokens that come next, float32."""
        return self.head(tokens).astype(jnp.float32)

    def features(self, conditions: Int[Array, " b"], tokens: Int[Array, "b t"]) -> Float[Array, "b width"]:
        """Of images, for a linear probe, float32: the mean over all places of what block `probed` reads after its norm,
        in the order of reading (iGPT, "Generative pretraining from pixels", section 2.4)."""
        ids = jnp.concatenate([self.vocab_size + conditions[:, None], tokens[:, :-1]], axis=1)
        number = self.transformer.depth // 2 if self.probed is None else self.probed
        return self.transformer.read_by(number, ids).astype(jnp.float32).mean(axis=1)

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, Array]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return jnp.zeros(1, jnp.int32), jnp.zeros((1, 1), jnp.int32)

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Parameters with initial values as minGPT and GPT-2 draw them: N(0, `init_stddev`), biases 0."""
        depth = self.transformer.depth if self.scaled_residuals else None
        return normal_redrawn(params, rng, stddev=self.init_stddev, residual_depth=depth)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        first, *others = below("transformer", self.transformer.layers())
        return ((*first, "place_embedding"), *others)

    def token_flops(self) -> float:
        """Floating point operations of one image's tokens forward, the logits of all of them included."""
        length, trunk = self.transformer.max_length, self.transformer
        return trunk.flops(length) + product_flops(length, trunk.width, self.vocab_size)

    def _read(
        self, ids: Int[Array, "b t"], before: Int[Array, "b t"], places: Int[Array, "b t"], **how: Any
    ) -> tuple[Float[Array, "b t width"], Cache | None]:
        if not self.own_places:
            return self.transformer(ids, positions=places, **how)
        own = jnp.where(before[..., None] < 0, 0.0, self.place_embedding[jnp.maximum(before, 0)])
        return self.transformer(None, embedded=self.transformer.embed(ids) + own, positions=places, **how)

    def _places(self, places: Int[Array, "#b t"] | None, tokens: Int[Array, "b t"]) -> Int[Array, "b t"]:
        return jnp.broadcast_to(jnp.arange(tokens.shape[1]) if places is None else places, tokens.shape)


def build(
    *,
    vocab_size: Count,
    num_tokens: Count,
    num_conditions: Count = 1,
    own_places: bool = False,
    variant: str = "vqgan",
    width: Count | None = None,
    depth: Count | None = None,
    num_heads: Count | None = None,
    mlp_dim: Count | None = None,
    scaled_residuals: bool = False,
    init_stddev: Positive = 0.02,
    drop_path_rate: Decay = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> TokenGPT:
    """A GPT over tokens from values that JSON can hold, by default that of VQGAN.

    Args:
        vocab_size: number of tokens, like `num_tokens`, those of an image, and the last two the task's to say.
        num_conditions: different first tokens.
        own_places: see `TokenGPT`.
        variant: see `VARIANTS`.
        width: replaces the variant's, like `depth` and `num_heads`, for sizes of one's own.
        mlp_dim: of the MLPs; None for four times the width.
        scaled_residuals: see `TokenGPT`.
        init_stddev: see `TokenGPT`; a narrow model learns sooner with more, such as 1 / sqrt(width).
        drop_path_rate: see `TextTrunk`.
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`, see `block_style`. The defaults are minGPT's, without
            dropout: the exact GELU and an epsilon of 1e-5.

    Raises:
        UserError: for an unknown variant, value or argument.
    """
    if variant not in VARIANTS:
        raise UserError(f"There is no GPT over tokens '{variant}'", nearest(variant, VARIANTS))
    size = dataclasses.asdict(VARIANTS[variant])
    size |= {k: v for k, v in {"width": width, "depth": depth, "num_heads": num_heads}.items() if v is not None}
    style = {"activation": "gelu_exact", "norm_epsilon": 1e-5, **block}
    trunk = causal_trunk(
        style, **size, mlp_dim=mlp_dim, vocab_size=vocab_size + num_conditions, max_length=num_tokens,
        drop_path_rate=drop_path_rate, dtype=dtype, known=_NAMED_KEYS,
    )  # fmt: skip
    return TokenGPT(trunk, vocab_size, own_places, scaled_residuals, init_stddev)


def causal_trunk(
    block: dict[str, Any],
    *,
    width: int,
    num_heads: int,
    mlp_dim: int | None,
    dtype: str,
    known: Sequence[str],
    **trunk: Any,
) -> TextTrunk:
    """A pre-norm trunk with a norm at its end, from flat keys of a model section.

    Args:
        block: those of `Execution` and `BlockStyle`.
        known: the section's other keys, for an error.
        trunk: further arguments of `TextTrunk`.
    """
    check_keys(block, BLOCK_KEYS, "config.model", siblings=known)
    style = {"hidden_dropout": False, **{k: v for k, v in block.items() if k in _STYLE_KEYS}}
    return TextTrunk(
        width=width,
        style=block_style(style, num_heads=num_heads, mlp_dim=mlp_dim or 4 * width),
        execution=execution_of(block, dtype),
        mask="causal",
        final_norm=True,
        # Unowned, so that the model adopts it even when it is made inside another module's setup.
        parent=None,
        **trunk,
    )


_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim", "norm"))
BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *BLOCK_KEYS)  # all that `build` takes
