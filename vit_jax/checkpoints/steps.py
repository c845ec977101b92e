"""Where the steps of a run are, and which of them are whole."""

import os
import re

from etils import epath

from vit_jax.checkpoints.remote import forget_listings
from vit_jax.data.files import is_remote
from vit_jax.errors import UserError

FROZEN = "frozen-"  # begins the name of the folder with the frozen parameters; the digest of their checksums follows


def absolute(path: epath.PathLike) -> epath.Path:
    """`path` as Orbax needs it: local paths made absolute, 'gs://...' as it is."""
    path = epath.Path(path)
    return path if is_remote(path) else epath.Path(os.path.abspath(path))


def is_frozen_folder(name: str) -> bool:
    """Whether a folder beside steps is called so that it has their frozen parameters."""
    return re.fullmatch(f"{FROZEN}[0-9a-f]{{8}}", name) is not None


def steps_in(workdir: epath.PathLike) -> list[int]:
    """The steps that a run has saved, oldest first."""
    directory = epath.Path(workdir) / "checkpoints"
    forget_listings(directory)
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and is_whole(p))


def is_whole(step_path: epath.Path) -> bool:
    """Whether a save of it was completed, by how Orbax commits one.

    On a file system the folder is written under another name and renamed at the end, so that its name alone says it. A
    bucket cannot rename folders: there it is written in place, and the file commit_success.txt last.
    """
    return step_path.is_dir() and (
        not os.fspath(step_path).startswith("gs://") or (step_path / "commit_success.txt").exists()
    )


def find(path: epath.PathLike) -> epath.Path:
    """The step directory that `path` means: itself, or the newest step of a workdir."""
    path = absolute(path)
    if is_frozen_folder(path.name) and not (path / "checkpoints").is_dir():
        raise UserError(f"{path} holds the frozen parameters of a run alone", "Give a directory checkpoints/<step>")
    if not path.exists():
        raise UserError(f"There is no checkpoint at {path}", "Give a workdir, or a directory checkpoints/<step> in one")
    if is_step(path):
        return path
    workdir = path.parent if path.name == "checkpoints" else path
    if steps := steps_in(workdir):
        return workdir / "checkpoints" / str(steps[-1])
    if path.is_dir() and (path / "checkpoints").is_dir():
        raise UserError(
            f"The run in {path} has not saved a checkpoint yet", "Wait for its first save, or start it again"
        )
    raise UserError(f"{path} is not a checkpoint", "Give a workdir, or a directory checkpoints/<step> in one")


def is_step(path: epath.PathLike) -> bool:
    """Whether `path` is the directory of one step, wherever it was copied to, or what damage has left of one."""
    path = epath.Path(path)
    return path.is_dir() and (
        (path / "_CHECKPOINT_METADATA").exists() or (path.name.isdecimal() and path.parent.name == "checkpoints")
    )
