"""Weights that LPIPS gives the channels of a network's maps (Zhang et al., arXiv:1801.03924)."""

import importlib.resources

import numpy as np
from jaxtyping import Float32


def lpips_weights() -> dict[int, Float32[np.ndarray, " c"]]:
    """Those for VGG-16, version 0.1: by the stride of the map."""
    file = importlib.resources.files(__name__) / "vgg16.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        return {2**level: arrays[f"lin{level}"].reshape(-1) for level in range(5)}
