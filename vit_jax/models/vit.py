"""The Vision Transformer ("An image is worth 16x16 words", arXiv:2010.11929) and its published sizes."""

import dataclasses
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.attention import Implementation
from vit_jax.nn.block import SAVED, EncoderBlock
from vit_jax.nn.norm import LayerNorm
from vit_jax.nn.patch import PatchEmbed
from vit_jax.nn.pool import MAPHead
from vit_jax.nn.posemb import sincos2d

_POSEMBS = ("learn", "sincos2d")
_POOLINGS = ("token", "mean", "map")
# What the backward pass finds of a block's forward pass: its input alone, or also the results of its weight matrices.
_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "elementwise": jax.checkpoint_policies.save_only_these_names(*SAVED),
}
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Variant:
    """The size of an encoder, without its patch size."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


# Ti and S: DeiT. B, L and H: ViT, table 1. g and G: "Scaling vision transformers". e: PaLI. So400m: "Getting ViT in
# shape". mu, M and the -opt sizes: big_vision.
VARIANTS = {
    "mu": Variant(width=32, depth=1, mlp_dim=128, num_heads=2),
    "Ti": Variant(width=192, depth=12, mlp_dim=768, num_heads=3),
    "S": Variant(width=384, depth=12, mlp_dim=1536, num_heads=6),
    "M": Variant(width=512, depth=12, mlp_dim=2048, num_heads=8),
    "B": Variant(width=768, depth=12, mlp_dim=3072, num_heads=12),
    "L": Variant(width=1024, depth=24, mlp_dim=4096, num_heads=16),
    "So400m": Variant(width=1152, depth=27, mlp_dim=4304, num_heads=16),
    "H": Variant(width=1280, depth=32, mlp_dim=5120, num_heads=16),
    "g": Variant(width=1408, depth=40, mlp_dim=6144, num_heads=16),
    "g-opt": Variant(width=1536, depth=40, mlp_dim=6144, num_heads=16),
    "G": Variant(width=1664, depth=48, mlp_dim=8192, num_heads=16),
    "G-opt": Variant(width=1536, depth=48, mlp_dim=8192, num_heads=16),
    "e": Variant(width=1792, depth=56, mlp_dim=15360, num_heads=16),
}


def parse_variant(variant: str) -> tuple[Variant, int]:
    """The size and the patch size in pixels that a name such as "B/16" stands for.

    Case matters only where two names differ by it ("g" and "G").

    Raises:
        UserError: for a name that is not SIZE/PATCH with a known size; it names the nearest right one.
    """
    size, _, patch = str(variant).partition("/")
    matches = [size] if size in VARIANTS else [name for name in VARIANTS if name.lower() == size.lower()]
    patch_is_valid = patch.isascii() and patch.isdigit() and int(patch) > 0
    if len(matches) != 1 or not patch_is_valid:
        known = [f"{name}/{patch if patch_is_valid else 16}" for name in matches or VARIANTS]
        raise UserError(f"There is no ViT '{variant}'", nearest(variant, known))
    return VARIANTS[matches[0]], int(patch)


def drop_path_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rates of stochastic depth that grow linearly from 0 in the first block to `rate` in the last."""
    return tuple(rate * i / max(depth - 1, 1) for i in range(depth))


def _block_name(i: int) -> str:
    return f"block_{i:02d}"


