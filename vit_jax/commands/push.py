"""Put a model where others find it: a folder as the Hugging Face hub has it, with a card, and onto the hub if asked.

examples:
  vit_jax push runs/mine --output mine                     # look at mine/README.md before others do
  vit_jax push runs/mine --to hf://owner/mine --private    # pip install 'vit_jax[hub]'; hf auth login
  vit_jax push runs/flexi --output flexi-8 --model.patch_size=8
  vit_jax push clip/ --part encoder --output tower --format transformers --license mit

DIR receives what 'vit_jax convert' writes in the names of timm, transformers or another library, and README.md: the
figures that the run measured at this step, its data, config and commit, nothing by hand. vit_jax loads the folder, and
so does the library whose names it has. Places on this machine are shortened to their last name. The token of the hub is
that of its own login.
"""

import argparse
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.checkpoints.formats import FORMATS
from vit_jax.commands.arguments import add_overrides, open_stored
from vit_jax.commands.output import check_makeable
from vit_jax.errors import UserError, printable

if TYPE_CHECKING:
    from vit_jax.checkpoints.source import StoredModel

_FORMATS = tuple(name for name in FORMATS if name not in ("orbax", "npz"))
_REPOSITORY = re.compile(r"hf://([\w.-]{1,96}/[\w.-]{1,96})", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint that vit_jax loads: workdir, file, URL, hf://...")
    parser.add_argument("--output", metavar="DIR", help="the folder to make")
    parser.add_argument("--to", metavar="hf://OWNER/NAME", help="upload it there, as whom 'hf auth login' says")
    parser.add_argument("--private", action="store_true", help="a repository that --to makes is for its owner alone")
    parser.add_argument("--format", choices=_FORMATS, help="in whose names (default: the first that has the model)")
    parser.add_argument("--license", metavar="NAME", help="for the card, as the hub writes it: apache-2.0, mit, ...")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.checkpoints.whole_folder import check_free, whole_folder

    if arguments.output is None and arguments.to is None:
        raise UserError("There is no place to put it", "Give --output DIR, --to hf://owner/name, or both")
    repository = arguments.to and repository_of(arguments.to)
    if arguments.private and not repository:
        raise UserError("--private is of a repository", "Give --to hf://owner/name")
    if arguments.output is not None:
        check_makeable(arguments.output, "--output")
        check_free(Path(arguments.output))
    api = hub() if repository else None
    source = open_stored(arguments)
    with ExitStack() as stack:
        if arguments.output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        else:
            folder = Path(arguments.output)
        with whole_folder(folder) as partial:
            to = write(source, partial, repository or folder.resolve().name, arguments.format, arguments.license)
        if arguments.output is not None:
            print(printable(f"{folder}: {to}'s names, {', '.join(sorted(path.name for path in folder.iterdir()))}"))
        if api is not None:
            print(printable(upload(api, folder, repository, arguments.private)))


def write(source: "StoredModel", folder: Path, name: str, to: str | None, license_name: str | None) -> str:
    """Weights, JSON files and card into a folder that is there; returns the format, see `export`.

    Raises:
        UserError: no library has a place for the model.
    """
    from vit_jax.checkpoints.export import export, notes
    from vit_jax.commands.model_card import card

    refused: list[UserError] = []
    for each in (to,) if to else _FORMATS:
        try:
            export(source, folder, each)
        except UserError as error:
            refused.append(error)
            continue
        text = card(source, name, each, figures_of(source), notes(source, each), license_name)
        (folder / "README.md").write_text(text, encoding="utf-8")
        return each
    # Of several the one that says most: others have no such model at all.
    raise next((error for error in refused if "has no place" not in error.what), refused[0])


def figures_of(source: "StoredModel") -> dict[str, float]:
    """What the run measured at the step of its checkpoint, by name; empty for what has no run."""
    from vit_jax.training.run_files import read_metrics

    metadata = source.metadata
    workdir = source.path.parent.parent
    if not metadata.get("config") or source.path.parent.name != "checkpoints":
        return {}
    found: dict[str, Any] = {}
    if (workdir / "metrics.jsonl").exists():
        for row in read_metrics(workdir):
            if row["step"] == metadata["step"]:
                found |= row
    return {key: value for key, value in found.items() if "/" in key and not key.startswith("train/")}


def repository_of(address: str) -> str:
    """'owner/name' of 'hf://owner/name'.

    Raises:
        UserError: for another address.
    """
    found = _REPOSITORY.fullmatch(address)
    if not found:
        raise UserError(f"--to {address} is not a repository of the hub", "Write hf://owner/name")
    return found[1]


def hub() -> Any:
    """The hub's client, of somebody who is logged in.

    Raises:
        UserError: huggingface_hub is not installed, or nobody is logged in.
    """
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise UserError("The hub is reached by the package huggingface_hub", "pip install 'vit_jax[hub]'") from error
    if not get_token():
        raise UserError("Nobody is logged in to the hub", "Call 'hf auth login' first")
    return HfApi()


def upload(api: Any, folder: Path, repository: str, private: bool) -> str:
    """Makes the repository where it is not there, and puts all files of the folder into it in one commit.

    Returns:
        Its address.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, repo_type="model", folder_path=str(folder), commit_message="Written by vit_jax push"
        )
    except Exception as error:  # the hub's own errors, httpx's and OSError: all mean that it has not got it
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"The hub has not taken {repository}: {first[:300]}", "Check its name and your rights"
        ) from error
    return f"https://huggingface.co/{repository}"
