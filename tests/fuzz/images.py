"""Damaged JPEG, PNG and WebP files, read as training reads them."""

from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.harness import Target
from tests.fuzz.mutations import damaged_bytes
from vit_jax.data.decode import decode

_SUFFIXES = (".jpg", ".png", ".webp")


def build(folder: Path) -> Target:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (96, 64))
    whole = {suffix: cv2.imencode(suffix, image)[1].tobytes() for suffix in _SUFFIXES}

    def mutate(rng: np.random.Generator, folder: Path) -> bytes:
        return damaged_bytes(rng, whole[str(rng.choice(_SUFFIXES))])

    def wrong(image: np.ndarray) -> str:
        good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return "" if good else f"decoded to {image.dtype} {image.shape}"

    return Target(mutate, decode, wrong)