class ViTEncoder(nn.Module):
    """Patches, positions, Transformer blocks and a final layer norm: the trunk `params["encoder"]`.

    Parameters, all float32 whatever the compute dtype: `embedding`, `cls` [1, 1, D], `pos_embedding` [gh, gw, D],
    `cls_pos_embedding` [1, 1, D], `block_00`, `block_01`, ..., `norm`.

    Attributes:
        patch_size: height and width of a patch in pixels.
        width: D.
        depth: number of blocks.
        mlp_dim: hidden width of the MLPs.
        num_heads: attention heads.
        posemb: "learn" or the fixed "sincos2d".
        class_token: put a learned token before the patches.
        class_token_posemb: give the class token a learned position too, the first of the 1+N positions of the
            original code. big_vision has none.
        posemb_stddev: of the initial learned positions; big_vision uses 1/sqrt(D).
        dropout_rate: after adding positions and in the blocks (rng collection "dropout").
        attention_dropout_rate: on the attention weights.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path"), see `drop_path_rates`.
        dtype: dtype of the computation, of the residual stream and of the tokens.
        gelu: "tanh" or "exact", see `MlpBlock`.
        layer_norm_epsilon: of every layer norm.
        attention_implementation: see `attention`.
        sow_attention: sow each block's attention weights as "intermediates".
        scan: run the blocks as one `lax.scan` over their stacked parameters, so that compiling takes as long as for one
            block. Parameters are unstacked all the same; dropout draws other masks than without scan.
        remat: what a block recomputes in the backward pass to save memory: "none", "elementwise" (layer norms, GELU
            and dropout, which costs next to nothing), "dots" (all but the products with its weight matrices, so
            attention too) or "full" (all of it).

    Raises:
        UserError: when the attributes contradict each other.
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    posemb: Literal["learn", "sincos2d"] = "learn"
    class_token: bool = True
    class_token_posemb: bool = True
    posemb_stddev: float = 0.02
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6
    attention_implementation: Implementation = "auto"
    sow_attention: bool = False
    scan: bool = False
    remat: Literal["none", "elementwise", "dots", "full"] = "none"

    def __post_init__(self):
        if self.posemb not in _POSEMBS:
            raise UserError(f"There is no position embedding '{self.posemb}'", nearest(self.posemb, _POSEMBS))
        if self.remat not in ("none", *_REMAT_POLICIES):
            raise UserError(f"There is no remat '{self.remat}'", nearest(self.remat, ("none", *_REMAT_POLICIES)))
        if self.scan and self.sow_attention:
            raise UserError("A scanned encoder cannot sow attention weights", "Set scan=False or sow_attention=False")
        if self.class_token_posemb and not (self.class_token and self.posemb == "learn"):
            raise UserError(
                "class_token_posemb needs a class token and learned positions",
                "Set class_token_posemb=False, or class_token=True and posemb='learn'",
            )
        for name in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} is {getattr(self, name)}", "Use a rate of at least 0 and below 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b t width"]:
        """Encodes normalised images; the class token, if there is one, comes first.

        Raises:
            UserError: when the patches do not tile the image, or the parameters hold positions of another grid.
        """
        x = PatchEmbed(self.width, self.patch_size, self.dtype, name="embedding")(images)
        batch, *grid, width = x.shape
        position = nn.initializers.normal(self.posemb_stddev)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, width)) if self.class_token else None
        if self.posemb == "learn":
            self._check_grid(tuple(grid))
            positions = self.param("pos_embedding", position, (*grid, width))
        else:
            positions = jnp.asarray(sincos2d(tuple(grid), width))
        x = x.reshape(batch, -1, width) + positions.reshape(-1, width).astype(self.dtype)
        if cls is not None:
            if self.class_token_posemb:
                cls = cls + self.param("cls_pos_embedding", position, (1, 1, width))
            x = jnp.concatenate([jnp.broadcast_to(cls.astype(self.dtype), (batch, 1, width)), x], axis=1)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)

        # Parameters are made by the loop, one block after the other, however they are run later.
        scans = self.scan and self.depth > 0 and not self.is_initializing()
        x = self._scan_blocks(x, train) if scans else self._loop_over_blocks(x, train)
        norm = LayerNorm(self.layer_norm_epsilon, self.dtype, name="norm")
        return norm(x)

    def _block(self, block: type[nn.Module] = EncoderBlock, **kwargs: Any) -> nn.Module:
        return block(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            gelu=self.gelu,
            layer_norm_epsilon=self.layer_norm_epsilon,
            attention_implementation=self.attention_implementation,
            sow_attention=self.sow_attention,
            **kwargs,
        )

    def _loop_over_blocks(self, x: Float[Array, "b t width"], train: bool) -> Float[Array, "b t width"]:
        block = EncoderBlock
        if self.remat != "none":
            # The rate of stochastic depth and `train` are static; self counts as argument 0.
            block = nn.remat(EncoderBlock, policy=_REMAT_POLICIES[self.remat], static_argnums=(2, 3))
        for i, drop_path_rate in enumerate(drop_path_rates(self.drop_path_rate, self.depth)):
            x = self._block(block, name=_block_name(i))(x, drop_path_rate, train)
        return x

    def _scan_blocks(self, x: Float[Array, "b t width"], train: bool) -> Float[Array, "b t width"]:
        block = self._block(parent=None)
        layers = {"params": self._stacked_parameters()}
        rngs = []
        if train and max(self.dropout_rate, self.attention_dropout_rate) > 0:
            rngs.append("dropout")
        if train and self.drop_path_rate > 0:
            rngs.append("drop_path")
            layers["drop_path_rate"] = jnp.array(drop_path_rates(self.drop_path_rate, self.depth))
        layers["rngs"] = {name: jax.random.split(self.make_rng(name), self.depth) for name in rngs}

        def body(x: Array, layer: dict[str, Any]) -> tuple[Array, None]:
            variables, rate = {"params": layer["params"]}, layer.get("drop_path_rate", 0.0)
            return block.apply(variables, x, rate, train, rngs=layer["rngs"]), None

        if self.remat != "none":
            body = jax.checkpoint(body, policy=_REMAT_POLICIES[self.remat], prevent_cse=False)
        return jax.lax.scan(body, x, layers)[0]

    def _stacked_parameters(self) -> PyTree:
        """The blocks' parameters with the layers in front, matrices already in the compute dtype: half the copy."""

        def stack(path: tuple[jax.tree_util.DictKey, ...], *leaves: Array) -> Array:
            # Layer norms compute in float32, whatever the compute dtype.
            dtype = leaves[0].dtype if path[0].key.startswith("norm") else self.dtype
            return jnp.stack([leaf.astype(dtype) for leaf in leaves])

        blocks = [self.get_variable("params", _block_name(i)) for i in range(self.depth)]
        return jax.tree_util.tree_map_with_path(stack, *blocks)

    def _check_grid(self, grid: tuple[int, int]) -> None:
        if not self.has_variable("params", "pos_embedding"):
            return
        held = self.get_variable("params", "pos_embedding").shape[:2]
        if held != grid:
            raise UserError(
                f"The images have a grid of {grid[0]}x{grid[1]} patches, but the parameters hold positions for "
                f"{held[0]}x{held[1]}",
                "Use images of the size that the parameters were made for, or load them into a model of this size with "
                "init_from, which interpolates the positions",
            )


