"""Hybrids in anybody's file: the ViT's tensors are left to the ViT's family, the ResNet's are described here."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.models.hybrid import STEMS


def hybrid_size(vit: Mapping[str, Any], stage_sizes: Sequence[int], stem_width: int) -> dict[str, Any] | None:
    """The arguments of `vit_jax.models.hybrid.build`.

    Args:
        vit: those of the ViT on the stem, whose patches are of positions of its map.

    Returns:
        None where no hybrid has such patches.
    """
    size, _, patch = vit["variant"].partition("/")
    fitting = {name: stem for name, stem in STEMS.items() if stem.patch == int(patch)}
    exact = [name for name, stem in fitting.items() if stem.stage_sizes == tuple(stage_sizes)]
    if not fitting:
        return None
    resnet, pixels = exact[0] if exact else next(iter(fitting))
    own = {} if exact else {"stage_sizes": list(stage_sizes)}
    own |= {} if stem_width == 64 else {"stem_width": stem_width}
    return {**vit, "variant": f"{resnet}+{size}/{pixels}", **own}


def reduction(stage_sizes: Sequence[int]) -> int:
    """Pixels of the image, along each side, for one position of the stem's map."""
    return 4 * 2 ** max(len(stage_sizes) - 1, 0)
