"""The published sizes of the Vision Transformer and their names."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from vit_jax.errors import UserError
from vit_jax.naming import nearest

Size = TypeVar("Size")


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
# With the patches that somebody published a model of the size with; any other patch can be asked for.
PUBLISHED = (
    "Ti/16", "S/32", "S/16", "S/14", "S/8", "M/16", "B/32", "B/16", "B/14", "B/8", "L/32", "L/16", "L/14", "H/14",
    "So400m/14", "So400m/16", "g/14", "g-opt/14", "g-opt/16", "G/14", "e/14",
)  # fmt: skip


def parse_size(variant: str, sizes: Mapping[str, Size], kind: str) -> tuple[Size, int]:
    """The size and the patch size in pixels that a name such as "B/16" stands for.

    Case matters only where two names differ by it ("g" and "G").

    Raises:
        UserError: for a name that is not SIZE/PATCH with a size of `sizes`; it names the nearest right one.
    """
    size, _, patch = str(variant).partition("/")
    matches = [size] if size in sizes else [name for name in sizes if name.lower() == size.lower()]
    patch_is_valid = patch.isascii() and patch.isdigit() and int(patch) > 0
    if len(matches) != 1 or not patch_is_valid:
        known = [f"{name}/{patch if patch_is_valid else 16}" for name in matches or sizes]
        raise UserError(f"There is no {kind} '{variant}'", nearest(variant, known))
    return sizes[matches[0]], int(patch)


def parse_variant(variant: str) -> tuple[Variant, int]:
    """The size of a ViT and its patch size, see `parse_size`."""
    return parse_size(variant, VARIANTS, "ViT")


def resized(size: Size, **own: int | None) -> Size:
    """A size with the values that are given instead of its own."""
    return dataclasses.replace(size, **{name: value for name, value in own.items() if value is not None})


def variant_name(variant: str) -> str:
    """The one spelling of a name that `parse_variant` reads: "Ti/16" for "ti/16", to look up what goes with a size."""
    size, patch = parse_variant(variant)
    return f"{next(name for name, known in VARIANTS.items() if known == size)}/{patch}"
