"""Pictures of emoji out of packages; tiny ones of the same form stand for the real ones."""

import hashlib
import json

import cv2
import numpy as np
import pytest

from vit_jax.commands.main import main
from vit_jax.data.corpora import emoji
from vit_jax.data.decode import decode
from vit_jax.data.sources import manifest
from vit_jax.errors import UserError

_COUNT = 390
_CODES = [f"{0x1F400 + n:X}" + "-FE0F" * (n % 3 == 0) for n in range(_COUNT)]


def write_package(root, art):
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0] = (0, 0, 255, 255)  # red above, below it nothing at all
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    folder = root / f"emoji-datasource-{art}"
    (folder / "img" / art / "64").mkdir(parents=True)
    for code in _CODES:
        (folder / "img" / art / "64" / f"{code.lower()}.png").write_bytes(encoded)
    return write_entries(folder, art)


def write_entries(folder, art, change=lambda entries: entries):
    entries = [
        {
            "unified": code, "image": f"{code.lower()}.png", "category": f"kind {n % 2}",
            "subcategory": f"sort {n % 4}", f"has_img_{art}": n != 5,
        }
        for n, code in enumerate(_CODES)
    ]  # fmt: skip
    tone = {**entries[0], "unified": "1F3FB", "category": "Component"}
    (folder / "emoji.json").write_text(json.dumps(change([tone, *entries])))


@pytest.fixture
def packages(tmp_path):
    """Two arts, and names of the first half in the one package of names and of the others in the other."""
    root = tmp_path / "node_modules"
    for art in ("google", "twitter"):
        write_package(root, art)
    for package, kind, codes in (
        ("cldr-annotations-full", "annotations", _CODES[:200]),
        ("cldr-annotations-derived-full", "annotationsDerived", _CODES[200:]),
    ):
        names = {chr(int(code[:5], 16)): {"tts": [f"thing {code}"], "default": ["a", f"b {code}"]} for code in codes}
        path = root / package / kind / "en" / "annotations.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({kind: {"annotations": names}}))
    return root


def test_emoji_are_written_as_pictures_with_names_and_keywords(packages, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prepare", "emoji", "--from", str(packages), "--output", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}/google.jsonl: 389 pictures (6 train, 383 test), a name for each and 778 keywords"
    assert said[2] == f"{out}/categories.json: 2 categories, 4 subcategories"
    rows = [json.loads(line) for line in (out / "google.jsonl").read_text().splitlines()]
    shown = [code for n, code in enumerate(_CODES) if n != 5]  # without the tone, and what this art does not have
    assert rows[0] == {
        "path": f"google/{_CODES[0].lower()}.png", "text": f"thing {_CODES[0]}", "keywords": ["a", f"b {_CODES[0]}"],
        "category": "kind 0", "subcategory": "sort 0", "emoji": "\U0001f400\ufe0f", "split": rows[0]["split"],
    }  # fmt: skip
    held_out = sorted(shown, key=lambda code: hashlib.sha256(f"0 {code}".encode()).hexdigest())[:383]
    assert {row["text"] for row in rows if row["split"] == "test"} == {f"thing {code}" for code in held_out}
    assert [row["text"] for row in rows] == [f"thing {code}" for code in shown]
    other = [json.loads(line) for line in (out / "twitter.jsonl").read_text().splitlines()]
    assert [row["split"] for row in other] == [row["split"] for row in rows]
    assert json.loads((out / "categories.json").read_text()) == {
        "kind 0": ["sort 0", "sort 2"], "kind 1": ["sort 1", "sort 3"],
    }  # fmt: skip
    source = manifest.build(f"{out}/google.jsonl", split="train", label_key="category")
    assert source.label_names == ("kind 0", "kind 1") and len(source) == 6
    pixels = decode(source[0]["image"])
    assert pixels[0, 0].tolist() == [255, 0, 0] and pixels[1, 1].tolist() == [255, 255, 255]  # transparency is white


def test_what_packages_lack_is_one_sentence(packages, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="No pictures of emoji are in"):
        emoji.write([packages / "cldr-annotations-full"], out)
    picture = packages / f"emoji-datasource-google/img/google/64/{_CODES[3].lower()}.png"
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(UserError, match=rf"1 of 389 pictures are missing, first .*{picture.name}"):
        emoji.write([packages], out)
    picture.write_bytes(kept)
    for change, sentence in (
        (lambda entries: [{**entries[1], "image": "../../x.png"}, *entries[2:]], r"is '\.\./\.\./x\.png'"),
        (
            lambda entries: [{**entries[1], "unified": "1F000"}, *entries[2:]],
            "1 of 389 emoji have no name, first 1F000",
        ),
        (lambda entries: entries[:100], "98 emoji are too few to hold out 383"),
        (lambda entries: [{**entries[1], "unified": "thing"}], "emoji.json could not be read"),
        (lambda entries: entries[:-1], "The packages of google and twitter have other emoji"),
    ):
        write_entries(packages / "emoji-datasource-twitter", "twitter", change)
        with pytest.raises(UserError, match=sentence):
            emoji.write([packages], out)
