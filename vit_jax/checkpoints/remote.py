"""Files that are elsewhere: weights from the Hugging Face hub and from URLs that epath knows, and what buckets list."""

import hashlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

from etils import epath

from vit_jax.errors import UserError

# Weights and what describes them. Never pickles, never code.
_WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json", "*.npz")
_CHUNK = 1 << 24  # bytes


def is_remote(path: epath.PathLike) -> bool:
    return "://" in str(path)


def forget_listings(path: epath.PathLike) -> None:
    """Has the next look at a remote path see what other processes wrote: fsspec's clients remember what they listed."""
    scheme = os.fspath(path).partition("://")[0]
    client = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}.get(scheme)
    if client in sys.modules:  # else TensorFlow's client is in use, which remembers nothing, or none yet
        epath.backend.fsspec_backend.fs(path).invalidate_cache()


def fetch(path: str) -> Path:
    """A local copy of a weight file, or of a hub repository's weights; what is here already is not fetched again.

    Args:
        path: 'hf://owner/name', 'hf://owner/name@revision' or 'hf://owner/name/file', or a file's URL such as
            'gs://bucket/file.npz'.

    Raises:
        UserError: nothing there, no network, no permission, or huggingface_hub is not installed.
    """
    if path.startswith("hf://"):
        return _fetch_from_hub(path.removeprefix("hf://"), path)
    target = _cache() / hashlib.sha256(path.encode()).hexdigest()[:16] / path.rpartition("/")[2]
    if target.exists():
        return target
    source = _open_url(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + f".part{os.getpid()}")
    try:
        with source.open("rb") as stream, partial.open("wb") as file:
            _copy(stream, file, source)
        partial.replace(target)  # what has the final name is whole
    except OSError as error:
        raise UserError(f"{path} could not be fetched: {_first_line(error)}", _REACH) from error
    finally:
        partial.unlink(missing_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        beside = source.parent / name
        if target.suffix == ".safetensors" and beside.exists():
            (target.parent / name).write_bytes(beside.read_bytes())
    return target


def check_sha256(path: Path, wanted: str) -> None:
    """Raises a UserError when the file does not have the hash that the caller expects."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.lower().removeprefix("sha256:"):
        raise UserError(f"{path} has the sha256 {found}, not {wanted}", "Fetch it again, or do not trust it")


_REACH = "Check the address, the network and your permission, or fetch the file by other means and give its local path"


def _fetch_from_hub(name: str, path: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{path} needs huggingface_hub, which is not installed", "pip install 'vit_jax[hub]'"
        ) from error
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise UserError(f"{path} names no repository of the hub", "Write hf://owner/name, or hf://owner/name/file")
    beside = ("config.json", "preprocessor_config.json")
    try:
        folder = snapshot_download(
            f"{owner}/{repository}", revision=revision or None, allow_patterns=[file, *beside] if file else _WANTED
        )
    except Exception as error:  # the hub's own errors, requests', httpx's and OSError: all mean that it is not here
        raise UserError(f"{path} could not be fetched: {_first_line(error)}", _REACH) from error
    found = Path(folder, file)
    if not found.exists():
        raise UserError(f"There is no file {file!r} in hf://{owner}/{repository}", "Check its name")
    return found


def _open_url(path: str) -> epath.Path:
    try:
        source = epath.Path(path)
        found = source.exists()
    except Exception as error:  # each file system has errors of its own, and may not be installed
        raise UserError(f"{path} cannot be reached: {_first_line(error)}", _REACH) from error
    if not found:
        raise UserError(f"There is nothing at {path}", "Check the address")
    return source


def _copy(stream: BinaryIO, file: BinaryIO, source: epath.Path) -> None:
    from tqdm import tqdm

    total, copied = source.stat().length, 0
    with tqdm(total=total, unit="B", unit_scale=True, desc=source.name, disable=not sys.stderr.isatty()) as bar:
        while chunk := stream.read(_CHUNK):
            file.write(chunk)
            copied += len(chunk)
            bar.update(len(chunk))
    if copied != total:
        raise OSError(f"the connection ended after {copied} of {total} bytes")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit_jax"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
