"""The Vision Transformer ("An image is worth 16x16 words", arXiv:2010.11929) and its published sizes."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, Literal, Self, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError
from vit_jax.models.vit_variants import PUBLISHED, VARIANTS, Variant, parse_variant, resized
from vit_jax.naming import check_keys, construct
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.images import check_images
from vit_jax.nn.norm import NORMS
from vit_jax.nn.patch import UNDERLYING_RESIZE, PatchEmbed, Underlying
from vit_jax.nn.pool import MAPHead, pool_tokens
from vit_jax.nn.posemb import RESIZES, SINCOS2D, PosembResize, check_grid, sincos2d
from vit_jax.nn.residual import ResidualTrunk
from vit_jax.nn.resize import resize_maps
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import (
    EXECUTION_KEYS,
    STYLE_KEYS,
    BlockStyle,
    Execution,
    block_style,
    check_choice,
    check_rate,
    execution_of,
)
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk, logits
from vit_jax.ranges import Count, Decay, Natural, NonNegative

__all__ = ["PUBLISHED", "VARIANTS", "Positions", "Tokens", "Variant", "ViT", "ViTEncoder", "build", "parse_variant"]

Pooling = Literal["token", "mean", "map", "token_mean", "distilled"]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens that stand before those of the patches, in this order.

    Args:
        class_token: a learned token; the default of a model is to have one where the pooling needs it.
        distillation_token: a learned token with a position (DeiT, section 3).
        num_registers: learned tokens without positions ("Vision transformers need registers").
    """

    class_token: bool = True
    distillation_token: bool = False
    num_registers: Natural = 0

    @property
    def count(self) -> int:
        return int(self.class_token) + int(self.distillation_token) + self.num_registers


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where a token learns its place.

    Args:
        posemb: "learn", or a fixed table in one of the dialects of `vit_jax.nn.posemb.SINCOS2D`.
        class_token_posemb: the class token has a learned position too, the first of the 1+N positions of the original
            code. big_vision has none.
        posemb_stddev: of the initial learned positions; big_vision uses 1/sqrt(D).
    """

    posemb: str = "learn"
    class_token_posemb: bool = True
    posemb_stddev: NonNegative = 0.02

    def __post_init__(self):
        check_choice("posemb", self.posemb, ("learn", *SINCOS2D))


class ViTEncoder(Trunk):
    """Patches, positions, Transformer blocks and a final norm: the trunk `params["encoder"]`.

    Parameters, all float32 whatever the compute dtype: `embedding`, `cls` [1, 1, D], `pos_embedding` [gh, gw, D],
    `cls_pos_embedding` [1, 1, D], `distillation` and `distillation_pos_embedding` [1, 1, D], `registers` [1, R, D],
    `norm_embedding`, `block_00`, `block_01`, ..., `norm`.

    Attributes:
        patch_size: height and width of a patch in pixels.
        width: D.
        depth: number of blocks.
        style: what a block computes; its dropout also comes after adding positions.
        execution: how the blocks are run.
        tokens: those before the patches.
        positions: learned or fixed.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path").
        stem: what the images go through before they are cut into patches (hybrids); parameters `stem`.
        patch_bias: whether the embedding of the patches has a bias; CLIP's has none.
        embedding_norm: a norm before the first block (CLIP).
        underlying: sizes of the parameters of a FlexiViT.

    Raises:
        UserError: when the attributes contradict each other.
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    style: BlockStyle
    execution: Execution = Execution()
    tokens: Tokens = Tokens()
    positions: Positions = Positions()
    drop_path_rate: float = 0.0
    stem: ResidualTrunk | None = None
    patch_bias: bool = True
    embedding_norm: bool = False
    underlying: Underlying = Underlying()

    def __post_init__(self):
        check_rate("drop_path_rate", self.drop_path_rate)
        if self.positions.class_token_posemb and not (self.tokens.class_token and self.positions.posemb == "learn"):
            raise UserError(
                "class_token_posemb needs a class token and learned positions",
                "Set class_token_posemb=False, or class_token=True and posemb='learn'",
            )
        if self.tokens.distillation_token and not self.positions.class_token_posemb:
            raise UserError("A distillation token comes after a class token with a position", "Set class_token_posemb")
        super().__post_init__()

    def setup(self):
        self.blocks = BlockStack((self.style,), self.depth, self.drop_path_rate, self.execution)
        nn.share_scope(self, self.blocks)

    @nn.compact
    def encode(
        self,
        images: Float[Array, "b h w c"],
        *,
        train: bool = False,
        keep: Int[Array, "b k"] | None = None,
        final_norm: bool = True,
        last: int = 1,
        behind: Float[Array, "#b n width"] | None = None,
        between: Float[Array, "before_last #b t width"] | None = None,
        renewed: Float[Array, "depth n width"] | None = None,
    ) -> tuple[Float[Array, "b t width"], Maps]:
        """See `Trunk`. The order of the tokens is class token, distillation token, registers, patches, `behind`.

        Args:
            keep: numbers of the patches to encode, row by row, as if the image had no others; None for all. There is
                no map of some of them.
            final_norm: False leaves the last norm out, where one comes after the pooling.
            last: the map holds what so many of the last blocks give, each normalised by the last norm, side by side in
                its channels (`get_intermediate_layers` of DINO and DINOv2).
            behind: further tokens, positions included, of a model around this trunk (YOLOS).
            between: see `vit_jax.nn.stack.BlockStack`, like `renewed`.

        Raises:
            UserError: when the patches do not tile the image, the parameters hold positions of another grid, or there
                are fewer blocks than `last`.
        """
        check_images(images)
        maps, stride = {}, 1
        if self.stem is not None:
            maps, stride = self.stem.encode(images, train=train)[1], self.stem.stride
            images = maps[stride]
        grid = [side // patch for side, patch in zip(images.shape[1:3], self.patch_size, strict=True)]
        dtype, batch, width = self.execution.dtype, images.shape[0], self.width
        side, held = self.underlying.underlying_patch, self.underlying.underlying_grid
        x = PatchEmbed(width, self.patch_size, dtype, self.patch_bias, side, name="embedding")(images, keep)
        position = nn.initializers.normal(self.positions.posemb_stddev)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, width)) if self.tokens.class_token else None
        if self.positions.posemb == "learn":
            held = tuple(grid) if held is None else (held, held)
            if self.has_variable("params", "pos_embedding"):
                check_grid(held, self.get_variable("params", "pos_embedding").shape[:2])
            positions = self.param("pos_embedding", position, (*held, width))
            positions = resize_maps(positions, tuple(grid), UNDERLYING_RESIZE)
        else:
            positions = jnp.asarray(sincos2d(tuple(grid), width, **SINCOS2D[self.positions.posemb]))
        positions = positions.reshape(-1, width) if keep is None else positions.reshape(-1, width)[keep]
        x = x.reshape(batch, -1, width) + positions.astype(dtype)
        prefix = []
        if cls is not None:
            if self.positions.class_token_posemb:
                cls = cls + self.param("cls_pos_embedding", position, (1, 1, width))
            prefix.append(cls)
        if self.tokens.distillation_token:
            token = self.param("distillation", nn.initializers.zeros, (1, 1, width))
            prefix.append(token + self.param("distillation_pos_embedding", position, (1, 1, width)))
        if self.tokens.num_registers:
            shape = (1, self.tokens.num_registers, width)
            prefix.append(self.param("registers", nn.initializers.normal(1e-6), shape))
        if prefix:
            prefix = [jnp.broadcast_to(t.astype(dtype), (batch, t.shape[1], width)) for t in prefix]
            x = jnp.concatenate([*prefix, x], axis=1)
        end = x.shape[1]
        if behind is not None:
            x = jnp.concatenate([x, jnp.broadcast_to(behind.astype(dtype), (batch, *behind.shape[1:]))], axis=1)
        norm = functools.partial(NORMS[self.style.norm_kind], self.style.norm_epsilon, dtype)
        if self.embedding_norm:
            x = norm(name="norm_embedding")(x)
        x = nn.Dropout(self.style.dropout_rate)(x, deterministic=not train)

        if last == 1:
            x, _ = self.blocks(x, train=train, between=between, renewed=renewed)
            x = norm(name="norm")(x) if final_norm else x
            layers = [x]
        else:
            layers = self.blocks(x, train=train, last=last, between=between, renewed=renewed)[2]
            layers = norm(name="norm")(layers) if final_norm else layers
            x = layers[-1]
        if keep is None:
            places = [layer[:, self.tokens.count : end].reshape(batch, *grid, width) for layer in layers]
            maps |= {stride * self.patch_size[0]: places[0] if last == 1 else jnp.concatenate(places, axis=-1)}
        return x, maps

    @property
    def stride(self) -> int:
        """Of the coarsest map."""
        return self.patch_size[0] * (1 if self.stem is None else self.stem.stride)

    def grid(self, image_size: Iterable[int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of this height and width."""
        stride = 1 if self.stem is None else self.stem.stride
        return tuple(-(-side // stride) // patch for side, patch in zip(image_size, self.patch_size, strict=True))

    def layers(self) -> Layers:
        """All that the first block reads is the first layer, as in BEiT and MAE."""
        positions = ("pos_embedding", "cls_pos_embedding", "distillation_pos_embedding")
        tokens = ("stem", "embedding", "cls", "distillation", "registers")
        return ((*tokens, *positions, "norm_embedding"), *block_layers(self.depth))

    def flops(self, image_size: tuple[int, int], patches: int | None = None, behind: int = 0) -> float:
        """See `Trunk`; `patches` are encoded instead of all, and so many tokens behind them."""
        patches = math.prod(self.grid(image_size)) if patches is None else patches
        stem, channels = (0.0, 3) if self.stem is None else (self.stem.flops(image_size), self.stem.channels)
        embedding = product_flops(patches, math.prod(self.patch_size) * channels, self.width)
        tokens = patches + self.tokens.count + behind
        block = block_flops(tokens, self.width, self.style.mlp_dim, 3 if self.style.gated else 2)
        return stem + embedding + self.depth * block


def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


# What `build` hands on, by whose arguments they are; what it names itself has defaults that depend on one another.
_UNDERLYING_KEYS = _names(Underlying)
_TOKEN_KEYS = tuple(name for name in _names(Tokens) if name != "class_token")
_POSITION_KEYS = tuple(name for name in _names(Positions) if name != "class_token_posemb")
_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in ("num_heads", "mlp_dim"))
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS, *_TOKEN_KEYS, *_POSITION_KEYS, *_UNDERLYING_KEYS)


class ViT(Classifier):
    """An image classifier: an encoder, a pooling, an optional tanh layer, and a linear head that starts at zero.

    Parameters: `encoder`; `pool` for the pooling "map"; `fc_norm` where the norm comes after the pooling; `pre_logits`
    with a representation size; `head` with classes, and `distillation_head` with the pooling "distilled".

    Attributes:
        encoder: see `ViTEncoder`.
        num_classes: see `Classifier`, like `head_bias_init`.
        pooling: "token" is the class token, "mean" the mean of the patch tokens, "map" an attention pooling of class
            token and patches, "token_mean" class token and mean one after the other (DINOv2's linear probe).
            "distilled" is DeiT with its distillation token: each of the two tokens has a head, the logits are the mean
            of theirs and the features the mean of the tokens; "head_logits" [B, 2, K] are the logits of each head.
        fc_norm: a layer norm after the pooling, for an encoder without its last one (MAE's fine-tuning, appendix A).
        representation_size: width of a dense layer with tanh before the head (ViT pre-training), None for none.

    Raises:
        UserError: for an unknown pooling, or the pooling "token" without a class token.
    """

    pooling: Pooling = "token"
    representation_size: int | None = None
    fc_norm: bool = False

    def __post_init__(self):
        tokens = self.encoder.tokens
        check_choice("pooling", self.pooling, get_args(Pooling))
        if self.pooling in ("token", "token_mean") and not tokens.class_token:
            raise UserError(
                f"The pooling '{self.pooling}' needs a class token", "Set class_token=True or pooling='mean'"
            )
        if self.pooling == "distilled" and not tokens.distillation_token:
            raise UserError("The pooling 'distilled' needs a distillation token", "Set distillation_token=True")
        if self.pooling == "distilled" and self.representation_size is not None:
            raise UserError("The two heads of DeiT have no representation_size", "Leave it out")
        super().__post_init__()

    def tokens_of(self, images: Float[Array, "b h w c"], train: bool) -> tuple[Float[Array, "b t d"], Maps]:
        return self.encoder.encode(images, train=train, final_norm=not self.fc_norm)

    def classified(self, tokens: Float[Array, "b t d"]) -> dict[str, Array]:
        encoder = self.encoder
        x = self._pool(tokens).astype(jnp.float32)
        if self.fc_norm:
            x = NORMS[encoder.style.norm_kind](encoder.style.norm_epsilon, name="fc_norm")(x)
        if self.representation_size is not None:
            x = nn.tanh(nn.Dense(self.representation_size, name="pre_logits")(x))
        head = functools.partial(logits, num_classes=self.num_classes, bias=self.head_bias_init)
        if self.pooling != "distilled":
            return {"features": x, **head(x)}
        both = head(x[:, 0]), head(x[:, 1], name="distillation_head")
        each = {"head_logits": jnp.stack([of["logits"] for of in both], axis=1)} if self.num_classes else {}
        return {"features": x.mean(axis=1), **each, **jax.tree.map(lambda *of: sum(of) / 2, *both)}

    def _pool(self, tokens: Float[Array, "b t width"]) -> Float[Array, "b f"] | Float[Array, "b 2 width"]:
        before = self.encoder.tokens
        if self.pooling != "map":
            return pool_tokens(tokens, self.pooling, before.count)
        if before.num_registers or before.distillation_token:  # they hold no part of the image
            tokens = jnp.concatenate([tokens[:, : int(before.class_token)], tokens[:, before.count :]], axis=1)
        return MAPHead(self.encoder.style, self.encoder.execution, name="pool")(tokens)

    @classmethod
    def from_variant(
        cls,
        variant: str,
        *,
        num_classes: Natural,
        width: Count | None = None,
        depth: Count | None = None,
        mlp_dim: Count | None = None,
        num_heads: Count | None = None,
        pooling: Pooling = "token",
        representation_size: Count | None = None,
        head_bias_init: float = 0.0,
        fc_norm: bool = False,
        class_token: bool | None = None,
        class_token_posemb: bool | None = None,
        drop_path_rate: Decay = 0.0,
        patch_bias: bool = True,
        embedding_norm: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        posemb_resize: PosembResize = "align_corners",
        **block: Any,
    ) -> Self:
        """A ViT of a published size, from values that JSON can hold.

        Args:
            variant: size and patch size, e.g. "B/16" or "b/16", see `VARIANTS`.
            num_classes: see `ViT`, like `pooling`, `representation_size`, `head_bias_init` and `fc_norm`.
            width: replaces the variant's, like `depth`, `mlp_dim` and `num_heads`, for sizes of one's own.
            class_token: see `Tokens`. None: where the pooling needs one.
            class_token_posemb: see `Positions`. None: where there is a class token and positions are learned, as in the
                original code.
            drop_path_rate: see `ViTEncoder`, like `patch_bias` and `embedding_norm`.
            dtype: compute dtype by name; parameters are always float32.
            posemb_resize: how learned positions are to be interpolated to another grid, see
                `vit_jax.nn.posemb.interpolate_posemb`. No module needs it: it is for whoever carries parameters over,
                who finds it among these arguments in the checkpoint's metadata.
            block: other arguments of `Tokens`, `Positions`, `Underlying`, `Execution` and `BlockStyle`; of the last
                also by the older names, see `block_style`.

        Raises:
            UserError: for an unknown variant, value or argument.
        """
        check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
        check_choice("posemb_resize", posemb_resize, RESIZES)
        size, patch = parse_variant(variant)
        size = resized(size, width=width, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads)
        class_token = pooling in ("token", "token_mean", "distilled") if class_token is None else class_token
        if class_token_posemb is None:
            class_token_posemb = class_token and block.get("posemb", "learn") == "learn"

        def part(kind: type, names: Iterable[str], **given: Any) -> Any:
            return construct(kind, {k: v for k, v in block.items() if k in names}, "config.model", **given)

        encoder = ViTEncoder(
            patch_size=(patch, patch),
            width=size.width,
            depth=size.depth,
            style=block_style(
                {k: v for k, v in block.items() if k in _STYLE_KEYS}, num_heads=size.num_heads, mlp_dim=size.mlp_dim
            ),
            execution=execution_of(block, dtype),
            tokens=part(Tokens, _TOKEN_KEYS, class_token=class_token),
            positions=part(Positions, _POSITION_KEYS, class_token_posemb=class_token_posemb),
            drop_path_rate=drop_path_rate,
            patch_bias=patch_bias,
            embedding_norm=embedding_norm,
            underlying=part(Underlying, _UNDERLYING_KEYS),
            # Unowned, so that ViT adopts it as `encoder` even when it is made inside another module's setup.
            parent=None,
        )
        return cls(
            encoder=encoder,
            num_classes=num_classes,
            pooling=pooling,
            representation_size=representation_size,
            head_bias_init=head_bias_init,
            fc_norm=fc_norm,
        )


_NAMED_KEYS = tuple(name for name in ViT.from_variant.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes

# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = ViT.from_variant
