"""Transformer blocks one after the other, run as a loop or as a scan, with or without rematerialisation."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PyTree

from vit_jax.errors import UserError
from vit_jax.naming import nearest
from vit_jax.nn.attention import Implementation
from vit_jax.nn.batch_axis import split_by_example
from vit_jax.nn.block import SAVED, EncoderBlock

Remat = Literal["none", "elementwise", "dots", "full"]

_REMATS = get_args(Remat)
# What the backward pass finds of a block's forward pass: its input alone, or also the results of its weight matrices.
_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "elementwise": jax.checkpoint_policies.save_only_these_names(*SAVED),
}


def drop_path_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rates of stochastic depth that grow linearly from 0 in the first block to `rate` in the last."""
    return tuple(rate * i / max(depth - 1, 1) for i in range(depth))


def check_remat(remat: str) -> None:
    """Raises a UserError for an unknown `remat`."""
    if remat not in _REMATS:
        raise UserError(f"There is no remat '{remat}'", nearest(remat, _REMATS))


def _block_name(i: int) -> str:
    return f"block_{i:02d}"


class BlockStack(nn.Module):
    """`depth` times `EncoderBlock`.

    Parameters, float32: `block_00`, `block_01`, ... They are unstacked however the blocks are run.

    Attributes:
        depth: number of blocks.
        num_heads: attention heads.
        mlp_dim: hidden width of the MLPs.
        dtype: dtype of the computation and of the residual stream.
        dropout_rate: in the blocks (rng collection "dropout").
        attention_dropout_rate: on the attention weights.
        drop_path_rate: stochastic depth of the last block (rng collection "drop_path"), see `drop_path_rates`.
        gelu: see `EncoderBlock`, like `layer_norm_epsilon`, `mlp`, `layer_scale_init`, `qkv_bias`,
            `attention_implementation` and `sow_attention`.
        scan: run the blocks as one `lax.scan` over their stacked parameters, so that compiling takes as long as for one
            block. Dropout draws other masks than without scan.
        remat: what a block recomputes in the backward pass to save memory: "none", "elementwise" (layer norms, GELU
            and dropout, which costs next to nothing), "dots" (all but the products with its weight matrices, so
            attention too) or "full" (all of it).
    """

    depth: int
    num_heads: int
    mlp_dim: int
    dtype: DTypeLike = jnp.float32
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    gelu: Literal["tanh", "exact"] = "tanh"
    layer_norm_epsilon: float = 1e-6
    mlp: Literal["gelu", "swiglu"] = "gelu"
    layer_scale_init: float | None = None
    qkv_bias: bool = True
    attention_implementation: Implementation = "auto"
    sow_attention: bool = False
    scan: bool = False
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "b t width"], *, train: bool) -> Float[Array, "b t width"]:
        """Applies the blocks.

        Raises:
            UserError: for an unknown `remat`.
        """
        check_remat(self.remat)
        # Parameters are made by the loop, one block after the other, however they are run later.
        scans = self.scan and self.depth > 0 and not self.is_initializing()
        return self._scan(x, train) if scans else self._loop(x, train)

    def _block(self, block: type[nn.Module] = EncoderBlock, **kwargs: Any) -> nn.Module:
        return block(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            gelu=self.gelu,
            layer_norm_epsilon=self.layer_norm_epsilon,
            mlp=self.mlp,
            layer_scale_init=self.layer_scale_init,
            qkv_bias=self.qkv_bias,
            attention_implementation=self.attention_implementation,
            sow_attention=self.sow_attention,
            **kwargs,
        )

    def _loop(self, x: Float[Array, "b t width"], train: bool) -> Float[Array, "b t width"]:
        block = EncoderBlock
        if self.remat != "none":
            # The rate of stochastic depth and `train` are static; self counts as argument 0.
            block = nn.remat(EncoderBlock, policy=_REMAT_POLICIES[self.remat], static_argnums=(2, 3))
        for i, drop_path_rate in enumerate(drop_path_rates(self.drop_path_rate, self.depth)):
            x = self._block(block, name=_block_name(i))(split_by_example(x), drop_path_rate, train)
        return split_by_example(x)

    def _scan(self, x: Float[Array, "b t width"], train: bool) -> Float[Array, "b t width"]:
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
            return block.apply(variables, split_by_example(x), rate, train, rngs=layer["rngs"]), None

        if self.remat != "none":
            body = jax.checkpoint(body, policy=_REMAT_POLICIES[self.remat], prevent_cse=False)
        return split_by_example(jax.lax.scan(body, split_by_example(x), layers)[0])

    def _stacked_parameters(self) -> PyTree:
        """The blocks' parameters with the layers in front, matrices already in the compute dtype: half the copy."""

        def stack(path: tuple[jax.tree_util.DictKey, ...], *leaves: Array) -> Array:
            # Layer norms compute in float32, whatever the compute dtype.
            dtype = leaves[0].dtype if path[0].key.startswith("norm") else self.dtype
            return jnp.stack([leaf.astype(dtype) for leaf in leaves])

        blocks = [self.get_variable("params", _block_name(i)) for i in range(self.depth)]
        return jax.tree_util.tree_map_with_path(stack, *blocks)
