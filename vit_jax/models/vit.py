"""The Vision Transformer ("An image is worth 16x16 words", arXiv:2010.11929) and its published sizes."""

import dataclasses
import functools
from typing import Literal, Self, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from vit_jax.errors import UserError
from vit_jax.models.vit_variants import VARIANTS, Variant, parse_variant
from vit_jax.naming import nearest
from vit_jax.nn.attention import Implementation
from vit_jax.nn.dtype import compute_dtype
from vit_jax.nn.images import check_images
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.patch import PatchEmbed
from vit_jax.nn.pool import MAPHead, pool_tokens
from vit_jax.nn.posemb import RESIZES, SINCOS2D, PosembResize, check_grid, sincos2d
from vit_jax.nn.stack import BlockStack, Remat, check_remat
from vit_jax.ranges import Count, Decay, Natural, NonNegative, Positive

__all__ = ["VARIANTS", "Variant", "ViT", "ViTEncoder", "build", "parse_variant"]

Pooling = Literal["token", "mean", "map", "token_mean", "distilled"]

_POSEMBS = ("learn", *SINCOS2D)
_POOLINGS = get_args(Pooling)


class ViTEncoder(nn.Module):
    """Patches, positions, Transformer blocks and a final layer norm: the trunk `params["encoder"]`.

    Parameters, all float32 whatever the compute dtype: `embedding`, `cls` [1, 1, D], `pos_embedding` [gh, gw, D],
    `cls_pos_embedding` [1, 1, D], `distillation` and `distillation_pos_embedding` [1, 1, D], `registers` [1, R, D],
    `block_00`, `block_01`, ..., `norm`.

    Attributes:
        patch_size: height and width of a patch in pixels.
        width: D.
        depth: number of blocks.
        mlp_dim: hidden width of the MLPs.
        num_heads: attention heads.
        posemb: "learn", or a fixed table in one of the dialects of `vit_jax.nn.posemb.SINCOS2D`.
        class_token: put a learned token before the patches.
        class_token_posemb: give the class token a learned position too, the first of the 1+N positions of the
            original code. big_vision has none.
        distillation_token: put a learned token with a position after the class token (DeiT, section 3).
        num_registers: learned tokens without positions before the patches ("Vision transformers need registers").
        posemb_resize: how learned positions are to be interpolated to another grid, see `interpolate_posemb`: that is
            done when parameters are carried over, and this says so to whoever does it.
        posemb_stddev: of the initial learned positions; big_vision uses 1/sqrt(D).
        dropout_rate: after adding positions and in the blocks (rng collection "dropout").
        attention_dropout_rate: on the attention weights.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path").
        dtype: dtype of the computation, of the residual stream and of the tokens.
        gelu: "tanh" or "exact", see `MlpBlock`.
        layer_norm_epsilon: of every layer norm.
        mlp: "gelu" or "swiglu", see `EncoderBlock`, like `layer_scale_init` and `qkv_bias`.
        final_norm: False leaves the last norm out: one comes after the pooling (`fc_norm`).
        attention_implementation: see `attention`.
        sow_attention: sow each block's attention weights as "intermediates".
        scan: see `BlockStack`, like `remat`.
        stem: what the images go through before they are cut into patches (hybrids); parameters `stem`.

    Raises:
        UserError: when the attributes contradict each other.
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    posemb: str = "learn"
    class_token: bool = True
    class_token_posemb: bool = True
    distillation_token: bool = False
    num_registers: int = 0
    posemb_resize: PosembResize = "align_corners"
    posemb_stddev: float = 0.02
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6
    mlp: Literal["gelu", "swiglu"] = "gelu"
    layer_scale_init: float | None = None
    qkv_bias: bool = True
    final_norm: bool = True
    attention_implementation: Implementation = "auto"
    sow_attention: bool = False
    scan: bool = False
    remat: Remat = "none"
    stem: nn.Module | None = None

    def __post_init__(self):
        if self.posemb not in _POSEMBS:
            raise UserError(f"There is no position embedding '{self.posemb}'", nearest(self.posemb, _POSEMBS))
        if self.posemb_resize not in RESIZES:
            raise UserError(
                f"There is no way '{self.posemb_resize}' to resize positions", nearest(self.posemb_resize, RESIZES)
            )
        check_remat(self.remat)
        if self.scan and self.sow_attention:
            raise UserError("A scanned encoder cannot sow attention weights", "Set scan=False or sow_attention=False")
        if self.class_token_posemb and not (self.class_token and self.posemb == "learn"):
            raise UserError(
                "class_token_posemb needs a class token and learned positions",
                "Set class_token_posemb=False, or class_token=True and posemb='learn'",
            )
        if self.distillation_token and not self.class_token_posemb:
            raise UserError("A distillation token comes after a class token with a position", "Set class_token_posemb")
        for name in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} is {getattr(self, name)}", "Use a rate of at least 0 and below 1")
        super().__post_init__()

    def setup(self):
        # Every attribute of a stack is one of the encoder's too.
        shared = {f.name for f in dataclasses.fields(BlockStack)} - {"parent", "name"}
        self.blocks = BlockStack(**{name: getattr(self, name) for name in sorted(shared)})
        nn.share_scope(self, self.blocks)

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False, keep: Int[Array, "b k"] | None = None
    ) -> Float[Array, "b t width"]:
        """Encodes normalised images. The order is class token, distillation token, registers, patches.

        Args:
            keep: numbers of the patches to encode, row by row, as if the image had no others; None for all.

        Raises:
            UserError: when the patches do not tile the image, or the parameters hold positions of another grid.
        """
        check_images(images)
        images = images if self.stem is None else self.stem(images, train=train)
        grid = [side // patch for side, patch in zip(images.shape[1:3], self.patch_size, strict=True)]
        x = PatchEmbed(self.width, self.patch_size, self.dtype, name="embedding")(images, keep)
        batch, width = x.shape[0], self.width
        position = nn.initializers.normal(self.posemb_stddev)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, width)) if self.class_token else None
        if self.posemb == "learn":
            if self.has_variable("params", "pos_embedding"):
                check_grid(tuple(grid), self.get_variable("params", "pos_embedding").shape[:2])
            positions = self.param("pos_embedding", position, (*grid, width))
        else:
            positions = jnp.asarray(sincos2d(tuple(grid), width, **SINCOS2D[self.posemb]))
        positions = positions.reshape(-1, width) if keep is None else positions.reshape(-1, width)[keep]
        x = x.reshape(batch, -1, width) + positions.astype(self.dtype)
        prefix = []
        if cls is not None:
            if self.class_token_posemb:
                cls = cls + self.param("cls_pos_embedding", position, (1, 1, width))
            prefix.append(cls)
        if self.distillation_token:
            token = self.param("distillation", nn.initializers.zeros, (1, 1, width))
            prefix.append(token + self.param("distillation_pos_embedding", position, (1, 1, width)))
        if self.num_registers:
            prefix.append(self.param("registers", nn.initializers.normal(1e-6), (1, self.num_registers, width)))
        if prefix:
            prefix = [jnp.broadcast_to(t.astype(self.dtype), (batch, t.shape[1], width)) for t in prefix]
            x = jnp.concatenate([*prefix, x], axis=1)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)

        x = self.blocks(x, train=train)
        return LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm")(x) if self.final_norm else x

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        return int(self.class_token) + int(self.distillation_token) + self.num_registers


class ViT(nn.Module):
    """An image classifier: an encoder, a pooling, an optional tanh layer, and a linear head that starts at zero.

    Parameters: `encoder`; `pool` for the pooling "map"; `fc_norm` where the norm comes after the pooling; `pre_logits`
    with a representation size; `head` with classes, and `distillation_head` with the pooling "distilled".

    Attributes:
        encoder: gives tokens [B, T, D], see `ViTEncoder`.
        num_classes: outputs of the head; 0 for no head.
        pooling: "token" is the class token, "mean" the mean of the patch tokens, "map" an attention pooling of class
            token and patches, "token_mean" class token and mean one after the other (DINOv2's linear probe).
            "distilled" is DeiT with its distillation token: each of the two tokens has a head, the logits are the mean
            of theirs and the features the mean of the tokens.
        fc_norm: a layer norm after the pooling, for an encoder without its last one (MAE's fine-tuning, appendix A).
        representation_size: width of a dense layer with tanh before the head (ViT pre-training), None for none.
        head_bias_init: initial bias of the head, e.g. -log(num_classes) with a sigmoid loss.

    Raises:
        UserError: for an unknown pooling, or the pooling "token" without a class token.
    """

    encoder: nn.Module
    num_classes: int
    pooling: Pooling = "token"
    representation_size: int | None = None
    head_bias_init: float = 0.0
    fc_norm: bool = False

    def __post_init__(self):
        if self.pooling not in _POOLINGS:
            raise UserError(f"There is no pooling '{self.pooling}'", nearest(self.pooling, _POOLINGS))
        if self.pooling in ("token", "token_mean") and not self.encoder.class_token:
            raise UserError(
                f"The pooling '{self.pooling}' needs a class token", "Set class_token=True or pooling='mean'"
            )
        if self.pooling == "distilled" and not self.encoder.distillation_token:
            raise UserError("The pooling 'distilled' needs a distillation token", "Set distillation_token=True")
        if self.pooling == "distilled" and self.representation_size is not None:
            raise UserError("The two heads of DeiT have no representation_size", "Leave it out")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Array]:
        """Classifies normalised images.

        Returns:
            "tokens" [B, T, D] after the encoder's final norm, in its dtype; "features" [B, F] float32, what the head
            sees; "logits" [B, num_classes] float32, absent when there is no head.
        """
        encoder = self.encoder
        tokens = encoder(images, train=train)
        x = self._pool(tokens).astype(jnp.float32)
        if self.fc_norm:
            x = LayerNorm(encoder.layer_norm_epsilon, name="fc_norm")(x)
        if self.representation_size is not None:
            x = nn.tanh(nn.Dense(self.representation_size, name="pre_logits")(x))
        outputs = {"tokens": tokens, "features": x.mean(axis=1) if self.pooling == "distilled" else x}
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            head = functools.partial(nn.Dense, self.num_classes, kernel_init=nn.initializers.zeros, bias_init=bias)
            if self.pooling == "distilled":
                outputs["logits"] = (head(name="head")(x[:, 0]) + head(name="distillation_head")(x[:, 1])) / 2
            else:
                outputs["logits"] = head(name="head")(x)
        return outputs

    def _pool(self, tokens: Float[Array, "b t width"]) -> Float[Array, "b f"] | Float[Array, "b 2 width"]:
        encoder = self.encoder
        if self.pooling != "map":
            return pool_tokens(tokens, self.pooling, encoder.num_prefix_tokens)
        if encoder.num_registers or encoder.distillation_token:  # they hold no part of the image
            prefix = tokens[:, : int(encoder.class_token)]
            tokens = jnp.concatenate([prefix, tokens[:, encoder.num_prefix_tokens :]], axis=1)
        return MAPHead(
            num_heads=encoder.num_heads,
            mlp_dim=encoder.mlp_dim,
            dtype=encoder.dtype,
            gelu=encoder.gelu,
            layer_norm_epsilon=encoder.layer_norm_epsilon,
            attention_implementation=encoder.attention_implementation,
            name="pool",
        )(tokens)

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
        posemb: str = "learn",
        class_token: bool | None = None,
        class_token_posemb: bool | None = None,
        distillation_token: bool = False,
        num_registers: Natural = 0,
        posemb_resize: PosembResize = "align_corners",
        posemb_stddev: NonNegative = 0.02,
        dropout_rate: Decay = 0.0,
        attention_dropout_rate: Decay = 0.0,
        drop_path_rate: Decay = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gelu: Literal["tanh", "exact"] = "tanh",
        layer_norm_epsilon: Positive = 1e-6,
        mlp: Literal["gelu", "swiglu"] = "gelu",
        layer_scale_init: float | None = None,
        qkv_bias: bool = True,
        attention_implementation: Implementation = "auto",
        sow_attention: bool = False,
        scan: bool = False,
        remat: Remat = "none",
    ) -> Self:
        """A ViT of a published size, from values that JSON can hold.

        Args:
            variant: size and patch size, e.g. "B/16" or "b/16", see `VARIANTS`.
            num_classes: see `ViT`, like `pooling`, `representation_size`, `head_bias_init` and `fc_norm`.
            width: replaces the variant's, like `depth`, `mlp_dim` and `num_heads`, for sizes of one's own.
            class_token: see `ViTEncoder`, like all that follow. None: where the pooling needs one.
            class_token_posemb: None: where there is a class token and positions are learned, as in the original code.
            dtype: compute dtype by name; parameters are float32 in any case.

        Raises:
            UserError: for an unknown variant or value.
        """
        size, patch = parse_variant(variant)
        own = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}
        size = dataclasses.replace(size, **{name: value for name, value in own.items() if value is not None})
        class_token = pooling in ("token", "token_mean", "distilled") if class_token is None else class_token
        encoder = ViTEncoder(
            patch_size=(patch, patch),
            **dataclasses.asdict(size),
            posemb=posemb,
            class_token=class_token,
            class_token_posemb=class_token and posemb == "learn" if class_token_posemb is None else class_token_posemb,
            distillation_token=distillation_token,
            num_registers=num_registers,
            posemb_resize=posemb_resize,
            posemb_stddev=posemb_stddev,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            dtype=compute_dtype(dtype),
            gelu=gelu,
            layer_norm_epsilon=layer_norm_epsilon,
            mlp=mlp,
            layer_scale_init=layer_scale_init,
            qkv_bias=qkv_bias,
            final_norm=not fc_norm,
            attention_implementation=attention_implementation,
            sow_attention=sow_attention,
            scan=scan,
            remat=remat,
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


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = ViT.from_variant
