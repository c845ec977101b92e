"""A tokenizer goes with the checkpoint: its files may move, and another is refused."""

import base64
import copy
import json
import zlib

import jax
import numpy as np
import pytest

from tests.tiny import untrained
from vit_jax import load
from vit_jax.checkpoints.transfer import check_sources
from vit_jax.checkpoints.vocabulary import check_vocabulary
from vit_jax.data.text import tokenizer_of
from vit_jax.data.tokenizers import bpe
from vit_jax.data.vocabularies import read_vocabulary, shipped
from vit_jax.errors import UserError
from vit_jax.naming import build_named
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

TEXT = "one two three four, red green blue grey. " * 3
OTHER = "the cat sat on the mat, and the other cat sat on the other mat. " * 3


def config(folder, tokenizer, **more):
    np.savez(folder / "texts.npz", text=np.array(["one two three", "red green"] * 4))
    source = {"name": "arrays", "path": str(folder / "texts.npz"), "fields": ["text"]}
    return {
        "seed": 0,
        "steps": 2,
        "batch_size": 4,
        "log_every": 2,
        "task": {"name": "language_model"},
        "model": {"name": "gpt", "width": 16, "depth": 1, "num_heads": 2, "max_length": 32},
        "data": {"train": source, "fields": {"text": {"name": "tokens", "tokenizer": tokenizer, "length": 32}}},
        "optim": {"name": "adamw", "learning_rate": 0.01},
        **more,
    }


def learned(path, text=TEXT):
    path.write_text(bpe.trained([text], 272))
    return {"name": "bpe", "path": str(path)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint whose vocabulary's file is gone."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer = learned(folder / "bpe.json")
    kept = bpe.build(path=tokenizer["path"])
    workdir = untrained(folder / "run", config(folder, tokenizer))
    (folder / "bpe.json").unlink()
    return workdir, kept


def test_a_checkpoint_has_its_vocabulary_when_the_file_is_gone(run):
    workdir, kept = run
    loaded = load(str(workdir))
    tokenizer = loaded.fields["text"].tokenizer
    assert tokenizer == kept
    assert tokenizer.encode("red green") == kept.encode("red green")
    stored = loaded.metadata["fields"]["text"]["tokenizer"]
    assert stored["path"]["sha256"] == kept.pairs.sha256
    json.dumps(stored)
    # And so has what is made of it in turn.
    assert tokenizer_of(stored) == (tokenizer, stored)


@pytest.mark.long
def test_a_run_goes_on_with_the_vocabulary_it_began_with_and_no_other(tmp_path):
    first = config(tmp_path, learned(tmp_path / "bpe.json"))
    train(build_experiment({**first, "stop_at": 1}), tmp_path / "run", jax.devices()[:1])
    learned(tmp_path / "bpe.json", OTHER)
    with pytest.raises(UserError, match=r"'text' has the vocabulary bpe of \S+, which is not that of .*run"):
        train(build_experiment(first), tmp_path / "run", jax.devices()[:1])


def test_a_text_network_is_not_carried_over_to_other_tokens(run, tmp_path):
    workdir, kept = run
    fields = load(str(workdir)).metadata["fields"]
    mine = tmp_path / "copy.json"
    mine.write_bytes(kept.pairs.data)
    same = {"text": {"name": "packed", "tokenizer": {"name": "bpe", "path": str(mine)}, "length": 9}}
    other = {"text": {"name": "tokens", "tokenizer": learned(tmp_path / "other.json", OTHER), "length": 9}}
    for sources in (str(workdir), {"text": str(workdir)}):
        check_sources(sources, same)
        check_sources(sources, None)
        with pytest.raises(UserError, match="is not that of .* trained with: bpe of .*bpe.json"):
            check_sources(sources, other)
    check_sources({"encoder": str(workdir)}, other)
    check_vocabulary("x", None, other)
    with pytest.raises(UserError, match="'text' has the vocabulary bytes, which is not that of x"):
        check_vocabulary("x", fields, {"text": {"name": "tokens", "tokenizer": "bytes", "length": 9}})


@pytest.mark.parametrize("name", ["clip_bpe", "gpt2_bpe", "wordpiece"])
def test_of_vocabularies_that_are_shipped_the_name_and_the_sum_are_kept(name):
    tokenizer, section = tokenizer_of(name)
    assert len(json.dumps(section)) < 200
    assert build_named("tokenizer", section, "config") == tokenizer
    changed = copy.deepcopy(section)
    changed["path"]["sha256"] = "0" * 64
    with pytest.raises(UserError, match="not the one that the checkpoint was trained with. Use the version"):
        build_named("tokenizer", changed, "config")


def test_damaged_copies_in_a_checkpoint_are_refused(tmp_path):
    (tmp_path / "v.txt").write_bytes(b"a\nb\n" * 99)
    known = read_vocabulary(tmp_path / "v.txt").to_json()
    assert read_vocabulary(known) == read_vocabulary(tmp_path / "v.txt")
    packed = base64.b64decode(known["data"])
    for data, why in (
        ("%%%", "not in base 64"),
        (base64.b64encode(packed[:-3]).decode(), "its end is missing"),
        (base64.b64encode(b"x" + packed).decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(b"a\nc\n")).decode(), "not the one that the checkpoint was trained with"),
        (base64.b64encode(zlib.compress(bytes(2**26 + 1))).decode(), "unpacks to too much"),
    ):
        with pytest.raises(UserError, match=why):
            read_vocabulary(known | {"data": data})
    with pytest.raises(UserError, match="neither a name that is known nor its data"):
        read_vocabulary({"name": "../secret", "sha256": shipped("gpt2.bpe").sha256})
