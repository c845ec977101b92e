"""Pictures that evaluators make while a run trains: `pictures/NAME/STEP.png` in its workdir."""

import os
from collections.abc import Callable

from etils import epath

from vit_jax.data.files import write_whole
from vit_jax.evaluators import Keep

FOLDER = "pictures"


def keep_in(workdir: epath.Path, step: int) -> Keep:
    """What writes the pictures of a step, 'samples_grid.png' as `pictures/samples_grid/00000200.png`; whole or not at
    all, and over those of a run that was here before."""

    def keep(name: str, make: Callable[[], bytes]) -> None:
        stem, _, suffix = name.rpartition(".")
        folder = workdir / FOLDER / stem
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{step:08d}.{suffix}", make())

    return keep


def kept_in(workdir: epath.Path) -> dict[str, list[tuple[int, epath.Path]]]:
    """The steps of which there are pictures, by the pictures' name."""
    found = {}
    folder = workdir / FOLDER
    for named in sorted(folder.iterdir()) if folder.is_dir() else ():
        # A link may lead out of the workdir.
        linked = os.path.islink(folder) or os.path.islink(named)
        files = [] if linked or not named.is_dir() else [path for path in named.iterdir() if _is_ours(path)]
        if files:
            found[named.name] = sorted((int(path.stem), path) for path in files)
    return found


def _is_ours(path: epath.Path) -> bool:
    return path.stem.isdecimal() and not os.path.islink(path)
