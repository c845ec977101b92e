"""The oracles: torch, timm and transformers on a CPU, in tests only."""

import importlib.util
import os

import pytest

_NEEDED = ("torch", "torchvision", "timm", "transformers", "safetensors")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
# Without them nothing here can even be imported.
collect_ignore_glob = ["test_*.py"] if _MISSING else []

if not _MISSING:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    import tests.torchvision_ops  # noqa: F401

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Everything in this folder is an oracle test."""
    for item in items:
        if os.path.dirname(__file__) in str(item.path):
            item.add_marker(pytest.mark.oracle)


if _MISSING:

    class _Skipped(pytest.Item):
        def runtest(self):
            pytest.skip(f"comparisons with other libraries need {', '.join(_MISSING)}: install the extra 'oracle'")

    class _Folder(pytest.File):
        def collect(self):
            yield _Skipped.from_parent(self, name="oracles")

    def pytest_collect_file(file_path, parent):
        """One skip that says why, where the tests would be."""
        if file_path.name == "conftest.py" and file_path.parent == type(file_path)(os.path.dirname(__file__)):
            return _Folder.from_parent(parent, path=file_path)
        return None
