"""Compiled programs that are kept on disk, so that what is started again does not compile again."""

import os
import secrets
import sys
import time
from pathlib import Path

import jax

from vit_jax.errors import printable
from vit_jax.training.distributed import from_lead, in_any, is_lead

_LARGEST = 2 << 30  # bytes of the folder; what was used longest ago goes first
_SHORTEST = 0.1  # seconds; what compiles faster is not worth a file. jax's own default, 1 s, keeps only large steps.
_HIT = "/jax/compilation_cache/cache_hits"


def compiled_folder() -> Path | None:
    """Where compiled programs are kept unless `JAX_COMPILATION_CACHE_DIR` says otherwise; None without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "vit_jax" / "compiled"
    except RuntimeError:
        return None


def keep_compiled() -> None:
    """Makes jax keep in `compiled_folder` what it compiles from here on, and read what lies there.

    Programs are found by their text, versions and devices; a CPU's instructions are part of that, so that machines may
    share a home directory. Nothing changes where the cache is on already, or off by `JAX_ENABLE_COMPILATION_CACHE=0`.
    A folder that cannot be written costs a remark on stderr and nothing else.

    To be called in all processes of a run. Only process 0 writes; a folder that the others do not see is not used, as
    it would be no use, and on GPUs a process that compiles waits for the others to tune kernels with it.
    """
    if in_any(bool(jax.config.jax_compilation_cache_dir) or not jax.config.jax_enable_compilation_cache):
        return
    folder = compiled_folder()
    # A name that no process has looked for before: file systems remember what was not there.
    mark = f".run-{from_lead(secrets.randbelow(2**31)):x}"
    problem = _marked(folder, mark) if is_lead() else None
    marked = is_lead() and problem is None
    if not in_any(problem is not None) and not (folder and (folder / mark).exists()):
        problem = f"{folder} of process 0 is not there in process {jax.process_index()}"
    unusable = in_any(problem is not None)
    if marked:
        (folder / mark).unlink(missing_ok=True)
    if unusable:
        if problem is not None:
            advice = "JAX_COMPILATION_CACHE_DIR=DIR names another folder"
            print(printable(f"remark: compiled programs are not kept, since {problem}; {advice}"), file=sys.stderr)
        return
    if is_lead():
        _prune(folder)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def compile_aloud(lowered: jax.stages.Lowered, what: str) -> str:
    """Compiles it, or reads it as it was compiled before, and says which and how long it took.

    jax keeps the result in this process too: a jitted function that was lowered does not compile again when it is
    called with such arguments.
    """
    hits = 0

    def listen(event: str, **_: object) -> None:
        nonlocal hits
        hits += event == _HIT

    began = time.perf_counter()
    jax.monitoring.register_event_listener(listen)
    try:
        lowered.compile()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    seconds = time.perf_counter() - began
    folder = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
    if hits:
        return f"Read {what}, compiled before, from {folder} in {seconds:.1f} s"
    kept = folder and seconds >= jax.config.jax_persistent_cache_min_compile_time_secs
    return f"Compiled {what} in {seconds:.1f} s" + (f", kept in {folder}" if kept else "")


def _marked(folder: Path | None, mark: str) -> str | None:
    """Makes the folder and a file in it; what is wrong where that cannot be."""
    if folder is None:
        return "there is no home directory"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # what lies there is run: it is nobody else's business
        (folder / mark).touch()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return None


def _prune(folder: Path) -> None:
    """Removes what was used longest ago until the rest is of `_LARGEST` bytes at most."""
    files = []
    for entry in os.scandir(folder):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # another process prunes as well
            continue
        # Reading may leave the time of access as it is, depending on how the file system was mounted.
        files.append((max(status.st_atime, status.st_mtime), status.st_size, entry.path))
    size = 0
    for _, bytes_, path in sorted(files, reverse=True):
        size += bytes_
        if size > _LARGEST and os.path.isfile(path):
            Path(path).unlink(missing_ok=True)
