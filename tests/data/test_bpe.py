import collections
import itertools
import json
import random
import re

import pytest

from tests.texts import names, unicode_texts
from vit_jax.commands.main import main
from vit_jax.data.learn_pairs import learn_pairs
from vit_jax.data.tokenizers import bpe
from vit_jax.errors import UserError

TEXT = "the cat sat on the mat, and the other cat sat on the other mat. " * 3


def join(word, pair, token):
    out = []
    for part in word:
        out = [*out[:-1], token] if out and (out[-1], part) == pair else [*out, part]
    return out


def pairs_by_counting_anew(words, first, count):
    words, pairs = [(list(word), often) for word, often in words.items()], []
    for token in range(first, first + count):
        counts = collections.Counter()
        for word, often in words:
            for pair in itertools.pairwise(word):
                counts[pair] += often
        pairs.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        words = [(join(word, pairs[-1], token), often) for word, often in words]
    return pairs


def test_learns_the_pairs_that_are_found_by_counting_anew_each_time():
    rng = random.Random(0)
    words = {tuple(rng.choices(range(5), k=rng.randint(1, 9))): rng.randint(1, 4) for _ in range(150)}
    assert learn_pairs(words, 5, 60) == pairs_by_counting_anew(words, 5, 60)
    assert learn_pairs(dict(reversed(words.items())), 5, 60) == learn_pairs(words, 5, 60)


def ids_by_the_definition(tokenizer, word):
    """Joins the pair of lowest rank, everywhere in the word, until none is left."""
    ids, ranks = [4 + byte for byte in word.encode()], {pair: rank for rank, pair in enumerate(tokenizer._pairs)}
    while known := [pair for pair in itertools.pairwise(ids) if pair in ranks]:
        best = min(known, key=ranks.get)
        ids = join(ids, best, 260 + ranks[best])
    return ids


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "bpe.json"
    path.write_text(bpe.trained([TEXT, *names(5), "aaaaaaaa aaaaa aaa " * 3], 360))
    return bpe.build(path=str(path))


def test_joins_pairs_as_they_were_learned(tokenizer):
    assert tokenizer.vocab_size == 360
    assert len(tokenizer.encode(" the")) == 1
    rng = random.Random(0)
    for _ in range(200):
        word = "".join(rng.choices("theca ats", k=rng.randint(1, 12)))
        assert list(tokenizer._words[word]) == ids_by_the_definition(tokenizer, word)


def test_any_text_comes_back(tokenizer):
    counts = tokenizer.byte_counts()
    for text in ("", TEXT, *unicode_texts(200), *names(5)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode([1, *ids, 2, 0]) == text
        assert not {0, 1, 2, 3} & set(ids)
        assert counts[ids].sum() == len(text.encode("utf-8"))


def test_knows_which_tokens_go_on_a_word(tokenizer):
    the, other = tokenizer.encode(" the"), tokenizer.encode("the")
    assert not tokenizer.continues[the].any()
    assert tokenizer.continues[other].all()
    assert not tokenizer.continues[:4].any()


def test_the_command_learns_the_same_tokenizer_each_time(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text("Ein Kätzchen saß auf der Matte. " * 2, encoding="utf-8")
    for name in ("one.json", "two.json"):
        pattern = str(tmp_path / "*.txt")
        command = ["prepare", "tokenizer", "--kind", "bpe", "--size", "280", "--output", str(tmp_path / name), pattern]
        assert main(command) == 0
    assert "280 tokens, learned from 256 characters in 2 texts" in capsys.readouterr().out
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    rows = [json.dumps({"text": (tmp_path / name).read_text(encoding="utf-8")}) for name in ("a.txt", "b.txt")]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    command[-2:] = [str(tmp_path / "three.json"), str(tmp_path / "texts.jsonl")]
    assert main(command) == 0
    assert (tmp_path / "three.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    tokenizer = bpe.build(path=str(tmp_path / "one.json"))
    assert tokenizer.decode(tokenizer.encode("saß")) == "saß"


@pytest.mark.parametrize(
    "arguments, data, sentence",
    [
        (["--size", "100"], TEXT.encode(), "A vocabulary of 100 is smaller than the 260 bytes and marks"),
        (["--size", "5000"], TEXT.encode(), "The texts have pairs for 2[0-9][0-9] tokens, and 5000 are asked for"),
        ([], b"a\nb\n\xff", "has bytes that are not UTF-8 in line 3"),
        ([], b" \n", "is an empty text"),
        (["--output", "tokens.txt"], TEXT.encode(), "does not end in .json"),
        (["--kind", "unigram"], TEXT.encode(), "There is no --kind 'unigram'"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, arguments, data, sentence):
    (tmp_path / "text.txt").write_bytes(data)
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out.json")]
    assert main(["prepare", "tokenizer", *output, *arguments, str(tmp_path / "text.txt")]) == 2
    assert re.search(sentence, capsys.readouterr().err)


GOOD = {"tokenizer": "bpe", "format": 1, "pairs": [[4, 5], [260, 4]]}


@pytest.mark.parametrize(
    "content, why",
    [
        ("{", "it is not JSON"),
        ("[" * 10**5, "it is not JSON"),
        ("[]", "it does not say that it is a tokenizer"),
        (GOOD | {"tokenizer": "words"}, "it does not say that it is a tokenizer of the kind bpe"),
        (GOOD | {"format": 2}, "its format is 2, and 1 is known"),
        (GOOD | {"pairs": 7}, "its 'pairs' are no list"),
        (GOOD | {"pairs": [[4, 5], [4, 261]]}, r"token 261 is made of \[4, 261\], not of two tokens before it"),
        (GOOD | {"pairs": [[4, 3]]}, "token 260 is made of"),
        (GOOD | {"pairs": [[4, True]]}, "token 260 is made of"),
        (GOOD | {"pairs": [[4, 5, 6]]}, "token 260 is made of"),
        (GOOD | {"pairs": [[4, 5], [4, 5]]}, "are joined twice"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, why):
    path = tmp_path / "bpe.json"
    path.write_text(json.dumps(GOOD))
    assert bpe.build(path=str(path)).vocab_size == 262
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=why):
        bpe.build(path=str(path))
