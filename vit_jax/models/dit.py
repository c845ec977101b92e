"""DiT: a Vision Transformer where diffusion had a U-Net (Peebles and Xie, "Scalable diffusion models with
Transformers", arXiv:2212.09748, section 3).

Patches of an image or of its latents are tokens with fixed positions. Time and class are one vector, which modulates
every norm and gates every branch; gates are zero at first, so that each block begins as the identity (adaLN-zero).
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from vit_jax.errors import UserError
from vit_jax.models.vit_variants import Variant, parse_size, resized
from vit_jax.naming import check_keys
from vit_jax.nn.block import PARTS
from vit_jax.nn.flops import block_flops, product_flops
from vit_jax.nn.modulation import ModulatedNorm
from vit_jax.nn.patch import PatchEmbed, unpatchify
from vit_jax.nn.posemb import SINCOS2D, sincos2d
from vit_jax.nn.products import product
from vit_jax.nn.stack import BlockStack, block_layers
from vit_jax.nn.style import EXECUTION_KEYS, STYLE_KEYS, BlockStyle, Execution, block_style, execution_of
from vit_jax.nn.time_embedding import ClassEmbedding, TimeEmbedding
from vit_jax.nn.trunk import Layers
from vit_jax.nn.xavier import xavier_redrawn
from vit_jax.ranges import Count, Natural

# Table 1.
VARIANTS = {
    "S": Variant(width=384, depth=12, mlp_dim=1536, num_heads=6),
    "B": Variant(width=768, depth=12, mlp_dim=3072, num_heads=12),
    "L": Variant(width=1024, depth=24, mlp_dim=4096, num_heads=16),
    "XL": Variant(width=1152, depth=28, mlp_dim=4608, num_heads=16),
}
DIALECT = "sincos2d_mae"  # of the positions
_FEATURES = 256  # of the time


class DiT(nn.Module):
    """A denoiser.

    Parameters, float32: `embedding` of the patches; `time`; `classes` where there are any; `block_00`, ...; `norm`, see
    `ModulatedNorm`; `output` with kernel [D, p p outputs]. Modulation and output are zero at first: all is then 0.

    Attributes:
        inputs: channels of the images.
        outputs: channels of what is predicted of them.
        patch_size: p, side of a patch.
        width: D.
        depth: number of blocks.
        style: what a block computes; its norms are adaptive.
        num_classes: rows of the table of classes, the null class among them; 0 for none.
        grid_side: positions are those of a square grid of this side, to which others are stretched; None to count them.
        time_shift: see `vit_jax.nn.time_embedding.time_features`.
        execution: how the blocks are run.
    """

    inputs: int
    outputs: int
    patch_size: int
    width: int
    depth: int
    style: BlockStyle
    num_classes: int = 0
    grid_side: int | None = None
    time_shift: int = 0
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w inputs"],
        times: Shaped[Array, " b"],
        labels: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b h w outputs"]:
        """What it predicts, float32.

        Args:
            x: images or latents with noise.
            times: timesteps, from 0 on.
            labels: classes; where the table has none they are not read.
            train: whether dropout is applied, from the stream "dropout".

        Raises:
            UserError: for sides that patches do not divide, or no labels where there are classes.
        """
        self.check_size(x.shape[1:3])
        dtype, patch = self.execution.dtype, (self.patch_size, self.patch_size)
        condition = TimeEmbedding(self.width, _FEATURES, dtype, shift=self.time_shift, name="time")(times)
        if self.num_classes:
            normal = nn.initializers.normal(0.02)
            table = ClassEmbedding(self.num_classes, self.width, dtype, embedding_init=normal, name="classes")
            condition = condition + table(labels)
        x = PatchEmbed(self.width, patch, dtype, name="embedding")(x)
        grid = x.shape[1:3]
        x = x + jnp.asarray(sincos2d(grid, self.width, span=self.grid_side, **SINCOS2D[DIALECT]), dtype)
        blocks = BlockStack((self.style,), self.depth, execution=self.execution)
        nn.share_scope(self, blocks)
        x, _ = blocks(x.reshape(len(x), -1, self.width), condition=condition, train=train)
        x = ModulatedNorm(dtype=dtype, name="norm")(x, condition)
        zeros, pixels = nn.initializers.zeros, self.patch_size**2 * self.outputs
        x = nn.Dense(pixels, dtype=dtype, kernel_init=zeros, dot_general=product, name="output")(x)
        return unpatchify(x.reshape(len(x), *grid, pixels), patch).astype(jnp.float32)

    def check_size(self, size: Sequence[int]) -> None:
        """Raises a UserError for sides that it cannot take."""
        if any(side % self.patch_size or side < 1 for side in size):
            raise UserError(
                f"{size[1]}x{size[0]} places do not divide into patches of {self.patch_size}x{self.patch_size}",
                f"Use multiples of {self.patch_size}",
            )

    def example_inputs(self, image_size: Sequence[int] | None) -> tuple[Array, ...]:
        """See `vit_jax.nn.example_inputs`."""
        x = jnp.zeros((1, *(image_size or (self.patch_size, self.patch_size)), self.inputs))
        return (x, jnp.zeros(1, jnp.int32), *((jnp.zeros(1, jnp.int32),) if self.num_classes else ()))

    def redrawn(self, params: PyTree[jax.Array], rng: PRNGKeyArray) -> PyTree[jax.Array]:
        """Parameters with the initial values of the authors' code: uniform ones by Glorot and Bengio's rule with biases
        of 0; time and classes, normal of 0.02, stay as they are, and so does what is zero."""
        drawn = xavier_redrawn(params, rng, fused_qkv=True, tokens={})

        def kept(path: tuple[jax.tree_util.DictKey, ...], old: jax.Array, new: jax.Array) -> jax.Array:
            names = {part.key for part in path}
            return old if names & {"time", "classes", "modulation", "output"} else new

        return jax.tree.map_with_path(kept, params, drawn)

    def layers(self) -> Layers:
        """See `vit_jax.nn.trunk.Trunk.layers`."""
        return (("embedding", "time", "classes"), *block_layers(self.depth))

    def flops(self, image_size: Sequence[int]) -> float:
        """Of one image, see `vit_jax.nn.flops`."""
        tokens, pixels = image_size[0] * image_size[1] // self.patch_size**2, self.patch_size**2
        modulation = product_flops(1, self.width, (self.depth * PARTS + 2) * self.width)
        time = product_flops(1, _FEATURES + self.width, self.width)
        ends = product_flops(tokens, self.width, pixels * (self.inputs + self.outputs))
        return self.depth * block_flops(tokens, self.width, self.style.mlp_dim) + modulation + time + ends


def build(
    *,
    variant: str = "B/4",
    inputs: Count = 4,
    outputs: Count = 8,
    num_classes: Natural = 0,
    width: Count | None = None,
    depth: Count | None = None,
    num_heads: Count | None = None,
    mlp_dim: Count | None = None,
    grid_side: Count | None = None,
    time_shift: Natural = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **block: Any,
) -> DiT:
    """DiT of a size, from values that JSON can hold; DiT-XL/2 is "XL/2".

    Args:
        variant: size, "S", "B", "L" or "XL", and side of the patches, "/2", "/4" or "/8".
        inputs: see `DiT`, like `outputs` and `num_classes` the task's to say.
        width: instead of the variant's, like `depth`, `num_heads` and `mlp_dim`.
        grid_side: see `DiT`, like `time_shift`: 0 in the authors' code, 1 in diffusers.
        dtype: compute dtype by name; parameters are always float32.
        block: other arguments of `Execution` and `BlockStyle`.

    Raises:
        UserError: for an unknown variant, value or argument, or a width that heads do not divide.
    """
    check_keys(block, _BLOCK_KEYS, "config.model", siblings=_NAMED_KEYS)
    size, patch = parse_size(variant, VARIANTS, "DiT")
    size = resized(size, width=width, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim)
    if size.width % size.num_heads:
        raise UserError(f"A width of {size.width} does not divide into {size.num_heads} heads", "Change one of the two")
    style = {"norm": "adaptive", "hidden_dropout": False}
    style |= {name: value for name, value in block.items() if name in _STYLE_KEYS}
    return DiT(
        inputs, outputs, patch, size.width, size.depth,
        block_style(style, num_heads=size.num_heads, mlp_dim=size.mlp_dim),
        num_classes, grid_side, time_shift, execution_of(block, dtype),
    )  # fmt: skip


_OURS = ("num_heads", "mlp_dim", "norm", "modulation", "cross")
_STYLE_KEYS = tuple(name for name in STYLE_KEYS if name not in _OURS)
_BLOCK_KEYS = (*_STYLE_KEYS, *EXECUTION_KEYS)
_NAMED_KEYS = tuple(name for name in build.__annotations__ if name not in ("block", "return"))
KEYS = (*_NAMED_KEYS, *_BLOCK_KEYS)  # all that `build` takes
