"""The folder beside the steps of a run that has its frozen parameters, which are the same in all of them."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from vit_jax.checkpoints.damaged import readable
from vit_jax.checkpoints.digests import differing, digests_of, text_digest
from vit_jax.checkpoints.remote import forget_listings
from vit_jax.checkpoints.steps import FROZEN, is_whole
from vit_jax.errors import UserError

STATE = "state"  # what Orbax calls the tree in a folder


def save_frozen(directory: epath.Path, params: PyTree, context: ocp.Context) -> str:
    """Writes the folder beside the steps, and gives its name."""
    checksums = digests_of(params)
    name = f"{FROZEN}{text_digest(checksums):08x}"
    with context:
        ocp.save(
            directory / name, params, checkpointable_name=STATE, overwrite=True,
            custom_metadata={"checksums": checksums},
        )  # fmt: skip
    return name


def frozen_folder(step_path: epath.Path, metadata: Mapping[str, Any]) -> epath.Path | None:
    """The folder beside a step that has its frozen parameters; None where it has none, or has them itself."""
    name = metadata.get("frozen_in")
    if name is None:
        return None
    folder = step_path.parent / name
    forget_listings(folder.parent)
    if not is_whole(folder):
        raise UserError(
            f"The checkpoint {step_path} lacks its frozen parameters, which a run saves once: there is no {folder}",
            f"Copy {name} there from the checkpoints of the run that saved it",
        )
    return folder


def frozen_metadata(folder: epath.Path | None) -> dict[str, Any]:
    """Shapes and types of the frozen parameters."""
    if folder is None:
        return {}
    with readable(folder, lambda: _damaged(folder)):
        return ocp.metadata(folder, checkpointable_name=STATE).metadata


def read_frozen(folder: epath.Path | None, abstract: PyTree[jax.ShapeDtypeStruct], checksums: bool) -> dict[str, Any]:
    """The frozen parameters, with the shardings of `abstract`.

    Raises:
        UserError: damaged, or not what the folder's name says.
    """
    if folder is None:
        return {}
    with readable(folder, lambda: _damaged(folder)):
        recorded = ocp.metadata(folder, checkpointable_name=STATE).custom_metadata["checksums"]
        params = ocp.load(folder, abstract, checkpointable_name=STATE)
    # The folder is named by what it holds, so that a step cannot be read with those of another run.
    if checksums and (folder.name != f"{FROZEN}{text_digest(recorded):08x}" or differing(params, recorded)):
        raise _damaged(folder)
    return params


def _damaged(folder: epath.Path) -> UserError:
    return UserError(
        f"The frozen parameters in {folder} are damaged, and all steps of the run need them",
        "Copy the folder from where it is whole, or start again in a new workdir",
    )
