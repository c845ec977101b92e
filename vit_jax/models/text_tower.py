"""The text towers of CLIP (arXiv:2103.00020, section 2.4) and SigLIP: a Transformer of which one token is the text.

CLIP's tokens see themselves and those before them, and the text is its end token; SigLIP's see all, padding too, and
the text is the last one, whatever it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from vit_jax.naming import check_keys
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, block_style, check_choice, execution_of
from vit_jax.nn.text_trunk import TextTrunk
from vit_jax.nn.trunk import Layers, below
from vit_jax.ranges import Count, Decay, Natural

TextPooling = Literal["end", "last"]


class TextTower(nn.Module):
    """A text trunk and the choice of one of its tokens.

    Parameters: `text`, see `TextTrunk`.

    Attributes:
        text: the trunk.
        pooling: "end" is the end token, "last" the last place of the row.
        end_id: the id of the end token, whose first place counts; None for the largest id of the row, which it is in
            CLIP's vocabulary.

    Raises:
        UserError: for an unknown pooling.
    """

    text: TextTrunk
    pooling: TextPooling = "end"
    end_id: int | None = None

    def __post_init__(self):
        check_choice("pooling", self.pooling, get_args(TextPooling))
        super().__post_init__()

    def __call__(
        self, ids: Int[Array, "b t"], *, train: bool = False, token_mask: Shaped[Array, "b t"] | None = None
    ) -> dict[str, Array]:
        """Encodes texts whose padding comes last.

        Args:
            token_mask: not needed: no token of CLIP's sees the padding after it, and SigLIP's see it as what it is.

        Returns:
            "tokens" [B, T, D] in the dtype of the computation; "features" [B, D] float32.
        """
        del token_mask
        tokens, _ = self.text(ids, train=train)
        return {"tokens": tokens, "features": self.pooled(tokens, self.ends(ids))}

    def ends(self, ids: Int[Array, "b t"]) -> Int[Array, " b"]:
        """The place of the token that stands for each text."""
        if self.pooling == "last":
            return jnp.full(ids.shape[:1], ids.shape[1] - 1)
        return (ids if self.end_id is None else ids == self.end_id).argmax(axis=1)

    def pooled(self, tokens: Float[Array, "b t d"], ends: Int[Array, " b"]) -> Float[Array, "b d"]:
        """The tokens at these places, float32."""
        return jnp.take_along_axis(tokens, ends[:, None, None], axis=1)[:, 0].astype(jnp.float32)

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Int[Array, "1 1"]]:
        """See `vit_jax.nn.example_inputs`."""
        del image_size
        return (jnp.zeros((1, 1), jnp.int32),)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return below("text", self.text.layers())

    def text_flops(self, length: int) -> float:
        """Floating point operations of one text of so many tokens forward."""
        return self.text.flops(length)


def build(
    *,
    vocab_size: Count,
    width: Count = 512,
    depth: Natural = 12,
    num_heads: Count = 8,
    mlp_dim: Count | None = None,
    max_length: Count = 77,
    mask: Literal["causal"] | None = "causal",
    pooling: TextPooling = "end",
    end_id: Natural | None = None,
    drop_path_rate: Decay = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> TextTower:
    """A text tower from values that JSON can hold, by default CLIP's for ViT-B.

    Args:
        vocab_size: number of token ids.
        width: of the tokens, like `depth` and `num_heads` see `TextTrunk`.
        mlp_dim: of the MLPs; None for four times the width.
        max_length: the longest text in tokens.
        mask: "causal" for CLIP's, None for SigLIP's.
        pooling: see `TextTower`, like `end_id`, which only the pooling "end" asks for.
        drop_path_rate: see `TextTrunk`.
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`; of the last also by the older names, see `block_style`.
            Without them the blocks are CLIP's: QuickGELU and an epsilon of 1e-5.

    Raises:
        UserError: for an unknown value or argument.
    """
    check_keys(block, _BLOCK_KEYS, "config.model.text", siblings=_NAMED_KEYS)
    text = TextTrunk(
        vocab_size=vocab_size,
        max_length=max_length,
        width=width,
        depth=depth,
        style=block_style(
            clip_style(block) | {k: v for k, v in block.items() if k in _STYLE_KEYS},
            num_heads=num_heads,
            mlp_dim=mlp_dim or 4 * width,
        ),
        execution=execution_of(block, dtype),
        mask=mask,
        final_norm=True,
        drop_path_rate=drop_path_rate,
        # Unowned, so that the tower adopts it as `text` even when it is made inside another module's setup.
        parent=None,
    )
    return TextTower(text, pooling, end_id if pooling == "end" else None)


def clip_style(given: Mapping[str, Any]) -> dict[str, Any]:
    """What CLIP's blocks of both towers have, where the keys that are given do not say otherwise by an older name."""
    style: dict[str, Any] = {"hidden_dropout": False}
    style |= {} if "layer_norm_epsilon" in given else {"norm_epsilon": 1e-5}
    return style | ({} if "gelu" in given or "mlp" in given else {"activation": "quick_gelu"})


_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim"))
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes
