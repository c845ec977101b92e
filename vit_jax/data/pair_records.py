"""Writing pictures and their texts as ArrayRecord in TFDS's layout: what is kept, what is left out, and where a run
that was stopped goes on."""

import collections
import concurrent.futures
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from vit_jax.data import tfds_folder
from vit_jax.data.array_record import encoded, refuse_name, shared_classes
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.queries import Queries
from vit_jax.data.source import Source
from vit_jax.errors import UserError

_PART_BYTES = 2**28
_AHEAD = 256  # examples that are read before their turn
_PARTS = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"


@dataclass(frozen=True)
class Rules:
    """Which pairs are kept.

    Args:
        shortest, longest: of a caption, in characters; of several the others are kept.
        per_query: how many pairs of a split a query has at most; a pair counts for that of its queries which has the
            fewest.
        short_side: shrink images whose shorter side has more pixels to this, as JPEG of quality 95.
    """

    shortest: int = 1
    longest: int | None = None
    per_query: int | None = None
    short_side: int | None = None


@dataclass
class Tally:
    """What became of the pairs.

    Args:
        read: how many there were.
        kept: how many were written.
        left_out: by the reason how many were not.
        captions: how many captions of pairs that were kept were left out for their length.
        first: of the unreadable images, the first error.
    """

    read: int = 0
    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    captions: int = 0
    first: str = ""


def write(
    name: str,
    splits: Mapping[str, Source],
    data_dir: str | None,
    rules: Rules,
    queries: Queries | None = None,
    asked: Mapping[str, Any] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int], object] = lambda count: None,
    part_bytes: int = _PART_BYTES,
) -> tuple[str | None, dict[str, Tally]]:
    """Writes sources of "image", "text" and perhaps "label" as the splits of a new data set, which
    `vit_jax.data.sources.tfds` reads by its name, with `fields={"text": "text"}`.

    Every image is decoded once; what is written are its own bytes. An image whose bytes were there before, in this
    split or one before it, is left out. So are pairs without a caption that fits `rules`, without one of the `queries`,
    and those of whose queries each has enough.

    A run that was stopped or killed goes on where its last whole file ends, and writes what it would have written.

    Args:
        name: of lower-case letters, digits and underscores.
        data_dir: where TFDS keeps data sets, by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        queries: that a caption must hold one of.
        asked: what else makes the data what they are: what is gone on with must have been begun with the same.
        stopped: asked after each pair; where it is true, what is there is saved.
        progress: told how many pairs more are done.
        part_bytes: of a file, after which the next one starts.

    Returns:
        The folder, or None where it was stopped; and by split what became of the pairs.

    Raises:
        UserError: for a name that cannot be used or is taken, a folder that cannot be written, one that was begun with
            something else, and a split of which nothing is kept.
    """
    import tensorflow_datasets as tfds

    refuse_name(name)
    classes = shared_classes(splits)
    members = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "text": tfds.features.Sequence(tfds.features.Text()),
    } | ({"label": tfds.features.ClassLabel(names=list(classes))} if classes else {})
    features = tfds.features.FeaturesDict(members)
    final = Path(tfds_folder.data_folder(data_dir)) / name / "1.0.0"
    folder = final.with_name("1.0.0.unfinished")
    request = {"rules": asdict(rules), "sizes": {k: len(v) for k, v in splits.items()}, "classes": list(classes)}
    request |= {"queries": _digest("\n".join(queries).encode()).hex()} if queries else {}
    _begin(final, folder, json.dumps({**request, **(asked or {})}, sort_keys=True))
    selection = _Selection(rules, queries)
    tallies = {split: Tally() for split in splits}
    sizes: dict[str, list[int]] = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, source in splits.items():
            selection.begin()
            parts = _Parts(folder, f"{name}-{split}.array_record")
            at = parts.restored(selection, tallies[split])
            progress(at)
            checked = _ahead(
                pool, lambda index, source=source: _checked(source, index, rules.short_side), at, len(source)
            )
            for found in checked:
                at += 1
                if (record := selection.taken(found, tallies[split])) is not None:
                    parts.add(features.serialize_example(record), *selection.last)
                progress(1)
                stop = stopped()
                if stop or parts.bytes >= part_bytes or at == len(source):
                    parts.close(at, tallies[split])
                if stop and at < len(source):
                    checked.close()
                    return None, tallies
            sizes[split] = parts.sizes
            if not tallies[split].kept:
                raise UserError(f"Nothing of the split {split!r} is kept", f"See why: {_reasons(tallies[split])}")
    _finish(folder, final, name, sizes, features)
    return os.fspath(final), tallies


