"""Files that are elsewhere: weights from the Hugging Face hub, the web and URLs that epath knows; what buckets list."""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from etils import epath

from vit_jax.checkpoints import http
from vit_jax.checkpoints.peft import CONFIG as ADAPTER
from vit_jax.checkpoints.pipeline_folder import INDEX, has_folders, weights_to_fetch
from vit_jax.checkpoints.published import SIDECARS, VOCABULARIES
from vit_jax.checkpoints.safetensors import SHARDS, parts_of
from vit_jax.checkpoints.zoo import zoo
from vit_jax.errors import UserError
from vit_jax.spelling import closest

# Weights and what describes them. Never pickles, never code.
_NAMED = (*SIDECARS.values(), *VOCABULARIES)
# The last ones are those of a pipeline's models, each in its own folder.
_DESCRIBING = (*_NAMED, ADAPTER, f"*{SHARDS}", "*.safetensors.index.fp16.json", *(f"*/{name}" for name in _NAMED))
_WEIGHTS = ("*.safetensors", "*.npz")
_BESIDE = ("config.json", "preprocessor_config.json", "scheduler_config.json")
# An address on the hub. Of revisions those alone have slashes that the hub makes itself; what others have is quoted, as
# in huggingface_hub's own addresses of files.
_ON_HUB = re.compile(
    r"hf://(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:pr/\d+|convert/\w+)|[^/]*))?(?:/(?P<file>.*))?"
)
_CHUNK = 1 << 24  # bytes
_JSON_LIMIT = 1 << 24  # bytes


def is_remote(path: epath.PathLike) -> bool:
    return "://" in str(path)


def forget_listings(path: epath.PathLike) -> None:
    """Has the next look at a remote path see what other processes wrote: fsspec's clients remember what they listed."""
    scheme = os.fspath(path).partition("://")[0]
    client = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}.get(scheme)
    if client in sys.modules:  # else TensorFlow's client is in use, which remembers nothing, or none yet
        epath.backend.fsspec_backend.fs(path).invalidate_cache()


def fetch(path: str, sha256: str | None = None) -> Path:
    """A local copy of a weight file, or of a hub repository's weights; what is here already is not fetched again.

    Args:
        path: 'hf://owner/name', 'hf://owner/name@revision' or 'hf://owner/name/file', or a file's URL such as
            'gs://bucket/file.npz' or 'https://host/file.npz'. In a revision a slash is written %2F, but for those of
            the hub's own refs/pr/1 and refs/convert/parquet.
        sha256: what a file from http or https must hash to; one that is here with another hash is fetched again.

    Raises:
        UserError: nothing there, no network, no permission, or huggingface_hub is not installed.
    """
    if path.startswith("hf://"):
        return _fetch_from_hub(path)
    if http.is_http(path):
        return _fetch_from_web(path, sha256)
    target = _folder(path) / path.rpartition("/")[2]
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
    for name in _BESIDE:
        beside = source.parent / name
        if target.suffix == ".safetensors" and beside.exists():
            (target.parent / name).write_bytes(beside.read_bytes())
    return target


def pinned(address: str, found: Path) -> str:
    """An address of the hub with the commit of what was fetched, 'hf://owner/name@COMMIT/file', which means the same
    for ever; any other address as it is.

    Args:
        found: what `fetch` gave for it, in the hub's cache.
    """
    parts, commit = _ON_HUB.fullmatch(address), _commit(found)
    if not parts or not commit:
        return address
    file = "" if parts["file"] is None else f"/{parts['file']}"
    return f"hf://{parts['name']}@{commit}{file}"


def _commit(found: Path) -> str:
    """Of what lies in the hub's cache, which has a folder for each; '' elsewhere."""
    folders = re.search(r"/snapshots/([0-9a-f]{40})(/|$)", found.as_posix())
    return folders[1] if folders else ""


