"""An image model and a decoder of captions: Desai and Johnson, "VirTex: Learning visual representations from textual
annotations" (arXiv:2006.06666).

The defaults are those of the authors' base model, one post-norm block of width 1024 in each direction (their config
bicaptioning_R_50_L1_H1024), behind a ResNet-50 there. Both directions share the embedding and the last product.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.naming import build_named, check_keys
from vit_jax.nn.caption_decoder import CaptionDecoder
from vit_jax.nn.example_inputs import example_inputs
from vit_jax.nn.multi_head import CrossCache
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, block_style, execution_of
from vit_jax.nn.trunk import Layers, Trunk, below
from vit_jax.ranges import Count, Decay


class Captioner(nn.Module):
    """What an image model without classes gives, and what a caption says after each of its tokens.

    Parameters: those of the image model (`encoder`, ...), and `text`, see `CaptionDecoder`.

    Attributes:
        image_tower: called as `image_tower(images, train=..., maps=...)`, gives "tokens" and "features" [B, D].
        text: the decoder.
    """

    image_tower: nn.Module
    text: CaptionDecoder

    def setup(self):
        nn.share_scope(self, self.image_tower)

    def __call__(
        self,
        images: Float[Array, "b h w c"],
        ids: Int[Array, "b t"] | None = None,
        turned: Int[Array, "b t"] | None = None,
        *,
        train: bool = False,
        maps: bool = False,
    ) -> dict[str, Array]:
        """Images by themselves, or with the captions that are given (teacher forcing).

        Args:
            ids: captions, without their last token.
            turned: the same from their end; for a decoder of both directions.

        Returns:
            What the image model gives; with captions "logits" [B, T, V] float32, and "backward_logits".
        """
        found = self.image_tower(images, train=train, **({"maps": True} if maps else {}))
        if ids is not None:
            memory = self.text.remember(found["tokens"])
            found["logits"] = self.text.logits(self.text(ids, memory, train=train)[0])
            if turned is not None:
                tokens, _ = self.text(turned, memory, train=train, backward=True)
                found["backward_logits"] = self.text.logits(tokens)
        return found

    def remember(self, images: Float[Array, "b h w c"]) -> Float[Array, "b s width"]:
        """What captions attend to, of images."""
        return self.text.remember(self.image_tower(images)["tokens"])

    def step(
        self,
        ids: Int[Array, "b t"],
        memory: Float[Array, "b s width"] | None,
        cache: CrossCache,
        at: Int[Array, " b"] | int,
    ) -> tuple[Float[Array, "b t vocab"], CrossCache]:
        """Logits of what follows further tokens, and the cache with them; see `CaptionDecoder`."""
        tokens, cache = self.text(ids, memory, cache=cache, at=at)
        return self.text.logits(tokens), cache

    @property
    def encoder(self) -> Trunk:
        """The trunk of the images."""
        return self.image_tower.encoder

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """An image and a caption of one token, see `vit_jax.nn.example_inputs`."""
        ids = jnp.zeros((1, 1), jnp.int32)
        return (*example_inputs(self.image_tower, image_size), ids, *([ids] if self.text.both_ways else []))

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`: the decoder comes after the image."""
        return (*self.image_tower.layers(), *below("text", self.text.layers()))

    def flops(self, image_size: tuple[int, int]) -> float | None:
        """Floating point operations of one image forward, see `Trunk.flops`."""
        return self.image_tower.flops(image_size)


_STYLE = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim", "cross", "rotary"))


def build(
    *,
    image: Mapping[str, Any],
    vocab_size: Count,
    max_length: Count = 30,
    width: Count = 1024,
    depth: Count = 1,
    num_heads: Count = 16,
    mlp_dim: Count | None = None,
    dropout_rate: Decay = 0.1,
    both_ways: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> Captioner:
    """An image model from its own section, and a decoder.

    Args:
        image: the section of an image model, such as {"name": "vit", "variant": "B/16"}.
        vocab_size: number of token ids.
        max_length: the longest caption in tokens.
        width: of the decoder, like `depth`, `num_heads` and `dropout_rate`; the depth is that of each direction.
        mlp_dim: of the decoder; None for four times the width.
        both_ways: whether captions are guessed from their end too.
        dtype: of the decoder's computation; the image's section has its own.
        block: other arguments of `BlockStyle` and `Execution`; VirTex's are post-norm, epsilon 1e-5 and exact GELU.

    Raises:
        UserError: for an unknown section, key or value.
    """
    check_keys(block, (*_STYLE, *EXECUTION_KEYS), "config.model", siblings=_NAMED)
    own = {k: v for k, v in block.items() if k in _STYLE}
    style = {"norm": "post", "norm_epsilon": 1e-5, "activation": "gelu_exact", "hidden_dropout": True} | own
    text = CaptionDecoder(
        vocab_size,
        max_length,
        width,
        depth,
        style=block_style(style, num_heads=num_heads, mlp_dim=mlp_dim or 4 * width, dropout_rate=dropout_rate),
        execution=execution_of(block, dtype),
        both_ways=both_ways,
        parent=None,
    )
    return Captioner(build_named("model", image, "config.model.image", num_classes=0), text)


def downstream(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of what goes on from it on images alone."""
    return kwargs["image"]


_NAMED = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED, *_STYLE, *EXECUTION_KEYS)  # all that `build` takes
