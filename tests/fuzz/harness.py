"""Feeds damaged files to the code that reads them: each must be read or refused with one `UserError`, within bounds.

A kind of file is a module beside this one with `build(folder) -> Target`. `make fuzz N=10000` runs all of them.
"""

import collections
import contextlib
import dataclasses
import importlib
import itertools
import pkgutil
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tests.fuzz
from vit_jax.errors import UserError

_HELPERS = ("harness", "models", "mutations", "__main__")
_MEMORY = 2 << 30  # bytes that a single case may ask for on top of what the process has


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of file.

    Args:
        mutate: writes a damaged example below an empty folder and returns what `use` gets; a function of the
            generator alone, so that a case is named by its seed.
        use: reads it as a user's command would. It returns, or raises `UserError`; anything else is a defect.
        wrong: looks at what `use` returned and says what is silently wrong with it, or ''.
    """

    mutate: Callable[[np.random.Generator, Path], Any]
    use: Callable[[Any], Any]
    wrong: Callable[[Any], str] = lambda result: ""


@dataclasses.dataclass
class Tally:
    """What came of the cases of one kind; `defects` are (seed, sentence) pairs."""

    kind: str
    read: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    silent: int = 0
    slowest: float = 0.0
    defects: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.read + self.refused + self.tracebacks + self.hangs + self.silent


class Hang(BaseException):
    """A case took longer than the limit; not an `Exception`, so that no reader swallows it."""


def kinds() -> list[str]:
    """The kinds of files that are known: the modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(tests.fuzz.__path__) if m.name not in _HELPERS)


def run(kind: str, seeds: Sequence[int], limit_s: float = 10.0) -> Iterator[Tally]:
    """Runs the cases of one kind and yields the tally after each."""
    tally = Tally(kind)
    with tempfile.TemporaryDirectory(prefix="vit_jax-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = importlib.import_module(f"tests.fuzz.{kind}").build(Path(folder))
        for seed in seeds:
            with tempfile.TemporaryDirectory(prefix=f"{seed}-", dir=folder) as case:
                _one(target, seed, Path(case), limit_s, tally)
            yield tally


def _one(target: Target, seed: int, folder: Path, limit_s: float, tally: Tally) -> None:
    given = target.mutate(np.random.default_rng(seed), folder)
    began = time.perf_counter()
    try:
        with _bounded(limit_s):
            problem = target.wrong(target.use(given))
    except UserError as error:
        if len(str(error)) > 1000 or not str(error).strip():
            tally.silent += 1
            tally.defects.append((seed, f"a sentence of {len(str(error))} characters"))
        else:
            tally.refused += 1
    except Hang:
        tally.hangs += 1
        tally.defects.append((seed, f"still running after {limit_s:g} s"))
    except Exception as error:  # whatever it is, it is what this looks for
        tally.tracebacks += 1
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "vit_jax" in f.filename), frame)
        where = f"{Path(place.filename).name}:{place.lineno}"
        tally.defects.append((seed, f"{type(error).__name__} at {where}: {str(error)[:200]}"))
    else:
        if problem:
            tally.silent += 1
            tally.defects.append((seed, problem))
        else:
            tally.read += 1
    tally.slowest = max(tally.slowest, time.perf_counter() - began)


@contextlib.contextmanager
def _bounded(limit_s: float) -> Iterator[None]:
    """Ends a case that runs for too long, and lets one that asks for too much memory fail."""

    def late(signum: int, frame: Any) -> None:
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, before[1]))
        # Again and again: raised within a callback of the garbage collector, as JAX has one, it would be swallowed.
        signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def seeds_of(first: int, count: int) -> range:
    return range(first, first + count)


def last(tallies: Iterable[Tally]) -> Tally:
    """Runs all cases and returns the final tally."""
    return collections.deque(tallies, maxlen=1).pop()


def report(tallies: Sequence[Tally], shown: int = 20) -> str:
    """A table of the tallies, and the first defects of each kind with the seed that makes them again."""
    columns = ("kind", "cases", "read", "refused", "tracebacks", "hangs", "silent", "slowest s")
    rows = [columns]
    for t in tallies:
        counts = (t.cases, t.read, t.refused, t.tracebacks, t.hangs, t.silent)
        rows.append((t.kind, *map(str, counts), f"{t.slowest:.1f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    for t in tallies:
        lines += [f"{t.kind} seed {seed}: {what}" for seed, what in itertools.islice(t.defects, shown)]
    return "\n".join(lines)
