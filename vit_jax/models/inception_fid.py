"""The Inception network of 2015 whose features are FID's.

Szegedy et al., "Rethinking the Inception architecture for computer vision" (arXiv:1512.00567), in the form of the graph
that Heusel et al. (arXiv:1706.08500) measure with. It differs from what libraries call Inception v3: means beside an
edge leave out what is not there, the last block takes a maximum in the place of a mean, and there are 1,008 classes.
"""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.nn.batch_norm import BatchNorm
from vit_jax.nn.trunk import Classifier, Layers, Maps, Trunk
from vit_jax.ranges import Natural, Range

IMAGE_SIZE = (299, 299)
CLASSES = 1008

# A convolution: its name, and rows, columns and outputs of its kernel; a fourth number is its stride. Without a stride
# the map stays as large as it is, with one nothing is put around it.
Unit = tuple[str, int, int, int] | tuple[str, int, int, int, int]
# One after the other. Two in brackets stand side by side.
Branch = tuple[Unit | tuple[Unit, Unit], ...]
# What stands side by side in a block, and how the last of them begins, by a "mean" or a "max" of 3x3 places; "halved"
# is a maximum of every second place, and nothing after it.
Block = tuple[tuple[Branch, ...], str]


def _stage_a(pooled: int) -> Block:
    return (
        (("branch1x1", 1, 1, 64),),
        (("branch5x5_1", 1, 1, 48), ("branch5x5_2", 5, 5, 64)),
        (("branch3x3dbl_1", 1, 1, 64), ("branch3x3dbl_2", 3, 3, 96), ("branch3x3dbl_3", 3, 3, 96)),
        (("branch_pool", 1, 1, pooled),),
    ), "mean"


def _stage_c(width: int) -> Block:
    return (
        (("branch1x1", 1, 1, 192),),
        (("branch7x7_1", 1, 1, width), ("branch7x7_2", 1, 7, width), ("branch7x7_3", 7, 1, 192)),
        (
            ("branch7x7dbl_1", 1, 1, width), ("branch7x7dbl_2", 7, 1, width), ("branch7x7dbl_3", 1, 7, width),
            ("branch7x7dbl_4", 7, 1, width), ("branch7x7dbl_5", 1, 7, 192),
        ),
        (("branch_pool", 1, 1, 192),),
    ), "mean"  # fmt: skip


def _stage_e(pool: str) -> Block:
    return (
        (("branch1x1", 1, 1, 320),),
        (("branch3x3_1", 1, 1, 384), (("branch3x3_2a", 1, 3, 384), ("branch3x3_2b", 3, 1, 384))),
        (
            ("branch3x3dbl_1", 1, 1, 448), ("branch3x3dbl_2", 3, 3, 384),
            (("branch3x3dbl_3a", 1, 3, 384), ("branch3x3dbl_3b", 3, 1, 384)),
        ),
        (("branch_pool", 1, 1, 192),),
    ), pool  # fmt: skip


# The names are those of the papers and of PyTorch's ports, so that a block can be found in both.
STEM = (
    ("conv2d_1a_3x3", 3, 3, 32, 2), ("conv2d_2a_3x3", 3, 3, 32, 1), ("conv2d_2b_3x3", 3, 3, 64), None,
    ("conv2d_3b_1x1", 1, 1, 80), ("conv2d_4a_3x3", 3, 3, 192, 1), None,
)  # fmt: skip
BLOCKS: dict[str, Block] = {
    "mixed_5b": _stage_a(32),
    "mixed_5c": _stage_a(64),
    "mixed_5d": _stage_a(64),
    "mixed_6a": (
        (
            (("branch3x3", 3, 3, 384, 2),),
            (("branch3x3dbl_1", 1, 1, 64), ("branch3x3dbl_2", 3, 3, 96), ("branch3x3dbl_3", 3, 3, 96, 2)),
            (),
        ),
        "halved",
    ),
    "mixed_6b": _stage_c(128),
    "mixed_6c": _stage_c(160),
    "mixed_6d": _stage_c(160),
    "mixed_6e": _stage_c(192),
    "mixed_7a": (
        (
            (("branch3x3_1", 1, 1, 192), ("branch3x3_2", 3, 3, 320, 2)),
            (
                ("branch7x7x3_1", 1, 1, 192), ("branch7x7x3_2", 1, 7, 192), ("branch7x7x3_3", 7, 1, 192),
                ("branch7x7x3_4", 3, 3, 192, 2),
            ),
            (),
        ),
        "halved",
    ),
    "mixed_7b": _stage_e("mean"),
    "mixed_7c": _stage_e("max"),
}  # fmt: skip


class ConvNorm(nn.Module):
    """A convolution without a bias, batch normalisation with an epsilon of 1e-3, and ReLU.

    Parameters: `conv` and `norm`, whose statistics are in the collection "batch_stats".
    """

    unit: Unit

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow out"]:
        _, rows, columns, width, *stride = self.unit
        padding = "VALID" if stride else [(rows // 2, rows // 2), (columns // 2, columns // 2)]
        x = nn.Conv(width, (rows, columns), stride * 2 or 1, padding=padding, use_bias=False, name="conv")(x)
        return nn.relu(BatchNorm(epsilon=1e-3, name="norm")(x, train))


class Mixed(nn.Module):
    """Branches side by side, see `Block`. Parameters: those of each unit by its name."""

    block: Block

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b oh ow out"]:
        branches, pool = self.block
        around = ((1, 1), (1, 1))
        pooled = {
            "mean": lambda: nn.avg_pool(x, (3, 3), (1, 1), around, count_include_pad=False),
            "max": lambda: nn.max_pool(x, (3, 3), (1, 1), around),
            "halved": lambda: nn.max_pool(x, (3, 3), (2, 2)),
        }[pool]()
        outputs = []
        for number, branch in enumerate(branches, 1):
            y = pooled if number == len(branches) else x
            for step in branch:
                if isinstance(step[0], tuple):
                    y = jnp.concatenate([ConvNorm(unit, name=unit[0])(y, train) for unit in step], axis=-1)
                else:
                    y = ConvNorm(step, name=step[0])(y, train)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)


class InceptionEncoder(Trunk):
    """Stem and blocks: the trunk `params["encoder"]`, of float32. Parameters: `conv2d_1a_3x3`, ..., `mixed_7c`."""

    @nn.compact
    def encode(self, images: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b t d"], Maps]:
        x = images.astype(jnp.float32)
        for unit in STEM:
            x = nn.max_pool(x, (3, 3), (2, 2)) if unit is None else ConvNorm(unit, name=unit[0])(x, train)
        for name, block in BLOCKS.items():
            x = Mixed(block, name=name)(x, train)
        return x.reshape(x.shape[0], -1, x.shape[-1]), {32: x}

    def layers(self) -> Layers:
        return (*((unit[0],) for unit in STEM if unit is not None), *((name,) for name in BLOCKS))


class InceptionFid(Classifier):
    """The encoder, the mean over all places (`pool3`, 2,048 numbers), and a linear head of 1,008 classes.

    It takes images of 299x299 pixels in -1..1.
    """


def build(num_classes: Annotated[Natural, Range(0)] = CLASSES) -> InceptionFid:
    """The published network; without classes one whose head is left out."""
    return InceptionFid(InceptionEncoder(parent=None), num_classes)
