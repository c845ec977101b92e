"""Which commit of the code a run was made with."""

import functools
import subprocess
from pathlib import Path

import vit_jax


@functools.cache
def revision(folder: Path = Path(vit_jax.__file__).parents[1]) -> str | None:
    """The commit that is checked out in `folder`, with '-dirty' behind it where files differ from it; None where there
    is no git or nothing checked out, as in an installed package."""
    if not (folder / ".git").exists():
        return None  # nor that of a repository that a virtual environment happens to lie in
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
