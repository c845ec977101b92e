"""What the authors' own code computed: files that lie beside the clone, in `../shared/golden`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def _clone() -> Path:
    """The clone's folder; for a worktree of it that of the repository that it belongs to."""
    git = ROOT / ".git"
    return Path(git.read_text().split(":", 1)[1].strip()).parents[2] if git.is_file() else ROOT


def golden_file(name: str) -> Path:
    """One of the files; the test is skipped where it is missing."""
    path = _clone().parent / "shared/golden" / name
    if not path.exists():
        pytest.skip(f"NOT COMPARED with the authors' code: there is no {path}", allow_module_level=True)
    return path


class Golden:
    """An .npz of such numbers.

    Args:
        name: of the file, without its suffix. The test is skipped where it is missing.
    """

    def __init__(self, name: str):
        with np.load(golden_file(f"{name}.npz"), allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.meta: dict[str, Any] = json.loads(bytes(self.arrays.pop("meta")))

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Parameters below `prefix/`, by the names of the state dict, float32."""
        start = f"{prefix}/"
        return {k.removeprefix(start): x.astype(np.float32) for k, x in self.arrays.items() if k.startswith(start)}


def assert_close(ours: Any, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """To `tolerance` times the largest absolute value of theirs, or 1 if that is larger."""
    theirs = np.asarray(theirs)
    largest = max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance * largest)
