"""`vit_jax generate`: a small language model is trained on sentences through the plain loop, and asked to finish them."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from tests.tasks.test_bert import task_of
from vit_jax import load
from vit_jax.commands import generate
from vit_jax.commands.main import main
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

SENTENCES = ("one two three four.", "red green blue grey.")


def config(folder):
    np.savez(folder / "texts.npz", text=np.array(SENTENCES * 8))
    source = {"name": "arrays", "path": str(folder / "texts.npz"), "fields": ["text"]}
    return {
        "seed": 0,
        "steps": 60,
        "batch_size": 8,
        "log_every": 30,
        "task": {"name": "language_model"},
        "model": {"name": "gpt", "width": 32, "depth": 1, "num_heads": 2, "max_length": 32},
        "data": {"train": source, "eval": source, "fields": {"text": {"name": "tokens", "length": 24, "bos": False}}},
        "optim": {"name": "adamw", "learning_rate": 0.01},
        "evals": {"val": {"name": "perplexity"}},
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    train(build_experiment(config(folder)), folder / "run", jax.devices()[:1])
    return folder / "run"


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_it_learns_sentences_and_finishes_them(checkpoint, capsys, tmp_path):
    *logged, evaluated = rows(checkpoint / "metrics.jsonl")
    assert logged[-1]["train/loss"] < 0.5 < logged[0]["train/loss"]
    # All bytes but the first, and the end.
    assert evaluated["val/loss"] < 0.5 and evaluated["val/tokens"] == 8 * sum(map(len, SENTENCES))
    argv = ["generate", "--checkpoint", str(checkpoint), "--prompt", "one tw", "--prompt", "red g"]
    greedy = [*argv, "--temperature", "0", "--tokens", "20"]
    assert main(greedy) == 0
    assert capsys.readouterr().out == f"{SENTENCES[0]}\n---\n{SENTENCES[1]}\n"

    (tmp_path / "prompts.txt").write_text("one tw\nred g\n")
    output = tmp_path / "texts.jsonl"
    more = ["--samples", "3", "--temperature", "0.8", "--top-p", "0.95", "--tokens", "20", "--output", str(output)]
    assert main(["generate", "--checkpoint", str(checkpoint), "--prompts", str(tmp_path / "prompts.txt"), *more]) == 0
    found = rows(output)
    assert [(row["prompt"], row["sample"]) for row in found] == [(p, i) for p in ("one tw", "red g") for i in range(3)]
    assert main([*argv, *more]) == 0 and rows(output) == found
    [[text]] = load(checkpoint).generate("one tw", temperature=0.0, tokens=20)
    assert text == SENTENCES[0]


@pytest.mark.long
@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "There is no prompt"),
        (["--prompt", ""], "Prompt 1 is empty"),
        (["--prompt", "a" * 32], "Prompt 1 has 32 tokens, which leaves no room in a context of 32"),
        (["--prompt", "a" * 20, "--tokens", "13"], "has room for 12 and not for 13. Ask for at most 12 tokens"),
        (["--prompt", "a", "--tokens", "0"], "tokens is 0"),
        (["--prompt", "a", "--tokens", "4", "--temperature", "-1"], "temperature is -1"),
        (["--prompt", "a", "--tokens", "4", "--top-p", "0"], "top_p is 0"),
        (["--prompt", "a", "--tokens", "4", "--top-k", "0"], "top_k is 0"),
        (["--prompt", "a", "--tokens", "4", "--top-p", "much"], "--top-p is 'much'. It must be a number"),
        (["--prompt", "a", "--tokens", "4", "--beams", "2"], "beams"),
        (["--prompt", "a", "--samples", "0"], "--samples is 0"),
        (["--prompt", "a", "--seed", "-1"], "--seed is -1"),
        (["--prompts", "nowhere.txt"], "There is no file nowhere.txt with prompts"),
        (["--prompts", "latin.txt"], "Line 2 of latin.txt is not UTF-8"),
        (["--prompts", "gap.txt"], "Line 2 of gap.txt is empty"),
    ],
)
def test_what_cannot_be_is_one_sentence(checkpoint, flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    (tmp_path / "gap.txt").write_bytes(b"fine\n\nfine\n")
    assert main(["generate", "--checkpoint", str(checkpoint), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error) and error.count("\n") == 1


def test_an_encoder_without_a_decoder_generates_nothing(checkpoint, monkeypatch, capsys):
    loaded = dataclasses.replace(load(checkpoint), task=task_of())
    monkeypatch.setattr(generate, "open_loaded", lambda arguments: loaded)
    assert main(["generate", "--checkpoint", "x", "--prompt", "a"]) == 2
    assert "The task 'bert' generates nothing" in capsys.readouterr().err