class _Selection:
    """What was kept until now, on which it depends what else is."""

    def __init__(self, rules: Rules, queries: Queries | None):
        self._rules, self._queries = rules, queries
        self._seen: set[bytes] = set()
        self._number = {query: k for k, query in enumerate(queries)} if queries else {}
        self.last: tuple[bytes, int] = (b"", -1)

    def begin(self) -> None:
        """Of each split: a query has as many pairs in each, while an image is in one of them."""
        self._pairs = np.zeros(len(self._number), np.int64)

    def restore(self, digests: Sequence[bytes], numbers: Sequence[int]) -> None:
        self._seen.update(digests)
        for number in numbers:
            if number >= 0:
                self._pairs[number] += 1

    def taken(self, found: dict[str, Any] | UnreadableImage, tally: Tally) -> dict[str, Any] | None:
        """What is written of a pair; None where it is left out, which is counted."""
        tally.read += 1
        if isinstance(found, UnreadableImage):
            tally.first = tally.first or found.what
            return self._leave_out(tally, "unreadable")
        texts = [text for text in found["text"] if self._fits(text)]
        if not texts:
            return self._leave_out(tally, "caption too short or long")
        if found["digest"] in self._seen:
            return self._leave_out(tally, "image there before")
        number = -1
        if self._queries is not None:
            there = [self._number[query] for query in self._queries.found_in(texts)]
            if not there:
                return self._leave_out(tally, "no query in it")
            number = min(there, key=lambda k: self._pairs[k])
            if self._rules.per_query is not None and self._pairs[number] >= self._rules.per_query:
                return self._leave_out(tally, "its queries have enough")
        self.last = (found["digest"], number)
        self.restore([found["digest"]], [number])
        tally.kept += 1
        tally.captions += len(found["text"]) - len(texts)
        return {"image": io.BytesIO(found["image"]), "text": texts} | {k: v for k, v in found.items() if k == "label"}

    def _fits(self, text: str) -> bool:
        longest = self._rules.longest
        return self._rules.shortest <= len(text) and (longest is None or len(text) <= longest)

    def _leave_out(self, tally: Tally, reason: str) -> None:
        tally.left_out[reason] = tally.left_out.get(reason, 0) + 1


class _Parts:
    """The files of a split. Beside each whole one stands what is to be known to go on after it."""

    def __init__(self, folder: Path, prefix: str):
        self._folder, self._prefix = folder, prefix
        self.sizes: list[int] = []
        self._open()

    def _open(self) -> None:
        self._writer: ArrayRecordWriter | None = None
        self._kept: list[tuple[bytes, int]] = []
        self.bytes = 0

    def _path(self) -> Path:
        return self._folder / f"{self._prefix}-{len(self.sizes):05d}"

    def _state(self) -> Path:
        return Path(f"{self._path()}.npz")

    def restored(self, selection: _Selection, tally: Tally) -> int:
        """Where the last whole file ends in the source; 0 at first."""
        at = 0
        while self._state().is_file():
            with np.load(self._state(), allow_pickle=False) as state:
                selection.restore([row.tobytes() for row in state["digests"]], state["queries"].tolist())
                at, said = int(state["at"]), json.loads(str(state["tally"]))
                kept = len(state["digests"])
            tally.__dict__.update(said)
            self.sizes.append(kept)
        return at

    def add(self, record: bytes, digest: bytes, query: int) -> None:
        if self._writer is None:
            self._writer = ArrayRecordWriter(os.fspath(self._path()), "group_size:1")
        self._writer.write(record)
        self._kept.append((digest, query))
        self.bytes += len(record)

    def close(self, at: int, tally: Tally) -> None:
        """Ends a file; `at` is the number of the source's examples that are done."""
        if self._writer is None:
            return
        self._writer.close()
        state, temporary = self._state(), self._folder / "state.npz"
        np.savez(
            temporary,
            digests=np.frombuffer(b"".join(digest for digest, _ in self._kept), np.uint8).reshape(len(self._kept), -1),
            queries=np.array([query for _, query in self._kept], np.int64),
            at=at,
            tally=json.dumps(asdict(tally)),
        )
        os.replace(temporary, state)
        self.sizes.append(len(self._kept))
        self._open()


def _checked(source: Source, index: int, short_side: int | None) -> dict[str, Any] | UnreadableImage:
    """An example whose image was seen to decode; or why it was not."""
    try:
        example = source[index]
        image = encoded(example["image"], short_side, example.get("path"))
    except UnreadableImage as error:
        return error
    said = example["text"] if isinstance(example["text"], list) else [example["text"]]
    # A surrogate by itself, which JSON may have, is no character that could be written.
    texts = [text.encode("utf-8", "replace").decode() for text in said]
    found = {"image": image, "text": texts, "digest": _digest(image)}
    return found | ({"label": int(example["label"])} if "label" in example else {})


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _ahead(pool: concurrent.futures.Executor, read: Callable[[int], Any], start: int, stop: int) -> Iterator[Any]:
    """`read` of the numbers in their order, some of them before their turn."""
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    numbers = iter(range(start, stop))
    try:
        for number in itertools.islice(numbers, _AHEAD):
            waiting.append(pool.submit(read, number))
        while waiting:
            yield waiting.popleft().result()
            if (number := next(numbers, None)) is not None:
                waiting.append(pool.submit(read, number))
    finally:
        for future in waiting:
            future.cancel()


def _begin(final: Path, folder: Path, request: str) -> None:
    if os.path.lexists(final):
        raise UserError(f"{final} exists already", "Remove it, or choose another name")
    said = folder / "request.json"
    try:
        if not said.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            said.write_text(request, encoding="utf-8")
        begun = said.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}", "Choose another --data-dir"
        ) from error
    if begun != request:
        raise UserError(
            f"{folder} was begun from other pairs or with other rules", "Give the same again, or remove that folder"
        )


def _finish(folder: Path, final: Path, name: str, sizes: Mapping[str, Sequence[int]], features: Any) -> None:
    """Says of the files what TFDS wants to know, and gives the folder its name."""
    features.save_config(os.fspath(folder))
    info = {
        "fileFormat": "array_record",
        "moduleName": __name__,
        "name": name,
        "splits": [
            {
                "filepathTemplate": _PARTS,
                "name": split,
                "numBytes": str(
                    sum(os.path.getsize(path) for path in folder.glob(f"{name}-{split}.array_record-?????"))
                ),
                "shardLengths": list(map(str, lengths)),
            }
            for split, lengths in sizes.items()
        ],
        "version": "1.0.0",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    os.replace(folder, final)
    for path in (*final.glob("*.npz"), final / "request.json"):
        path.unlink()


def _reasons(tally: Tally) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in tally.left_out.items()) or "it is empty"
