# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# # Finish a sentence: a small GPT
#
# A GPT ([Radford et al., 2018](https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf))
# is a Transformer that guesses the next token of a text, over and over. Whoever guesses the next token can also write:
# draw a token, put it at the end, guess again.
#
# Here a small one is trained in about a minute on a CPU, without network, on prose that every Python brings along: what
# its language reference and the docstrings of its standard library say. You will see how well it predicts sentences
# that it never saw, beside what counting letters gives, and how it finishes sentences.

# %%
# Installs vit_jax where it is missing, as on a fresh Colab machine; does nothing otherwise. INSTALL is what pip gets: a
# package's name, or a zip of the repository: its address (GitHub's end in /archive/refs/heads/main.zip), or the name of
# a file that you have uploaded.
INSTALL = "vit_jax"  # @param {type:"string"}

import importlib.util
import pathlib
import shutil
import subprocess
import sys

if importlib.util.find_spec("vit_jax") is None:
    extras = "hub,cuda12" if shutil.which("nvidia-smi") else "hub"
    wanted = f"{INSTALL}[{extras}]"
    if INSTALL.endswith(".zip"):
        address = INSTALL if "://" in INSTALL else pathlib.Path(INSTALL).resolve().as_uri()
        wanted = f"vit_jax[{extras}] @ {address}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)
    importlib.invalidate_caches()

# %% [markdown]
# ## Texts
#
# The paragraphs of `pydoc`'s topics and of the docstrings of the standard library that look like prose. One in twenty
# is held out.

# %%
import ast
import inspect
import json
import re
import sysconfig
import warnings
from pathlib import Path
from pydoc_data.topics import topics