class ViT(nn.Module):
    """An image classifier: an encoder, a pooling, an optional tanh layer, and a linear head that starts at zero.

    Parameters: `encoder`; `pool` for the pooling "map"; `pre_logits` with a representation size; `head` with classes.

    Attributes:
        encoder: gives tokens [B, T, D], see `ViTEncoder`.
        num_classes: outputs of the head; 0 for no head.
        pooling: "token" is the class token, "mean" the mean of the patch tokens, "map" an attention pooling of all.
        representation_size: width of a dense layer with tanh before the head (ViT pre-training), None for none.
        head_bias_init: initial bias of the head, e.g. -log(num_classes) with a sigmoid loss.

    Raises:
        UserError: for an unknown pooling, or the pooling "token" without a class token.
    """

    encoder: nn.Module
    num_classes: int
    pooling: Literal["token", "mean", "map"] = "token"
    representation_size: int | None = None
    head_bias_init: float = 0.0

    def __post_init__(self):
        if self.pooling not in _POOLINGS:
            raise UserError(f"There is no pooling '{self.pooling}'", nearest(self.pooling, _POOLINGS))
        if self.pooling == "token" and not self.encoder.class_token:
            raise UserError("The pooling 'token' needs a class token", "Set class_token=True or pooling='mean'")
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
        if self.pooling == "token":
            x = tokens[:, 0]
        elif self.pooling == "mean":
            x = tokens[:, int(encoder.class_token) :].mean(axis=1, dtype=jnp.float32)
        else:
            x = MAPHead(
                num_heads=encoder.num_heads,
                mlp_dim=encoder.mlp_dim,
                dtype=encoder.dtype,
                gelu=encoder.gelu,
                layer_norm_epsilon=encoder.layer_norm_epsilon,
                attention_implementation=encoder.attention_implementation,
                name="pool",
            )(tokens)
        x = x.astype(jnp.float32)
        if self.representation_size is not None:
            x = nn.tanh(nn.Dense(self.representation_size, name="pre_logits")(x))
        outputs = {"tokens": tokens, "features": x}
        if self.num_classes:
            bias = nn.initializers.constant(self.head_bias_init)
            head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, bias_init=bias, name="head")
            outputs["logits"] = head(x)
        return outputs

    @classmethod
    def from_variant(
        cls,
        variant: str,
        *,
        num_classes: int,
        width: int | None = None,
        depth: int | None = None,
        mlp_dim: int | None = None,
        num_heads: int | None = None,
        pooling: Literal["token", "mean", "map"] = "token",
        representation_size: int | None = None,
        head_bias_init: float = 0.0,
        posemb: Literal["learn", "sincos2d"] = "learn",
        class_token: bool | None = None,
        class_token_posemb: bool | None = None,
        posemb_stddev: float = 0.02,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gelu: Literal["tanh", "exact"] = "tanh",
        layer_norm_epsilon: float = 1e-6,
        attention_implementation: Implementation = "auto",
        sow_attention: bool = False,
        scan: bool = False,
        remat: Literal["none", "elementwise", "dots", "full"] = "none",
    ) -> Self:
        """A ViT of a published size, from values that JSON can hold.

        Args:
            variant: size and patch size, e.g. "B/16" or "b/16", see `VARIANTS`.
            num_classes: see `ViT`, like `pooling`, `representation_size` and `head_bias_init`.
            width: replaces the variant's, like `depth`, `mlp_dim` and `num_heads`, for sizes of one's own.
            class_token: see `ViTEncoder`, like all that follow. None: where the pooling is "token".
            class_token_posemb: None: where there is a class token and positions are learned, as in the original code.
            dtype: compute dtype by name; parameters are float32 in any case.

        Raises:
            UserError: for an unknown variant or value.
        """
        size, patch = parse_variant(variant)
        own = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}
        size = dataclasses.replace(size, **{name: value for name, value in own.items() if value is not None})
        if dtype not in _DTYPES:
            raise UserError(f"A model cannot compute in '{dtype}'", nearest(dtype, _DTYPES))
        class_token = pooling == "token" if class_token is None else class_token
        encoder = ViTEncoder(
            patch_size=(patch, patch),
            **dataclasses.asdict(size),
            posemb=posemb,
            class_token=class_token,
            class_token_posemb=class_token and posemb == "learn" if class_token_posemb is None else class_token_posemb,
            posemb_stddev=posemb_stddev,
            dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            drop_path_rate=drop_path_rate,
            dtype=_DTYPES[dtype],
            gelu=gelu,
            layer_norm_epsilon=layer_norm_epsilon,
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
        )


# What a config's model section calls, and what a checkpoint's metadata holds the arguments of.
build = ViT.from_variant