def _fetch_from_web(url: str, sha256: str | None) -> Path:
    """A weight file from http or https, and what lies beside it: JSON files, and the parts that an index lists."""
    name = http.file_name(url)
    if not name.endswith((".safetensors", ".npz", SHARDS)):
        raise UserError(f"{url} names no file that vit_jax reads", f"Give a .safetensors, .npz or *{SHARDS} file")
    folder = _folder(url)
    target = folder / name
    if target.exists() and (sha256 is None or _has_sha256(target, sha256)):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="part-") as partial:
            for beside in _BESIDE:
                own = f"{name}.{beside}" if name.endswith(".npz") else beside
                http.download(http.beside(url, own), Path(partial, own), limit=_JSON_LIMIT, optional=True)
            http.download(url, Path(partial, name), limit=_JSON_LIMIT if name.endswith(SHARDS) else http.LIMIT)
            if sha256 is not None:
                check_sha256(Path(partial, name), sha256, url)
            if name.endswith(SHARDS):
                for part in parts_of(Path(partial, name)):
                    http.download(http.beside(url, part), Path(partial, part))
            # The file that is looked for comes last: what has its final name is whole, and so is what belongs to it.
            for file in sorted(Path(partial).iterdir(), key=lambda file: file.name == name):
                if file.stat().st_size:
                    file.replace(folder / file.name)
    except OSError as error:
        raise UserError(
            f"{url} could not be stored below {folder}: {_first_line(error)}", "Set XDG_CACHE_HOME"
        ) from error
    return target


def check_sha256(path: Path, wanted: str, source: str | None = None) -> None:
    """Raises a UserError when the file, which comes from `source`, does not have the hash that the caller expects."""
    if not _has_sha256(path, wanted):
        raise UserError(
            f"{source or path} has the sha256 {_sha256(path)}, not {wanted}", "Fetch it again, or do not trust it"
        )


def _has_sha256(path: Path, wanted: str) -> bool:
    return _sha256(path) == wanted.lower().removeprefix("sha256:")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_REACH = "Check the address, the network and your permission, or fetch the file by other means and give its local path"


def _fetch_from_hub(path: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{path} needs huggingface_hub, which is not installed", "pip install 'vit_jax[hub]'"
        ) from error
    parts = _ON_HUB.fullmatch(path)
    if not parts:
        raise UserError(f"{path} names no repository of the hub", "Write hf://owner/name, or hf://owner/name/file")
    repository, revision, file = parts["name"], unquote(parts["revision"] or ""), parts["file"]

    def snapshot(patterns: Sequence[str], but: str | None = None) -> Path:
        """The folder, with those of the repository's files in it."""
        nonlocal revision
        try:
            found = Path(
                snapshot_download(repository, revision=revision or None, allow_patterns=patterns, ignore_patterns=but)
            )
        except RepositoryNotFoundError as error:
            close = closest(path, [row.address for row in zoo()], likeness=0.7)
            raise UserError(
                f"There is no repository {repository} on the hub, or it is not open to you",
                f"Did you mean '{close}'?"
                if close
                else "'vit_jax models' lists addresses; a private one needs a token",
            ) from error
        except Exception as error:  # the hub's own errors, requests', httpx's and OSError: all mean that it is not here
            raise UserError(f"{path} could not be fetched: {_first_line(error)}", _REACH) from error
        revision = _commit(found) or revision  # a branch may move between two of these
        return found

    if file:
        inside, beside = file.rpartition("/")[0], (*SIDECARS.values(), ADAPTER)  # what describes it
        found = snapshot([file, *(f"{inside}/{name}" if inside else name for name in beside)]) / file
        if not found.exists():
            raise UserError(f"There is no file {file!r} in hf://{repository}", "Check its name")
        return found
    # Weights come when it is known which are read: beside a pipeline's folders often lies all of it in one file again.
    folder = snapshot(_DESCRIBING)
    index = folder / INDEX
    if not index.is_file() or not has_folders(index):
        return snapshot(_WEIGHTS, but="*/*")
    for names in filter(None, weights_to_fetch(index)):
        folder = snapshot(names)
    return folder


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


def _folder(path: str) -> Path:
    """Where what comes from an address is kept."""
    return _cache() / hashlib.sha256(path.encode()).hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vit_jax"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