def docstrings(folder):
    """Of all modules, classes and functions below a folder, without its tests and what was installed there."""
    for path in sorted(Path(folder).rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # files that show what cannot be read
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def prose(texts):
    """Paragraphs of whole sentences, each on a line and each once."""
    found = {}
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
            line = " ".join(paragraph.split())
            code = "\n  " in paragraph or re.search(r">>>|--|==|::|\*\*|@|http", line)
            if not code and re.fullmatch(r"[A-Z][a-z].{60,}[a-z]\.", line):
                found[line] = None
    return list(found)


paragraphs = prose([*topics.values(), *docstrings(sysconfig.get_paths()["stdlib"])])
split = {"train": [p for i, p in enumerate(paragraphs) if i % 20], "test": paragraphs[::20]}
for name, texts in split.items():
    Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    print(f"{name}: {len(texts)} paragraphs, {sum(map(len, texts)):,} letters")

# %% [markdown]
# ## Tokens
#
# Letters would make texts long, and whole words would leave most of them unknown. Byte pairs are between: from the 256
# bytes on, the two tokens that stand together most often become one, until there are 512. On the command line this is
# `vit_jax prepare tokenizer --kind bpe --size 512 TEXT...`.

# %%
from vit_jax.data.tokenizers import bpe

Path("bpe.json").write_text(bpe.trained(split["train"], 512))
tokenizer = bpe.build(path="bpe.json")
ids = tokenizer.encode("The statement raises an exception.")
print([tokenizer.decode([i]) for i in ids])

# %% [markdown]
# ## The run
#
# It is a config like any other. The model is a GPT-2 of three blocks; the paragraphs are packed one after the other
# into windows of 128 tokens.

# %%
import matplotlib.pyplot as plt
import numpy as np

import vit_jax
from vit_jax.training.experiment import build_experiment
from vit_jax.training.loop import train

STEPS = 600  # @param {type:"integer"}

text = {"name": "packed", "tokenizer": {"name": "bpe", "path": "bpe.json"}, "length": 128}
config = {
    "seed": 0,
    "steps": STEPS,
    "batch_size": 8,
    "task": {"name": "language_model"},
    "model": {"name": "gpt", "width": 96, "depth": 3, "num_heads": 4, "max_length": 128, "init_stddev": 0.1},
    "data": {
        "train": {"name": "documents", "paths": "train.jsonl"},
        "eval": {"name": "documents", "paths": "test.jsonl"},
        "fields": {"text": text},
    },
    "optim": {
        "name": "adamw",
        "learning_rate": 8e-3,
        "weight_decay": 0.1,
        "b2": 0.98,
        "clip_norm": 1.0,
        "schedule": {"name": "cosine", "warmup_steps": max(STEPS // 20, 1)},
    },
    "evals": {"held_out": {"name": "perplexity"}},
    "eval_every": max(STEPS // 4, 1),
    "log_every": max(STEPS // 30, 1),
}
train(build_experiment(config), "runs/gpt")

# %% [markdown]
# ## How well it predicts
#
# In bits per byte, which do not depend on how the text is cut into tokens. Beside it is what one gets by counting in
# the same training texts: how often each letter stands after the n - 1 before it, with the shorter counts mixed in
# (Witten and Bell's way, over the 256 bytes). Docstrings repeat one another nearly word for word, which suits counting:
# in a minute the model comes past 3 letters, and long counts stay ahead.

# %%
from collections import Counter, defaultdict

from vit_jax.training.metrics import read_metrics


def bits_by_counting(order, training, held_out):
    """Bits a byte of n-grams of up to `order` letters."""
    training, held_out = ("\n".join(texts).encode() for texts in (training, held_out))
    after = defaultdict(Counter)
    for i in range(len(training)):
        for n in range(order):
            if i >= n:
                after[training[i - n : i]][training[i]] += 1
    totals = {context: (sum(seen.values()), len(seen)) for context, seen in after.items()}

    def probability(context, letter):
        shorter = probability(context[1:], letter) if context else 1 / 256
        if context not in totals:
            return shorter
        count, kinds = totals[context]
        return (after[context][letter] + kinds * shorter) / (count + kinds)

    places = range(order, len(held_out))
    return -np.mean([np.log2(probability(held_out[i - order + 1 : i], held_out[i])) for i in places])


counted = {n: bits_by_counting(n, split["train"], split["test"]) for n in (1, 2, 3, 4, 5)}
rows = read_metrics(Path("runs/gpt"))
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, style in (("train/bits_per_byte", "-"), ("held_out/bits_per_byte", "o-")):
    points = [(row["step"], row[name]) for row in rows if name in row]
    axes.plot(*zip(*points, strict=True), style, label=name.replace("/bits_per_byte", "").replace("_", " "))
for n, bits in counted.items():
    axes.axhline(bits, color="grey", linewidth=0.8)
    axes.text(STEPS, bits, f" {n} letters", va="center", fontsize=8)
axes.set(xlabel="step", ylabel="bits per byte", title="Grey: counting letters")
axes.legend()
plt.show()
final = [row["held_out/bits_per_byte"] for row in rows if "held_out/bits_per_byte" in row][-1]
print(f"held out: {final:.2f} bits per byte; n-grams of up to 1 to 5 letters", *(f"{b:.2f}" for b in counted.values()))

# %% [markdown]
# ## Sentences
#
# A sample is drawn token by token; `temperature` below 1 keeps to what is likely, and `top_p` leaves out the tail. Keys
# and values of the tokens before are kept, so that each new token costs one token's work. Sample i depends on the seed
# and on i alone. The command is `vit_jax generate --checkpoint runs/gpt --prompt "The module" --temperature 0.7`.
#
# A minute of training gives turns of phrase and where sentences end, not sense, and some words that do not exist.

# %%
model = vit_jax.load("runs/gpt")
prompts = ["Return the", "The module", "If the argument is", "This method"]
for samples in model.generate(prompts, samples=2, tokens=40, temperature=0.7, top_p=0.95):
    for sample in samples:
        print("-", sample.split("\n")[0])

# %% [markdown]
# ## What it expects next
#
# The probabilities of the next token after a beginning: the model's whole opinion, of which a sample shows one side.

# %%
begins = ["Return the number", "Raises a ValueError if the", "The name of"]
figure, grid = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for axes, begin in zip(grid, begins, strict=True):
    batch = {"text": np.array([tokenizer.encode(begin)], np.int32)}
    logits = np.asarray(model.outputs(batch, ("logits",))["logits"])[0, -1].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares)[:8][::-1]
    axes.barh([repr(tokenizer.decode([i])) for i in best], shares[best])
    axes.set_title(f"{begin} ...", fontsize=9)
plt.show()

# %% [markdown]
# ## Go on
#
# - More steps and a wider model: `STEPS = 3000` and `"width": 192` give longer stretches of sense.
# - Texts of your own: the source `documents` reads text files and JSONL.
# - `configs/brown_gpt.py` is the same on a million words of English, `configs/gpt2.py` the size of the paper.
# - Classes without training: the evaluator `prompted` asks a language model by prompt, zero- and few-shot.
