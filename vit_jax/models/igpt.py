"""iGPT and its published sizes: Chen et al., "Generative pretraining from pixels" (ICML 2020).

GPT-2 over the colours of pixels, one after the other as one reads. Its norms are without mean and bias (RMS norms), the
activation is QuickGELU, and a start token stands for the condition; see `vit_jax.models.color_palette` for the colours.
"""

import dataclasses
from typing import Any, Literal

from vit_jax.errors import UserError
from vit_jax.models.token_gpt import BLOCK_KEYS, TokenGPT, Variant, causal_trunk
from vit_jax.ranges import Count, Decay, Natural, Positive
from vit_jax.spelling import nearest

# Section 3.4 of the paper, with the heads of the published files.
VARIANTS = {"S": Variant(512, 24, 8), "M": Variant(1024, 36, 8), "L": Variant(1536, 48, 16)}


def build(
    *,
    vocab_size: Count = 512,
    num_tokens: Count = 1024,
    num_conditions: Count = 1,
    own_places: bool = False,
    variant: str = "S",
    width: Count | None = None,
    depth: Count | None = None,
    num_heads: Count | None = None,
    mlp_dim: Count | None = None,
    probed: Natural | None = None,
    init_stddev: Positive = 0.02,
    drop_path_rate: Decay = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> TokenGPT:
    """An iGPT of a published size, from values that JSON can hold.

    Args:
        vocab_size: number of colours, and `num_tokens` of pixels.
        num_conditions: different start tokens; the published models have one.
        own_places: see `TokenGPT`, like `probed`.
        variant: see `VARIANTS`.
        width: replaces the variant's, like `depth` and `num_heads`, for sizes of one's own.
        mlp_dim: of the MLPs; None for four times the width.
        init_stddev: see `TokenGPT`.
        drop_path_rate: see `TextTrunk`.
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`, see `block_style`; without dropout by default.

    Raises:
        UserError: for an unknown variant, value or argument.
    """
    if variant not in VARIANTS:
        raise UserError(f"There is no iGPT '{variant}'", nearest(variant, VARIANTS))
    size = dataclasses.asdict(VARIANTS[variant])
    size |= {k: v for k, v in {"width": width, "depth": depth, "num_heads": num_heads}.items() if v is not None}
    style = {"activation": "quick_gelu", "norm_kind": "rms", "norm_epsilon": 1e-5, **block}
    trunk = causal_trunk(
        style, **size, mlp_dim=mlp_dim, vocab_size=vocab_size + num_conditions, max_length=num_tokens,
        drop_path_rate=drop_path_rate, dtype=dtype, known=_NAMED_KEYS,
    )  # fmt: skip
    return TokenGPT(trunk, vocab_size, own_places, True, init_stddev, probed)


_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *BLOCK_KEYS)  # all that `build` takes
